//! Command lines of isyctl that documents, messages and alerts give to people: each is one that there is, by what `--help` prints.
//!
//! Words between backticks that begin with `isyctl`, and lines of documents that do. Not here: whether arguments make sense.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    none,
    workspace::{read, root, rust_files},
};

/// What `isyctl … --help` prints, of each command.
const HELP: &str = "ctl/golden/help.txt";
/// Not among what `--help` lists: hidden, or another name of one.
const BESIDES: [&str; 2] = ["tenant exec", "backup ls"];
/// Where it is said in short which command is meant, with one of its options.
const SHORT: [&str; 1] = ["isyctl tenant access --allow"];

/// What the help of a command says that it takes.
#[derive(Debug, Default)]
struct Takes {
    options: BTreeSet<String>,
    /// Commands below it.
    below: BTreeSet<String>,
}

type Commands = BTreeMap<String, Takes>;

fn commands(help: &str) -> Commands {
    let mut found = BTreeMap::new();
    for printed in help.split("$ isyctl") {
        let (line, text) = printed.split_once('\n').unwrap_or((printed, ""));
        let Some(command) = line.trim().strip_suffix("--help") else {
            continue;
        };
        let words = text.split(|c: char| c.is_whitespace() || "[]<>|,='`().".contains(c));
        let options = words.filter(|word| word.starts_with("--"));
        let listed = text.split("\nCommands:\n").nth(1).unwrap_or("");
        let listed = listed.lines().take_while(|line| !line.is_empty());
        let below = listed.filter_map(|line| line.split_whitespace().next());
        let takes = Takes {
            options: options.map(str::to_owned).collect(),
            below: below.map(str::to_owned).collect(),
        };
        found.insert(command.trim().to_owned(), takes);
    }
    found
}

/// The command lines in a text.
fn lines(text: &str, is_document: bool) -> Vec<String> {
    let begins = text.match_indices("`isyctl ");
    let quoted = begins.filter_map(|(at, _)| text[at + 1..].split('`').next());
    let typed = text.lines().filter(|_| is_document);
    let typed = typed.map(|line| line.trim_start_matches(['$', ' ']));
    let all = quoted.chain(typed);
    all.filter(|line| line.starts_with("isyctl "))
        .map(|line| line.replace("\\\n", " "))
        .collect()
}

/// Why a command line is none.
fn wrong(line: &str, commands: &Commands) -> Option<String> {
    let ends = ["#", "|", ";", "&&", "<", ">", "--"];
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let end = |word: &&str| ends.contains(word) || word.ends_with(';');
    let end = words.iter().position(end).unwrap_or(words.len());
    let (mut path, mut rest) = (String::new(), &words[..end]);
    let mut command = commands.get("")?;
    while let Some((word, after)) = rest.split_first() {
        let longer = format!("{path} {word}").trim().to_owned();
        if BESIDES.contains(&longer.as_str()) {
            return None;
        }
        match (commands.get(&longer), command.below.contains(*word)) {
            (Some(own), _) => (command, path, rest) = (own, longer, after),
            (None, true) => return None, // its own help is not among these
            (None, false) => break,
        }
    }
    let is_word = |word: &&&str| word.bytes().all(|b| b.is_ascii_lowercase());
    if !command.below.is_empty() && rest.first().filter(is_word).is_some() {
        return Some(format!("there is no such command: {line}"));
    }
    let name = |word: &&str| {
        let name = word.split(['=', '`', ',', '"', '\'', '…', '.', ')', ':']);
        name.into_iter().next().unwrap_or("").to_owned()
    };
    let global = &commands.get("")?.options;
    let is_unknown =
        |option: &String| !command.options.contains(option) && !global.contains(option);
    let options = rest.iter().filter(|word| word.starts_with("--")).map(name);
    let unknown = options.filter(|option| option.len() > 2).find(is_unknown)?;
    Some(format!("`isyctl {path}` has no {unknown}: {line}"))
}

#[test]
fn command_lines_that_people_are_given_are_some_that_there_are() {
    let commands = commands(&read(HELP).expect("what --help prints"));
    assert!(commands.len() > 70, "{}", commands.len());
    let mut files: Vec<String> = rust_files("");
    for folder in ["docs/", "docs/runbooks/", "monitoring/deploy/", ""] {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| format!("{folder}{}", name.to_string_lossy()));
        files.extend(names.filter(|name| name.ends_with(".md") || name.ends_with(".yml")));
    }
    let mut bad = Vec::new();
    for file in files
        .iter()
        .filter(|file| !file.ends_with("tidy/commands.rs"))
    {
        let text = read(file).expect("a file of the workspace");
        for line in lines(&text, file.ends_with(".md")) {
            let why = wrong(&line, &commands).filter(|_| !SHORT.contains(&line.as_str()));
            bad.extend(why.map(|why| format!("{file}: {why}")));
        }
    }
    none(bad);
}

#[test]
fn what_is_no_command_is_seen() {
    let commands = commands(
        "$ isyctl --help\nX\n\nCommands:\n  tenant  T\n\n  --output <F>\n$ isyctl tenant --help\nX\n\nCommands:\n  restart  R\n  show  S\n\n\
         $ isyctl tenant restart --help\n  --with-database  PostgreSQL too\n",
    );
    for good in [
        "isyctl tenant restart alfa --with-database -o json",
        "isyctl tenant restart {} --output=json",
        "isyctl tenant show alfa --all",
        "isyctl tenant",
    ] {
        assert_eq!(wrong(good, &commands), None, "{good}");
    }
    for bad in [
        "isyctl tenant restart alfa --database",
        "isyctl tenant prepare",
        "isyctl tennant",
    ] {
        assert!(wrong(bad, &commands).is_some(), "{bad}");
    }
    let text = "type `isyctl tenant show` or\n$ isyctl top\n";
    assert_eq!(lines(text, true), ["isyctl tenant show", "isyctl top"]);
}
