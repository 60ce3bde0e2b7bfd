//! What a doctor finds: a check with what was found, why it matters, and the remedy. All three programs have one, and say it in the
//! same form.
//!
//! Not here: the checks (each program's own).

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is. In the order in which findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It breaks tenants, or will at the next occasion.
    Bad,
    /// It may.
    Warning,
    /// It could not be found out.
    Unknown,
    /// As it should be.
    Good,
}

impl Level {
    /// One word, as wide as the others.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bad => "BAD",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Good => "ok",
        }
    }
}

/// One check with its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: Box<str>,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: Box<str>,
    /// Why it matters; empty where all is well.
    pub why: Box<str>,
    /// What to do; empty where all is well.
    pub remedy: Box<str>,
}

impl Finding {
    /// Of the machine's clock: whether systemd says that it is synchronised, and what follows for who asks when it is off.
    pub fn of_clock(synchronised: Option<bool>, why: &str) -> Self {
        let (level, found, remedy) = match synchronised {
            Some(true) => return Self::good("clock", "synchronised"),
            Some(false) => (
                Level::Warning,
                "not synchronised",
                "`timedatectl set-ntp true`, or install chrony",
            ),
            None => (
                Level::Unknown,
                "systemd does not say whether it is synchronised",
                "see to it that an NTP service runs",
            ),
        };
        Self::new(level, "clock", found, why, remedy)
    }

    /// As it should be.
    pub fn good(check: &str, found: impl Into<String>) -> Self {
        Self::new(Level::Good, check, found, "", "")
    }

    /// Not as it should be.
    pub fn new(
        level: Level,
        check: &str,
        found: impl Into<String>,
        why: &str,
        remedy: impl Into<String>,
    ) -> Self {
        let (found, remedy): (String, String) = (found.into(), remedy.into());
        Self {
            check: check.into(),
            level,
            found: found.into(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    /// Whether somebody should do something.
    pub fn is_trouble(&self) -> bool {
        matches!(self.level, Level::Bad | Level::Warning)
    }
}

/// The worst first, else in the order in which they came.
pub fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// For people: a line each, and two more for what is not as it should be.
pub fn text(findings: &[Finding]) -> String {
    let widest = findings.iter().map(|f| f.check.chars().count()).max();
    let widest = widest.unwrap_or(0);
    let mut text = String::new();
    // Writing to a String cannot fail.
    for finding in findings {
        let (word, check) = (finding.level.word(), &finding.check);
        let _ = writeln!(text, "{word:<8} {check:<widest$}  {}", finding.found);
        for (name, said) in [("why", &finding.why), ("remedy", &finding.remedy)] {
            if !said.is_empty() {
                let _ = writeln!(text, "{:8} {:widest$}  {name}: {said}", "", "");
            }
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (bad, warnings) = (count(Level::Bad), count(Level::Warning));
    let _ = match (bad, warnings) {
        (0, 0) => writeln!(text, "\nall well: {} checks", findings.len()),
        _ => writeln!(
            text,
            "\n{bad} bad, {warnings} warnings in {} checks",
            findings.len()
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_says_what_to_do() {
        let all = sorted(vec![
            Finding::good("root", "yes"),
            Finding::new(
                Level::Warning,
                "clock",
                "not synchronised",
                "tokens end",
                "start it",
            ),
            Finding::new(Level::Bad, "docker", "away", "nothing runs", "start it"),
        ]);
        let levels: Vec<_> = all.iter().map(|f| f.level).collect();
        assert_eq!(levels, [Level::Bad, Level::Warning, Level::Good]);
        let text = text(&all);
        assert!(text.starts_with("BAD      docker  away\n"), "{text}");
        assert!(text.contains("remedy: start it"), "{text}");
        assert!(text.ends_with("1 bad, 1 warnings in 3 checks\n"), "{text}");
        let json = serde_json::to_string(&all[0]).unwrap();
        assert!(
            json.starts_with(r#"{"check":"docker","level":"bad""#),
            "{json}"
        );
    }
}
