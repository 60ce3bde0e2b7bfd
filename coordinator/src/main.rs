//! `isy-coordinator`: see the library.
//!
//! The allocator is set here because only a binary may set one. Not here: the command line (program).

use std::process::ExitCode;

use isyone_coordinator::{base::memory, program};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::ALLOCATOR;

fn main() -> ExitCode {
    memory::small_pages();
    program::main(std::env::args_os())
}
