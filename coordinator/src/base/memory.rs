//! How the program gets memory from the system: its allocator, without huge pages.
//!
//! Not here: how much memory the parts use.

/// A fleet is millions of small values that come and go for months. Under that load glibc's allocator fragments until
/// allocating a kilobyte takes tens of microseconds; mimalloc stays constant.
pub type Allocator = mimalloc::MiMalloc;

/// For `#[global_allocator]`.
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// Turns huge pages off for this process; call it before there are threads.
///
/// Each connection uses only the beginning of its buffers: HTTP/2's write buffer has 16 KiB, and what an agent is told
/// fits one page of 4 KiB. The allocator asks for huge pages where the kernel offers them, and then the unused rest
/// takes memory, too: a fifth of what a connected agent costs. Where the kernel lacks the switch, we lose only that.
pub fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!(
            "isy-coordinator: huge pages stay on, connections will take more memory: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_wish() {
        small_pages();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
