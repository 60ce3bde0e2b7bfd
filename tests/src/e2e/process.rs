//! Processes that live as long as the test, and commands that run to completion.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running program; killed when dropped. Its output goes to a file, whose end a failing test prints.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Daemon {
    /// Starts a command with its output in `log` (appended).
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("log file");
        let err = out.try_clone().expect("log file");
        let mut bound = bound_to_us(command);
        let child = bound.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name}: {e}"));
        Self {
            child,
            log: log.to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`; returns once the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM; returns the exit code.
    pub fn terminate(&mut self) -> i32 {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.child
            .wait()
            .ok()
            .and_then(|status| status.code())
            .unwrap_or(-1)
    }

    /// Its whole output.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The same command, which the kernel kills when the test's thread dies, however that happens.
fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    bound
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- end of the log of {} ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.kill();
    }
}

#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 for a signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The output; fails unless the command succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Makes a key and a self-signed certificate, PEM, valid for 30 days; for host names, if any are given.
pub fn self_signed(name: &str, hosts: &[&str], certificate: &Path, key: &Path) {
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ]);
    make.args(["-subj", &format!("/CN={name}")]);
    if !hosts.is_empty() {
        let names: Vec<String> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        make.args(["-addext", &format!("subjectAltName={}", names.join(","))]);
    }
    run(make.arg("-keyout").arg(key).arg("-out").arg(certificate)).ok();
}

/// Runs a command to completion.
pub fn run(command: &mut Command) -> Output {
    let out = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    ended(&out)
}

/// Runs a command to completion, with this standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Output {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    // A script fits into the pipe's buffer, so writing cannot block on unread output. A command that does not read its
    // input reports the reason when it ends.
    let _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes());
    ended(&child.wait_with_output().expect("its output"))
}

fn ended(out: &std::process::Output) -> Output {
    Output {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}
