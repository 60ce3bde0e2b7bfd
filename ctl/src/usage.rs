//! What every command line is held to, whatever the command, and the wording of its errors: no empty values, and what is
//! repeated of them is short and harmless.
//!
//! Not here: the commands (`cli`, `nouns`), and values that only the coordinator can judge (`status` words its refusals).

use std::{any::TypeId, ffi::OsString};

use clap::{
    Arg, ColorChoice, Command, CommandFactory as _, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use isyone_proto::echo::echo;

use crate::cli::Cli;

/// The tree of commands, with the checks that all share.
pub fn command() -> Command {
    checked(Cli::command())
}

fn checked(command: Command) -> Command {
    command
        .mut_args(|arg| {
            if takes_text(&arg) {
                arg.value_parser(some_text)
            } else {
                arg
            }
        })
        .mut_subcommands(checked)
}

fn takes_text(arg: &Arg) -> bool {
    let text = arg.get_action().takes_values()
        && arg.get_value_parser().type_id() == TypeId::of::<String>();
    // What is handed on to another program may be empty.
    let handed_on = arg.is_last_set() || arg.is_trailing_var_arg_set();
    text && arg.get_possible_values().is_empty() && !handed_on
}

/// The coordinator takes an empty text for one that was not given: it would do something else than was asked for.
fn some_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses a command line, or returns the error to print.
pub fn parse(arguments: &[OsString]) -> Result<Cli, Error> {
    let mut root = command();
    if without_colours(arguments) {
        root = root.color(ColorChoice::Never);
    }
    root.build();
    let matches = root.clone().try_get_matches_from(arguments);
    matches
        .and_then(|matches| <Cli as clap::FromArgMatches>::from_arg_matches(&matches))
        .map_err(|error| worded(error, &root, arguments))
}

/// Whether clap's own output is to be plain; it has not parsed that yet.
fn without_colours(arguments: &[OsString]) -> bool {
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    arguments
        .iter()
        .any(|a| a == "--no-color" || a == "--color=never")
        || pairs
            .into_iter()
            .any(|(a, b)| a == "--color" && b == "never")
}

fn worded(mut error: Error, root: &Command, arguments: &[OsString]) -> Error {
    let (mut command, rest) = meant(root, arguments);
    if let Some(said) = hyphen(&error, &command, &rest) {
        return command.error(ErrorKind::ValueValidation, said);
    }
    for kind in [
        ContextKind::InvalidValue,
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
    ] {
        if let Some(ContextValue::String(text)) = error.get(kind) {
            let shown = echo(text);
            error.insert(kind, ContextValue::String(shown));
        }
    }
    // Clap lists what was given as if it were required; `$ISYCTL_CONTEXT` counts as given.
    if error.get(ContextKind::Usage).is_some() {
        let usage = command.render_usage();
        error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    }
    error
}

/// The command that a line is about, and what follows its words.
fn meant(root: &Command, arguments: &[OsString]) -> (Command, Vec<String>) {
    let words = arguments.iter().skip(1).map(|a| a.to_string_lossy());
    let mut words: Vec<String> = words.map(|word| word.into_owned()).collect();
    let mut command = root;
    let (mut at, mut after) = (0, 0);
    while let Some(word) = words.get(at) {
        if let Some(inner) = command.find_subcommand(word) {
            command = inner;
            after = at + 1;
        } else if !word.starts_with('-') {
            break;
        } else if takes_the_next(root, word) {
            at += 1;
        }
        at += 1;
    }
    let rest = words.split_off(after);
    (command.clone(), rest)
}

/// Whether a word is an option whose value follows it.
fn takes_the_next(command: &Command, word: &str) -> bool {
    let named = |arg: &&Arg| {
        let long = arg.get_long().is_some_and(|l| word == format!("--{l}"));
        long || arg.get_short().is_some_and(|s| word == format!("-{s}"))
    };
    let arg = command.get_arguments().find(named);
    arg.is_some_and(|arg| arg.get_action().takes_values())
}

/// Clap takes `-alfa` for the option `-a`. Whoever types a name like that learns what is wrong with it.
fn hyphen(error: &Error, command: &Command, rest: &[String]) -> Option<String> {
    let Some(ContextValue::String(letter)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if error.kind() != ErrorKind::UnknownArgument || letter.starts_with("--") {
        return None;
    }
    let at = rest.iter().position(|word| {
        word.len() > 2 && word.starts_with(letter.as_str()) && !word.starts_with("--")
    })?;
    let (mut before, mut value) = (0, false);
    for word in &rest[..at] {
        before += usize::from(!value && !word.starts_with('-'));
        value = takes_the_next(command, word);
    }
    let arg = command.get_positionals().nth(before)?;
    Some(format!(
        "invalid value '{}' for '{arg}': no value begins with a hyphen, and there is no such option",
        echo(&rest[at])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &[&str]) -> String {
        let arguments: Vec<OsString> = line.iter().map(OsString::from).collect();
        parse(&arguments).unwrap_err().to_string()
    }

    /// Help is broken at [`WIDTH`]: a text that was broken by hand at more than that would be in tatters.
    #[test]
    fn no_help_is_broken_by_hand_where_it_is_broken_again() {
        const WIDTH: usize = 110;
        fn walk(command: &Command, seen: &mut usize) {
            let text = command.get_after_help().map(ToString::to_string);
            for paragraph in text.unwrap_or_default().split("\n\n") {
                let lines = || paragraph.lines().filter(|line| !line.starts_with(' '));
                let broken = lines().count() > 1 && lines().any(|l| l.chars().count() > WIDTH);
                assert!(!broken, "{}: {paragraph}", command.get_name());
                *seen += 1;
            }
            command.get_subcommands().for_each(|sub| walk(sub, seen));
        }
        let mut seen = 0;
        walk(&command(), &mut seen);
        assert!(seen > 50, "{seen}");
    }

    /// Every option and argument that takes a text, by an example of its command.
    #[test]
    fn no_command_takes_an_empty_value() {
        fn walk(command: &Command, path: &[String], seen: &mut usize) {
            for arg in command.get_arguments().filter(|arg| takes_text(arg)) {
                let mut line = path.to_vec();
                match arg.get_long() {
                    Some(long) => line.push(format!("--{long}=")),
                    // Those before it are given.
                    None => {
                        let index = arg.get_index().unwrap_or(1);
                        line.extend((1..index).map(|_| "x".to_owned()));
                        line.push(String::new());
                    }
                }
                let line: Vec<&str> = line.iter().map(String::as_str).collect();
                let text = said(&line);
                assert!(
                    text.contains(&format!(
                        "invalid value '' for '{arg}': it must not be empty"
                    )),
                    "{line:?}: {text}"
                );
                *seen += 1;
            }
            for inner in command.get_subcommands() {
                let mut path = path.to_vec();
                path.push(inner.get_name().to_owned());
                walk(inner, &path, seen);
            }
        }
        let mut root = Cli::command();
        root.build();
        let mut seen = 0;
        walk(&root, &["isyctl".to_owned()], &mut seen);
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn a_name_that_begins_with_a_hyphen_is_called_so() {
        let text = said(&["isyctl", "-o", "json", "tenant", "show", "-alfa"]);
        assert!(
            text.contains("invalid value '-alfa' for '<NAME>'"),
            "{text}"
        );
        let text = said(&["isyctl", "tenant", "domain", "add", "alfa", "-x.example"]);
        assert!(text.contains("'-x.example' for '<DOMAIN>'"), "{text}");
        let text = said(&[
            "isyctl",
            "tenant",
            "domain",
            "add",
            "-o",
            "json",
            "-x.example",
        ]);
        assert!(text.contains("'-x.example' for '<NAME>'"), "{text}");
        // A mistyped option is what clap calls it.
        let text = said(&["isyctl", "tenant", "delete", "alfa", "--purgee"]);
        assert!(
            text.contains("'--purgee' found") && text.contains("--purge"),
            "{text}"
        );
    }

    #[test]
    fn what_was_given_is_not_shown_as_required() {
        let text = said(&["isyctl", "--context", "prod", "tenant", "create"]);
        assert!(
            text.contains("Usage: isyctl tenant create [OPTIONS] <NAME>"),
            "{text}"
        );
    }

    #[test]
    fn what_is_repeated_is_short_and_harmless() {
        let long = format!("\x1b[2J{}", "x".repeat(100_000));
        for line in [
            &["isyctl", long.as_str()][..],
            &["isyctl", "tenant", long.as_str()],
            &["isyctl", "tenant", "list", "--limit", long.as_str()],
            &["isyctl", "tenant", "list", "--phase", long.as_str()],
            &["isyctl", "tenant", "create", "a", "--label", long.as_str()],
            &["isyctl", "tenant", "list", "--timeout", long.as_str()],
        ] {
            let text = said(line);
            assert!(
                !text.contains('\x1b') && text.len() < 1_000,
                "{}: {text}",
                text.len()
            );
        }
    }
}
