//! Programs that the demo leaves running: started detached, found again, and stopped only if they are exactly the same
//! process.
//!
//! A process is identified by its pid, its start time and the machine's boot: a pid alone may belong to another process
//! by the time it is used. The process itself writes the record before it becomes the program, so an interrupted
//! `cargo xtask demo` never leaves a program without a record.

use crate::cmd::{cmd, output, succeeds, tail, wait_until};
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longer than any of our programs takes to shut down.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Time from the fork to the record: two small programs on a busy machine.
const RECORD_LIMIT: Duration = Duration::from_secs(10);

/// Writes `pid starttime boot` to $0, then becomes the program. The start time is the 22nd field of `stat`, which is
/// the 20th after the program's name. Raises the limit on open files as far as allowed, because every proxied
/// connection is one. Closes files inherited from our caller: a program that stays must not hold the lock of `flock
/// FILE cargo xtask demo`.
const LAUNCH: &str = r#"
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
ulimit -n "$(ulimit -Hn)"
printf '%s %s %s\n' "$$" "$(sed 's/.*) //' "/proc/$$/stat" | cut -d ' ' -f 20)" "$(cat /proc/sys/kernel/random/boot_id)" >"$0.new" &&
mv "$0.new" "$0" && exec "$@""#;

/// One program of the demo, running or not.
pub(super) struct Process {
    pub(super) name: String,
    record: PathBuf,
    log: PathBuf,
}

impl Process {
    /// The program `name` of the demo in `folder`.
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            record: folder.join("run").join(format!("{name}.pid")),
            log: folder.join("logs").join(format!("{name}.log")),
        }
    }

    /// Its pid, if it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        let record = fs::read_to_string(&self.record).ok()?;
        let pid = record.split(' ').next()?.parse().ok()?;
        (identity(pid)? == record.trim_end()).then_some(pid)
    }

    /// Whether it was started, and not stopped by us since.
    pub(super) fn was_started(&self) -> bool {
        self.record.exists()
    }

    /// Starts `command` in the background, with its output in the log.
    pub(super) fn start(&self, command: &Command) -> Result<()> {
        for file in [&self.record, &self.log] {
            fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        }
        fs::remove_file(&self.record).ok();
        let log = File::options().create(true).append(true).open(&self.log)?;
        // Its own session, so that neither Ctrl-C nor a closed terminal ends it.
        let mut launch = cmd("setsid", ["sh", "-c", LAUNCH]);
        launch
            .arg(&self.record)
            .arg(command.get_program())
            .args(command.get_args());
        for name in std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| is_foreign(&name.to_string_lossy()))
        {
            launch.env_remove(name);
        }
        launch
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = launch
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let settled = wait_until(RECORD_LIMIT, || {
            self.record.exists() || child.try_wait().is_ok_and(|s| s.is_some())
        });
        if !settled || !self.record.exists() {
            bail!(
                "{} could not be started; its log {} ends:\n{}",
                self.name,
                self.log.display(),
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Waits until `ready` returns true. Fails if the program ends first or the time is up.
    pub(super) fn wait_ready(
        &self,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut died = false;
        let is_ready = wait_until(limit, || {
            died = self.pid().is_none();
            died || ready()
        });
        if is_ready && !died {
            return Ok(());
        }
        let what = if died {
            "ended".to_owned()
        } else {
            format!("is not ready after {} s", limit.as_secs())
        };
        bail!(
            "{} {what}; its log {} ends:\n{}",
            self.name,
            self.log.display(),
            self.log_tail()
        )
    }

    /// Stops it, if it runs, and waits until it is gone.
    pub(super) fn stop(&self) -> Result<bool> {
        let Some(pid) = self.pid() else {
            fs::remove_file(&self.record).ok();
            return Ok(false);
        };
        succeeds(&mut cmd("kill", [pid.to_string()]));
        if !wait_until(STOP_LIMIT, || self.pid().is_none()) {
            succeeds(&mut cmd("kill", ["-KILL".to_owned(), pid.to_string()]));
            if !wait_until(STOP_LIMIT, || self.pid().is_none()) {
                bail!("{} (process {pid}) does not end", self.name);
            }
        }
        fs::remove_file(&self.record).ok();
        Ok(true)
    }

    pub(super) fn log_tail(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default(), 12)
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

/// Every program recorded in `folder`.
pub(super) fn recorded(folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir(folder.join("run"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .strip_suffix(".pid")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    names
        .iter()
        .map(|name| Process::new(folder, name))
        .collect()
}

/// `pid starttime boot` of a process that exists and is not a zombie.
fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    (*fields.first()? != "Z").then(|| {
        format!(
            "{pid} {} {}",
            fields.get(19).unwrap_or(&""),
            boot.trim_end()
        )
    })
}

/// Removes environment variables of the user's shell that do not concern the demo. (A proxy, for one, would be used for
/// the tenants' own addresses.)
pub(super) fn without_foreign(command: &mut Command) {
    for name in std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| is_foreign(&name.to_string_lossy()))
    {
        command.env_remove(name);
    }
}

fn is_foreign(variable: &str) -> bool {
    let name = variable.to_ascii_lowercase();
    ["isyone_", "isyctl_", "docker_", "rust_log"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || name.ends_with("_proxy")
}

/// The process that listens on a TCP port, if it is visible to us: `nginx (pid 812)`.
pub(super) fn listener(port: u16) -> String {
    let said = output(&mut cmd(
        "ss",
        ["-Hltnp".to_owned(), format!("sport = :{port}")],
    ))
    .unwrap_or_default();
    let owner = said.split_once("users:((\"").and_then(|(_, rest)| {
        let (name, rest) = rest.split_once('"')?;
        let pid = rest.strip_prefix(",pid=")?.split(',').next()?;
        Some(format!("{name} (pid {pid})"))
    });
    owner.unwrap_or_else(|| "another process".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recorded_found_and_stopped() {
        let folder =
            std::env::temp_dir().join(format!("isyone-xtask-process-{}", std::process::id()));
        let process = Process::new(&folder, "sleeper");
        assert!(process.pid().is_none() && !process.was_started());
        process.start(&cmd("sleep", ["600"])).unwrap();
        let pid = process.pid().expect("it runs");
        assert_eq!(recorded(&folder).len(), 1);
        assert!(process.wait_ready(RECORD_LIMIT, || true).is_ok());
        // A different process with the same pid, as after a reboot, is not ours.
        let record = fs::read_to_string(&process.record).unwrap();
        fs::write(
            &process.record,
            record.replace(&format!("{pid} "), &format!("{pid} 9")),
        )
        .unwrap();
        assert!(process.pid().is_none());
        fs::write(&process.record, record).unwrap();
        assert!(process.stop().unwrap());
        assert!(process.pid().is_none() && !process.stop().unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_that_ends_at_once_is_told_with_its_log() {
        let folder =
            std::env::temp_dir().join(format!("isyone-xtask-early-{}", std::process::id()));
        let process = Process::new(&folder, "early");
        process
            .start(&cmd("sh", ["-c", "echo no luck; exit 3"]))
            .unwrap();
        let error = process
            .wait_ready(RECORD_LIMIT, || false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ended") && error.contains("no luck"),
            "{error}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
