//! A process whose output is a part: it counts only when it exits with 0.

use std::{
    io::{self, Read},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread::JoinHandle,
};

use super::Producer;

/// How much of what a process says is kept for the error: its end, some lines.
const SAID_BYTES: usize = 2048;

/// A process. It is killed when nobody reads it any more.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: ChildStdout,
    said: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts a process with its output and its messages in our hands.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(output), Some(messages)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("a process without output")); // both are piped
        };
        let said = std::thread::spawn(move || last_words(messages));
        Ok(Self {
            child,
            output,
            said: Some(said),
        })
    }
}

/// Reads messages, so that the process never waits for us, and keeps the last.
fn last_words(mut messages: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = messages.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..length]);
        let surplus = kept.len().saturating_sub(SAID_BYTES);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

impl Read for Program {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Producer for Program {
    fn finish(&mut self) -> io::Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let said = self.said.take().and_then(|said| said.join().ok());
        let said = said.unwrap_or_default();
        Err(io::Error::other(format!("{status}: {said}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, or nobody wants what it makes; without `wait` it would stay a zombie.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
