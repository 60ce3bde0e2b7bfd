//! From `isyctl tenant restore … --as` to the new tenant's login page at the edge.
//!
//! Not here: whether what was restored is what was there (the tests `e2e::backups`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{data::TENANT, ours::Ours};
use crate::create::{await_login_page_of, purge};

/// A restored tenant is all there some seconds after its page.
const PATIENCE: Duration = Duration::from_secs(300);

/// Restores the tenant's newest backup as other tenants on another host, one after the other. How long each restore took.
pub(super) fn rounds(ours: &mut Ours<'_>, rounds: usize) -> Result<Vec<Duration>> {
    let backup = ours.newest.clone().context("no backup")?.id;
    let mut took = Vec::new();
    for round in 0..rounds {
        let name = format!("restored{round}");
        let one = restore(ours, &backup, &name)?;
        eprintln!("  restored in {:.3} s", one.as_secs_f64());
        took.push(one);
        // Else the last backup of who goes would be waited for.
        ours.off()?;
        purge(ours.cell, &name)?;
        ours.on()?;
    }
    Ok(took)
}

fn restore(ours: &Ours<'_>, backup: &str, name: &str) -> Result<Duration> {
    let cell = &*ours.cell;
    let begin = Instant::now();
    let words = [
        "tenant",
        "restore",
        TENANT,
        "--to",
        backup,
        "--as",
        name,
        "--host",
        "h2",
        "--no-wait",
    ];
    let asked = cell.isyctl(&words);
    ensure!(asked.code == 0, "restore: {}", asked.stderr);
    await_login_page_of(cell.edge(), &format!("{name}.isy.one"), begin)?;
    let took = begin.elapsed();
    cell.wait_phase(name, "running", PATIENCE);
    Ok(took)
}
