//! `isyctl`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(isyone_ctl::main(std::env::args_os()))
}
