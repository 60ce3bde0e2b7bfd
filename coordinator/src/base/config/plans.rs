//! What a plan in `[plans]` may say.
//!
//! Not here: what its limits become on a host (the agent).

use isyone_fleet::settings::StandbyRules;
use isyone_proto::{
    ids::ShortName,
    lease,
    network::{Destination, Egress},
    odoo::OdooSettings,
    spec::LabelKey,
};
use serde::{Deserialize, Serialize};

use super::{Bytes, ConfigError, Cpus, MailConfig, PlanBackup, Span, check::ensure, odoo};

/// A user whose visit woke the tenant needs time to log in.
const MIN_SLEEP_AFTER: Span = Span::seconds(60);
/// Odoo and PostgreSQL do not start with less.
const MIN_PLAN_MEMORY: Bytes = Bytes::new(64 << 20);
/// Odoo's most workers.
const MAX_WORKERS: u32 = 256;
/// An Odoo that prints, with a few threads a worker, and with a shell beside it.
const MIN_PIDS: u32 = 128;
/// What each worker adds to that.
const PIDS_A_WORKER: u32 = 16;
/// As many as one machine's whole default is (`kernel.pid_max`).
const MAX_PIDS: u32 = 32_768;
/// PostgreSQL keeps up to 1,000 files open in a process (`max_files_per_process`).
const MIN_NOFILE: u32 = 1_024;
/// What every engine can give: some run under a hard limit of little more.
const MAX_NOFILE: u32 = 20_000;
/// With less, Odoo would not start within the agent's patience.
const MIN_BPS: Bytes = Bytes::new(1 << 20);
/// With fewer, likewise.
const MIN_IOPS: u32 = 50;

/// The size of a tenant, under its name in `[plans]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Memory of both containers together.
    pub memory: Bytes,
    /// CPU of both containers together.
    pub cpu: Cpus,
    /// Disk that placement reserves, and that its host holds the tenant to.
    pub disk: Bytes,
    /// Odoo's HTTP workers; 0: one threaded process.
    #[serde(default)]
    pub workers: u32,
    /// A tenant unused for this long is stopped until somebody visits it; `None`: never.
    #[serde(default)]
    pub sleep_after: Option<Span>,
    /// Each of its tenants has a standby; `None`: only those for which one was ordered.
    #[serde(default)]
    pub standby: Option<PlanStandby>,
    /// Processes and threads of Odoo's container; `None`: the agent's default, by the number of workers.
    #[serde(default)]
    pub pids: Option<u32>,
    /// Files that one process may have open; `None`: the agent's default.
    #[serde(default)]
    pub nofile: Option<u32>,
    /// What each container may read a second from the device that holds tenants' data; `None`: without limit.
    #[serde(default)]
    pub device_read_bps: Option<Bytes>,
    /// What it may write a second.
    #[serde(default)]
    pub device_write_bps: Option<Bytes>,
    /// Reads a second.
    #[serde(default)]
    pub device_read_iops: Option<u32>,
    /// Writes a second.
    #[serde(default)]
    pub device_write_iops: Option<u32>,
    /// Connections that a host tracks for a tenant at one time; `None`: the default.
    #[serde(default)]
    pub connections: Option<u32>,
    /// Connections that a tenant may begin in a second; `None`: the default.
    #[serde(default)]
    pub connections_per_second: Option<u32>,
    /// Where a tenant's connections may go.
    #[serde(default)]
    pub egress: Egress,
    /// What is open in any case.
    #[serde(default)]
    pub egress_allow: Vec<Destination>,
    /// Whether TCP port 25 is open.
    #[serde(default)]
    pub egress_smtp: bool,
    /// What `[backup]` says otherwise of its tenants.
    #[serde(default)]
    pub backup: Option<PlanBackup>,
    /// How its tenants send mail, in place of `[mail]`.
    #[serde(default)]
    pub mail: Option<MailConfig>,
    /// Settings of its tenants' Odoos.
    #[serde(
        default,
        deserialize_with = "odoo::settings",
        skip_serializing_if = "OdooSettings::is_empty"
    )]
    pub odoo: OdooSettings,
}

/// Standbys of a plan's tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanStandby {
    /// On a host whose label of this key has another value than that of the tenant's own host.
    #[serde(default)]
    pub apart: Option<LabelKey>,
    /// It takes over by itself when the tenant's host was not heard for so long; `None`: on order only.
    #[serde(default)]
    pub takes_over_after: Option<Span>,
}

impl PlanStandby {
    /// As the core is told.
    pub(super) fn rules(&self) -> StandbyRules {
        let after = self.takes_over_after.map(Span::millis);
        StandbyRules {
            apart: self.apart.clone(),
            takes_over_after_ms: after.map(|ms| u32::try_from(ms).unwrap_or(lease::LONGEST_MS)),
        }
    }
}

pub(super) fn check(name: &ShortName, plan: &Plan) -> Result<(), ConfigError> {
    let key = |key: &str| format!("plans.{name}.{key}");
    ensure(plan.memory >= MIN_PLAN_MEMORY, &key("memory"), || {
        "is too small: at least \"64MiB\"".to_owned()
    })?;
    let slept = plan
        .sleep_after
        .is_none_or(|after| after >= MIN_SLEEP_AFTER);
    ensure(slept, &key("sleep_after"), || {
        "must be at least \"1m\"".to_owned()
    })?;
    let after = plan.standby.as_ref().and_then(|s| s.takes_over_after);
    let fits = after.is_none_or(|after| {
        let allowed = i64::from(lease::SHORTEST_MS)..=i64::from(lease::LONGEST_MS);
        allowed.contains(&after.millis())
    });
    ensure(fits, &key("standby.takes_over_after"), || {
        "must be \"20s\" to \"1h\"".to_owned()
    })?;
    ensure(plan.workers <= MAX_WORKERS, &key("workers"), || {
        format!("must be at most {MAX_WORKERS}")
    })?;
    let between = |value: Option<u32>, least: u32, most: u32, word: &str| {
        let fits = value.is_none_or(|value| (least..=most).contains(&value));
        ensure(fits, &key(word), || format!("must be {least} to {most}"))
    };
    let pids = MIN_PIDS + PIDS_A_WORKER * plan.workers;
    between(plan.pids, pids, MAX_PIDS, "pids")?;
    between(plan.nofile, MIN_NOFILE, MAX_NOFILE, "nofile")?;
    for (word, value) in [
        ("device_read_bps", plan.device_read_bps),
        ("device_write_bps", plan.device_write_bps),
    ] {
        ensure(
            value.is_none_or(|value| value >= MIN_BPS),
            &key(word),
            || "must be at least \"1MiB\"; leave it out for no limit".to_owned(),
        )?;
    }
    for (word, value) in [
        ("device_read_iops", plan.device_read_iops),
        ("device_write_iops", plan.device_write_iops),
    ] {
        ensure(
            value.is_none_or(|value| value >= MIN_IOPS),
            &key(word),
            || format!("must be at least {MIN_IOPS}; leave it out for no limit"),
        )?;
    }
    Ok(())
}
