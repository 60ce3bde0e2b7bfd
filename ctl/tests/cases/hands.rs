//! What clumsy hands type, and where they type it: each of these was tried on a running fleet.
//!
//! Not here: that every option is held to it (unit tests of `usage` and `fields`).

use std::fs;

use crate::support::{
    pty::Terminal,
    run::{Run, command, finish, golden, isyctl, world},
};

#[test]
fn clumsy_hands() {
    golden(
        "hands",
        &[
            "tenant show -alfa",
            "tenant create alfa --plan=",
            "tenant list --host=",
            "tenant list --limit 0",
            "op list --limit 0",
            "tenant create alfa --label zone=eu --label zone=us",
            "host token --label zone=eu --label zone=eu",
            "--context test tenant create",
            "tenant create fixed --lang pt_BR --plan large",
            "tenant access set bad --allow nonsense",
            "tenant access set alfa --user tester --generate-password -o name",
            "tenant logs noisy",
            "tenant logs noisy --raw",
            "completions",
            "--no-color tenant show alfa --color always",
        ],
    );
}

#[test]
fn a_context_file_that_is_named_needs_no_home() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let file = folder.path().join("admin.toml");
    let context = world.context("prod", &world.fake.ca, &world.fake.ca);
    context.write(&file, false).unwrap();
    let homeless = |arguments: &[&str]| -> Run {
        let mut command = command(arguments);
        command.env_remove("HOME").env_remove("ISYCTL_CONFIG_DIR");
        finish(command)
    };
    let file = file.to_str().unwrap();
    let run = homeless(&["--context", file, "tenant", "list", "-o", "name"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "alfa\nbeta\ngama\n"),
        "{}",
        run.stderr
    );
    let run = homeless(&["--context", file, "context", "show", "-o", "name"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "admin\n"),
        "{}",
        run.stderr
    );
    let run = homeless(&["tenant", "list"]);
    assert!(
        run.code == 2 && run.stderr.contains("--context FILE"),
        "{}",
        run.stderr
    );
}

#[test]
fn help_is_a_word_too() {
    let words = isyctl(&["help", "tenant", "create"]);
    assert_eq!(words.code, 0);
    assert_eq!(words.stdout, isyctl(&["tenant", "create", "--help"]).stdout);
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("man1");
    let run = isyctl(&["completions", "--man", dir.to_str().unwrap()]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
    for page in ["isyctl.1", "isyctl-tenant-create.1", "isyctl-host-token.1"] {
        let text = fs::read_to_string(dir.join(page)).unwrap();
        assert!(
            text.contains(".SH SYNOPSIS") && text.contains("isyctl"),
            "{page}"
        );
    }
}

/// Fails if steps are redrawn where they were not wanted, or cannot be.
#[test]
fn without_colours_there_are_no_escape_sequences() {
    let create = ["tenant", "create", "alfa"];
    let mut no_color = command(&create);
    no_color.env("NO_COLOR", "1");
    let mut dumb = command(&create);
    dumb.env("TERM", "dumb");
    let flag = command(&["--no-color", "tenant", "create", "alfa"]);
    for plain in [no_color, dumb, flag] {
        let mut terminal = Terminal::start(plain);
        terminal.expect("Password");
        assert_eq!(terminal.wait(), 0);
        assert!(!terminal.seen().contains('\x1b'), "{:?}", terminal.seen());
    }
    let mut usual = Terminal::start(command(&create));
    usual.expect("Password");
    assert!(usual.seen().contains('\x1b'));
}

/// Fails if half a file of a backup is left where a whole one is expected, or if something is overwritten.
#[test]
fn a_file_of_a_backup_is_there_when_it_is_whole_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let get = |path: &str, to: &std::path::Path| {
        let to = to.to_str().unwrap();
        isyctl(&["backup", "get", "alfa", "3f2a9c01", path, "--to", to])
    };
    let whole = folder.path().join("whole");
    let run = get("manifest.json", &whole);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(fs::read_to_string(&whole).unwrap(), "{\"format\":1}");
    let run = get("manifest.json", &whole);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("is there already"), "{}", run.stderr);
    for path in ["cut", "much", "damaged"] {
        let run = get(path, &folder.path().join(path));
        assert_eq!(run.code, 1, "{path}");
    }
    let left = fs::read_dir(folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["whole"]);
    // Without --to it is called as in the backup, where one works.
    let mut here = command(&["backup", "get", "alfa", "3f2a9c01", "manifest.json"]);
    here.current_dir(folder.path());
    assert_eq!(finish(here).code, 0);
    assert!(folder.path().join("manifest.json").exists());
}
