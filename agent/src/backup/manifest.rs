//! What a snapshot says of itself, as `manifest.json` in it: enough to restore it without asking anybody, and to count afterwards. Pure.
//!
//! Not here: reading it back.

use isyone_proto::{
    backup::{BackupPurpose, BackupWork, Counts, Segments},
    ids::HostName,
    plan::{Secret, TenantPlan, UnixMs},
};
use serde::Serialize;
use uuid::Uuid;

/// Raise it when a restore must know.
const FORMAT: u32 = 1;

/// What a snapshot says of itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Manifest<'a> {
    pub format: u32,
    pub work: BackupWork,
    pub purpose: BackupPurpose,
    /// The job that made it; of a shipment by itself there is none.
    pub backup: Option<Uuid>,
    pub host: &'a HostName,
    /// Everything that was committed before is in it, or in what it follows.
    pub at: UnixMs,
    /// Segments in it; of a base, those that it cannot be started without.
    pub segments: Option<Segments>,
    pub segment_bytes: Option<u64>,
    /// Files that have changed since are in it; `None`: all are.
    pub files_since: Option<UnixMs>,
    pub counts: Counts,
    /// What the tenant was: images, size, modules, address. Without its secrets.
    pub tenant: TenantPlan,
}

impl<'a> Manifest<'a> {
    /// Of a snapshot with all files and no log; others change that.
    pub(super) fn new(
        work: BackupWork,
        host: &'a HostName,
        at: UnixMs,
        tenant: &TenantPlan,
    ) -> Self {
        Self {
            format: FORMAT,
            work,
            purpose: BackupPurpose::Scheduled,
            backup: None,
            host,
            at,
            segments: None,
            segment_bytes: None,
            files_since: None,
            counts: Counts::default(),
            tenant: without_secrets(tenant),
        }
    }

    pub(super) fn json(&self) -> Vec<u8> {
        // Plain structs: serialising cannot fail.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

/// The Fleet has them, and who restores gives the tenant others.
fn without_secrets(tenant: &TenantPlan) -> TenantPlan {
    let mut tenant = tenant.clone();
    let secrets = &mut tenant.secrets;
    for secret in [
        &mut secrets.database_password,
        &mut secrets.admin_password,
        &mut secrets.master_password,
    ] {
        *secret = Secret::default();
    }
    tenant.backup = None;
    tenant
}

#[cfg(test)]
mod tests {
    use isyone_proto::backup::{BackupPlan, RepositoryKey};

    use super::*;
    use crate::testing::tenant_plan;

    #[test]
    fn a_manifest_holds_no_secret() {
        let mut plan = tenant_plan("alfa");
        plan.backup = Some(BackupPlan {
            key: RepositoryKey::from(&[0xab; 64]),
            destinations: Vec::new(),
            ship_s: 300,
        });
        let host = "h1".parse().unwrap();
        let manifest = Manifest::new(BackupWork::Base, &host, 5, &plan);
        let text = String::from_utf8(manifest.json()).unwrap();
        assert!(text.contains("\"odoo:19.0\"") && text.contains("\"work\": \"base\""));
        for secret in ["Password0123456789", "abababab"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
