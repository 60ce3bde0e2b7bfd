//! Options that commands share: the global ones, and parsers for their values.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use isyone_proto::echo::echo;

use crate::{
    exit::Failure,
    output::{Color, Format},
};

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
    /// No colours, and no other escape sequences, whatever --color says
    #[arg(long, global = true)]
    pub no_color: bool,
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
        Err(e) => Err(format!(
            "{}; write it as 90s, 10m or 1h",
            echo(&e.to_string())
        )),
    }
}

/// Parses how many are wanted at most.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("it must be a whole number".to_owned()),
    }
}

/// The labels given, refused when one is given twice: which of the two was meant is not ours to guess.
pub fn labels(given: &[(String, String)]) -> Result<HashMap<String, String>, Failure> {
    let mut labels = HashMap::new();
    for (key, value) in given {
        if let Some(before) = labels.insert(key.clone(), value.clone()) {
            let [key, before, value] = [key, &before, value].map(|text| echo(text));
            return Err(Failure::usage(format!(
                "--label `{key}={value}`: `{key}` is given already, as `{key}={before}`"
            )));
        }
    }
    Ok(labels)
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
        assert!(count("0").is_err() && count("-1").is_err() && count("7") == Ok(7));
        let twice = [label("a=1").unwrap(), label("a=2").unwrap()];
        let refused = labels(&twice).unwrap_err().message;
        assert_eq!(refused, "--label `a=2`: `a` is given already, as `a=1`");
        assert_eq!(labels(&twice[1..]).unwrap()["a"], "2");
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
