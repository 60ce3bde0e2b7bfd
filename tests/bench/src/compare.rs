//! Compares two versions of isyone by the results of the same benches, run in turn on one machine.
//!
//! A figure counts as worse only if every value after is more than [`TOLERANCE`] worse than every value before:
//! anything less is the machine's noise, and the table shows how large that is. Not here: building and running the two
//! versions (`cargo xtask bench --against`).

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::figures::{Figure, Report, Target, Unit};

/// A loss up to this share does not count as worse.
const TOLERANCE: f64 = 0.05;

/// A figure's values, one per run.
#[derive(Debug, Clone)]
struct Compared {
    bench: String,
    name: String,
    unit: Unit,
    target: Option<Target>,
    before: Vec<f64>,
    after: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Within noise and tolerance.
    Same,
    Better,
    Worse,
}

fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

impl Compared {
    /// Of the medians; `None` where there was nothing before.
    fn ratio(&self) -> Option<f64> {
        let before = median(&self.before);
        (before != 0.0).then(|| median(&self.after) / before)
    }

    /// Whether more is better: the target says so. Without a target, rates are; everything else is a cost.
    fn more_is_better(&self) -> bool {
        match self.target {
            Some(Target::AtLeast(_)) => true,
            Some(Target::AtMost(_)) => false,
            None => matches!(self.unit, Unit::PerSecond | Unit::BytesPerSecond),
        }
    }

    fn verdict(&self) -> Verdict {
        let ((least_before, most_before), (least_after, most_after)) =
            (range(&self.before), range(&self.after));
        // Without a target a count only says how much was done.
        if self.unit == Unit::Count && self.target.is_none() {
            return Verdict::Same;
        }
        let lower = most_after < least_before * (1.0 - TOLERANCE);
        let higher = least_after > most_before * (1.0 + TOLERANCE);
        match (lower, higher, self.more_is_better()) {
            (true, _, false) | (_, true, true) => Verdict::Better,
            (true, _, true) | (_, true, false) => Verdict::Worse,
            (false, false, _) => Verdict::Same,
        }
    }

    fn row(&self) -> String {
        let shown = |values: &[f64]| {
            let (least, most) = range(values);
            let unit = self.unit;
            format!(
                "{} ({} … {})",
                unit.show(median(values)),
                unit.show(least),
                unit.show(most)
            )
        };
        let verdict = match self.verdict() {
            Verdict::Same => "",
            Verdict::Better => "  better",
            Verdict::Worse => "  WORSE",
        };
        format!(
            "{}: {}: {} → {}{}{verdict}",
            self.bench,
            self.name,
            shown(&self.before),
            shown(&self.after),
            self.ratio()
                .map_or(String::new(), |ratio| format!(", {ratio:.3} ×")),
        )
    }
}

/// All results in a folder.
fn reports(dir: &PathBuf) -> Result<Vec<Report>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&path)?;
            found.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
        }
    }
    Ok(found)
}

type Values = BTreeMap<(String, String), (Unit, Option<Target>, Vec<f64>)>;

fn values(dirs: &[PathBuf]) -> Result<Values> {
    let mut all = Values::new();
    for dir in dirs {
        for Report { bench, figures, .. } in reports(dir)? {
            for figure in figures {
                let Figure {
                    name,
                    unit,
                    target,
                    value,
                    ..
                } = figure;
                let kept = all
                    .entry((bench.clone(), name))
                    .or_insert((unit, target, Vec::new()));
                kept.2.push(value);
            }
        }
    }
    Ok(all)
}

/// Pairs the figures that both sides have; the names of the others come second.
fn pair(before: Values, mut after: Values) -> (Vec<Compared>, Vec<String>) {
    let (mut both, mut alone) = (Vec::new(), Vec::new());
    for ((bench, name), (unit, target, before)) in before {
        match after.remove(&(bench.clone(), name.clone())) {
            Some((_, _, after)) => both.push(Compared {
                bench,
                name,
                unit,
                target,
                before,
                after,
            }),
            None => alone.push(format!("{bench}: {name}: only before")),
        }
    }
    let new = after.into_keys();
    alone.extend(new.map(|(bench, name)| format!("{bench}: {name}: only after")));
    (both, alone)
}

/// Compares the results of runs before and after, and prints the table.
pub(crate) fn print(before: &[PathBuf], after: &[PathBuf]) -> Result<()> {
    let (both, alone) = pair(values(before)?, values(after)?);
    ensure!(!both.is_empty(), "the two versions share no figure");
    for compared in &both {
        println!("{}", compared.row());
    }
    for line in alone {
        println!("{line}");
    }
    let worse = both
        .iter()
        .filter(|compared| compared.verdict() == Verdict::Worse)
        .count();
    println!(
        "{} figures, {} runs of each version in turn; {worse} worse by more than {:.0} % in every run",
        both.len(),
        before.len(),
        TOLERANCE * 100.0
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(unit: Unit, before: &[f64], after: &[f64]) -> Verdict {
        against(unit, None, before, after)
    }

    fn against(unit: Unit, target: Option<Target>, before: &[f64], after: &[f64]) -> Verdict {
        Compared {
            bench: "writes".to_owned(),
            name: "x".to_owned(),
            unit,
            target,
            before: before.to_vec(),
            after: after.to_vec(),
        }
        .verdict()
    }

    #[test]
    fn worse_is_what_is_worse_in_every_run() {
        assert_eq!(
            compared(Unit::Seconds, &[1.0, 1.1], &[1.2, 1.3]),
            Verdict::Worse
        );
        assert_eq!(
            compared(Unit::Seconds, &[1.0, 1.2], &[1.2, 1.3]),
            Verdict::Same
        );
        assert_eq!(compared(Unit::Seconds, &[1.0], &[0.9]), Verdict::Better);
        assert_eq!(
            compared(Unit::PerSecond, &[1000.0], &[900.0]),
            Verdict::Worse
        );
        assert_eq!(
            compared(Unit::PerSecond, &[1000.0], &[1100.0]),
            Verdict::Better
        );
    }

    #[test]
    fn a_target_says_which_way_is_better_and_nothing_may_become_something() {
        let (least, most) = (Some(Target::AtLeast(0.99)), Some(Target::AtMost(0.0)));
        assert_eq!(
            against(Unit::Ratio, least, &[1.0], &[0.9]),
            Verdict::Worse,
            "requests per second with and without"
        );
        assert_eq!(
            against(Unit::Count, most, &[0.0, 0.0], &[500.0, 400.0]),
            Verdict::Worse,
            "sessions that ended"
        );
        assert_eq!(compared(Unit::Count, &[0.0], &[500.0]), Verdict::Same);
    }

    #[test]
    fn what_only_one_side_has_is_named() {
        let side = |names: &[&str]| {
            let key = |name: &&str| ("fleet".to_owned(), (*name).to_owned());
            names
                .iter()
                .map(|name| (key(name), (Unit::Bytes, None, vec![2.0])))
                .collect::<Values>()
        };
        let (both, alone) = pair(side(&["a", "b"]), side(&["b", "c"]));
        assert_eq!(both.len(), 1);
        assert_eq!(alone, ["fleet: a: only before", "fleet: c: only after"]);
    }
}
