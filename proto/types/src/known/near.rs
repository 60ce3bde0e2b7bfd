//! Which of the right values somebody may have meant who wrote a wrong one.
//!
//! Not here: which values are right (the parent, and for modules the agent).

/// Most values that are suggested.
pub const MOST: usize = 3;
/// Longest text that is compared: no right value is longer, and comparing costs the product of both lengths.
const LONGEST: usize = 64;

/// How people write what programs do not: case, and what stands between words.
pub fn plain(text: &str) -> String {
    text.to_lowercase().replace(['-', ' ', '.'], "_")
}

/// How many letters must be put in, left out, changed, or change places with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    // The last three rows of the table: what comes two rows before is needed for neighbours.
    let (mut before, mut above) = (Vec::new(), (0..=b.len()).collect::<Vec<_>>());
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = above[j] + usize::from(x != y);
            let mut least = changed.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// How far a value is from what was written: 0 but for case and hyphens; `None`: nobody meant it.
pub fn apart(written: &str, value: &str) -> Option<usize> {
    if written.len() > LONGEST {
        return None;
    }
    let [a, b] = [written, value].map(|text| plain(text).chars().collect::<Vec<_>>());
    // One slip in a short word, more in a longer one: every three-letter word is two letters from another.
    let most = (a.len() / 4).clamp(1, 3);
    if a.len() < 3 || a.len().abs_diff(b.len()) > most {
        return (a == b).then_some(0);
    }
    Some(distance(&a, &b)).filter(|far| *far <= most)
}

/// The nearest values, the nearest first and otherwise in their order, at most [`MOST`].
pub fn nearest<'a>(written: &str, values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = values
        .filter_map(|value| Some((apart(written, value)?, value)))
        .collect();
    found.sort_by_key(|(far, _)| *far);
    // What is right but for its case is what was meant.
    if found.first().is_some_and(|(far, _)| *far == 0) {
        found.retain(|(far, _)| *far == 0);
    }
    found.truncate(MOST);
    found.into_iter().map(|(_, value)| value).collect()
}

/// `` `a`, `b` or `c` ``.
pub fn listed(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slip_is_forgiven_and_another_word_is_not() {
        let zones = ["America/Sao_Paulo", "America/Santiago", "UTC", "Zulu"];
        for (written, meant) in [
            ("America/Sao_paulo", "America/Sao_Paulo"),
            ("america/sao-paulo", "America/Sao_Paulo"),
            ("America/Sao_Paolo", "America/Sao_Paulo"),
            ("America/Sao_Palo", "America/Sao_Paulo"),
            ("America/Sao_Pualo", "America/Sao_Paulo"),
            ("utc", "UTC"),
        ] {
            let found = nearest(written, zones.into_iter());
            assert_eq!(found.first(), Some(&meant), "{written}");
        }
        for written in ["", "Mars/Phobos", "Alfa", "U", &"x".repeat(500)] {
            assert!(nearest(written, zones.into_iter()).is_empty(), "{written}");
        }
        assert_eq!(listed(&["a", "b", "c"]), "`a`, `b` or `c`");
        assert_eq!(listed(&["a"]) + &listed(&[]), "`a`");
    }

    proptest! {
        #[test]
        fn the_way_back_is_as_long(a in "[a-d]{0,8}", b in "[a-d]{0,8}") {
            let [x, y] = [&a, &b].map(|text| text.chars().collect::<Vec<_>>());
            let far = distance(&x, &y);
            prop_assert_eq!(far, distance(&y, &x));
            prop_assert_eq!(far == 0, a == b);
            prop_assert!(far <= x.len().max(y.len()));
        }
    }
}
