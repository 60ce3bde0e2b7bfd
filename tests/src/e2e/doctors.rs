//! What the doctors say of a cell: `isyctl doctor`, and `isy-agent doctor` on one of its hosts.
//!
//! Not here: what is expected of them.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    binary,
    cell::Cell,
    host::Host,
    process::{Output, run},
};

/// For `isyctl doctor`, however bad things are.
const QUICK: Duration = Duration::from_secs(5);

/// A check that is not as it should be, or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub check: String,
    pub level: String,
    pub found: String,
    pub remedy: String,
}

/// What `isyctl doctor` says, in its order. It is quick and says by its exit code whether something is bad.
pub fn of_fleet(cell: &Cell) -> Vec<Finding> {
    let begin = Instant::now();
    let findings = parsed(&cell.isyctl(&["doctor", "-o", "json"]));
    let took = begin.elapsed();
    assert!(took < QUICK, "isyctl doctor took {took:?}");
    findings
}

/// What `isy-agent doctor` says on a host, without the coordinator.
pub fn of_host(host: &Host) -> Vec<Finding> {
    let program = binary("isy-agent").display().to_string();
    let mut doctor = host.command(&program);
    doctor
        .arg("doctor")
        .arg("--data-dir")
        .arg(&host.data)
        .args(["--docker", &host.docker.host(), "-o", "json"]);
    parsed(&run(&mut doctor))
}

fn parsed(output: &Output) -> Vec<Finding> {
    let all: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", output.stdout, output.stderr));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let all = all.as_array().expect("a list");
    let all: Vec<Finding> = all
        .iter()
        .map(|finding| Finding {
            check: text(finding, "check"),
            level: text(finding, "level"),
            found: text(finding, "found"),
            remedy: text(finding, "remedy"),
        })
        .collect();
    let is_bad = all.iter().any(|finding| finding.level == "bad");
    assert_eq!(output.code, i32::from(is_bad), "{all:?}");
    all
}

/// What is bad: at the head of the list.
pub fn bad(findings: &[Finding]) -> Vec<&Finding> {
    let of_level = |finding: &&Finding| finding.level == "bad";
    let first: Vec<&Finding> = findings.iter().take_while(of_level).collect();
    let all = findings.iter().filter(of_level).count();
    assert_eq!(first.len(), all, "the worst comes first: {findings:?}");
    first
}

/// The first finding is this check, and is bad for this reason.
pub fn assert_first(findings: &[Finding], check: &str, found: &str) {
    let first = findings.first().expect("a finding");
    assert!(
        first.level == "bad" && first.check == check && first.found.contains(found),
        "not `{check}: {found}` first: {findings:#?}"
    );
    assert!(!first.remedy.is_empty(), "{first:?}");
}
