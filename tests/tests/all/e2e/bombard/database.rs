//! Line 6: the tenant's database restarts, or one of its backends is killed.

use std::{thread, time::Duration};

use isyone_tests::e2e::wait_for;

use super::{MINUTE, STEADY, Tenant};

/// Scheduled actions are back within that.
const CRONS_BACK: Duration = Duration::from_secs(120);
/// How long the honest client goes on after the database is back.
const AFTER: Duration = Duration::from_secs(3);

/// Backends of the threads that run scheduled actions.
fn crons(tenant: &Tenant<'_>) -> Option<String> {
    let of = "SELECT pid FROM pg_stat_activity WHERE usename = 'odoo' AND datname = 'postgres'";
    Some(tenant.sql("postgres", of)).filter(|pids| !pids.is_empty())
}

/// Whoever comes meanwhile is told to come again, never sent to the selector of databases; scheduled actions go on.
pub(super) fn goes_away(tenant: &Tenant<'_>) {
    let postgres = tenant.container("postgres");
    let before = wait_for("scheduled actions to run", CRONS_BACK, || crons(tenant));
    let reconnects = tenant.metric("odoo_cron_reconnects_total");
    let (seen, ()) = tenant.beside("6 its database restarts", STEADY, || {
        tenant.docker.run(&["restart", &postgres]).ok();
        thread::sleep(AFTER);
    });
    println!("         told to come later for {:?}", seen.away());
    seen.assert_none_failed("while the database restarts");
    let line = "6 one of its backends is killed";
    let (seen, ()) = tenant.beside(line, STEADY, || {
        let of = "SELECT min(pid) FROM pg_stat_activity WHERE usename = 'odoo' AND datname LIKE 'odoo_%'";
        let pid = tenant.sql("postgres", of);
        let kill = format!("kill -9 {pid}");
        let kill = ["exec", "-u", "postgres", &postgres, "sh", "-c", &kill];
        tenant.docker.run(&kill).ok();
        thread::sleep(AFTER);
    });
    println!("         told to come later for {:?}", seen.away());
    seen.assert_none_failed(line);
    wait_for("scheduled actions to run again", CRONS_BACK, || {
        crons(tenant).filter(|pids| *pids != before)
    });
    wait_for("it to be counted", MINUTE, || {
        (tenant.metric("odoo_cron_reconnects_total") > reconnects).then_some(())
    });
}
