//! What a tenant's backups are like, for the next report. Not here: making them.

use isyone_proto::{
    backup::{BackupReport, DestinationReport},
    ids::TenantName,
};
use uuid::Uuid;

use super::{Inner, StatusBoard};

/// Backups, and whose they are: a name may be given again.
#[derive(Debug)]
pub(super) struct Known {
    uid: Uuid,
    report: Box<BackupReport>,
}

impl Inner {
    pub(super) fn backup(&self, name: &TenantName, uid: Uuid) -> Option<Box<BackupReport>> {
        let known = self.backups.get(name).filter(|known| known.uid == uid)?;
        Some(known.report.clone())
    }
}

/// What somebody waits for: not how far the log is shipped, which changes each time.
fn news(report: &BackupReport) -> impl PartialEq + '_ {
    let of = |d: &DestinationReport| {
        let fault = d.trouble.as_ref().map(|t| (t.fault, t.message.clone()));
        (d.name.clone(), d.base_at, d.gap_since, fault)
    };
    let destinations: Vec<_> = report.destinations.iter().map(of).collect();
    (report.gap, &report.archiver, destinations)
}

impl StatusBoard {
    /// A tenant's backups, once looked at.
    pub fn backup(&self, name: &TenantName, uid: Uuid) -> Option<Box<BackupReport>> {
        self.lock().backup(name, uid)
    }

    /// A tenant's backups; `None`: its plan has none. Wakes the link when there is a new base, a gap or trouble, or no more of it.
    pub fn set_backup(&self, name: &TenantName, uid: Uuid, report: Option<BackupReport>) {
        let mut inner = self.lock();
        let before = inner.backup(name, uid);
        match report.clone().map(Box::new) {
            Some(report) => {
                let known = Known { uid, report };
                inner.backups.insert(name.clone(), known);
            }
            None => drop(inner.backups.remove(name)),
        }
        if before.as_deref().map(news) == report.as_ref().map(news) {
            return;
        }
        inner.revision += 1;
        let revision = inner.revision;
        if let Some((told, _)) = inner.tenants.get_mut(name) {
            *told = revision;
        }
        drop(inner);
        self.changed.notify_one();
    }
}
