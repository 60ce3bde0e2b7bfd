//! Logs and commands in containers: bytes unchanged, exit codes passed on, the terminal restored.

use std::{io::Write as _, process::Stdio};

use rustix::process::Signal;

use crate::support::{
    pty::Terminal,
    run::{command, golden, isyctl},
};

#[test]
fn logs() {
    golden(
        "logs",
        &[
            "tenant logs alfa",
            "tenant logs alfa --container postgres --timestamps --tail 5",
            "tenant logs missing",
        ],
    );
}

#[test]
fn the_remote_exit_code_is_ours() {
    for code in [0, 1, 7, 255] {
        let run = isyctl(&["tenant", "shell", "alfa", "--", "exit", &code.to_string()]);
        assert_eq!((run.code, run.stderr.as_str()), (code, "leaving\n"));
    }
    let run = isyctl(&["tenant", "shell", "alfa", "--", "vanish"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(
        run.stderr.contains("without an exit code"),
        "{}",
        run.stderr
    );
}

#[test]
fn each_command_asks_for_its_own_program_without_a_terminal() {
    for (arguments, kind) in [
        (&["tenant", "shell", "alfa", "--", "what"], 1),
        (&["tenant", "psql", "alfa", "--", "what"], 3),
        (&["tenant", "exec", "alfa", "--", "what"], 4),
    ] {
        assert_eq!(
            isyctl(arguments).stdout,
            format!("kind {kind} tty false size 80x24\r\n")
        );
    }
    for noun in ["exec", "shell"] {
        let asked = isyctl(&["tenant", noun, "alfa", "--root", "--", "what"]);
        assert_eq!(asked.stdout, "kind 4 tty false size 80x24 as root\r\n");
    }
}

#[test]
fn standard_input_reaches_the_remote_program_whole() {
    let mut child = command(&["tenant", "psql", "alfa"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let sent: Vec<u8> = (0..300_000u32)
        .map(|i| b"0123456789abcdef\n"[i as usize % 17])
        .collect();
    let (mut stdin, text) = (child.stdin.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&text).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(
        output.stdout == sent,
        "{} of {} bytes came back",
        output.stdout.len(),
        sent.len()
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_terminal_is_raw_meanwhile_and_given_back_at_the_end() {
    let mut terminal = Terminal::start(command(&["tenant", "shell", "alfa"]));
    assert!(terminal.is_cooked());
    terminal.send("a");
    terminal.expect("a");
    while terminal.is_cooked() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Ctrl-C now goes to the remote program.
    terminal.send("\u{3}b");
    terminal.expect("\u{3}b");
    terminal.resize(77, 33);
    terminal.expect("now 77x33");
    terminal.send("q");
    assert_eq!(terminal.wait(), 5);
    assert!(terminal.is_cooked());
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut terminal = Terminal::start(command(&["tenant", "psql", "alfa"]));
        while terminal.is_cooked() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        crate::support::pty::signal(&terminal.child, signal);
        assert_eq!(terminal.wait(), code);
        assert!(terminal.is_cooked(), "{signal:?}");
    }
}
