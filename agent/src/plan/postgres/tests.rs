//! The settings as text, and the program on directories of a test; with a real PostgreSQL: the workspace's `tests/`.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::*;
use crate::testing::{tenant_plan, world::render};

/// `isyone.conf` of a plan, by line.
fn lines(plan: &TenantPlan, major: &str, has_spool: bool) -> Vec<String> {
    let mut container = render(plan).postgres;
    container
        .mounts
        .retain(|m| has_spool || m.target != SPOOL_TARGET);
    let image = ImageFacts {
        postgres_major: major.into(),
        pgdata: Some("/it's".into()),
        ..ImageFacts::default()
    };
    let [main, conf, _] = files(plan, &container, &image);
    assert!(main.content.contains("include '/it''s/postgresql.conf'"));
    conf.content.lines().map(str::to_owned).collect()
}

#[test]
fn nothing_is_archived_unless_the_plan_says_and_there_is_a_place() {
    let mut plan = tenant_plan("alfa");
    let has = |plan: &TenantPlan, has_spool, line: &str| {
        lines(plan, "15", has_spool).contains(&line.to_owned())
    };
    assert!(has(&plan, true, "archive_command = 'true'"));
    assert!(has(&plan, true, "archive_timeout = 0"));
    assert_eq!(spoken(&plan), "");
    plan.wal_spool = Some(WalSpool::default());
    assert!(has(&plan, true, "archive_timeout = 60"));
    assert!(!has(&plan, true, "archive_command = 'true'"));
    assert!(has(&plan, false, "archive_command = 'true'"));
    plan.wal_spool = Some(WalSpool {
        switch_s: u32::MAX,
        ..WalSpool::default()
    });
    assert!(has(&plan, true, "archive_timeout = 86400"));
}

#[test]
fn what_may_be_taken_of_a_disk_follows_the_plan() {
    let mut plan = tenant_plan("alfa");
    let spool = |limit_bytes| WalSpool {
        limit_bytes,
        switch_s: 0,
    };
    for (disk, said, expected) in [
        (0, 0, 512),
        (0, 2048, 2048),
        (100 << 10, 0, 512),
        (2 << 10, 0, 204),
        (2 << 10, 2048, 204),
        (2 << 10, 100, 100),
        (100, 0, 64),
        (100, 1, 64),
    ] {
        plan.size.disk_bytes = disk << 20;
        let bytes = spool(said << 20).bound_bytes(plan.size.disk_bytes);
        assert_eq!(bytes >> 20, expected, "{disk} {said}");
    }
    plan.size.disk_bytes = 5 << 30;
    let slots = "max_slot_wal_keep_size = 512MB".to_owned();
    assert!(lines(&plan, "15", true).contains(&slots));
    // It would not start with a setting that it does not know.
    assert!(!lines(&plan, "12", true).contains(&slots));
}

/// A data directory with one segment, and a spool.
struct Site {
    dir: TempDir,
    limit_kib: u64,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/pg_wal/archive_status")).unwrap();
        fs::create_dir(dir.path().join("wal")).unwrap();
        let limit_kib = 64 << 10;
        Self { dir, limit_kib }
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    /// Has a segment archived; whether PostgreSQL would take it for done.
    fn archives(&self, name: &str, content: &[u8]) -> bool {
        let (data, program) = (
            self.dir.path().join("data"),
            self.dir.path().join("archive"),
        );
        let text = archive(&self.spool().display().to_string(), self.limit_kib << 10);
        fs::write(&program, text).unwrap();
        let path = format!("pg_wal/{name}");
        fs::write(data.join(&path), content).unwrap();
        let mut sh = Command::new("sh");
        let sh = sh.arg(&program).args([&path, name]).current_dir(data);
        sh.output().unwrap().status.success()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.spool()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    fn gap(&self) -> String {
        fs::read_to_string(self.spool().join("gap")).unwrap_or_default()
    }
}

#[test]
fn a_segment_is_in_the_spool_whole_and_may_come_again() {
    let site = Site::new();
    for content in [vec![1; 3 << 20], vec![2; 1 << 20]] {
        fs::write(site.spool().join(".new"), "cut off").unwrap();
        assert!(site.archives("01", &content));
        assert_eq!(fs::read(site.spool().join("01")).unwrap(), content);
    }
    assert_eq!(site.names(), ["01"]);
}

#[test]
fn a_full_spool_lets_segments_go_says_which_and_goes_on_when_there_is_room() {
    let mut site = Site::new();
    assert!(site.archives("01", &[7; 1 << 20]));
    site.limit_kib = 1 << 10;
    for name in ["02", "03"] {
        assert!(site.archives(name, &[7; 1 << 20]), "segments would pile up");
    }
    assert_eq!(
        (site.names(), site.gap()),
        (vec!["01".into(), "gap".into()], "02 03\n".into())
    );
    fs::remove_file(site.spool().join("01")).unwrap();
    assert!(site.archives("04", &[7; 1 << 20]));
    assert_eq!(site.names(), ["04", "gap"]);
}

#[test]
fn a_spool_that_cannot_be_written_is_waited_for_but_not_for_ever() {
    let site = Site::new();
    fs::remove_dir(site.spool()).unwrap();
    assert!(!site.archives("01", &[7; 1 << 20]));
    let waiting = |number: u64| {
        let status = format!("data/pg_wal/archive_status/{number}.ready");
        fs::write(site.dir.path().join(status), "").unwrap();
    };
    (0..(PATIENCE_BYTES >> 20) - 1).for_each(waiting);
    assert!(!site.archives("01", &[7; 1 << 20]));
    waiting(u64::MAX);
    assert!(
        site.archives("01", &[7; 1 << 20]),
        "pg_wal would fill the disk"
    );
}
