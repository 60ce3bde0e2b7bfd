//! Makes a copy that followed the tenant's own database: its standby is promoted, and its sequences are set to what was given last.
//!
//! Until the end of that is recorded nobody uses it, so it may be repeated. Not here: when (plan::diff), the SQL (plan::standby), bringing
//! the copy (jobs).

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::time::Instant;

use crate::{
    base::{
        failpoints,
        fsutil::{self, blocking},
    },
    host::cluster,
    plan::{
        stack::Stack,
        standby::{self, MAX_SEQUENCES, Sequence},
        state::Database,
    },
    tenant::{
        Result, Tenant, TenantError,
        psql::{psql, session},
    },
};

/// What the tenant's sequences stood at where it was stopped, in its directory.
const SEQUENCES: &str = "sequences.json";
/// Largest such file: [`MAX_SEQUENCES`] of some 60 bytes.
const MAX_FILE_BYTES: u64 = 2 << 20;

fn file(directory: &Path) -> PathBuf {
    directory.join(SEQUENCES)
}

/// Keeps what sequences stood at until the promotion, so that a power loss does not bring other numbers back.
pub fn keep(directory: &Path, sequences: &[Sequence]) -> io::Result<()> {
    let few = &sequences[..sequences.len().min(MAX_SEQUENCES)];
    // Plain structs: serialising cannot fail.
    let text = serde_json::to_vec(few).unwrap_or_default();
    fsutil::write_atomic(&file(directory), &text, 0o600, true)
}

fn kept(directory: &Path) -> io::Result<Vec<Sequence>> {
    match fsutil::read_small(&file(directory), MAX_FILE_BYTES) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
        // Nothing was kept: none, or an image without a database.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn forget(directory: &Path) -> io::Result<()> {
    match fsutil::remove_file(&file(directory)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Promotes the standby, and records that it is the tenant's own.
pub(super) async fn promote(tenant: &Tenant, stack: &Stack) -> Result<String> {
    let begin = Instant::now();
    let directory = tenant.directory();
    let at = directory.clone();
    // What was kept for an earlier end is lower than what has been given since.
    let is_whole = tenant.state().database == (Database::Following { complete: true });
    let sequences = blocking(move || if is_whole { kept(&at) } else { Ok(Vec::new()) })
        .await
        .map_err(TenantError::disk(
            "what its sequences stood at cannot be read",
        ))?;
    let mut timeline = None;
    if !stack.standin {
        timeline = match by_session(tenant, &sequences).await {
            Ok(timeline) => timeline,
            Err(why) => {
                // Both may be repeated.
                tracing::warn!(tenant = %tenant.name(), "promoted by its own program: {why}");
                let script = standby::promote(&tenant.name().database(), &sequences);
                standby::timeline(&psql(tenant, script).await?)
            }
        };
    }
    failpoints::reached("mid-promote");
    tenant.remember(true, |s| {
        s.database = Database::Ready { synced: true };
        s.settings_can_wait = true;
        // A restore in its place, from a backup of before, must not begin the same one again.
        s.timeline = s.timeline.max(timeline.unwrap_or_default());
    })?;
    if let Err(e) = blocking(move || forget(&directory)).await {
        // It is of no use to anybody, and written anew before the next promotion.
        tracing::warn!(tenant = %tenant.name(), "{SEQUENCES} is left: {e}");
    }
    Ok(format!(
        "promoted in {:.2} s, {} sequences",
        begin.elapsed().as_secs_f64(),
        sequences.len()
    ))
}

/// Through its socket. Returns which timeline has begun.
async fn by_session(
    tenant: &Tenant,
    sequences: &[Sequence],
) -> std::result::Result<Option<u32>, String> {
    let before = session(tenant, "postgres").await?;
    for statement in standby::BEFORE {
        before.run(statement).await?;
    }
    before.run(standby::PROMOTE).await?;
    drop(before);
    let after = session(tenant, "postgres").await?;
    for statement in standby::AFTER {
        after.run(statement).await?;
    }
    let timeline = standby::believed(after.number(cluster::TIMELINE).await?);
    if let Some(statement) = standby::set_sequences(sequences) {
        let own = session(tenant, &tenant.name().database()).await?;
        own.run(&statement).await?;
    }
    Ok(timeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_once_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()).unwrap(), []);
        let one = Sequence {
            oid: 1,
            last: 5,
            called: true,
        };
        keep(dir.path(), &vec![one; MAX_SEQUENCES + 5]).unwrap();
        assert_eq!(kept(dir.path()).unwrap().len(), MAX_SEQUENCES);
        keep(dir.path(), &[one]).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), [one]);
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), []);
    }
}
