//! Which paths a source names, and which edges between a crate's top modules follow from them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Token;

/// A path from its root (`crate`, or the name of another crate or of anything in scope), and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// Importer and imported module, with the first place: `file:line`.
pub(super) type Edges = BTreeMap<(String, String), String>;

/// All paths of more than one segment in a source of the module at `module`; a group gives one path per element.
pub(super) fn paths(tokens: &[Token], module: &[String]) -> Vec<Named> {
    let mut reader = Reader {
        tokens,
        at: 0,
        found: Vec::new(),
    };
    // Inline modules, each with the brace depth at which it ends.
    let (mut inner, mut depth) = (Vec::<(String, usize)>::new(), 0_usize);
    while reader.at < tokens.len() {
        let (text, next) = (reader.text(0), reader.text(1));
        match text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inner.pop_if(|(_, ends)| *ends == depth);
            }
            "mod" if reader.text(2) == "{" => inner.push((next.to_owned(), depth)),
            _ if next == "::" && is_name(text) => {
                let mut here: Vec<String> = vec!["crate".to_owned()];
                here.extend(module.iter().cloned());
                here.extend(inner.iter().map(|(name, _)| name.clone()));
                reader.tree(&here, Vec::new());
                continue;
            }
            _ => {}
        }
        reader.at += 1;
    }
    reader.found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    found: Vec<Named>,
}

impl<'a> Reader<'a> {
    fn text(&self, ahead: usize) -> &'a str {
        let token = self.tokens.get(self.at + ahead);
        token.map_or("", |token| token.text.as_str())
    }

    /// Reads `a::b`, `a::{b, c::d}` or `a::*` after `path`; `here` is the enclosing module.
    fn tree(&mut self, here: &[String], mut path: Vec<String>) {
        let line = self.tokens[self.at].line;
        loop {
            match self.text(0) {
                "{" => return self.group(here, &path),
                "super" if path.is_empty() => path = here[..here.len() - 1].to_vec(),
                "super" => drop(path.pop()),
                "self" if path.is_empty() => path = here.to_vec(),
                "self" => {}
                text if text == "*" || is_name(text) => path.push(text.to_owned()),
                _ => break,
            }
            self.at += 1;
            if self.text(0) != "::" {
                break;
            }
            self.at += 1;
        }
        if path.len() > 1 {
            self.found.push(Named { path, line });
        }
    }

    fn group(&mut self, here: &[String], path: &[String]) {
        self.at += 1;
        while !matches!(self.text(0), "}" | "") {
            let before = self.at;
            self.tree(here, path.to_vec());
            // Skip what follows: `as name`, a comma.
            while !matches!(self.text(0), "," | "}" | "") {
                self.at += 1;
            }
            if self.text(0) == "," {
                self.at += 1;
            }
            debug_assert!(self.at > before, "each turn reads something");
        }
        self.at += 1;
    }
}

/// Adds the edges of one source to `edges`. `tops` maps the names in the crate's root (its top modules, and what the
/// root re-exports from them) to top modules. A glob import of the root is an edge to `*`.
pub(super) fn add(
    edges: &mut Edges,
    (file, module): (&str, &[String]),
    tokens: &[Token],
    tops: &BTreeMap<String, String>,
) {
    let Some(own) = module.first() else {
        return; // the root may import everything
    };
    for Named { path, line } in paths(tokens, module) {
        let to = match (path[0].as_str(), path[1].as_str()) {
            ("crate", "*") => Some("*".to_owned()),
            ("crate", name) => tops.get(name).cloned(),
            _ => None,
        };
        if let Some(to) = to.filter(|to| to != own) {
            edges
                .entry((own.clone(), to))
                .or_insert_with(|| format!("{file}:{line}"));
        }
    }
}

/// Names in the crate's root that lead to top modules: the modules themselves, and what the root's `pub use` exports.
pub(super) fn exported(root: &[Token], modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut names: BTreeMap<_, _> = modules.iter().map(|m| (m.clone(), m.clone())).collect();
    for Named { path, .. } in paths(root, &[]) {
        let path = path.strip_prefix(&["crate".to_owned()]).unwrap_or(&path);
        if let [top, .., name] = path
            && modules.contains(top)
        {
            names.entry(name.clone()).or_insert_with(|| top.clone());
        }
    }
    names
}

/// A path from a module back to itself, if there is one.
pub(super) fn cycle(edges: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    let modules: BTreeSet<&String> = edges.iter().flat_map(|(from, to)| [from, to]).collect();
    let mut done = BTreeSet::new();
    modules
        .into_iter()
        .find_map(|module| walk(module, edges, &mut Vec::new(), &mut done))
}

fn walk<'a>(
    module: &'a String,
    edges: &'a BTreeSet<(String, String)>,
    way: &mut Vec<&'a String>,
    done: &mut BTreeSet<&'a String>,
) -> Option<Vec<String>> {
    if let Some(begin) = way.iter().position(|before| *before == module) {
        let round = way[begin..].iter().chain([&module]);
        return Some(round.map(|name| (*name).clone()).collect());
    }
    if !done.insert(module) {
        return None;
    }
    way.push(module);
    let next = edges.iter().filter(|(from, _)| from == module);
    let found = next
        .map(|(_, to)| to)
        .find_map(|to| walk(to, edges, way, done));
    way.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::{super::source::Source, *};

    fn found(text: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|m| (*m).to_owned()).collect();
        let tokens = Source::of(text).tokens;
        let paths = paths(&tokens, &module);
        paths.into_iter().map(|n| n.path.join("::")).collect()
    }

    fn tops(names: &[&str]) -> BTreeMap<String, String> {
        let modules = names.iter().map(|n| (*n).to_owned()).collect();
        exported(&Source::of("pub use store::Row;").tokens, &modules)
    }

    fn edges(files: &[(&[&str], &str)]) -> BTreeSet<(String, String)> {
        let mut all = Edges::new();
        for (module, text) in files {
            let module: Vec<String> = module.iter().map(|m| (*m).to_owned()).collect();
            let tokens = Source::of(text).tokens;
            add(
                &mut all,
                ("x.rs", &module),
                &tokens,
                &tops(&["plan", "store", "session"]),
            );
        }
        all.into_keys().collect()
    }

    fn edge(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn groups_are_taken_apart() {
        let text = "use crate::{\n  a,\n b::{self, c as d, e::*},\n};\nlet x = crate::f::g::<crate::h::I> { j: k };";
        assert_eq!(
            found(text, &["z"]),
            [
                "crate::a",
                "crate::b",
                "crate::b::c",
                "crate::b::e::*",
                "crate::f::g",
                "crate::h::I"
            ]
        );
    }

    #[test]
    fn paths_upwards_are_followed_also_from_modules_in_the_text() {
        assert_eq!(
            found(
                "use super::{super::a, b}; mod x { use super::super::c; } use self::d;",
                &["y", "z"]
            ),
            ["crate::a", "crate::y::b", "crate::y::c", "crate::y::z::d"]
        );
    }

    #[test]
    fn an_edge_is_found_however_it_is_written() {
        let to_store = [edge("plan", "store")].into();
        for text in [
            "use crate::store::Store;",
            "use crate::{self as x, session_like, store};",
            "use super::store;",
            "fn f(x: &crate::store::Store) {}",
            "use crate::Row;",
        ] {
            assert_eq!(edges(&[(&["plan"], text)]), to_store, "{text}");
        }
        for text in [
            "//! [`crate::store`]\n// crate::store\n\"crate::store\"",
            "#[cfg(test)]\nmod tests { use crate::store; }",
            "use crate::plan::store; use other::store::x;",
        ] {
            assert_eq!(edges(&[(&["plan"], text)]), BTreeSet::new(), "{text}");
        }
        assert_eq!(
            edges(&[(&["plan"], "use super::*;")]),
            [edge("plan", "*")].into()
        );
        assert_eq!(edges(&[(&["plan", "host"], "use super::*;")]), [].into());
    }

    #[test]
    fn an_edge_that_was_turned_round_is_another_edge() {
        let right = edges(&[(&["session"], "use crate::plan::Plan;"), (&["plan"], "")]);
        let wrong = edges(&[
            (&["session"], ""),
            (&["plan", "host"], "use super::super::session::Session;"),
        ]);
        assert_eq!(right, [edge("session", "plan")].into());
        assert_eq!(wrong, [edge("plan", "session")].into());
        let both: BTreeSet<_> = right.union(&wrong).cloned().collect();
        assert_eq!(
            (cycle(&right), cycle(&both)),
            (
                None,
                Some(["plan", "session", "plan"].map(str::to_owned).to_vec())
            )
        );
    }
}
