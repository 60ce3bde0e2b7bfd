//! isyone's own side: base backups of a tenant that the coordinator orders, the agent makes, and the coordinator keeps.
//!
//! Each first backup goes to a destination that is new, so that there is no repository; the coordinator orders it by itself.
//! Not here: how a destination is made (switch).

use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::cell::Cell;

use super::{
    Side,
    cost::{Around, Cost, grown, size_of},
    data::TENANT,
    switch::{OFF, switch, to},
};
use crate::{create::seconds, process::Watched};

/// A base backup of some gigabytes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks whether it is made.
const LOOK: Duration = Duration::from_millis(250);
/// The longest that there is: nothing is shipped between the backups that are measured.
const RPO: &str = "1d";

/// A backup as the product tells of it.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) id: String,
    /// Its agent began it and had stored all of it, seconds since the Unix epoch.
    pub(super) begin_s: f64,
    pub(super) end_s: f64,
}

/// A cell with the tenant.
pub(super) struct Ours<'a> {
    pub(super) cell: &'a mut Cell,
    around: &'a Around,
    /// Of destinations so far.
    number: u32,
    /// The newest backup.
    pub(super) newest: Option<Made>,
}

/// Who works for a backup, before it.
struct Meter {
    agent: Watched,
    coordinator: Watched,
    own: Duration,
    around: Duration,
}

impl<'a> Ours<'a> {
    pub(super) fn new(cell: &'a mut Cell, around: &'a Around) -> Self {
        Self {
            cell,
            around,
            number: 0,
            newest: None,
        }
    }

    /// Where backups go now.
    pub(super) fn destination(&self) -> String {
        format!("d{}", self.number)
    }

    /// Where the tenant's repository is.
    fn repository(&self) -> Result<PathBuf> {
        let shown = self.cell.json(&["tenant", "show", TENANT]);
        let uid = shown["uid"].as_str().context("no uid")?;
        let data = self.cell.dir.path().join("coordinator");
        Ok(data.join(self.destination()).join(uid))
    }

    /// No backups are made from now on.
    pub(super) fn off(&mut self) -> Result<()> {
        switch(self.cell, OFF)
    }

    /// They are again, to the same destination.
    pub(super) fn on(&mut self) -> Result<()> {
        let on = self.configuration();
        switch(self.cell, &on)
    }

    /// What the configuration says of them.
    pub(super) fn configuration(&self) -> String {
        to(&self.destination(), RPO)
    }

    fn meter(&self) -> Result<Meter> {
        let agent = self.cell.hosts[0].agent.as_ref().context("no agent")?;
        let coordinator = self.cell.coordinator.as_ref().context("no coordinator")?;
        let agent = Watched::new(agent.pid())?;
        let coordinator = Watched::new(coordinator.pid())?;
        agent.forget_peak()?;
        coordinator.forget_peak()?;
        Ok(Meter {
            own: agent.cpu()? + coordinator.cpu()?,
            around: self.around.cpu()?,
            agent,
            coordinator,
        })
    }

    /// Waits for a backup that began after the newest one, and says what it cost. `before`: bytes of the repository then.
    fn measured(&mut self, meter: &Meter, before: u64) -> Result<Cost> {
        let made = self.await_another()?;
        let own = meter.agent.cpu()? + meter.coordinator.cpu()?;
        let cost = Cost {
            took: Duration::from_secs_f64(made.end_s - made.begin_s),
            own: own.saturating_sub(meter.own),
            around: self.around.cpu()?.saturating_sub(meter.around),
            memory: meter.agent.peak()?,
            keeper_memory: Some(meter.coordinator.peak()?),
            stored: grown(&self.repository()?, before)?,
        };
        self.newest = Some(made);
        Ok(cost)
    }

    fn await_another(&self) -> Result<Made> {
        let begin = Instant::now();
        let after = self.newest.as_ref().map_or(0.0, |made| made.begin_s);
        let destination = self.destination();
        let words = ["backup", "list", TENANT, "--destination", &destination];
        loop {
            let listed = self.cell.json(&words);
            for backup in listed.as_array().into_iter().flatten() {
                let begin_s = seconds(&backup["time"])?;
                if backup["work"] == "base" && begin_s > after {
                    return Ok(Made {
                        id: backup["id"].as_str().context("no id")?.to_owned(),
                        begin_s,
                        end_s: seconds(&backup["end_time"])?,
                    });
                }
            }
            ensure!(begin.elapsed() < PATIENCE, "no backup to {destination}");
            sleep(LOOK);
        }
    }
}

impl Side for Ours<'_> {
    fn first(&mut self) -> Result<Cost> {
        self.number += 1;
        self.newest = None;
        self.on()?;
        let meter = self.meter()?;
        self.measured(&meter, 0)
    }

    fn again(&mut self) -> Result<Cost> {
        let before = size_of(&self.repository()?)?;
        let meter = self.meter()?;
        let asked = self.cell.isyctl(&["backup", "create", TENANT, "--no-wait"]);
        ensure!(asked.code == 0, "backup create: {}", asked.stderr);
        self.measured(&meter, before)
    }
}
