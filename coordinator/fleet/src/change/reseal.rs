//! Stored secrets that were sealed anew by another key. Nothing else of a record changes, and no host's plan: what is
//! inside stays as it is.
//!
//! Not here: sealing (the coordinator's base/secrets), which values to seal anew (its rotation).

use std::sync::Arc;

use isyone_types::ids::TenantName;
use uuid::Uuid;

use super::{ChangeError, Edit, Outcome};
use crate::{
    desired::{
        Sealed, Tenant,
        backups::BackupKey,
        certificates::{AcmeAccount, EdgeCertificate},
    },
    written::{RecordValue, Write},
};

/// Whose value it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedOf {
    /// A tenant's passwords; under the same name another tenant has another uid.
    Tenant(TenantName, Uuid),
    /// The key of a certificate, by the certificate's name.
    Certificate(String),
    /// The account with the certificate authority.
    AcmeAccount,
    /// The key of a tenant's backups, by the tenant's uid.
    BackupKey(Uuid),
}

/// A value that was sealed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    pub of: SealedOf,
    /// What it replaces; a value that has changed since stays.
    pub was: Sealed,
    pub now: Sealed,
}

impl Edit<'_> {
    pub(super) fn reseal(&mut self, values: Vec<Resealed>) -> Result<Outcome, ChangeError> {
        for Resealed { of, was, now } in values {
            match of {
                SealedOf::Tenant(name, uid) => {
                    let known = self.state.fleet.tenants.get(&name).cloned();
                    if let Some(known) = known.filter(|t| t.uid == uid && t.secrets == was) {
                        self.store_tenant(Tenant {
                            secrets: now,
                            ..(*known).clone()
                        });
                    }
                }
                SealedOf::Certificate(name) => {
                    let known = self.state.fleet.certificates.get(&name).cloned();
                    if let Some(known) = known.filter(|c| c.key == was) {
                        let resealed = Arc::new(EdgeCertificate {
                            key: now,
                            ..(*known).clone()
                        });
                        let write = RecordValue::Certificate(resealed.clone());
                        self.effects.writes.push(Write::Put(write));
                        self.state.fleet.certificates.insert(name, resealed);
                    }
                }
                SealedOf::BackupKey(tenant) => {
                    let known = self.state.fleet.backup_keys.get(&tenant).cloned();
                    if let Some(known) = known.filter(|k| k.key == was) {
                        self.put_backup_key(BackupKey {
                            key: now,
                            ..(*known).clone()
                        });
                    }
                }
                SealedOf::AcmeAccount => {
                    let known = self.state.fleet.acme_account.clone();
                    if let Some(known) = known.filter(|a| a.credentials == was) {
                        let resealed = Arc::new(AcmeAccount {
                            credentials: now,
                            ..(*known).clone()
                        });
                        let write = RecordValue::AcmeAccount(resealed.clone());
                        self.effects.writes.push(Write::Put(write));
                        self.state.fleet.acme_account = Some(resealed);
                    }
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Command,
        testing::{Bench, resources},
    };

    /// Fails if a value that has changed meanwhile is overwritten, or a host is given another plan.
    #[test]
    fn a_value_is_replaced_by_the_same_one_only_and_no_plan_changes() {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let before = bench.state.fleet.tenants["alfa"].clone();
        let generation = bench.state.fleet.hosts["h1"].plan_generation;
        let reseal = |of: SealedOf, was: &str| {
            Command::Reseal(vec![Resealed {
                of,
                was: Sealed(was.into()),
                now: Sealed("anew".into()),
            }])
        };
        let alfa = |uid| SealedOf::Tenant(before.name.clone(), uid);
        for refused in [
            reseal(alfa(before.uid), "another"),
            reseal(alfa(Uuid::nil()), &before.secrets.0),
            reseal(SealedOf::Certificate("none".to_owned()), "x"),
            reseal(SealedOf::AcmeAccount, "x"),
            reseal(SealedOf::BackupKey(before.uid), "x"),
        ] {
            bench.apply(refused).unwrap();
            assert_eq!(bench.state.fleet.tenants["alfa"].secrets, before.secrets);
        }
        bench
            .apply(reseal(alfa(before.uid), &before.secrets.0))
            .unwrap();
        let after = &bench.state.fleet.tenants["alfa"];
        assert_eq!(after.secrets.0.as_ref(), "anew");
        let same = Tenant {
            secrets: before.secrets.clone(),
            ..(**after).clone()
        };
        assert_eq!(same, *before);
        assert_eq!(bench.state.fleet.hosts["h1"].plan_generation, generation);
    }
}
