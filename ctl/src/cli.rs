//! The command line: the tree of nouns. Global options are in `options`, each noun's own in its file.

use std::{ffi::OsString, fs, io, path::PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    app::App,
    exit::{Exit, Failure, Outcome},
    nouns::{
        backup, cert, context, doctor, edge, events, host, op, operator, rebalance, tenant, top,
        version,
    },
    options::Global,
};

const EXAMPLES: &str = "\
Examples:
  isyctl context import admin.toml          get to know a coordinator
  isyctl host token --host h1 > token       let a machine join the fleet
  isyctl tenant create alfa --lang pt_BR --country BR
  isyctl tenant list -o wide
  isyctl top
  isyctl events -f

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 unavailable, 130 interrupted.";

/// Hosts Odoo for many customers: one command per customer, on one server or on hundreds
#[derive(Debug, Parser)]
#[command(name = "isyctl", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Noun,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Customers: one Odoo, its database and its address each
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Machines that run tenants
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Moves that would take load off the most loaded hosts, and what they would lead to
    Rebalance(rebalance::Rebalance),
    /// Backups of tenants, and what each tenant would lose if its host died now
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Operations: long work, its steps and how far it is
    #[command(subcommand)]
    Op(op::OpCommand),
    /// What happened, in order
    Events(events::Events),
    /// Certificates of tenants' host names
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Traefiks that ask for routes, how far they are, and routes that are left out
    #[command(subcommand)]
    Edge(edge::EdgeCommand),
    /// Follow hosts and tenants on a screen: CPU, memory, requests, errors, latency, state
    Top(top::Top),
    /// What is wrong with the fleet, why it matters, and what to do
    Doctor(doctor::Doctor),
    /// People and programs that may use the coordinator
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Coordinators that isyctl knows, and who you are to them
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Versions of isyctl and of the coordinator, and who you are
    Version(version::Version),
    /// Print a shell's completion script, or write manual pages
    #[command(
        after_help = "Examples:\n  isyctl completions bash > /etc/bash_completion.d/isyctl\n  isyctl completions fish > ~/.config/fish/completions/isyctl.fish\n  isyctl completions --man /usr/local/share/man/man1"
    )]
    Completions {
        /// Which shell
        #[arg(required_unless_present = "man")]
        shell: Option<Shell>,
        /// Write a manual page for each command into this directory
        #[arg(long, value_name = "DIR", conflicts_with = "shell")]
        man: Option<PathBuf>,
    },
}

impl Noun {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Tenant(command) => command.run(app).await,
            Self::Host(command) => command.run(app).await,
            Self::Rebalance(command) => command.run(app).await,
            Self::Backup(command) => command.run(app).await,
            Self::Op(command) => command.run(app).await,
            Self::Events(command) => command.run(app).await,
            Self::Cert(command) => command.run(app).await,
            Self::Edge(command) => command.run(app).await,
            Self::Top(command) => command.run(app).await,
            Self::Doctor(command) => command.run(app).await,
            Self::Operator(command) => command.run(app).await,
            Self::Context(command) => command.run(app),
            Self::Version(command) => command.run(app).await,
            Self::Completions { shell, man } => completions(app, shell, man),
        }
    }
}

fn completions(app: &App, shell: Option<Shell>, man: Option<PathBuf>) -> Outcome {
    if let Some(shell) = shell {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "isyctl", &mut script);
        app.ui.raw(&script)?;
    }
    if let Some(dir) = man {
        let failed = |e: io::Error| {
            Failure::failed(format!(
                "cannot write manual pages to {}: {e}",
                dir.display()
            ))
        };
        fs::create_dir_all(&dir).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), &dir).map_err(failed)?;
    }
    Ok(Exit::Done)
}

/// Program, noun and verb of a command line, without arguments: `isyctl tenant create`.
pub fn words(arguments: &[OsString]) -> String {
    let matches = Cli::command().try_get_matches_from(arguments).ok();
    let mut words = vec!["isyctl"];
    let mut at = matches.as_ref();
    while let Some((word, inner)) = at.and_then(clap::ArgMatches::subcommand) {
        words.push(word);
        at = Some(inner);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command, path: &str) {
            for child in command.get_subcommands() {
                let path = format!("{path} {}", child.get_name());
                if child.get_subcommands().next().is_none() {
                    let examples = child
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(examples.contains("isyctl"), "{path} has no example");
                }
                check(child, &path);
            }
        }
        check(&Cli::command(), "isyctl");
    }

    #[test]
    fn a_command_is_named_without_its_arguments() {
        let line = [
            "isyctl",
            "--context",
            "prod",
            "tenant",
            "create",
            "alfa",
            "--login",
            "x",
        ];
        assert_eq!(words(&line.map(OsString::from)), "isyctl tenant create");
    }
}
