//! The local terminal in raw mode while a remote program uses it, restored on every way out. The guard's drop covers
//! return, error and panic; on a signal the guard's owner must end by returning.

use std::io::{self, IsTerminal as _};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Raw mode until dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches the terminal on standard input to raw mode.
    pub fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }

    /// The same restore for a panic hook, where no drop runs.
    pub fn restorer(&self) -> impl Fn() + Send + Sync + 'static {
        let before = self.before.clone();
        move || {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone, nothing better can be done.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// A terminal without echo, until dropped. Signals work as usual; their default action ends the program without running
/// the drop, as it does everywhere (`stty sane` helps).
#[derive(Debug)]
pub struct Hushed {
    before: Termios,
}

impl Hushed {
    /// Turns off echo on standard input's terminal.
    pub fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut hushed = before.clone();
        hushed.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &hushed)?;
        Ok(Self { before })
    }
}

impl Drop for Hushed {
    fn drop(&mut self) {
        // If the terminal is gone, nothing better can be done.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether standard input and output are both terminals.
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Whether the terminal does not move its cursor.
pub fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Columns and rows; 80 by 24 when unknown.
pub fn size() -> (u32, u32) {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
