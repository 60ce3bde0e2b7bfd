//! Runs `isyctl` as a person or a script does, and compares its output with golden files.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
};

use isyone_ctl::context::Context;
use tempfile::TempDir;

use super::{
    coordinator::{self, Fake},
    data,
    pki::Ca,
};

/// One coordinator and one set of contexts for the whole test run.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) fake: Fake,
    pub(crate) folder: TempDir,
}

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let ca = Arc::new(Ca::new());
        let (address, fake) = coordinator::start(ca);
        let world = World {
            address,
            fake,
            folder: tempfile::tempdir().unwrap(),
        };
        world.write_contexts();
        world
    })
}

impl World {
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// A context for an operator, with the client's and the server's CA chosen by the caller.
    pub(crate) fn context(&self, name: &str, client_ca: &Ca, server_ca: &Ca) -> Context {
        let (certificate_pem, key_pem) = client_ca.operator("ana", "admin");
        let endpoint = self.address.to_string();
        Context {
            name: name.into(),
            endpoint,
            ca_pem: server_ca.pem.clone(),
            certificate_pem,
            key_pem,
        }
    }

    /// `test` works and is current; `foreign` presents a certificate of another CA; `impostor` expects another
    /// coordinator; `nobody` points at a port where nothing listens.
    fn write_contexts(&self) {
        let (ca, other) = (&*self.fake.ca, Ca::new());
        let folder = self.config().join("contexts");
        fs::create_dir_all(&folder).unwrap();
        let mut nobody = self.context("nobody", ca, ca);
        nobody.endpoint = "127.0.0.1:1".into();
        let contexts = [
            self.context("test", ca, ca),
            self.context("foreign", &other, ca),
            self.context("impostor", ca, &other),
            nobody,
        ];
        for context in contexts {
            context
                .write(&folder.join(format!("{}.toml", context.name)), false)
                .unwrap();
        }
        fs::write(self.config().join("current-context"), "test\n").unwrap();
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `isyctl` with these arguments in a clean environment, where nothing depends on the machine or the time.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let world = world();
    let mut command = Command::new(env!("CARGO_BIN_EXE_isyctl"));
    command
        .args(arguments)
        .env_clear()
        .env("ISYCTL_CONFIG_DIR", world.config())
        .env("HOME", world.folder.path())
        .env("ISYCTL_NOW", data::NOW)
        .env("TZ", "UTC")
        .env("TERM", "xterm")
        .current_dir(world.folder.path())
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn isyctl(arguments: &[&str]) -> Run {
    finish(command(arguments))
}

/// Runs a prepared command to its end.
pub(crate) fn finish(mut command: Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| normal(&String::from_utf8(bytes).unwrap());
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Replaces values that differ between runs by their names.
pub(crate) fn normal(text: &str) -> String {
    let world = world();
    text.replace(&world.address.to_string(), "COORDINATOR")
        .replace(&world.folder.path().display().to_string(), "FOLDER")
        .replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

/// Runs each line and compares output and exit codes with `golden/<name>.txt`.
pub(crate) fn golden(name: &str, lines: &[&str]) {
    let mut transcript = String::new();
    for line in lines {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let run = isyctl(&arguments);
        transcript.push_str(&format!("$ isyctl {line}\n"));
        for text in [&run.stdout, &run.stderr] {
            transcript.push_str(text);
            if !text.is_empty() && !text.ends_with('\n') {
                transcript.push_str("[no end of line]\n");
            }
            transcript.push_str("--\n");
        }
        transcript.push_str(&format!("[{}]\n\n", run.code));
    }
    compare_golden(name, &transcript);
}

/// Compares a text with `golden/<name>.txt`.
pub(crate) fn compare_golden(name: &str, text: &str) {
    compare(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden")
            .join(format!("{name}.txt")),
        text,
    );
}

fn compare(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected == text {
        return;
    }
    let differs = expected.lines().zip(text.lines()).position(|(a, b)| a != b);
    let at = differs.unwrap_or(expected.lines().count().min(text.lines().count()));
    panic!(
        "{} differs at line {}:\n  expected: {:?}\n  got:      {:?}\nUPDATE_GOLDEN=1 writes it anew\n\n{text}",
        path.display(),
        at + 1,
        expected.lines().nth(at),
        text.lines().nth(at)
    );
}
