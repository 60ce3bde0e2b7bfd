//! Contexts: import, use, show and remove them, and make them for other people.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::support::run::{Run, command, finish, world};

fn with_config(config: &Path, arguments: &[&str]) -> Run {
    let mut command = command(arguments);
    command.env("ISYCTL_CONFIG_DIR", config);
    finish(command)
}

#[test]
fn the_first_import_is_used_from_then_on() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let file = folder.path().join("admin.toml");
    world
        .context("prod", &world.fake.ca, &world.fake.ca)
        .write(&file, false)
        .unwrap();
    let (config, file) = (folder.path().join("config"), file.to_str().unwrap());
    let isyctl = |arguments: &[&str]| with_config(&config, arguments);

    let run = isyctl(&["tenant", "list"]);
    assert_eq!(run.code, 2);
    assert!(
        run.stderr.contains("no context") && run.stderr.contains("context import"),
        "{}",
        run.stderr
    );

    assert_eq!(isyctl(&["context", "import", file]).code, 0);
    assert_eq!(
        isyctl(&["tenant", "list", "-o", "name"]).stdout,
        "alfa\nbeta\ngama\n"
    );
    let again = isyctl(&["context", "import", file]);
    assert_eq!(again.code, 1, "never over another: {}", again.stderr);
    assert_eq!(isyctl(&["context", "import", file, "--force"]).code, 0);
    assert_eq!(
        isyctl(&["context", "import", file, "--name", "second"]).code,
        0
    );
    assert_eq!(
        isyctl(&["context", "list", "-o", "name"]).stdout,
        "prod\nsecond\n"
    );

    let list = isyctl(&["context", "list"]).stdout;
    assert!(list.lines().any(|l| l.starts_with("*  prod")), "{list}");
    assert_eq!(isyctl(&["context", "use", "second"]).code, 0);
    let shown = isyctl(&["context", "show", "-o", "json"]).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["name"], &shown["role"], &shown["operator"]),
        (&"second".into(), &"admin".into(), &"ana".into())
    );
    assert_eq!(shown["certificate_expire_time"], "2090-01-01T00:00:00.000Z");
    assert!(!isyctl(&["context", "show"]).stdout.contains("PRIVATE"));

    assert_eq!(isyctl(&["context", "remove", "second", "--yes"]).code, 0);
    assert_eq!(isyctl(&["context", "use", "second"]).code, 3);
    assert_eq!(
        isyctl(&["tenant", "list", "-o", "name"]).code,
        0,
        "the only one left is used"
    );
}

#[test]
fn a_file_that_others_can_read_is_not_used_until_it_is_private() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let file = folder.path().join("open.toml");
    world
        .context("open", &world.fake.ca, &world.fake.ca)
        .write(&file, false)
        .unwrap();
    let name = file.to_str().unwrap();
    let list = ["--context", name, "tenant", "list", "-o", "name"];
    for mode in [0o644, 0o640, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let run = with_config(folder.path(), &list);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
        assert!(
            run.stderr.contains("error: others can read")
                && run.stderr.contains(&format!("hint: `chmod 600 {name}`")),
            "{}",
            run.stderr
        );
    }
    let shown = with_config(folder.path(), &["--context", name, "context", "show"]);
    assert!(shown.code == 0 && shown.stderr.contains("warning: others can read"));
    // A copy of one's own is private.
    let run = with_config(folder.path(), &["context", "import", name]);
    assert!(
        run.code == 0 && run.stderr.contains("warning: others can read"),
        "{}",
        run.stderr
    );
    let kept = with_config(folder.path(), &["tenant", "list", "-o", "name"]);
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(with_config(folder.path(), &list).code, 0);
}

#[test]
fn an_operator_gets_a_file_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ci.toml");
    let out = file.to_str().unwrap();
    let make = [
        "operator", "create", "ci", "--role", "viewer", "--ttl", "90d", "--out", out,
    ];
    let run = crate::support::run::isyctl(&make);
    assert_eq!(
        (run.code, run.stdout),
        (0, format!("{out}\n")),
        "{}",
        run.stderr
    );
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let config = folder.path().join("config");
    assert_eq!(with_config(&config, &["context", "import", out]).code, 0);
    assert_eq!(
        with_config(&config, &["tenant", "list", "-o", "name"]).code,
        0
    );
    let shown: serde_json::Value =
        serde_json::from_str(&with_config(&config, &["context", "show", "-o", "json"]).stdout)
            .unwrap();
    assert_eq!(
        (&shown["operator"], &shown["role"]),
        (&"ci".into(), &"viewer".into())
    );
    assert_eq!(
        with_config(&config, &["context", "list", "-o", "name"]).stdout,
        "ci\n",
        "named after its operator, not after whoever made it"
    );
    assert_eq!(
        crate::support::run::isyctl(&make).code,
        1,
        "never over another file"
    );
}

#[test]
fn a_monitor_gets_the_files_that_prometheus_reads() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("isyone");
    let make = [
        "operator",
        "create",
        "prom",
        "--role",
        "monitor",
        "--pem",
        dir.to_str().unwrap(),
    ];
    let run = crate::support::run::isyctl(&make);
    assert_eq!(
        (run.code, run.stdout),
        (0, format!("{}/prom.pem\n", dir.display())),
        "{}",
        run.stderr
    );
    for (file, first) in [
        ("ca.pem", "CERTIFICATE"),
        ("prom.pem", "CERTIFICATE"),
        ("prom.key", "PRIVATE KEY"),
    ] {
        let path = dir.join(file);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{file}"
        );
        assert!(
            fs::read_to_string(path)
                .unwrap()
                .starts_with(&format!("-----BEGIN {first}")),
            "{file}"
        );
    }
    assert_eq!(
        crate::support::run::isyctl(&make).code,
        1,
        "never over another file"
    );
}

/// Fails if an operator is made whose key is then lost, as with a folder that is not there.
#[test]
fn an_operator_is_made_only_when_its_file_can_be_written() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let create = |name: &str, out: &Path| {
        let out = out.to_str().unwrap();
        let make = ["operator", "create", name, "--role", "viewer", "--out", out];
        crate::support::run::isyctl(&make)
    };
    let run = create("nowhere", &folder.path().join("none/nowhere.toml"));
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("cannot write") && run.stderr.contains("nothing was asked for"),
        "{}",
        run.stderr
    );
    let created = world.fake.created.lock().unwrap().clone();
    assert!(!created.contains(&"nowhere".to_owned()), "{created:?}");
    // Where the coordinator refuses, no file is left either.
    assert_eq!(create("taken", &folder.path().join("taken.toml")).code, 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn ones_own_certificate_is_renewed_in_its_place() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let file = folder.path().join("prod.toml");
    let before = world.context("prod", &world.fake.ca, &world.fake.ca);
    before.write(&file, false).unwrap();
    let config = folder.path().join("config");
    let context = file.to_str().unwrap();
    let retired = || world.fake.retired.load(std::sync::atomic::Ordering::SeqCst);
    let count = retired();
    let run = with_config(&config, &["--context", context, "operator", "renew"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(retired() > count, "it came with the new one");
    let (after, exposed) = isyone_ctl::context::Context::read(&file).unwrap();
    assert!(!exposed && after.name == "prod" && after.endpoint == before.endpoint);
    assert!(after.key_pem != before.key_pem && after.certificate_pem != before.certificate_pem);
    let list = ["--context", context, "tenant", "list", "-o", "name"];
    assert_eq!(with_config(&config, &list).code, 0);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
}

#[test]
fn anothers_certificate_is_renewed_into_a_file_and_only_when_one_is_sure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ci.toml");
    let out = file.to_str().unwrap();
    let renew = ["operator", "renew", "ci", "--role", "viewer", "--out", out];
    let run = crate::support::run::isyctl(&renew);
    assert!(
        run.code == 2 && run.stderr.contains("it needs a confirmation"),
        "{}",
        run.stderr
    );
    assert!(!file.exists());
    let run = crate::support::run::isyctl(&[&renew[..], &["--yes"]].concat());
    assert_eq!(
        (run.code, run.stdout),
        (0, format!("{out}\n")),
        "{}",
        run.stderr
    );
    let (context, _) = isyone_ctl::context::Context::read(&file).unwrap();
    assert_eq!(context.name, "ci", "named after its operator");
}
