//! `isyctl`, isyone's command line: nothing but a client of the public gRPC protocol `isyone.v1`.
//!
//! `cli`, `options` and `usage` parse, `nouns` does the work (one file per noun), `client` talks to the coordinator, `output`
//! prints. Data goes to standard output, messages to standard error; the exit code is a contract (`exit`).
//!
//! Not here: decisions. The coordinator checks and decides; this program shows the answer.

pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod context;
pub mod exit;
pub mod fields;
pub mod nouns;
pub mod options;
pub mod output;
pub mod progress;
pub mod retry;
pub mod status;
pub mod terminal;
pub mod top;
pub mod trace;
pub mod trust;
pub mod usage;
pub mod wait;

use std::ffi::OsString;

use crate::{app::App, exit::Failure};

/// Runs a command line (the first argument is the program's name) and returns the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match usage::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output. If it is closed, nobody reads this.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(1);
        }
    };
    let name = || cli::words(&arguments);
    let verbose = cli.global.verbose;
    let app = App::new(cli.global);
    // One thread: a command waits for one or two things at a time, and starts faster this way.
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
    runtime.block_on(app.follow_trust());
    // A DNS look-up may still block a thread: do not wait for it.
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.code(),
        Err(failure) => {
            app.ui.failure(&failure);
            failure.exit.code()
        }
    }
}
