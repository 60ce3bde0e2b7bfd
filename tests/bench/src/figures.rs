//! The result of a bench: figures with unit, spread and target, plus the machine they were measured on, as JSON.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{disk::Disk, samples::Samples};

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    /// One side's value divided by the other's.
    Ratio,
    Bytes,
    /// Share of one core; 1 is a whole core.
    Core,
    PerSecond,
    BytesPerSecond,
    Count,
}

/// The target for a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Target {
    /// Whether a value meets the target.
    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// The value: the median of several samples.
    pub(crate) value: f64,
    /// The smallest sample.
    pub(crate) min: f64,
    /// The largest sample.
    pub(crate) max: f64,
    pub(crate) samples: usize,
    pub(crate) target: Option<Target>,
    /// Whether the target is met.
    pub(crate) met: Option<bool>,
}

impl Figure {
    /// Whether some samples meet the target and others do not: another run may then decide the other way.
    pub(crate) fn is_within_noise(&self) -> bool {
        self.samples > 1
            && self
                .target
                .is_some_and(|target| target.met(self.min) != target.met(self.max))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) cpu: String,
    pub(crate) memory_bytes: u64,
    /// `uname -sr`.
    pub(crate) kernel: String,
    /// Docker Engine's version, if an engine answers.
    pub(crate) docker: Option<String>,
    /// Commit of the source, with `+` if it has uncommitted changes.
    pub(crate) commit: String,
    /// The disk that holds the data; missing in results of earlier versions.
    pub(crate) disk: Option<Disk>,
}

fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .ok()
        .filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Machine {
    pub(crate) fn this(disk: Disk) -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|l| {
            l.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, m)| m)
        });
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let kib = meminfo.lines().find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        });
        let changed = said("git", &["status", "--porcelain", "--untracked-files=no"])
            .is_some_and(|s| !s.is_empty());
        let commit = said("git", &["rev-parse", "--short=9", "HEAD"])
            .unwrap_or_else(|| "unknown".to_owned());
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            cpu: model.unwrap_or("unknown").to_owned(),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: said("uname", &["-sr"]).unwrap_or_default(),
            docker: said("docker", &["version", "--format", "{{.Server.Version}}"]),
            commit: commit + if changed { "+" } else { "" },
            disk: Some(disk),
        })
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) bench: String,
    /// The command that produces these figures.
    pub(crate) command: String,
    /// RFC 3339.
    pub(crate) date: String,
    /// Duration of the whole bench, including everything that is not measured; missing in results of earlier versions.
    pub(crate) duration_s: Option<f64>,
    /// A small run: few rounds, small numbers, meaningless figures.
    pub(crate) small: bool,
    pub(crate) machine: Option<Machine>,
    pub(crate) figures: Vec<Figure>,
    /// What readers need in order to judge the figures: versions, sizes, bottlenecks.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Adds a figure with one or more samples; its value is the median.
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: Unit,
        samples: &Samples,
        target: Option<Target>,
    ) {
        self.figure(name, unit, samples.median(), samples, target);
    }

    /// Adds a figure that is a quantile of its samples (a p99), with their spread.
    pub(crate) fn add_quantile(
        &mut self,
        name: &str,
        unit: Unit,
        samples: &Samples,
        share: f64,
        target: Option<Target>,
    ) {
        self.figure(name, unit, samples.quantile(share), samples, target);
    }

    pub(crate) fn add_one(&mut self, name: &str, unit: Unit, value: f64, target: Option<Target>) {
        self.figure(name, unit, value, &[value].into_iter().collect(), target);
    }

    fn figure(
        &mut self,
        name: &str,
        unit: Unit,
        value: f64,
        samples: &Samples,
        target: Option<Target>,
    ) {
        self.figures.push(Figure {
            name: name.to_owned(),
            unit,
            value,
            min: samples.min(),
            max: samples.max(),
            samples: samples.len(),
            target,
            met: target.map(|t| t.met(value)),
        });
    }

    /// Adds a note for readers.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Records which bench, machine and duration the report is for.
    pub(crate) fn describe(&mut self, bench: &str, small: bool, machine: &Machine, took: Duration) {
        bench.clone_into(&mut self.bench);
        self.command = format!(
            "cargo xtask bench {bench}{}",
            if small { " --small" } else { "" }
        );
        self.date = now();
        self.duration_s = Some(took.as_secs_f64());
        self.small = small;
        self.machine = Some(machine.clone());
    }

    /// Prints the report on the terminal.
    pub(crate) fn print(&self) {
        for f in &self.figures {
            let met = match f.met {
                Some(true) => "  ok",
                Some(false) => "  MISSED",
                None => "",
            };
            println!(
                "{}: {}{}{met}",
                f.name,
                f.unit.show(f.value),
                f.target
                    .map_or(String::new(), |t| format!(" ({})", t.show(f.unit)))
            );
        }
        for note in &self.notes {
            println!("  note: {note}");
        }
        println!(
            "{}: {}",
            self.bench,
            self.duration_s.map_or(String::new(), minutes)
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a result says when it was measured"
)]
fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// A duration for people at the terminal.
pub(crate) fn minutes(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    format!("{} min {} s", whole / 60, whole % 60)
}

impl Target {
    /// The target as reports show it.
    pub(crate) fn show(self, unit: Unit) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", unit.show(limit)),
            Self::AtLeast(limit) => format!("≥ {}", unit.show(limit)),
        }
    }
}

impl Unit {
    /// A value for people, with a sensible number of digits.
    pub(crate) fn show(self, value: f64) -> String {
        let digits = |v: f64| match v.abs() {
            v if v >= 100.0 || v == 0.0 => format!("{v:.0}"),
            v if v >= 10.0 => format!("{v:.1}"),
            v if v >= 0.1 => format!("{v:.2}"),
            v => format!("{v:.4}"),
        };
        match self {
            Self::Seconds if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
            Self::Seconds if value < 1.0 => format!("{} ms", digits(value * 1e3)),
            Self::Seconds => format!("{} s", digits(value)),
            Self::Ratio => format!("{} ×", digits(value)),
            Self::Bytes if value >= 1e6 => format!("{} MB", digits(value / 1e6)),
            Self::Bytes => format!("{} KiB", digits(value / 1024.0)),
            Self::Core => format!("{} % of a core", digits(value * 100.0)),
            Self::PerSecond => format!("{}/s", digits(value)),
            Self::BytesPerSecond => format!("{} MB/s", digits(value / 1e6)),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// The named results in a folder, in the order of `names`; benches that were not run are left out.
pub(crate) fn load(dir: &Path, names: &[String]) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for name in names {
        let path = dir.join(format!("{name}.json"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        reports.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_readable() {
        let shown = [
            (Unit::Seconds, 0.000_012_3, "12.3 µs"),
            (Unit::Seconds, 0.25, "250 ms"),
            (Unit::Seconds, 61.0, "61.0 s"),
            (Unit::Ratio, 0.5, "0.50 ×"),
            (Unit::Bytes, 65_536.0, "64.0 KiB"),
            (Unit::Count, 1.0, "1"),
            (Unit::BytesPerSecond, 2_500_000.0, "2.50 MB/s"),
            (Unit::Core, 0.012, "1.20 % of a core"),
        ];
        for (unit, value, text) in shown {
            assert_eq!(unit.show(value), text);
        }
    }

    #[test]
    fn a_result_says_how_long_it_took_and_on_what_disk() {
        let disk = Disk {
            file_system: "ext4".to_owned(),
            fsync_s: 0.001,
        };
        let machine = Machine::this(disk).unwrap();
        let mut report = Report::default();
        report.describe("fleet", false, &machine, Duration::from_secs(61));
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (
                &value["duration_s"],
                &value["machine"]["disk"]["file_system"]
            ),
            (&61.0.into(), &"ext4".into())
        );
        assert_eq!(minutes(61.0), "1 min 1 s");
    }

    #[test]
    fn results_of_earlier_versions_are_read() {
        let mut value = serde_json::to_value(Report::default()).unwrap();
        value.as_object_mut().unwrap().remove("duration_s");
        assert_eq!(
            serde_json::from_value::<Report>(value).unwrap().duration_s,
            None
        );
    }

    #[test]
    fn a_missed_target_is_said() {
        let mut report = Report::default();
        report.add_one("a", Unit::Ratio, 0.9, Some(Target::AtMost(0.8)));
        report.add_one(
            "b",
            Unit::PerSecond,
            5_000.0,
            Some(Target::AtLeast(4_000.0)),
        );
        assert_eq!(
            report.figures.iter().map(|f| f.met).collect::<Vec<_>>(),
            [Some(false), Some(true)]
        );
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<Report>(&text).unwrap().figures.len(),
            2
        );
    }
}
