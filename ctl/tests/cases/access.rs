//! Passwords for the edge: where they may come from, and that none is exposed on the way.

use std::{io::Write as _, process::Stdio};

use crate::support::{
    pty::Terminal,
    run::{Run, command, finish, isyctl},
};

const SET: [&str; 6] = ["tenant", "access", "set", "alfa", "--user", "tester"];

fn with_stdin(text: &str) -> Run {
    let mut child = command(&[&SET[..], &["--password-stdin"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[test]
fn a_password_comes_from_standard_input_without_its_line_break() {
    for text in [
        "correct horse\n",
        "correct horse\r\n",
        "correct horse",
        "correct horse\nmore\n",
    ] {
        let run = with_stdin(text);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(
            run.stdout.contains("(password of 13)") && !run.stdout.contains("correct"),
            "{}",
            run.stdout
        );
    }
    let run = with_stdin("\n");
    assert!(
        run.code == 2 && run.stderr.contains("is empty"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_typed_password_is_asked_for_twice_and_never_shown() {
    let mut terminal = Terminal::start(command(&SET));
    terminal.expect("Password for tester: ");
    terminal.send("correct horse\r");
    terminal.expect("The same once more: ");
    terminal.send("correct horse\r");
    terminal.expect("(password of 13)");
    assert_eq!(terminal.wait(), 0);
    assert!(
        !terminal.seen().contains("correct") && terminal.is_cooked(),
        "{}",
        terminal.seen()
    );

    let mut terminal = Terminal::start(command(&SET));
    terminal.expect("Password for tester: ");
    terminal.send("correct horse\r");
    terminal.expect("The same once more: ");
    terminal.send("another horse\r");
    terminal.expect("differ");
    assert_eq!(terminal.wait(), 2);
}

#[test]
fn no_option_takes_a_password_as_its_value() {
    for option in ["--password", "--password=secret"] {
        assert_eq!(isyctl(&[&SET[..], &[option]].concat()).code, 2);
    }
    let both = finish(command(
        &[&SET[..], &["--password-stdin", "--generate-password"]].concat(),
    ));
    assert_eq!(both.code, 2, "{}", both.stderr);
}
