//! `isy-coordinator`: see the library.

use std::process::ExitCode;

use isyone_coordinator::{base::memory, program};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::ALLOCATOR;

fn main() -> ExitCode {
    memory::small_pages();
    program::main(std::env::args_os())
}
