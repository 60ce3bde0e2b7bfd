//! How long each end-to-end test took, as the tests themselves have noted it: several run at once, and what they print has no times.
//!
//! Not here: who notes it (`isyone_tests::e2e::lane`).

use crate::paths;
use std::path::PathBuf;

/// The environment variable that names the file: lines of `SECONDS NAME`.
pub(crate) const VARIABLE: &str = "ISYONE_TIMES";
/// The longest are enough to see where a run's time goes.
const SHOWN: usize = 15;

/// A file without lines.
pub(crate) fn new_file() -> PathBuf {
    let file = paths::cache().join("e2e-times");
    // No error if it is not there.
    std::fs::remove_file(&file).ok();
    file
}

/// The longest of all that were noted, a line each, for the summary.
pub(crate) fn longest(noted: &str) -> String {
    let time = |line: &str| line.split(' ').next()?.parse::<u32>().ok();
    let mut lines: Vec<(u32, &str)> = noted
        .lines()
        .filter_map(|line| Some((time(line)?, line.split_once(' ')?.1)))
        .collect();
    lines.sort_by_key(|(seconds, name)| (std::cmp::Reverse(*seconds), *name));
    let shown = lines.iter().take(SHOWN);
    shown
        .map(|(seconds, name)| format!("\n        {seconds:>4} s  {name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::longest;

    #[test]
    fn the_longest_come_first_and_no_more_than_fit() {
        let noted = "7 e2e::a\n90 e2e::b::c\nnonsense\n90 e2e::b::a\n";
        assert_eq!(
            longest(noted),
            "\n          90 s  e2e::b::a\n          90 s  e2e::b::c\n           7 s  e2e::a"
        );
        assert_eq!(longest(&"1 e2e::a\n".repeat(40)).lines().count(), 16);
    }
}
