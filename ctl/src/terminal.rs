//! The local terminal in raw mode for as long as a remote program has it, and back again on every way out: the guard's
//! drop runs on return, on error and on panic, and whoever holds it ends on signals by returning.

use std::io::{self, IsTerminal as _};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Puts the terminal into raw mode until it is dropped.
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

    /// Does what the drop does, where there is none: in a panic's hook.
    pub fn restorer(&self) -> impl Fn() + Send + Sync + 'static {
        let before = self.before.clone();
        move || {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done when the terminal is gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// A terminal that does not show what is typed, until dropped. Signals work as ever; the default ones end the program without the drop,
/// as they do everywhere (`stty sane`).
#[derive(Debug)]
pub struct Hushed {
    before: Termios,
}

impl Hushed {
    /// Hushes the terminal on standard input.
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
        // Nothing better can be done when the terminal is gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether a person sits at both ends.
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Columns and rows; 80 by 24 where nobody knows.
pub fn size() -> (u32, u32) {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
