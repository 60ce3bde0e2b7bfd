//! The first tenant of a kind, over a fake engine: while its database is filled, which later tenants' are copied from, nobody gets in
//! but the agent.
//!
//! Not here: that commands ask (link's own tests), how a snapshot is taken (host::golden's own tests).

use isyone_agent::testing::{
    fake_docker::{FakeDocker, Faults},
    tenant_plan,
};

use super::life::Life;

/// Fails where a tenant's database is anybody's as soon as PostgreSQL runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_into_a_database_that_others_are_copied_from() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let plan = tenant_plan("alfa");
    let faults = |init_hangs| Faults {
        init_hangs,
        ..Faults::default()
    };
    let enter = |life: &Life| life.host.board.may_enter(&plan.name, plan.uid);
    fake.set_faults(faults(true));
    // An agent that dies half-way does it all again.
    for _ in 0..2 {
        let starts = |fake: &FakeDocker| {
            let begun = |line: &&String| *line == "start odoo_alfa_init";
            fake.log().iter().filter(begun).count()
        };
        let before = starts(&fake);
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.wait("`odoo -i`", |_| starts(&fake) > before).await;
        assert!(fake.running().iter().any(|name| name == "postgres_alfa"));
        let why = enter(&life).unwrap_err();
        assert!(why.contains("tenant alfa is being created"), "{why}");
        life.end().await;
    }
    fake.set_faults(faults(false));
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(enter(&life), Ok(()));
    life.end().await;
    // Another agent knows it as soon as it has looked.
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    assert!(enter(&life).unwrap_err().contains("not looked at"));
    life.wait("its own database", |l| enter(l).is_ok()).await;
    life.end().await;
}
