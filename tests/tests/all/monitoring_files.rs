//! The shipped monitoring files, without a fleet: rules, routes and the module that measures Odoo, each with its own
//! tools.

use std::{path::Path, process::Command};

use isyone_tests::e2e::{enabled, process::run, root, tool, watch};

fn shipped(file: &str) -> String {
    std::fs::read_to_string(root().join("monitoring/deploy").join(file)).expect(file)
}

fn names<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.strip_prefix(before))
        .collect()
}

/// Breaks if an alert has no test, or no page that says what to do.
#[test]
fn every_alert_has_a_test_and_a_page() {
    let (rules, tests) = (shipped("alerts.yml"), shipped("tests/alerts_test.yml"));
    let alerts = names(&rules, "      - alert: ");
    assert!(alerts.len() > 10);
    // What an alert does not say may have a test of its own, named after it.
    let first = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let mut tested: Vec<String> = names(&tests, "  - name: ").into_iter().map(first).collect();
    tested.dedup();
    assert_eq!(tested, alerts);
    let runbooks = root().join("docs/runbooks");
    let overview = std::fs::read_to_string(runbooks.join("README.md")).expect("the overview");
    for alert in alerts {
        assert!(
            runbooks.join(format!("{alert}.md")).exists(),
            "{alert} has no page"
        );
        assert!(
            overview.contains(&format!("({alert}.md)")),
            "{alert} is not in the overview"
        );
        assert!(
            rules.contains(&format!("/docs/runbooks/{alert}.md\n")),
            "{alert} names no page"
        );
    }
}

/// The rules' expressions without quoted strings.
fn expressions(rules: &str) -> String {
    let mut inside = false;
    let of_expressions = rules.lines().filter(|line| {
        inside =
            line.trim_start().starts_with("expr: ") || (inside && line.starts_with("          "));
        inside
    });
    of_expressions
        .flat_map(|line| line.split('"').step_by(2).chain(["\n"]))
        .collect()
}

/// Breaks if a selector also matches other scraped targets: leave `job="isyone"` out of HostLost.
#[test]
fn every_selector_of_a_rule_says_its_job() {
    let families = [
        "isyone_",
        "odoo_",
        "container_",
        "pg_",
        "node_",
        "probe_",
        "traefik_",
    ];
    let mut selectors = 0;
    for line in expressions(&shipped("alerts.yml")).lines() {
        let mut rest = line;
        while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic()) {
            let word = &rest[begin..];
            let end = word
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(word.len());
            let (name, after) = word.split_at(end);
            if name == "up" || families.iter().any(|family| name.starts_with(family)) {
                assert!(after.starts_with("{job"), "{name}: {line}");
                selectors += 1;
            }
            rest = after;
        }
    }
    assert!(selectors > 20, "{selectors} selectors");
}

/// Breaks if a rule fires too early, too late, or for the wrong target: see tests/alerts_test.yml.
#[test]
fn prometheus_takes_its_files_and_rules_do_what_their_tests_say() {
    if !enabled("prometheus_takes_its_files_and_rules_do_what_their_tests_say") {
        return;
    }
    let dir = tempfile::tempdir().expect("folder");
    std::fs::create_dir(dir.path().join("isyone")).expect("folder");
    // promtool only checks that they exist.
    for file in ["ca.pem", "prometheus.pem", "prometheus.key"] {
        std::fs::write(dir.path().join("isyone").join(file), "").expect(file);
    }
    for file in ["prometheus.yml", "alerts.yml"] {
        std::fs::write(dir.path().join(file), shipped(file)).expect(file);
    }
    let promtool = |dir: &Path, arguments: &[&str]| {
        run(Command::new(tool("promtool"))
            .current_dir(dir)
            .args(arguments))
        .ok();
    };
    promtool(dir.path(), &["check", "config", "prometheus.yml"]);
    promtool(
        &root().join("monitoring/deploy/tests"),
        &["test", "rules", "alerts_test.yml"],
    );
}

/// Breaks if an alert does not silence its consequences, or silences more (see tests/inhibition.py), and if a critical
/// alert does not reach those on call in all three ways: take `routes` or a receiver's lines out of alertmanager.yml.
#[test]
fn alertmanager_takes_its_file_and_silences_what_follows() {
    if !enabled("alertmanager_takes_its_file_and_silences_what_follows") {
        return;
    }
    let deploy = root().join("monitoring/deploy");
    let file = deploy.join("alertmanager.yml");
    run(Command::new(tool("amtool")).arg("check-config").arg(&file)).ok();
    for (severity, receiver) in [("critical", "on-call"), ("warning", "operators")] {
        let mut route = Command::new(tool("amtool"));
        route
            .args(["config", "routes", "test", "--config.file"])
            .arg(&file);
        route
            .arg(format!("--verify.receivers={receiver}"))
            .arg(format!("severity={severity}"));
        run(&mut route).ok();
    }
    let shipped = shipped("alertmanager.yml");
    let on_call = shipped
        .split_once("  - name: on-call\n")
        .and_then(|(_, rest)| rest.split_once("\n\n"));
    let lines = names(on_call.map_or("", |(lines, _)| lines), "    ");
    for way in [
        "slack_configs: *slack",
        "email_configs: *email",
        "webhook_configs:",
    ] {
        assert!(lines.contains(&way), "those on call are not told by {way}");
    }
    print!("{}", watch::inhibitions().ok());
}

/// Breaks on a label without a bound, a lost count, or a page that Prometheus cannot read.
#[test]
fn the_module_that_measures_odoo_passes_its_own_tests() {
    let python = || Command::new("python3");
    if run(python().arg("--version")).code != 0 {
        assert!(!enabled("the module's tests"), "python3 is missing");
        return;
    }
    let tests = root().join("monitoring/addons/tests");
    run(python()
        .args(["-B", "-m", "unittest", "discover", "-s"])
        .arg(tests))
    .ok();
}
