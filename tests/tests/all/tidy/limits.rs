//! The page of limits names every limit of the relay, and none that is not there.

use std::collections::BTreeSet;

use super::workspace::read;

/// The names that `limits!` is given, each on a line `name: default, least, most;`.
fn limits() -> BTreeSet<String> {
    let source = read("relay/src/limits.rs").unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let blocks = source.split("\nlimits! {").skip(1);
    let blocks = blocks.filter_map(|block| block.split("\n}").next());
    let lines = blocks.flat_map(str::lines).map(str::trim);
    let named = lines.filter(|line| !line.starts_with("//") && line.ends_with(';'));
    named
        .filter_map(|line| line.split_once(": "))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What the first cells of the relay's table have in backticks.
fn told() -> BTreeSet<String> {
    let page = read("docs/odoo.md").unwrap();
    let part = page.split("\n## ").find(|p| p.starts_with("The relay\n"));
    let rows = part.expect("a part on the relay").lines();
    let cells = rows.filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let is_name = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    names.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn the_page_of_limits_names_every_limit_of_the_relay() {
    let (limits, told) = (limits(), told());
    assert!(limits.len() > 30, "{limits:?}");
    let untold: Vec<_> = limits.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&limits).collect();
    assert!(
        untold.is_empty() && unknown.is_empty(),
        "docs/odoo.md lacks {untold:?} and names {unknown:?}, which relay/src/limits.rs has not"
    );
}
