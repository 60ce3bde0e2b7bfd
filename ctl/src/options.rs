//! Options that commands share: the global ones, and parsers for their values.

use std::time::Duration;

use clap::Args;

use crate::output::{Color, Format};

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

/// Whether to wait for the operation.
#[derive(Debug, Clone, Copy, Args)]
pub struct Waiting {
    /// Wait until the work is done (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Start the work and return at once
    #[arg(long)]
    no_wait: bool,
}

impl Waiting {
    /// Whether to wait; the later of both flags wins.
    pub fn wanted(self) -> bool {
        self.wait || !self.no_wait
    }
}

/// Parses a duration as people write it: `90s`, `10m`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("must be more than nothing".to_owned()),
        Ok(time) => Ok(time),
        Err(e) => Err(format!("{e}; write it as 90s, 10m or 1h")),
    }
}

/// Parses a label as people write it: `key=value`.
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
    fn values_are_checked_while_parsing() {
        assert_eq!(duration("10m").unwrap().as_secs(), 600);
        assert!(duration("0s").is_err() && duration("soon").is_err());
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
