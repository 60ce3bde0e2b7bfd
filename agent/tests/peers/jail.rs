//! A container without an engine: a program of this machine's PostgreSQL in a mount namespace whose root has the container's mounts and
//! nothing else that could be written. So paths, users and sockets are what they are in a real one.
//!
//! Where this machine has no PostgreSQL, or the test no root, there is none. Not here: what an engine knows of containers (engine).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use isyone_agent::plan::container::{ContainerSpec, MountSource};

/// Makes a root below `$1`, says so in `$2`, and becomes the program. `$3` has the sockets; then source, target and `ro` or `rw` of each mount, up to `--`.
const ENTER: &str = r#"
set -e; root=$1; ready=$2; sockets=$3; shift 3
mount -t tmpfs none "$root"; cd "$root"
for name in bin sbin lib lib64 usr; do
  if [ -L /$name ]; then cp -a /$name .; elif [ -d /$name ]; then mkdir $name; mount --rbind /$name $name; fi
done
mkdir -p dev proc tmp run/postgresql var etc
mount --rbind /dev dev; mount --bind /proc proc; chmod 1777 tmp; ln -s /run var/run
cp /etc/passwd /etc/group /etc/ld.so.cache etc/
mount --bind "$sockets" run/postgresql
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")"; : > "$root$2"; fi
  mount --bind "$1" "$root$2"; [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"; shift 3
done
shift; : > "$ready"
exec chroot "$root" "$@"
"#;
/// How long a program may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where this machine's PostgreSQL is, if it has one and the test may run it.
pub(crate) fn programs() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|v| v.path().join("bin")).collect();
    found.retain(|bin| bin.join("pg_basebackup").exists() && bin.join("initdb").exists());
    found.sort();
    let enters = Command::new("unshare").args(["-m", "true"]).status();
    found.pop().filter(|_| enters.is_ok_and(|s| s.success()))
}

/// A program that runs in its own root, and ends with this.
pub(crate) struct Jail {
    root: PathBuf,
    programs: PathBuf,
    child: Child,
}

/// Everything that a program is told of where it is.
fn environment(programs: &Path) -> Vec<String> {
    let path = format!("PATH={}:/usr/bin:/bin:/usr/sbin", programs.display());
    let words = ["/usr/bin/env", "-i", &path, "HOME=/tmp", "LC_ALL=C.UTF-8"];
    let words = words.map(str::to_owned);
    [&words[..], &["PGDATA=/var/lib/postgresql/data".to_owned()]].concat()
}

fn as_user(user: &str) -> Vec<String> {
    match user {
        "0" => Vec::new(),
        user => {
            let ids = [format!("--reuid={user}"), format!("--regid={user}")];
            let words = ["setpriv", &ids[0], &ids[1], "--clear-groups"];
            words.map(str::to_owned).to_vec()
        }
    }
}

impl Jail {
    /// Starts `command` as PostgreSQL's user in a root with the mounts of a container; `volume` finds a volume's directory. Its sockets
    /// appear in `place`.
    pub(crate) fn start(
        programs: &Path,
        place: &Path,
        spec: &ContainerSpec,
        command: &[String],
        volume: impl Fn(&str) -> PathBuf,
    ) -> Self {
        let at = |name: &str| place.join(name);
        let (root, sockets, ready) = (at("root"), at("sockets"), at("ready"));
        for made in [&root, &sockets] {
            fs::create_dir_all(made).unwrap();
        }
        fs::set_permissions(&sockets, fs::Permissions::from_mode(0o777)).unwrap();
        let _ = fs::remove_file(&ready); // of an earlier one
        let mut enter = Command::new("unshare");
        enter.args(["-m", "--", "sh", "-c", ENTER, "sh"]);
        enter.args([&root, &ready, &sockets]);
        for mount in &spec.mounts {
            let (source, rights) = match &mount.source {
                MountSource::Volume(name) => (volume(name), "rw"),
                MountSource::Directory(path) => (path.into(), "rw"),
                MountSource::File(path) => (path.into(), "ro"),
                MountSource::Image => continue,
            };
            enter.arg(source).args([&mount.target, rights]);
        }
        let mut log = fs::File::options();
        let log = log.create(true).append(true).open(at("log")).unwrap();
        enter.arg("--").args(environment(programs));
        enter.args(as_user("postgres")).args(command);
        enter.stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        let child = enter.stderr(log).spawn().unwrap();
        let begin = Instant::now();
        while !ready.exists() {
            let text = fs::read_to_string(at("log")).unwrap_or_default();
            assert!(begin.elapsed() < PATIENCE, "no root was made: {text}");
            sleep(Duration::from_millis(5));
        }
        Self {
            root,
            programs: programs.to_owned(),
            child,
        }
    }

    /// A command in the same root.
    pub(crate) fn command(&self, user: &str, words: &[String]) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.child.id().to_string();
        command.args(["-t", &pid, "-m", "--", "chroot"]);
        command.arg(&self.root).args(environment(&self.programs));
        command.args(as_user(user)).args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.command("postgres", &words).output().unwrap()
    }

    /// Each line is a transaction of its own.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        let mut words = vec!["psql", "-XqAt", "-U", "postgres", "-d", database];
        words.extend(statements.lines().flat_map(|line| ["-c", line]));
        let output = self.run(&words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn is_up(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal, such as `INT`, and waits for its end.
    pub(crate) fn end(&mut self, signal: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", signal, &pid]).status();
        let begin = Instant::now();
        while self.is_up() {
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Jail {
    /// PostgreSQL's other processes end when their first one is gone.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
