//! How `isyctl` ends: the exit codes, which are a contract with scripts, and [`Failure`], the one error type that the
//! user sees.
//!
//! Not here: turning a gRPC status into words (`status`).

use std::fmt;

use isyone_proto::echo::harmless;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything went as asked.
    Done,
    /// The attempt failed.
    Failed,
    /// The command line, or a value in it, is wrong.
    Usage,
    /// The named object does not exist.
    NotFound,
    /// The certificate's role does not allow it.
    Denied,
    /// No answer, or none in time.
    Unavailable,
    /// Ctrl-C.
    Interrupted,
    /// Exit code of a remote command.
    Remote(i32),
}

impl Exit {
    /// The process's exit code. A remote code outside 0..=255 becomes 255, never 0.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Unavailable => 5,
            Self::Interrupted => 130,
            Self::Remote(code) => u8::try_from(code).unwrap_or(u8::MAX),
        }
    }
}

/// The result of every command: how to exit, or what went wrong.
pub type Outcome = Result<Exit, Failure>;

/// An error; `Display` is what the user reads on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    /// What failed, for which object. Empty when there is nothing to say (a closed pipe).
    pub message: String,
    /// A table or list that belongs to the message, printed before it.
    pub detail: Option<String>,
    /// What the user can do next.
    pub hint: Option<String>,
    /// The technical chain of causes, for `-v`.
    pub cause: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            detail: None,
            hint: None,
            cause: None,
        }
    }

    /// A failure with exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// A failure with exit code 2: the command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Nobody reads our output any more: exit quietly and successfully, as `head` expects.
    pub fn closed_pipe() -> Self {
        Self::new(Exit::Done, "")
    }

    /// Adds a hint on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the technical cause, which only `-v` shows.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(detail) = &self.detail {
            writeln!(f, "{}\n", detail.trim_end())?;
        }
        if !self.message.is_empty() {
            write!(f, "error: {}", lines(&self.message))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {}", lines(hint))?;
        }
        Ok(())
    }
}

/// The same lines, none of which drives a terminal: a message repeats what was typed, and what others said.
fn lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_published_ones() {
        let table = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Denied, 4),
            (Exit::Unavailable, 5),
            (Exit::Interrupted, 130),
            (Exit::Remote(7), 7),
            (Exit::Remote(0), 0),
        ];
        for (exit, code) in table {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn a_strange_remote_code_is_never_success() {
        for code in [-1, 256, i32::MIN, i32::MAX] {
            assert_ne!(Exit::Remote(code).code(), 0, "{code}");
        }
    }
}
