//! A Python for tests, in a virtual environment of its own: gRPC for the client in docs/python-client, and an S3 server that locks files,
//! for isyone-bucket.
//!
//! Not here: what is tested with it.

use crate::cmd::{cmd, run, run_within, say, succeeds};
use crate::paths;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the Python client and its test need beyond the standard library, and what the S3 server does, with digests; below the
/// repository's root.
pub(crate) const PACKAGES: [&str; 2] = [
    "docs/python-client/requirements.txt",
    "bucket/tests/requirements.txt",
];
/// The packages are some 40 MB, prebuilt.
const PIP_LIMIT: Duration = Duration::from_secs(300);

/// The interpreter, if it has everything.
pub(crate) fn interpreter() -> Option<PathBuf> {
    Some(path()).filter(|python| has_packages(python))
}

/// The virtual environment's interpreter.
fn path() -> PathBuf {
    paths::cache().join("python/bin/python")
}

fn has_packages(python: &Path) -> bool {
    let modules = "import grpc, grpc_tools, grpc_reflection, tomllib, moto.server";
    python.exists() && succeeds(Command::new(python).args(["-c", modules]))
}

/// Makes the virtual environment once. If the packages cannot be had, the Python tests are skipped with a notice.
pub(crate) fn provide() -> Result<String> {
    let python = path();
    if has_packages(&python) {
        return Ok(python.display().to_string());
    }
    match make_python(&python) {
        Ok(()) => Ok(python.display().to_string()),
        Err(err) => {
            say!("the tests in Python are SKIPPED: {err:#}");
            Ok(format!("SKIPPED: {err}"))
        }
    }
}

fn make_python(python: &Path) -> Result<()> {
    let folder = paths::cache().join("python");
    std::fs::create_dir_all(paths::cache())?;
    run(cmd("python3", ["-m", "venv", "--clear"]).arg(&folder))
        .context("no virtual environment can be made (Debian: apt-get install python3-venv)")?;
    run_within(&mut pip_install(python), PIP_LIMIT)
        .with_context(|| format!("pip cannot install what {} name", PACKAGES.join(" and ")))?;
    if !has_packages(python) {
        bail!("what pip installed cannot be imported: Python 3.11 or newer is needed");
    }
    Ok(())
}

/// Takes prebuilt packages whose digests [`PACKAGES`] has, and nothing else.
fn pip_install(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--require-hashes",
    ]);
    for packages in PACKAGES {
        pip.arg("-r").arg(paths::root().join(packages));
    }
    pip
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source package would run its own set-up before anybody has compared anything.
    #[test]
    fn pip_takes_only_what_has_a_known_digest() {
        let pip = pip_install(Path::new("python"));
        let has = |option: &str| pip.get_args().any(|said| said == option);
        assert!(has("--require-hashes") && has("--only-binary=:all:"));
    }
}
