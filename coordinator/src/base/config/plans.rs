//! What a plan in `[plans]` may say.
//!
//! Not here: what its limits become on a host (the agent).

use isyone_proto::ids::ShortName;

use super::{Bytes, ConfigError, Plan, Span, check::ensure};

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
