//! Everything that is printed: data on standard output in the chosen format, messages and questions on standard error.
//!
//! Not here: what a noun's table looks like (each noun's file), except what `top` shows as well (`tenant`, `host`).

pub mod format;
pub mod harmless;
pub mod host;
pub mod mail;
pub mod placement;
pub mod table;
pub mod tenant;
pub mod wire;

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::{exit::Failure, terminal};

/// What `-o` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with a wide terminal.
    Wide,
    /// For programs; see `wire` for what is promised.
    Json,
    /// As JSON.
    Yaml,
    /// Names or ids alone, one a line.
    Name,
}

/// What `--color` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where output goes and how it looks.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    pub format: Format,
    /// Standard error is a terminal whose lines can be redrawn.
    pub live: bool,
    paint_out: bool,
    paint_err: bool,
    verbose: bool,
}

impl Ui {
    /// Checks once which streams are terminals.
    pub fn new(format: Format, color: Color, verbose: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || terminal::dumb();
        let wanted = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !plain,
        };
        // Who wants no colours, or cannot show them, wants no other escape sequences either.
        let live = io::stderr().is_terminal() && !plain && color != Color::Never;
        Self {
            format,
            live,
            paint_out: wanted(io::stdout().is_terminal()),
            paint_err: wanted(io::stderr().is_terminal()),
            verbose,
        }
    }

    /// Prints a result: `value` for programs, `names` for scripts, `text` (called with whether wide output is wanted)
    /// for people.
    pub fn emit(
        &self,
        value: &impl Serialize,
        names: impl FnOnce() -> Vec<String>,
        text: impl FnOnce(bool) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.data(&text(false)),
            Format::Wide => self.data(&text(true)),
            Format::Name => self.data(
                &names()
                    .iter()
                    .map(|name| format!("{name}\n"))
                    .collect::<String>(),
            ),
            Format::Json => {
                let json = serde_json::to_string_pretty(value)
                    .map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
                self.data(&format!("{json}\n"))
            }
            Format::Yaml => {
                let yaml = serde_saphyr::to_string(value)
                    .map_err(|e| Failure::failed(format!("cannot write YAML: {e}")))?;
                self.data(&format!("{}\n", yaml.trim_end()))
            }
        }
    }

    /// The same, without the extra output of `-v`.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.verbose = false;
        self
    }

    /// Whether standard output gets colours.
    pub fn colours(&self) -> bool {
        self.paint_out
    }

    /// Whether people, not programs, read standard output.
    pub fn for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Writes text to standard output.
    pub fn data(&self, text: &str) -> Result<(), Failure> {
        self.raw(table::paint(text, self.paint_out).as_bytes())
    }

    /// Writes bytes to standard output and flushes.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
                _ => Failure::failed(format!("cannot write to standard output: {e}")),
            })
    }

    /// Writes bytes to standard error and flushes. A closed stream is no error.
    pub fn raw_error(&self, bytes: &[u8]) {
        let mut err = io::stderr().lock();
        let _ = err.write_all(bytes).and_then(|()| err.flush());
    }

    /// Text for standard error, with colours or without.
    pub fn painted(&self, text: &str) -> String {
        table::paint(text, self.paint_err)
    }

    /// A message on standard error. A closed stream is no error.
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", self.painted(text));
    }

    /// A message that only `-v` shows.
    pub fn detail(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            self.note(&table::Paint::Faint.on(&text()).to_string());
        }
    }

    pub fn failure(&self, failure: &Failure) {
        let text = failure.to_string();
        if !text.is_empty() {
            let word = "error:";
            let mark = |line: &str| match line.strip_prefix(word) {
                Some(rest) => format!("{}{rest}", table::Paint::Bad.on(word)),
                None => line.to_owned(),
            };
            self.note(&text.lines().map(mark).collect::<Vec<_>>().join("\n"));
        }
        if let Some(cause) = &failure.cause {
            self.detail(|| format!("cause: {cause}"));
        }
    }

    /// Asks a yes-or-no question; anything but yes is no. Without a terminal to ask on, it returns a usage error that
    /// names what cannot be done (`doing`: "remove host `h1`").
    pub fn confirm(&self, doing: &str, question: &str) -> Result<bool, Failure> {
        let answer = ask(doing, &format!("{question} [y/N] "))?;
        Ok(matches!(
            answer.to_lowercase().as_str(),
            "y" | "yes" | "s" | "sim"
        ))
    }

    /// Asks the user to type `expected`, for what cannot be undone.
    pub fn confirm_by_typing(
        &self,
        doing: &str,
        question: &str,
        expected: &str,
    ) -> Result<bool, Failure> {
        Ok(ask(doing, &format!("{question}\nType `{expected}` to go on: "))? == expected)
    }
}

fn ask(doing: &str, prompt: &str) -> Result<String, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage(format!(
            "cannot {doing}: it needs a confirmation, and there is no terminal to ask on"
        ))
        .hint("add --yes when you are sure"));
    }
    let failed = |e: io::Error| Failure::failed(format!("cannot ask: {e}"));
    let mut err = io::stderr().lock();
    err.write_all(table::paint(prompt, false).as_bytes())
        .and_then(|()| err.flush())
        .map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    Ok(line.trim().to_owned())
}
