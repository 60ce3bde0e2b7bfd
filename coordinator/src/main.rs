//! `isy-coordinator`: see the library.

use std::process::ExitCode;

/// A fleet is millions of small values that come and go for months. glibc's allocator fragments under that until a kilobyte takes it tens
/// of microseconds; this one stays even.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    isyone_coordinator::program::main(std::env::args_os())
}
