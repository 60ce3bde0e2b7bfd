//! Renders docs/benchmarks.md from results.

use std::fmt::Write as _;

use crate::figures::{Figure, Report, minutes};

const ONE_COMMIT: &str = "# Benchmarks

Made by one command, `cargo xtask bench --write`, from a clean clone: it builds, sets up what is missing, runs every bench and writes
this page.";

/// Results and sections stay until their bench runs again, so one page may mix results of different days and commits.
const SEVERAL: &str = "# Benchmarks

The results on this page are of several runs and not all of one clean commit: each section names its own (`+`: changed since that
commit). `cargo xtask bench --write` in a clean clone makes all of them anew: it builds, sets up what is missing, runs every bench and
writes this page.";

const HOW: &str = " One bench alone: `cargo xtask bench <name>`. Both sides of a comparison run in one run and take turns, unless a note
says otherwise; values are medians, with the smallest and largest sample; a ratio is taken pair by pair, unless its name says that it is
one of medians. \"Within the noise\": the target lies between the smallest and the largest sample, so another run may miss what this one
met, or meet what it missed. Single times are worth what a shared machine is worth; read the ratios.
";

/// The page: a section for each bench of `names`, in their order. A bench without a result keeps its section of the page `before`,
/// which says by itself of which commit and day it is.
pub(crate) fn render(names: &[String], reports: &[Report], before: &str) -> String {
    let sections: Vec<(&str, String)> = names
        .iter()
        .filter_map(|name| {
            let new = reports.iter().find(|report| report.bench == *name);
            let text = match new {
                Some(report) => section(report),
                None => section_of(before, name)?.to_owned(),
            };
            Some((name.as_str(), text))
        })
        .collect();
    let mut page = if is_of_one_commit(&sections) {
        ONE_COMMIT
    } else {
        SEVERAL
    }
    .to_owned();
    page.push_str(HOW);
    page.push_str(&summary(&sections));
    for (_, text) in &sections {
        page.push_str(text);
    }
    page
}

/// A bench's section of a page, from its heading to the next.
fn section_of<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let begin = page.find(&format!("\n## {name}\n"))?;
    let rest = &page[begin..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |at| at + 1);
    Some(&rest[..end])
}

/// Whether all sections are of the same commit without local changes.
fn is_of_one_commit(sections: &[(&str, String)]) -> bool {
    let commit = |text: &str| {
        let commit = text.split_once(", commit ")?.1.split_once(';')?.0;
        Some(commit.to_owned())
    };
    let commits: Vec<Option<String>> = sections.iter().map(|(_, text)| commit(text)).collect();
    commits.windows(2).all(|pair| pair[0] == pair[1])
        && !commits.iter().flatten().any(|c| c.ends_with('+'))
}

/// How many targets are met, which are not, and how long everything took: read from the sections, because a kept one is nothing but
/// text.
fn summary(sections: &[(&str, String)]) -> String {
    let judged = sections.iter().flat_map(|(bench, text)| {
        let rows = text.lines().filter(|line| line.starts_with("| "));
        rows.filter_map(move |row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let verdict = *cells.last().filter(|verdict| !verdict.is_empty())?;
            Some((*bench, *cells.first()?, verdict.trim_matches('*')))
        })
    });
    let judged: Vec<(&str, &str, &str)> = judged.collect();
    let missed: Vec<String> = judged
        .iter()
        .filter_map(|(bench, figure, verdict)| {
            let noise = verdict.strip_prefix("missed")?;
            Some(format!("{figure} ({bench}{noise})"))
        })
        .collect();
    let count = judged.len();
    let which = if missed.is_empty() {
        String::new()
    } else {
        format!(" Missed: {}.", missed.join("; "))
    };
    format!(
        "\n{} of {count} targets are met.{which} All benches here took {}.\n",
        count - missed.len(),
        minutes(sections.iter().filter_map(|(_, text)| taken(text)).sum())
    )
}

/// Seconds that a section's bench took, as it says.
fn taken(section: &str) -> Option<f64> {
    let (whole, rest) = section.split_once(", took ")?.1.split_once(" min ")?;
    let seconds: u32 = rest.split_once(' ')?.0.parse().ok()?;
    Some(f64::from(whole.parse::<u32>().ok()? * 60 + seconds))
}

fn section(report: &Report) -> String {
    let mut text = String::new();
    write_section(&mut text, report);
    text
}

fn write_section(page: &mut String, report: &Report) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "\n## {}\n", report.bench);
    if report.small {
        page.push_str(
            "**A small run: these figures show that the harness works and nothing else.**\n\n",
        );
    }
    let _ = write!(page, "`{}`, {}", report.command, report.date);
    if let Some(seconds) = report.duration_s {
        let _ = write!(page, ", took {}", minutes(seconds));
    }
    if let Some(m) = &report.machine {
        let docker = m
            .docker
            .as_ref()
            .map_or(String::new(), |d| format!(", Docker {d}"));
        let gib = m.memory_bytes as f64 / f64::from(1 << 30);
        let _ = write!(
            page,
            ", commit {}; {} × {}, {gib:.1} GiB, {}{docker}",
            m.commit, m.cpus, m.cpu, m.kernel
        );
        if let Some(disk) = &m.disk {
            let _ = write!(page, "; {}", disk.show());
        }
    }
    page.push_str(
        ".\n\n| figure | value | smallest … largest | samples | must be | |\n|---|---|---|---|---|---|\n",
    );
    for figure in &report.figures {
        row(page, figure);
    }
    if !report.notes.is_empty() {
        page.push('\n');
    }
    for note in &report.notes {
        let _ = writeln!(page, "- {note}");
    }
}

fn row(page: &mut String, f: &Figure) {
    let target = f.target.map_or(String::new(), |t| t.show(f.unit));
    let met = match (f.met, f.is_within_noise()) {
        (Some(true), false) => "met",
        (Some(true), true) => "met, within the noise",
        (Some(false), false) => "**missed**",
        (Some(false), true) => "missed, within the noise",
        (None, _) => "",
    };
    let spread = if f.samples > 1 {
        format!("{} … {}", f.unit.show(f.min), f.unit.show(f.max))
    } else {
        String::new()
    };
    let _ = writeln!(
        page,
        "| {} | {} | {spread} | {} | {target} | {met} |",
        f.name,
        f.unit.show(f.value),
        f.samples
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{
        disk::Disk,
        figures::{Machine, Target, Unit},
    };

    fn page(reports: &[Report]) -> String {
        let names: Vec<String> = reports.iter().map(|report| report.bench.clone()).collect();
        render(&names, reports, "")
    }

    #[test]
    fn a_bench_without_a_result_keeps_its_section() {
        let disk = Disk {
            file_system: "ext4".to_owned(),
            fsync_s: 0.001,
        };
        let machine = Machine::this(disk).unwrap();
        let of = |bench: &str, value: f64, seconds: u64| {
            let mut report = Report::default();
            report.describe(bench, false, &machine, Duration::from_secs(seconds));
            report.add_one("figure", Unit::Ratio, value, Some(Target::AtMost(0.8)));
            report.notes.push(format!("Note of {bench}."));
            report
        };
        let names = ["apply", "create", "edge"].map(str::to_owned);
        let before = render(&names, &[of("apply", 0.9, 60), of("create", 0.5, 70)], "");
        assert!(before.contains("1 of 2 targets"), "{before}");
        let after = render(
            &names,
            &[of("create", 0.9, 10), of("edge", 0.7, 5)],
            &before,
        );
        let expected = [
            of("apply", 0.9, 60),
            of("create", 0.9, 10),
            of("edge", 0.7, 5),
        ];
        assert_eq!(after, render(&names, &expected, ""));
        assert!(
            after.contains("1 of 3 targets are met. Missed: figure (apply); figure (create). All benches here took 1 min 15 s."),
            "{after}"
        );
        assert_eq!(render(&names, &[], &after), after);
    }

    #[test]
    fn a_row_has_value_target_and_verdict() {
        let mut report = Report {
            bench: "apply".to_owned(),
            ..Report::default()
        };
        report.add_one(
            "isyone / compose",
            Unit::Ratio,
            0.9,
            Some(Target::AtMost(0.8)),
        );
        let page = page(&[report]);
        assert!(
            page.contains("| isyone / compose | 0.90 × |  | 1 | ≤ 0.80 × | **missed** |"),
            "{page}"
        );
        assert!(
            page.contains("0 of 1 targets are met. Missed: isyone / compose (apply)."),
            "{page}"
        );
    }

    #[test]
    fn a_target_between_the_samples_is_met_or_missed_within_the_noise() {
        let verdicts = [
            ([0.7, 0.75, 0.9], "met, within the noise"),
            ([0.7, 0.85, 0.9], "missed, within the noise"),
            ([0.6, 0.7, 0.8], "met"),
            ([0.81, 0.85, 0.9], "**missed**"),
        ];
        for (values, verdict) in verdicts {
            let mut report = Report {
                bench: "apply".to_owned(),
                ..Report::default()
            };
            let target = Some(Target::AtMost(0.8));
            report.add(
                "isyone / compose",
                Unit::Ratio,
                &values.into_iter().collect(),
                target,
            );
            let page = page(&[report]);
            assert!(
                page.contains(&format!("| 3 | ≤ 0.80 × | {verdict} |")),
                "{verdict}: {page}"
            );
            let in_summary = page.contains("isyone / compose (apply, within the noise).");
            assert_eq!(
                in_summary,
                verdict.starts_with("missed"),
                "{verdict}: {page}"
            );
        }
    }

    #[test]
    fn the_head_says_whether_all_results_are_of_one_commit() {
        let disk = Disk {
            file_system: "ext4".to_owned(),
            fsync_s: 0.001,
        };
        let machine = Machine::this(disk).unwrap();
        let of = |(bench, commit): (&str, &str)| Report {
            bench: bench.to_owned(),
            machine: Some(Machine {
                commit: commit.to_owned(),
                ..machine.clone()
            }),
            ..Report::default()
        };
        for (commits, one) in [
            (["69fb10c24", "69fb10c24"], true),
            (["69fb10c24", "33349cc86"], false),
            (["69fb10c24+", "69fb10c24+"], false),
        ] {
            let [first, second] = commits;
            let page = page(&[of(("apply", first)), of(("create", second))]);
            assert_eq!(page.contains("Made by one command"), one, "{commits:?}");
            assert_eq!(page.contains("of several runs"), !one, "{commits:?}");
        }
    }

    #[test]
    fn a_section_says_command_date_duration_and_machine() {
        let disk = Disk {
            file_system: "ext4".to_owned(),
            fsync_s: 0.001,
        };
        let machine = Machine::this(disk).unwrap();
        let mut report = Report::default();
        report.describe("fleet", false, &machine, Duration::from_secs(200));
        let page = page(&[report.clone()]);
        for text in [
            "`cargo xtask bench fleet`, ",
            &report.date,
            "took 3 min 20 s",
            "; ext4, 1.00 ms",
            &machine.kernel,
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }
}
