//! `isyctl`, the command line of isyone: nothing but a client of the public gRPC protocol `isyone.v1`.
//!
//! `cli` and `options` parse, `nouns` does (one file per noun), `client` talks, `output` prints. Data goes to standard output, talk to
//! standard error; the exit code is a contract (`exit`).
//!
//! Not here: decisions. What is asked is checked and decided by the coordinator; this program shows the answer.

pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod context;
pub mod exit;
pub mod nouns;
pub mod options;
pub mod output;
pub mod progress;
pub mod retry;
pub mod status;
pub mod terminal;
pub mod top;
pub mod trace;
pub mod wait;

use std::ffi::OsString;

use clap::Parser as _;

use crate::{app::App, cli::Cli, exit::Failure};

/// Carries out a command line, the first argument being the program's name, and answers the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = Cli::parse_from(&arguments);
    let name = || cli::words(&arguments);
    let verbose = cli.global.verbose;
    let app = App::new(cli.global);
    // One thread: a command waits for one or two things at a time, and starts faster so.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            app.ui
                .failure(&Failure::failed(format!("cannot start: {e}")));
            return 1;
        }
    };
    let outcome = runtime.block_on(trace::command(verbose, name, cli.command.run(&app)));
    // A DNS look-up may still sit in a thread: do not wait for it.
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.code(),
        Err(failure) => {
            app.ui.failure(&failure);
            failure.exit.code()
        }
    }
}
