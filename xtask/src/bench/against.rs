//! `cargo xtask bench --against REV`: benches another commit beside this one. Both are built and run on this machine in
//! turn, so that whatever else the machine does meanwhile affects both.
//!
//! The other commit gets its own checkout in the temporary directory and its own target folder below the cache, both kept
//! for the next time. Not here: what the figures mean (isyone-bench, whose `--before` and `--after` compare them).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{Args, BUILT, environment};
use crate::cmd::{cargo, cmd, output, run, say};
use crate::paths;

/// Builds the other commit and runs the named benches of both, `rounds` times each.
pub(super) fn run_both(args: &Args, revision: &str, binaries: &Path) -> Result<()> {
    let before = Version::checked_out(revision)?;
    let after = Version {
        root: paths::root(),
        binaries: std::path::absolute(binaries)?,
    };
    let results = std::path::absolute(paths::cache())?.join("against");
    let (mut befores, mut afters) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        // Alternate who goes first, so that neither side always finds the warmer machine.
        let mut turns = [
            (&before, "before", &mut befores),
            (&after, "after", &mut afters),
        ];
        if round % 2 == 0 {
            turns.reverse();
        }
        for (version, side, done) in turns {
            say!("round {round} of {}, {side}", args.rounds);
            let out = results.join(format!("{side}-{round}"));
            version.run(&args.benches, &out)?;
            done.push(out);
        }
    }
    let list = |dirs: &[PathBuf]| {
        let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        dirs.join(",")
    };
    let bench = binaries.join("isyone-bench");
    let mut compare = cmd(&bench.to_string_lossy(), ["--before"]);
    compare
        .arg(list(&befores))
        .arg("--after")
        .arg(list(&afters));
    run(&mut compare)
}

/// In a directory that everybody may write to, a folder of that name may be somebody else's: what is in it would be built and run.
fn ensure_ours(folder: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let me = std::fs::metadata("/proc/self").context("cannot read /proc/self")?;
    let found = std::fs::symlink_metadata(folder)?;
    ensure!(
        found.is_dir() && found.uid() == me.uid(),
        "{} is not ours: remove it, or set TMPDIR",
        folder.display()
    );
    Ok(())
}

/// Whether a folder is a checkout of that commit without edits.
fn is_clean_at(root: &Path, commit: &str) -> bool {
    let git = |args: &[&str]| output(cmd("git", args).current_dir(root)).ok();
    root.join(".git").exists()
        && git(&["rev-parse", "HEAD"]).is_some_and(|head| head == commit)
        && git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty())
}

/// A built commit, and where its programs are.
struct Version {
    root: PathBuf,
    binaries: PathBuf,
}

impl Version {
    /// Checks a commit out into its own folder and builds it for release.
    fn checked_out(revision: &str) -> Result<Self> {
        let name = format!("{revision}^{{commit}}");
        let mut git = cmd("git", ["rev-parse", "--verify", "--quiet", name.as_str()]);
        let commit = output(git.current_dir(paths::root()))
            .with_context(|| format!("there is no commit `{revision}` in this checkout"))?;
        let short = commit.get(..9).unwrap_or(&commit);
        // A short path: Docker's sockets on test hosts lie below the checkout, and the kernel limits their paths.
        let root = std::env::temp_dir().join(format!("isyone-{short}"));
        let is_there = root.symlink_metadata().is_ok();
        if is_there {
            ensure_ours(&root)?;
        }
        if !is_clean_at(&root, &commit) {
            // Whatever is there instead (another commit, edits, half a checkout) would be measured under this one's name.
            if is_there {
                std::fs::remove_dir_all(&root)?;
            }
            run(cmd("git", ["worktree", "prune"]).current_dir(paths::root()))?;
            let mut add = cmd("git", ["worktree", "add", "--force", "--detach"]);
            run(add.arg(&root).arg(&commit).current_dir(paths::root()))?;
            say!(
                "its checkout stays for the next time; `git worktree remove --force {}` removes it",
                root.display()
            );
        }
        // Absolute, because the other version is built from its own folder.
        let folder = std::path::absolute(paths::cache())?.join("versions");
        let target = folder.join("target");
        say!("building {short} (some minutes the first time)");
        let mut build = cargo(&["build", "--release", "--bins"]);
        build.args(BUILT).current_dir(&root);
        run(build.env("CARGO_TARGET_DIR", &target))?;
        Ok(Self {
            root,
            binaries: target.join("release"),
        })
    }

    /// Runs this commit's own harness with its own programs.
    fn run(&self, benches: &[String], out: &Path) -> Result<()> {
        // Otherwise stale results of an earlier run with other benches would be compared too.
        if out.exists() {
            std::fs::remove_dir_all(out)?;
        }
        let bench = self.binaries.join("isyone-bench");
        let mut bench = cmd(&bench.to_string_lossy(), benches);
        bench.current_dir(&self.root).arg("--out").arg(out);
        environment(&mut bench, &self.binaries);
        run(&mut bench)
    }
}
