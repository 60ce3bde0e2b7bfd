//! What a run of tests has come to: cargo's `test result:` lines added up, and why tests failed.
//!
//! Not here: which tests are run (test).

use anyhow::{Context as _, Result};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// Sums over all test binaries.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Totals {
    passed: u32,
    failed: u32,
    ignored: u32,
    binaries: u32,
    panics: Panics,
}

/// The first lines of each panic, to be repeated at the end of an output of thousands of lines: at most `MOST`, shortened.
#[derive(Default, Debug, PartialEq)]
struct Panics {
    lines: Vec<String>,
    /// How many lines of the panic that is being read are still to come.
    wanted: u8,
}

impl Panics {
    const MOST: usize = 60;
    const EACH: u8 = 4;
    const WIDTH: usize = 300;

    fn add(&mut self, line: &str) {
        if line.starts_with("thread '") && line.contains("panicked at") {
            self.wanted = Self::EACH;
        }
        if line.starts_with("stack backtrace:") || line.starts_with("note: ") || line.is_empty() {
            self.wanted = 0;
        }
        if self.wanted > 0 && self.lines.len() < Self::MOST {
            self.wanted -= 1;
            self.lines.push(line.chars().take(Self::WIDTH).collect());
        }
    }
}

impl Totals {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';']).collect();
            words
                .windows(2)
                .find(|pair| pair[1] == what)
                .and_then(|pair| pair[0].parse().ok())
                .unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        self.ignored += number("ignored");
        self.binaries += 1;
    }

    /// Adds a second run, of other tests in the same binaries.
    pub(crate) fn add_up(&mut self, run: Self) {
        self.passed += run.passed;
        self.failed += run.failed;
        self.ignored += run.ignored;
        self.panics.lines.extend(run.panics.lines);
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
            binaries,
            panics,
        } = self;
        write!(
            f,
            "{passed} tests passed, {failed} failed, {ignored} ignored, in {binaries} test binaries"
        )?;
        if *failed > 0 {
            for line in &panics.lines {
                write!(f, "\n        {line}")?;
            }
        }
        Ok(())
    }
}

/// Runs a test command, showing its output, and adds up its results; and whether it ended well.
pub(crate) fn count(command: &mut Command) -> Result<(Totals, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add(&line);
        totals.panics.add(&line);
    }
    Ok((totals, child.wait()?.success()))
}

#[cfg(test)]
mod tests {
    use super::{Panics, Totals};

    #[test]
    fn result_lines_are_added_up() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        totals
            .add("test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("test some::thing ... ok");
        assert_eq!(
            totals,
            Totals {
                passed: 15,
                failed: 2,
                ignored: 1,
                binaries: 2,
                panics: Panics::default(),
            }
        );
    }

    #[test]
    fn why_tests_failed_is_said_again_at_the_end() {
        let mut totals = Totals::default();
        for line in [
            "thread 'e2e::a' (7) panicked at tests/a.rs:1:5:",
            "assertion `left == right` failed",
            "  left: 1",
            " right: 2",
            "stack backtrace:",
            "   0: nobody",
            "test result: FAILED. 0 passed; 1 failed; 0 ignored",
        ] {
            totals.add(line);
            totals.panics.add(line);
        }
        let said = totals.to_string();
        assert!(
            said.contains("e2e::a") && said.ends_with(" right: 2"),
            "{said}"
        );
        totals.failed = 0;
        assert!(
            !totals.to_string().contains("panicked"),
            "a test that expects a panic is none of the failed"
        );
    }
}
