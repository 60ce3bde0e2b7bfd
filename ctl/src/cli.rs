//! The command line: global options and the tree of nouns. Each noun's own options are in its file.

use std::{ffi::OsString, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    app::App,
    exit::{Exit, Outcome},
    nouns::{cert, context, edge, events, host, op, operator, tenant, top, version},
    output::{Color, Format},
};

const EXAMPLES: &str = "\
Examples:
  isyctl context import admin.toml          get to know a coordinator
  isyctl host token > token                 let a machine join the fleet
  isyctl tenant create alfa --lang pt_BR --country BR
  isyctl tenant list -o wide
  isyctl top
  isyctl events -f

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 unavailable, 130 interrupted.";

/// Hosts Odoo for many customers: one command per customer, on one server or on hundreds
#[derive(Debug, Parser)]
#[command(name = "isyctl", version, after_help = EXAMPLES, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Which coordinator: a context's name, or a context file
    #[arg(
        long,
        global = true,
        env = "ISYCTL_CONTEXT",
        value_name = "NAME|FILE",
        hide_env_values = true
    )]
    pub context: Option<String>,
    /// How to print results
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        help = "How to print results: table, wide, json, yaml or name"
    )]
    pub output: Format,
    /// How long to wait: for one answer at most 30s, for an operation as long as it takes unless this is given (90s, 10m)
    #[arg(long, global = true, value_parser = duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// Say what is done, and the causes of errors
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Colours
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true,
        help = "Colours: auto, always or never"
    )]
    pub color: Color,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Customers: one Odoo, its database and its address each
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Machines that run tenants
    #[command(subcommand)]
    Host(host::Command),
    /// Operations: long work, its steps and how far it is
    #[command(subcommand)]
    Op(op::Command),
    /// What happened, in order
    Events(events::Events),
    /// Certificates of tenants' host names
    #[command(subcommand)]
    Cert(cert::Command),
    /// Traefiks that ask for routes, how far they are, and routes that are left out
    #[command(subcommand)]
    Edge(edge::Command),
    /// Follow hosts and tenants on a screen: CPU, memory, requests, errors, latency, state
    Top(top::Top),
    /// People and programs that may use the coordinator
    #[command(subcommand)]
    Operator(operator::Command),
    /// Coordinators that isyctl knows, and who you are to them
    #[command(subcommand)]
    Context(context::Command),
    /// Versions of isyctl and of the coordinator, and who you are
    Version(version::Version),
    /// Print a shell's completion script
    #[command(
        after_help = "Examples:\n  isyctl completions bash > /etc/bash_completion.d/isyctl\n  isyctl completions fish > ~/.config/fish/completions/isyctl.fish"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

impl Command {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Tenant(command) => command.run(app).await,
            Self::Host(command) => command.run(app).await,
            Self::Op(command) => command.run(app).await,
            Self::Events(command) => command.run(app).await,
            Self::Cert(command) => command.run(app).await,
            Self::Edge(command) => command.run(app).await,
            Self::Top(command) => command.run(app).await,
            Self::Operator(command) => command.run(app).await,
            Self::Context(command) => command.run(app),
            Self::Version(command) => command.run(app).await,
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "isyctl", &mut script);
                app.ui.raw(&script).map(|()| Exit::Done)
            }
        }
    }
}

/// Program, noun and verb of a command line without its arguments: `isyctl tenant create`.
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

/// A span of time as people write it: `90s`, `10m`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("must be more than nothing".to_owned()),
        Ok(time) => Ok(time),
        Err(e) => Err(format!("{e}; write it as 90s, 10m or 1h")),
    }
}

/// `key=value`.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
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

    #[test]
    fn values_are_checked_while_parsing() {
        assert_eq!(duration("10m").unwrap().as_secs(), 600);
        assert!(duration("0s").is_err() && duration("soon").is_err());
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
