//! `cargo xtask`: machine set-up, images, test hosts, the demo and the test driver of isyone. Not part of the product.
//!
//! Everything here starts other programs and waits for them, so it is synchronous and has few dependencies: it must
//! build within seconds of a clone. Data goes to stdout, messages to stderr.

mod bench;
mod cmd;
mod demo;
mod engine;
mod hosts;
mod images;
mod paths;
mod python;
mod registry;
mod seal;
mod setup;
mod test;
mod times;
mod totals;

use clap::{Parser, Subcommand};

/// Set-up, images, test hosts, demo and tests of isyone.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing on this machine (apt-get) and start Docker when no daemon answers
    Setup(setup::Args),
    /// Provide images and binaries: pull them, or build them where no registry answers
    Images(images::Args),
    /// Several Docker hosts on this machine, each with its own daemon, address and firewall
    Hosts(hosts::Args),
    /// Show the whole product on this machine: coordinator, agents, Traefik, Prometheus and a first tenant
    Demo(demo::Args),
    /// Measure isyone beside its peers, with release builds
    Bench(bench::Args),
    /// Run every check and test, after setting up what they need
    Test(test::Args),
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup(args) => setup::run_setup(&args),
        Verb::Images(args) => images::run_images(&args),
        Verb::Hosts(args) => hosts::run_hosts(&args),
        Verb::Demo(args) => demo::run_demo(&args),
        Verb::Bench(args) => bench::run_benches(&args),
        Verb::Test(args) => test::run_tests(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(err) => {
            eprintln!("xtask: {err:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
