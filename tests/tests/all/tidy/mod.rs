//! What the compiler does not check: which module may import which, that the code map is correct, and how files look.
//! It reads the workspace's sources and runs nothing. What is allowed is in `tables`; a failure lists everything that
//! is wrong, ready to be copied there.

mod commands;
mod conf;
mod edges;
mod files;
mod limits;
mod source;
mod tables;
mod workspace;

use std::collections::{BTreeMap, BTreeSet};

use edges::Edges;
use source::{Source, Token, with_tests};
use tables::{CRATES, Imports, PURE, PURE_DEPENDENCIES, TOO_LONG};
use workspace::{Crate, read, rust_files};

/// Maximum lines per file: two screens of a large monitor, some six functions' worth of reading.
const MAX_LINES: usize = 500;

fn none(wrong: Vec<String>) {
    assert!(
        wrong.is_empty(),
        "{} found:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Applies `look` to every file's path and text, and collects what is wrong.
fn of_each_file(look: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let files = rust_files("");
    assert!(
        files.len() > 100,
        "the sources are not where they should be"
    );
    let look = |file: &String| match read(file) {
        Ok(text) => look(file, &text),
        Err(error) => vec![error],
    };
    files.iter().flat_map(look).collect()
}

#[test]
fn modules_import_only_what_their_crates_table_names() {
    let mut wrong = Vec::new();
    for (folder, allowed) in CRATES {
        match Crate::read(folder) {
            Ok(found) => wrong.extend(differences(folder, &found.edges, allowed)),
            Err(error) => wrong.push(error),
        }
    }
    none(wrong);
}

fn pairs(table: Imports) -> BTreeSet<(String, String)> {
    let words = |(from, to): &(&str, &'static str)| {
        let from = (*from).to_owned();
        to.split_whitespace()
            .map(move |to| (from.clone(), to.to_owned()))
    };
    table.iter().flat_map(words).collect()
}

/// What a crate imports beyond its table, and what the table allows needlessly; with the table as it would have to be.
fn differences(folder: &str, found: &Edges, allowed: Imports) -> Vec<String> {
    let allowed = pairs(allowed);
    let new = found.iter().filter(|(edge, _)| !allowed.contains(edge));
    let gone = allowed.iter().filter(|edge| !found.contains_key(edge));
    let mut wrong: Vec<String> = new
        .map(|((from, to), place)| format!("{folder}: {from} imports {to} ({place})"))
        .chain(gone.map(|(from, to)| format!("{folder}: {from} does not import {to} any more")))
        .collect();
    if !wrong.is_empty() {
        wrong.push(format!(
            "the table as the code is:\n{}",
            table(folder, found)
        ));
    }
    wrong
}

fn table(folder: &str, found: &Edges) -> String {
    let mut rows = BTreeMap::<&str, Vec<&str>>::new();
    for (from, to) in found.keys() {
        rows.entry(from).or_default().push(to);
    }
    let rows: String = rows.iter().map(|(from, to)| row(from, to)).collect();
    format!("    (\n        \"{folder}\",\n        &[\n{rows}        ],\n    ),")
}

/// A row, formatted much as rustfmt leaves it.
fn row(from: &str, to: &[&str]) -> String {
    const WIDTH: usize = 96;
    let short = format!("            (\"{from}\", \"{}\"),\n", to.join(" "));
    if short.len() <= WIDTH {
        return short;
    }
    let indent = " ".repeat(16);
    let mut lines = vec![format!("{indent}\"")];
    for word in to {
        let is_full = lines.last().is_some_and(|l| l.len() + word.len() > WIDTH);
        if is_full {
            lines.push(format!("{indent} "));
        }
        let line = lines.last_mut().expect("there is one at least");
        line.push_str(word);
        line.push(' ');
    }
    let words = lines.join("\\\n");
    let words = words.trim_end();
    format!("            (\n{indent}\"{from}\",\n{words}\",\n            ),\n")
}

/// What of a clippy.toml is not a comment, without the end of the list of methods.
fn entries(file: &str) -> BTreeSet<String> {
    let text = read(file).unwrap();
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "]")
        .map(str::to_owned)
        .collect()
}

/// Clippy reads the nearest clippy.toml alone: the agent's takes the place of the workspace's.
#[test]
fn the_agents_lints_are_the_workspaces_and_more() {
    let (workspace, agent) = (entries("clippy.toml"), entries("agent/clippy.toml"));
    let missing: Vec<String> = workspace.difference(&agent).cloned().collect();
    none(missing);
    let only = |entry: &&String| !workspace.contains(*entry);
    let files = agent.iter().filter(only);
    let kinds = [
        "std::fs::",
        "std::path::",
        "std::os::unix::fs::",
        "tokio::fs::",
        "rustix::fs::",
    ];
    none(
        files
            .filter(|entry| {
                !kinds
                    .iter()
                    .any(|kind| entry.contains(&format!("\"{kind}")))
            })
            .cloned()
            .collect(),
    );
}

#[test]
fn every_crate_has_a_table_or_a_reason_to_have_none() {
    let manifest = read("Cargo.toml").unwrap();
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = ["));
    let members = members.expect("the workspace names its members on one line");
    let named = |member: &&str| {
        CRATES.iter().any(|(folder, _)| folder == member) || tables::FLAT.contains(member)
    };
    let members = members.split('"').skip(1).step_by(2);
    none(
        members
            .filter(|member| !named(member))
            .map(|member| format!("{member} has no table of imports"))
            .collect(),
    );
}

#[test]
fn the_tables_have_no_cycle() {
    let mut wrong = Vec::new();
    for (folder, table) in CRATES {
        let mut left = pairs(table);
        // Remove the edge that closes the cycle each time, so that all cycles are reported.
        while let Some(way) = edges::cycle(&left) {
            wrong.push(format!("{folder}: {}", way.join(" → ")));
            let closing = way.last_chunk::<2>().expect("two modules at least");
            left.remove(&(closing[0].clone(), closing[1].clone()));
        }
    }
    none(wrong);
}

#[test]
fn pure_crates_stay_pure() {
    let mut wrong = Vec::new();
    for folder in PURE {
        let manifest = read(&format!("{folder}/Cargo.toml")).unwrap_or_else(|error| error);
        // Any word of the manifest: a dependency may be renamed, or have a table of its own.
        let names = manifest
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '-'));
        let forbidden = names.filter(|name| PURE_DEPENDENCIES.contains(name));
        wrong.extend(forbidden.map(|name| format!("{folder}/Cargo.toml names {name}")));
        match Crate::read(folder) {
            Ok(found) => wrong.extend(found.sources.iter().flat_map(impure)),
            Err(error) => wrong.push(error),
        }
    }
    none(wrong);
}

/// Where a source has side effects or reads its environment: files, network, processes, threads, environment, clocks,
/// random numbers.
fn impure((file, source): (&String, &Source)) -> Vec<String> {
    let named = edges::paths(&source.tokens, &[]);
    let reaches = named.into_iter().filter(|named| {
        let path: Vec<&str> = named.path.iter().map(String::as_str).collect();
        // A point in time may be an argument; reading the clock is what is impure.
        let is_clock = path.contains(&"SystemTime");
        is_clock
            || match path[..] {
                ["std", "fs" | "process" | "thread" | "env", ..] | ["rand", ..] => true,
                ["std", "net"] => true,
                ["std", "net", what, ..] => ["*", "Tcp", "Udp"].iter().any(|w| what.starts_with(w)),
                _ => false,
            }
    });
    let calls = source.tokens.windows(2).filter(|at| {
        let called = at[1].text == "(";
        called && ["now", "elapsed"].contains(&at[0].text.as_str())
    });
    reaches
        .map(|named| format!("{file}:{}: {}", named.line, named.path.join("::")))
        .chain(calls.map(|at| format!("{file}:{}: {}()", at[0].line, at[0].text)))
        .collect()
}

#[test]
fn every_file_says_what_it_is() {
    none(of_each_file(|file, text| {
        let says = text.starts_with("//!");
        Vec::from_iter((!says).then(|| format!("{file} does not begin with //!")))
    }));
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = of_each_file(|file, text| {
        let lines = text.lines().count();
        let excused = TOO_LONG.iter().any(|(name, _)| *name == file);
        let what = match (lines > MAX_LINES, excused) {
            (true, false) => format!("    (\"{file}\", \"why\"), // {lines} lines"),
            (false, true) => format!("{file} needs no excuse any more: {lines} lines"),
            _ => return Vec::new(),
        };
        vec![what]
    });
    let gone = TOO_LONG.iter().filter(|(file, _)| read(file).is_err());
    wrong.extend(gone.map(|(file, _)| format!("{file} is excused and is not there")));
    none(wrong);
}

#[test]
fn the_code_map_names_every_module_and_none_that_is_not_there() {
    let map = read("docs/code-map.md").unwrap();
    let mut wrong = Vec::new();
    for (folder, _) in CRATES {
        let begin = format!("## `{folder}/`\n");
        let part = map
            .split("\n## ")
            .find_map(|part| format!("## {part}").strip_prefix(&begin).map(str::to_owned));
        match (part, Crate::read(folder)) {
            // Crates so small that one row of the map covers them.
            _ if tables::NOT_ON_THE_MAP.contains(folder) => {}
            (Some(part), Ok(found)) => wrong.extend(unlike_the_map(folder, &part, &found)),
            (None, _) => wrong.push(format!("the code map has no part `{folder}/`")),
            (_, Err(error)) => wrong.push(error),
        }
    }
    none(wrong);
}

/// What a part of the map leaves out, and what it names that is not a top module. The names are those in backticks in
/// the first cell of each row.
fn unlike_the_map(folder: &str, part: &str, found: &Crate) -> Vec<String> {
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split('|').next());
    let names: BTreeSet<&str> = cells
        .flat_map(|cell| cell.split([' ', '`']))
        .filter(|name| !name.is_empty())
        .collect();
    let tops: BTreeSet<&str> = found.tops.iter().map(String::as_str).collect();
    let missing = tops.difference(&names);
    let unknown = names.difference(&tops);
    missing
        .map(|name| format!("the code map lacks {folder}'s `{name}`"))
        .chain(
            unknown
                .map(|name| format!("the code map names {folder}'s `{name}`, which is not there")),
        )
        .collect()
}

#[test]
fn a_module_with_children_is_a_folder_with_mod_rs() {
    let files: BTreeSet<String> = rust_files("").into_iter().collect();
    let beside = files.iter().filter(|file| {
        let folder = format!("{}/", file.trim_end_matches(".rs"));
        files.iter().any(|other| other.starts_with(&folder))
    });
    let mut wrong: Vec<_> = beside
        .map(|file| format!("{file} lies beside a folder of its name"))
        .collect();
    wrong.extend(of_each_file(|file, text| {
        let tokens = with_tests(text);
        let is_path = |at: &[Token]| {
            let texts = [0, 1, 2].map(|n| at[n].text.as_str());
            texts == ["#", "[", "path"]
        };
        let with_path = tokens.windows(3).filter(|at| is_path(at));
        with_path
            .map(|at| format!("{file}:{}: #[path]", at[0].line))
            .collect()
    }));
    none(wrong);
}

#[test]
fn one_type_is_named_command() {
    let declared = of_each_file(|file, text| {
        let tokens = with_tests(text);
        let is_command = |at: &[Token]| {
            ["enum", "struct", "type", "trait"].contains(&at[0].text.as_str())
                && at[1].text == "Command"
        };
        let commands = tokens.windows(2).filter(|at| is_command(at));
        commands
            .map(|at| format!("{file}:{}: {} Command", at[0].line, at[0].text))
            .collect()
    });
    assert!(declared.len() <= 1, "{}", declared.join("\n"));
}

#[test]
fn no_doc_comment_is_one_word_that_says_nothing() {
    none(of_each_file(|file, text| {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let is_lone = |at: usize| {
            let beside = [at.checked_sub(1), Some(at + 1)];
            let mut beside = beside.into_iter().flatten();
            !beside.any(|at| lines.get(at).is_some_and(|line| line.starts_with("///")))
        };
        let useless = lines.iter().enumerate().filter(|(at, line)| {
            let said = line
                .strip_prefix("/// ")
                .map(|said| said.trim_end_matches('.'));
            said.is_some_and(|said| tables::USELESS.contains(&said)) && is_lone(*at)
        });
        useless
            .map(|(at, line)| format!("{file}:{}: {line}", at + 1))
            .collect()
    }));
}

#[test]
fn differences_are_told_with_the_table_to_copy() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let found = Edges::from([
        (edge("plan", "store"), "x/src/plan.rs:7".to_owned()),
        (edge("session", "plan"), "x/src/session.rs:1".to_owned()),
    ]);
    let right: Imports = &[("plan", "store"), ("session", "plan")];
    assert_eq!(differences("x", &found, right), Vec::<String>::new());
    let turned: Imports = &[("store", "plan"), ("session", "plan")];
    assert_eq!(
        differences("x", &found, turned),
        [
            "x: plan imports store (x/src/plan.rs:7)",
            "x: store does not import plan any more",
            "the table as the code is:\n    (\n        \"x\",\n        &[\n            (\"plan\", \"store\"),\n            (\"session\", \"plan\"),\n        ],\n    ),"
        ]
    );
}

#[test]
fn what_is_impure_is_found() {
    let impure_in = |text: &str| impure((&"x.rs".to_owned(), &Source::of(text)));
    let text = "use std::{fs, net::{IpAddr, TcpStream}};\nuse std::time::{Duration, Instant};\nlet x = rand::random();\nlet t = Instant::now().elapsed();";
    assert_eq!(
        impure_in(text),
        [
            "x.rs:1: std::fs",
            "x.rs:1: std::net::TcpStream",
            "x.rs:3: rand::random",
            "x.rs:4: now()",
            "x.rs:4: elapsed()"
        ]
    );
    let pure = "use std::net::Ipv4Addr; #[cfg(test)] mod tests { use std::fs; }";
    assert_eq!(impure_in(pure), Vec::<String>::new());
}

#[test]
fn a_row_of_the_map_is_compared_with_the_modules() {
    let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let found = Crate {
        tops: strings(&["acme", "views"]),
        ..Crate::default()
    };
    let part = "`x/`\n\n| module | what |\n|---|---|\n| `acme` `gone` | `views` and `plan` |\n";
    assert_eq!(
        unlike_the_map("x", part, &found),
        [
            "the code map lacks x's `views`",
            "the code map names x's `gone`, which is not there"
        ]
    );
}
