//! Error messages and their documented exit codes.

use std::process::Stdio;

use crate::support::{
    data::op_id,
    run::{command, golden, isyctl},
};

#[test]
fn errors() {
    golden(
        "errors",
        &[
            // 1: failed
            "tenant create full --plan large",
            "tenant create full --dry-run",
            "tenant create taken --plan large",
            "tenant create broken",
            &format!("op watch {}", op_id(2)),
            &format!("op cancel {}", op_id(5)),
            "tenant resize occupied --plan large",
            "tenant upgrade alfa --odoo-image nowhere:18.0",
            "tenant upgrade alfa --odoo-image odoo:19.0",
            "tenant suspend occupied",
            "host remove h2 --yes",
            "operator revoke ana --yes",
            "tenant delete alfa --purge --yes",
            "events --after 2000",
            // 2: usage
            "tenant create bad --domain x",
            "tenant create picky --country UK",
            "tenant create picky --country XX",
            "tenant create picky --tz America/Sao_paulo",
            "tenant create picky --tz Mars/Phobos",
            "tenant create picky --lang pt",
            "tenant create picky --lang xx_YY",
            "tenant create picky --login public",
            "tenant create picky --odoo-image alfa/../../etc",
            "tenant resize alfa --plan huge",
            "tenant create",
            "tenant restore alfa --no-wait",
            "tenant restore",
            "tenant create alfa --label zone",
            "tenant create alfa --timeout soon",
            "tenant delete alfa",
            "tenant move alfa --to h1",
            "tenant delete delta --purge",
            "host remove h3",
            "operator revoke ci",
            "context remove test",
            "tenant verify alfa --edge nowhere",
            "teant list",
            // 3: not found
            "tenant show missing",
            "host show h9",
            &format!("op show {}", op_id(9)),
            "--context staging tenant list",
            "--context ./nothing.toml tenant list",
            // 4: denied
            "tenant credentials denied",
            "tenant show gone",
            "--context foreign tenant list",
            // 5: unavailable
            "tenant show hang",
            "--context nobody tenant list",
            "--context nobody tenant create alfa",
            "--context nobody version",
            "--context impostor tenant list",
        ],
    );
}

#[test]
fn verbose_tells_the_cause() {
    let run = isyctl(&["-v", "--context", "foreign", "tenant", "list"]);
    assert_eq!(run.code, 4);
    assert!(
        run.stderr.contains("cause: ") && run.stderr.contains("alert"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_expired_certificate_is_called_so() {
    let mut command = command(&["--context", "foreign", "tenant", "list"]);
    command.env("ISYCTL_NOW", "2095-01-01T00:00:00Z");
    let run = crate::support::run::finish(command);
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains("it has expired"), "{}", run.stderr);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = command(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), [].as_slice())
    );
}

#[test]
fn completions_are_generated_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let run = isyctl(&["completions", shell]);
        assert_eq!(run.code, 0);
        assert!(
            run.stdout.contains("credentials") && run.stderr.is_empty(),
            "{shell}"
        );
    }
}
