//! Runs other programs: with their output shown, captured, or kept for later or for the error message.

use crate::paths;
use anyhow::{Context as _, Result, bail};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Prints a message for the user on stderr, unless it is [`kept`].
macro_rules! say {
    ($($arg:tt)*) => { $crate::cmd::tell(format_args!("xtask: {}", format_args!($($arg)*))) };
}
pub(crate) use say;

thread_local! {
    /// Where this thread's messages go in place of stderr.
    static KEPT: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// A line of [`say`].
pub(crate) fn tell(line: std::fmt::Arguments<'_>) {
    KEPT.with_borrow_mut(|kept| match kept {
        Some(file) => drop(writeln!(file, "{line}")),
        None => eprintln!("{line}"),
    });
}

/// Does something whose messages, and those of the programs that it runs, are not shown but returned: beside those of something
/// else nobody could read them. They go through a file, which is made and removed.
pub(crate) fn kept<T>(file: &Path, act: impl FnOnce() -> T) -> Result<(T, String)> {
    let open = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    KEPT.set(Some(open));
    let done = act();
    KEPT.set(None);
    let said = std::fs::read(file).unwrap_or_default();
    std::fs::remove_file(file).ok();
    Ok((done, String::from_utf8_lossy(&said).into_owned()))
}

/// Where a program's own messages go.
fn messages() -> Result<Stdio> {
    KEPT.with_borrow(|kept| match kept {
        Some(file) => Ok(file.try_clone()?.into()),
        None => Ok(std::io::stderr().into()),
    })
}

fn shows(command: &mut Command) -> Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(messages()?)
        .stderr(messages()?);
    Ok(())
}

/// A command with its arguments.
pub(crate) fn cmd<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// The cargo that runs this build, in the workspace root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = cmd(&program, args);
    command.current_dir(paths::root());
    command
}

/// The command as one would type it (not shell-quoted: for messages only).
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with its output going to stderr; an exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    shows(command)?;
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Like [`run`], and returns its stdout, which goes to stderr when it has ended.
pub(crate) fn run_and_read(command: &mut Command) -> Result<String> {
    shows(command)?;
    let out = command.stdout(Stdio::piped()).output();
    let out = out.with_context(|| format!("cannot run `{}`", shown(command)))?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    eprint!("{said}");
    if !out.status.success() {
        bail!("`{}` failed ({})", shown(command), out.status);
    }
    Ok(said)
}

/// Runs a command and returns its stdout; the error carries the end of its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = captured(command)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(if out.stderr.is_empty() {
            &out.stdout
        } else {
            &out.stderr
        });
        bail!(
            "`{}` failed ({}): {}",
            shown(command),
            out.status,
            tail(&said, 6)
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// Whether a command can be run and exits with 0; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    captured(command).is_ok_and(|out| out.status.success())
}

fn captured(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))
}

/// Like [`run`], but kills the command after `limit`.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    shows(command)?;
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("`{}` failed ({status})", shown(command)),
            None if start.elapsed() > limit => {
                child.kill()?;
                child.wait()?;
                bail!("`{}` was ended after {} s", shown(command), limit.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Polls every 50 ms until `question` returns true; false when `limit` has passed.
pub(crate) fn wait_until(limit: Duration, mut question: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !question() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Seconds since `start`, formatted for people.
pub(crate) fn took(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f32())
}

/// Fails unless we are root; `what` says for what root is needed.
pub(crate) fn need_root(what: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let uid = std::fs::metadata("/proc/self")
        .context("cannot read /proc/self")?
        .uid();
    if uid != 0 {
        bail!(
            "{what} needs root: run it as root, for example with `sudo env PATH=\"$PATH\" cargo xtask …`"
        );
    }
    Ok(())
}
