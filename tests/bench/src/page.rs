//! Renders docs/benchmarks.md from results.

use std::fmt::Write as _;

use crate::figures::{Figure, Report, minutes};

const ONE_COMMIT: &str = "# Benchmarks

Made by one command, `cargo xtask bench --write`, from a clean clone: it builds, sets up what is missing, runs every bench and writes
this page.";

/// Results stay until their bench runs again, so one page may mix results of different days and commits.
const SEVERAL: &str = "# Benchmarks

The results on this page are of several runs and not all of one clean commit: each section names its own (`+`: changed since that
commit). `cargo xtask bench --write` in a clean clone makes all of them anew: it builds, sets up what is missing, runs every bench and
writes this page.";

const HOW: &str = " One bench alone: `cargo xtask bench <name>`. Both sides of a comparison run in one run and take turns, unless a note
says otherwise; values are medians, with the smallest and largest sample; a ratio is taken pair by pair, unless its name says that it is
one of medians. \"Within the noise\": the target lies between the smallest and the largest sample, so another run may miss what this one
met, or meet what it missed. Single times are worth what a shared machine is worth; read the ratios.
";

pub(crate) fn render(reports: &[Report]) -> String {
    let mut page = if is_of_one_commit(reports) {
        ONE_COMMIT
    } else {
        SEVERAL
    }
    .to_owned();
    page.push_str(HOW);
    page.push_str(&summary(reports));
    for report in reports {
        section(&mut page, report);
    }
    page
}

/// Whether all results come from the same commit without local changes.
fn is_of_one_commit(reports: &[Report]) -> bool {
    let commits: Vec<Option<&str>> = reports
        .iter()
        .map(|r| r.machine.as_ref().map(|m| m.commit.as_str()))
        .collect();
    commits.windows(2).all(|pair| pair[0] == pair[1])
        && !commits.iter().flatten().any(|c| c.ends_with('+'))
}

/// How many targets are met, which are not, and how long everything took.
fn summary(reports: &[Report]) -> String {
    let judged = || {
        reports
            .iter()
            .flat_map(|r| r.figures.iter().map(move |f| (r, f)))
            .filter(|(_, f)| f.met.is_some())
    };
    let missed: Vec<String> = judged()
        .filter(|(_, f)| f.met == Some(false))
        .map(|(r, f)| {
            let noise = if f.is_within_noise() {
                ", within the noise"
            } else {
                ""
            };
            format!("{} ({}{noise})", f.name, r.bench)
        })
        .collect();
    let count = judged().count();
    let seconds: f64 = reports.iter().filter_map(|r| r.duration_s).sum();
    let which = if missed.is_empty() {
        String::new()
    } else {
        format!(" Missed: {}.", missed.join("; "))
    };
    format!(
        "\n{} of {count} targets are met.{which} All benches here took {}.\n",
        count - missed.len(),
        minutes(seconds)
    )
}

fn section(page: &mut String, report: &Report) {
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
        let page = render(&[report]);
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
            let page = render(&[report]);
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
        let of = |commit: &str| Report {
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
            let page = render(&commits.map(of));
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
        let page = render(&[report.clone()]);
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
