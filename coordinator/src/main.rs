//! `isy-coordinator`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    isyone_coordinator::program::main(std::env::args_os())
}
