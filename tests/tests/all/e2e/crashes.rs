//! `kill -9` of agent and coordinator at each step of a create: after the restart there is exactly one running tenant.

use std::time::Duration;

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::{get, odoo_login},
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

fn one_running_tenant(cell: &Cell, tenant: &str) {
    cell.wait_phase(tenant, "running", 3 * MINUTE);
    let host = format!("{tenant}.isy.one");
    wait_for("an answer through the edge", MINUTE, || {
        (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
    });
    let expected = [format!("odoo_{tenant}"), format!("postgres_{tenant}")];
    let ours: Vec<String> = cell.hosts[0]
        .docker
        .tenants_containers()
        .into_iter()
        .filter(|n| n.ends_with(&format!("_{tenant}")) || n.contains(&format!("_{tenant}_")))
        .collect();
    assert_eq!(ours, expected, "exactly one stack");
    let password = cell.json(&["tenant", "credentials", tenant])["password"]
        .as_str()
        .expect("a password")
        .to_owned();
    assert_eq!(
        odoo_login(
            cell.edge(),
            &host,
            &format!("odoo_{tenant}"),
            "admin",
            &password
        ),
        Some(2)
    );
}

/// Waits until the operation shows that a step is running or done.
fn reached(cell: &Cell, tenant: &str, step: &str) {
    let begin = std::time::Instant::now();
    while begin.elapsed() < 2 * MINUTE {
        let shown = cell.isyctl(&["tenant", "show", tenant, "-o", "json"]);
        let id = serde_json::from_str::<serde_json::Value>(&shown.stdout)
            .ok()
            .and_then(|t| t["operation_id"].as_str().map(str::to_owned));
        if let Some(id) = id {
            let operation = cell.json(&["op", "show", &id]);
            let steps = operation["steps"].as_array().cloned().unwrap_or_default();
            if operation["done"] == true
                || steps
                    .iter()
                    .any(|s| s["name"] == step && s["start_time"].is_string())
            {
                return;
            }
        }
    }
    panic!("step {step} was never reached");
}

#[test]
fn kill_9_of_the_agent_at_any_step_ends_in_one_running_tenant() {
    if !enabled("kill_9_of_the_agent_at_any_step_ends_in_one_running_tenant") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape::default());
    // The first create is a cold one; the others use the golden snapshot that it leaves.
    let plan = [
        ("alfa", "database"),
        ("beta", "volumes"),
        ("gama", "database"),
        ("delta", "postgres"),
        ("echo", "rekey"),
        ("fox", "odoo"),
        ("golf", "healthy"),
    ];
    for (tenant, step) in plan {
        cell.isyctl(&["tenant", "create", tenant, "--no-wait"]).ok();
        reached(&cell, tenant, step);
        cell.hosts[0].agent.as_mut().expect("running").kill();
        cell.start_agent(0, &[]);
        one_running_tenant(&cell, tenant);
        println!("{tenant}: killed at {step}, runs");
    }
}

#[test]
fn kill_9_of_the_coordinator_at_any_step_ends_in_one_running_tenant() {
    if !enabled("kill_9_of_the_coordinator_at_any_step_ends_in_one_running_tenant") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape::default());
    for (tenant, step) in [
        ("alfa", "place"),
        ("beta", "database"),
        ("gama", "odoo"),
        ("delta", "healthy"),
    ] {
        cell.isyctl(&["tenant", "create", tenant, "--no-wait"]).ok();
        reached(&cell, tenant, step);
        cell.coordinator.as_mut().expect("running").kill();
        cell.start_coordinator();
        one_running_tenant(&cell, tenant);
    }
    // A tenant runs a little before the edges have said so.
    wait_for("every operation to be over", MINUTE, || {
        let operations = cell.json(&["op", "list"]);
        let all = operations.as_array().expect("a list");
        all.iter().all(|o| o["done"] == true).then_some(())
    });
}
