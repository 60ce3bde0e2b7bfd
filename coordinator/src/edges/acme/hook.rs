//! DNS-01 through a program of the operator: `PROGRAM present NAME VALUE` creates a TXT record, `PROGRAM cleanup NAME
//! VALUE` removes it, with the calling convention of lego's `exec` provider. Exit code 0 means done.
//!
//! Not here: waiting until the record has propagated (order).

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt as _, process::Command};

/// DNS providers' APIs take seconds; some wait for their own propagation.
const HOOK_TIMEOUT: Duration = Duration::from_secs(180);
/// How much of its standard error we keep, in bytes.
const MAX_COMPLAINT: u64 = 2_048;

/// Why a record could not be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("the DNS hook {0} cannot be run: {1}")]
    Run(String, std::io::Error),
    #[error("the DNS hook {program} {verb} did not end within {seconds} s", seconds = HOOK_TIMEOUT.as_secs())]
    Late { program: String, verb: &'static str },
    #[error("the DNS hook {program} {verb} failed ({status}): {complaint}")]
    Failed {
        program: String,
        verb: &'static str,
        status: std::process::ExitStatus,
        complaint: String,
    },
}

/// `_acme-challenge.isy.one.` for `*.isy.one`.
pub(crate) fn record(name: &str) -> String {
    format!("_acme-challenge.{}.", name.trim_start_matches("*."))
}

/// Runs the hook to its end; kills it when it takes too long or the caller stops waiting.
pub(crate) async fn call(
    program: &Path,
    verb: &'static str,
    record: &str,
    value: &str,
) -> Result<(), HookError> {
    let name = program.display().to_string();
    let failed = |error| HookError::Run(name.clone(), error);
    let mut command = Command::new(program);
    command
        .arg(verb)
        .arg(record)
        .arg(value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
    let complaints = child.stderr.take();
    let run = async {
        let mut complaint = Vec::new();
        if let Some(pipe) = complaints {
            let mut pipe = pipe.take(MAX_COMPLAINT);
            let _ = pipe.read_to_end(&mut complaint).await;
            // Discard the rest, but read it: a full pipe would block the program.
            let _ = tokio::io::copy(&mut pipe.into_inner(), &mut tokio::io::sink()).await;
        }
        Ok((child.wait().await.map_err(failed)?, complaint))
    };
    let late = |_| HookError::Late {
        program: name.clone(),
        verb,
    };
    let (status, complaint) = tokio::time::timeout(HOOK_TIMEOUT, run)
        .await
        .map_err(late)??;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    Err(HookError::Failed {
        program: name.clone(),
        verb,
        status,
        complaint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by another process: a thread that forks while this one writes would hold the script open for writing, and
    /// the kernel would call it busy.
    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        let path = dir.join("hook");
        let text = format!("#!/bin/sh\n{text}\n");
        let made = std::process::Command::new("/bin/sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh"])
            .arg(text)
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        path
    }

    #[tokio::test]
    async fn it_is_told_verb_record_and_value_and_its_complaint_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook = script(dir.path(), &format!("echo \"$@\" >> {}", out.display()));
        for verb in ["present", "cleanup"] {
            call(&hook, verb, &record("*.isy.one"), "v").await.unwrap();
        }
        let told = std::fs::read_to_string(out).unwrap();
        assert_eq!(
            told,
            "present _acme-challenge.isy.one. v\ncleanup _acme-challenge.isy.one. v\n"
        );
        let hook = script(
            dir.path(),
            "yes no | head -c 100000 >&2; echo wrong zone >&2; exit 3",
        );
        let error = call(&hook, "present", "r", "v")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("present failed (exit status: 3): no") && error.len() < 3_000,
            "{error}"
        );
        assert!(matches!(
            call(Path::new("/nowhere"), "present", "r", "v").await,
            Err(HookError::Run(..))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let hook = script(dir.path(), "exec sleep 600");
        assert!(matches!(
            call(&hook, "present", "r", "v").await,
            Err(HookError::Late { .. })
        ));
    }
}
