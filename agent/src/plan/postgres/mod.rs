//! PostgreSQL's settings: those that a cluster is born with, those in files of ours, and how its write-ahead log is archived. Pure.
//!
//! The files are in a directory that the container sees read-only, and are read again at a reload. PostgreSQL is started with
//! our `postgresql.conf`, which includes the cluster's own and then `isyone.conf`; what somebody has set with ALTER SYSTEM still
//! comes last. So nothing is written into the data directory, and a copy of it starts anywhere. Not here: `-c` on the command line, which
//! follows the size (design::containers); settings by ALTER SYSTEM (sql).

use isyone_proto::plan::{TenantPlan, WalSpool, log_share};

use crate::plan::{container::ContainerSpec, facts::ImageFacts, stack::RenderedFile};

/// The directory of these files, in the tenant's directory.
pub const DIRECTORY: &str = "postgres";
/// Where the container has them.
pub const TARGET: &str = "/etc/isyone";
/// Where the container has the tenant's spool.
pub const SPOOL_TARGET: &str = "/var/lib/isyone/wal";

/// The variable with what initdb is told.
pub const INITDB_ARGS_VARIABLE: &str = "POSTGRES_INITDB_ARGS";
/// What a cluster keeps for its life. Checksums: a backup tells a damaged page, and pg_rewind can work. Segments of 1 MiB: a quiet tenant's
/// minute costs that, not 16.
pub const INITDB_ARGS: &str = "--data-checksums --wal-segsize=1";

const MAIN: &str = "postgresql.conf";
const CONF: &str = "isyone.conf";
const ARCHIVE: &str = "archive";

/// What a replication slot that nobody reads may keep.
const SLOT_BYTES: u64 = 1 << 30;
/// What may wait in pg_wal for a spool that cannot be written.
const PATIENCE_BYTES: u64 = 128 << 20;
/// A segment in which something was written is finished after so many seconds, where the plan does not say.
const SWITCH_S: u32 = 60;
/// Each switch takes a whole segment of the spool.
const SWITCHES_S: std::ops::RangeInclusive<u32> = 5..=86_400;
/// The first major version that bounds what slots keep.
const BOUNDS_SLOTS_SINCE: u32 = 13;
const MIB: u64 = 1 << 20;

fn switch_s(spool: WalSpool) -> u32 {
    match spool.switch_s {
        0 => SWITCH_S,
        said => said.clamp(*SWITCHES_S.start(), *SWITCHES_S.end()),
    }
}

/// The option that has PostgreSQL begin with our file.
pub fn config_option() -> String {
    format!("config_file={TARGET}/{MAIN}")
}

/// What a running PostgreSQL must be told again when it changes, as text; empty where nothing is archived.
pub fn spoken(plan: &TenantPlan) -> String {
    let spool = plan.wal_spool.map(|spool| switch_s(spool).to_string());
    spool.map_or_else(String::new, |switch| format!(" wal {switch}"))
}

/// `postgresql.conf`: the cluster's own first, so that ours count.
fn main_conf(image: &ImageFacts) -> String {
    let own = image.pgdata.as_deref().unwrap_or_default();
    format!(
        "# Written by isy-agent, which writes it again on change.\n\
         include '{}/postgresql.conf'\n\
         include '{CONF}'\n",
        own.replace('\'', "''")
    )
}

/// `isyone.conf`. With 1 MiB segments initdb writes `max_wal_size = 64MB` into the cluster's own file, and checkpoints would never end.
fn conf(plan: &TenantPlan, spool: Option<WalSpool>, image: &ImageFacts) -> String {
    // Another command, or none, counts with a reload; the mode only with a start. A command that fails, or none at all, would have
    // segments pile up.
    let (command, timeout) = match spool {
        Some(spool) => (
            format!("sh {TARGET}/{ARCHIVE} \"%p\" \"%f\""),
            switch_s(spool),
        ),
        None => ("true".to_owned(), 0),
    };
    let mut lines = vec![
        format!("archive_command = '{command}'"),
        "archive_mode = on".to_owned(),
        format!("archive_timeout = {timeout}"),
        "max_wal_size = 1GB".to_owned(),
        "min_wal_size = 32MB".to_owned(), // two segments of 16 MiB, which clusters of before have
    ];
    let major: u32 = image.postgres_major.parse().unwrap_or(0);
    if major >= BOUNDS_SLOTS_SINCE {
        let slots = log_share(plan.size.disk_bytes, SLOT_BYTES) / MIB;
        lines.push(format!("max_slot_wal_keep_size = {slots}MB"));
    }
    lines.sort_unstable();
    format!(
        "# Written by isy-agent, which writes it again on change. ALTER SYSTEM beats it.\n{}\n",
        lines.join("\n")
    )
}

/// The program that archives a segment.
fn archive(spool: &str, bytes: u64) -> String {
    let (limit, patience) = (bytes >> 10, PATIENCE_BYTES >> 10);
    format!(
        "# Written by isy-agent, which writes it again on change.\n\
         spool={spool} limit_kib={limit} patience_kib={patience}\n{}",
        include_str!("archive.sh")
    )
}

/// The files, for PostgreSQL's user. The program is there also while nothing is archived: it may be turned on. Without a spool in
/// its container, nothing is.
pub fn files(
    plan: &TenantPlan,
    container: &ContainerSpec,
    image: &ImageFacts,
) -> [RenderedFile; 3] {
    let has_spool = container.mounts.iter().any(|m| m.target == SPOOL_TARGET);
    let spool = plan.wal_spool.filter(|_| has_spool);
    let bytes = spool.unwrap_or_default().bound_bytes(plan.size.disk_bytes);
    [
        (MAIN, main_conf(image)),
        (CONF, conf(plan, spool, image)),
        (ARCHIVE, archive(SPOOL_TARGET, bytes)),
    ]
    .map(|(name, content)| RenderedFile {
        name: format!("{DIRECTORY}/{name}"),
        content,
        owner: Some((image.uid, image.gid)),
    })
}

#[cfg(test)]
mod tests;
