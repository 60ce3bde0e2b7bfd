//! How the program takes memory from the system: its allocator, and pages of the usual size.
//!
//! Not here: how much the parts keep.

/// A fleet is millions of small values that come and go for months. glibc's allocator fragments under that until a kilobyte takes it tens
/// of microseconds; this one stays even.
pub type Allocator = mimalloc::MiMalloc;

/// What goes behind `#[global_allocator]`.
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// No huge pages for this process; to be called before there are threads.
///
/// Each connection has buffers of which it uses the beginning only: HTTP/2's for writing has 16 KiB, and what an agent is told fits one
/// page of 4 KiB. The allocator asks for huge pages, where the kernel gives them, and then everything behind such a beginning takes memory
/// too: a fifth of what a connected agent costs. Where the kernel knows no such switch nothing is lost but that.
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
