//! Seals anew what the old key has sealed, some at a time, through the writer.
//!
//! A value says itself by which key it is sealed: it opens or it does not. So nothing has to be noted beside it, and a
//! pass can be repeated whatever interrupted the last one. Not here: the keys (base/secrets).

use std::sync::Arc;

use isyone_fleet::{
    change::{
        Command,
        reseal::{Resealed, SealedOf},
    },
    desired::{Sealed, backups::BackupKey, certificates::EdgeCertificate},
    state::State,
};

use crate::{
    base::secrets::{self, Sealer},
    writer::Handle,
};

/// Values in one command: a few hundred KiB of records, some milliseconds.
const BATCH: usize = 200;

/// Seals one batch anew. True when nothing was left to do.
pub(super) async fn pass(handle: &Handle, sealer: &Arc<Sealer>) -> bool {
    let (state, with) = (handle.snapshot(), sealer.clone());
    // Of 100,000 values it opens many until it finds one.
    let Ok(batch) = tokio::task::spawn_blocking(move || stale(&state, &with)).await else {
        return false;
    };
    if batch.is_empty() {
        return true;
    }
    let (count, command) = (batch.len(), Command::Reseal(batch));
    match handle.submit_patiently("coordinator", command).await {
        Ok(_) => tracing::info!(count, "values are sealed by the new key"),
        Err(error) => tracing::warn!("values are not sealed anew yet, tried again: {error}"),
    }
    false
}

/// The first values that the new key has not sealed, as they are to be.
fn stale(state: &State, sealer: &Sealer) -> Vec<Resealed> {
    let fleet = &state.fleet;
    let tenants = fleet.tenants.values().map(|tenant| {
        let record = secrets::record(tenant.name.as_str(), tenant.uid);
        let of = SealedOf::Tenant(tenant.name.clone(), tenant.uid);
        (of, record, &tenant.secrets)
    });
    let certificates = fleet.certificates.values().map(|certificate| {
        let record = EdgeCertificate::sealed_for(&certificate.name);
        let of = SealedOf::Certificate(certificate.name.clone());
        (of, record, &certificate.key)
    });
    let keys = fleet.backup_keys.values().map(|key| {
        let of = SealedOf::BackupKey(key.tenant);
        (of, BackupKey::sealed_for(key.tenant), &key.key)
    });
    let account = fleet.acme_account.iter().map(|account| {
        let record = secrets::ACME_ACCOUNT.to_owned();
        (SealedOf::AcmeAccount, record, &account.credentials)
    });
    let anew = |(of, record, was): (SealedOf, String, &Sealed)| {
        let now = sealer.reseal(&record, was)?;
        let was = was.clone();
        Some(Resealed { of, was, now })
    };
    tenants
        .chain(certificates)
        .chain(keys)
        .chain(account)
        .filter_map(anew)
        .take(BATCH)
        .collect()
}
