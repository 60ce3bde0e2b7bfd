//! The page of limits names every line of odoo.conf that isyone writes and every setting that may be chosen, and none that is not there.

use std::collections::BTreeSet;

use super::workspace::read;

/// Names in quotes that are options of Odoo's: at the head of a pair in code.
fn written(file: &str) -> BTreeSet<String> {
    let source = read(file).unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let pairs = source.split('(').map(str::trim_start);
    let heads = pairs.filter_map(|rest| rest.strip_prefix('"')?.split_once("\","));
    let names = heads.map(|(name, _)| name);
    names
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The names in the first `cells` cells of the rows of a part of the page, between two texts.
fn told(begin: &str, end: &str, cells: usize) -> BTreeSet<String> {
    let page = read("docs/odoo.md").unwrap();
    let (_, rest) = page.split_once(begin).expect(begin);
    let (part, _) = rest.split_once(end).expect(end);
    let rows = part.lines().filter_map(|row| row.strip_prefix("| "));
    let cells = rows.flat_map(|row| row.split(" | ").take(cells));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect()
}

/// Names that may be chosen, each the first line of an entry of the list.
fn chosen() -> BTreeSet<String> {
    let source = read("proto/types/src/odoo.rs").unwrap();
    let (_, rest) = source.split_once("\nconst KNOWN: ").expect("the list");
    let (list, _) = rest.split_once("\n];").expect("its end");
    let quoted = list.split('"').skip(1).step_by(2);
    // Levels of a log are words of a value.
    let levels = ["debug", "info", "warn", "error", "critical"];
    let names = quoted.filter(|name| !levels.contains(name));
    names.map(str::to_owned).collect()
}

#[test]
fn the_page_of_limits_names_every_line_of_odoo_conf() {
    let settings = told("\n## Settings\n", "\nWhat isyone writes besides", 1);
    assert_eq!(
        settings,
        chosen(),
        "docs/odoo.md and proto/types/src/odoo.rs"
    );
    let fixed = told("\nWhat isyone writes besides", "\n## Printing\n", 1);
    let mail = told("\n## Mail\n", "\n**The way there.**", 2);
    let lines = written("agent/src/plan/conf.rs");
    assert!(lines.len() > 20, "{lines:?}");
    let untold: Vec<_> = { lines.iter() }
        .filter(|line| !settings.contains(*line) && !fixed.contains(*line))
        .collect();
    let unknown: Vec<_> = fixed.difference(&lines).collect();
    assert!(
        untold.is_empty() && unknown.is_empty(),
        "docs/odoo.md lacks {untold:?} and names {unknown:?}, which agent/src/plan/conf.rs has not"
    );
    let lines = written("agent/src/plan/mail.rs");
    let untold: Vec<_> = lines.difference(&mail).collect();
    assert!(
        lines.len() > 7 && untold.is_empty(),
        "docs/odoo.md lacks {untold:?} of {lines:?}"
    );
}
