//! Certificates of which only the serial number is known, because a version before recorded no more. Whoever has stolen the CA's key can
//! make one with any serial number, so they are refused while the CA is being replaced: who is meant by that, before it begins
//! and while it lasts.
//!
//! Not here: refusing them (server/shared), completing a record when its owner connects in quiet times (server/loops).

use isyone_fleet::{
    change::Command,
    desired::{Admission, Certificate},
};
use isyone_proto::tls::{CertificateInfo, OperatorRole};

use super::{Missing, RotationError, Rotations, missing::utc};
use crate::base::clock;

/// Whether such a record is one of a version before.
pub(super) fn is_bare(certificate: &Certificate) -> bool {
    certificate.sha256.is_empty()
}

impl Rotations {
    /// Before the CA is replaced: refuses while somebody would be cut off by it, unless `cut_off` says that this is meant.
    /// Whoever is connected is not: his certificate is remembered whole first. Returns who is cut off.
    pub(super) async fn may_begin(&self, cut_off: bool) -> Result<Vec<Missing>, RotationError> {
        let state = self.handle.snapshot();
        let by_serial =
            |shown: &CertificateInfo| matches!(state.fleet.admits(shown), Ok(Admission::BySerial));
        for shown in self.connections.certificates(by_serial) {
            let pin = Command::pin(shown);
            if let Err(error) = self.handle.submit_patiently("coordinator", pin).await {
                tracing::warn!("a certificate is not remembered whole yet: {error}");
            }
        }
        let missing = self.known_by_serial();
        let refused = |what, insist| {
            let missing = missing.clone();
            Err(RotationError::Missing {
                what,
                missing,
                insist,
            })
        };
        if !missing.is_empty() && !self.an_admin_is_known() {
            let what = "of no admin's certificate more than the serial number is known, so nobody could let anybody in; run isyctl as an admin once, then try again";
            return refused(what, None);
        }
        if !missing.is_empty() && !cut_off {
            let what = "of these only the serial number is known, as versions before recorded it; they would be refused from now on, because a thief of the old CA's key can make such a certificate";
            return refused(what, Some("--yes"));
        }
        Ok(missing)
    }

    /// Cuts those whose certificates are refused from now on.
    pub(super) fn cut_bare(&self) {
        let state = self.handle.snapshot();
        let certain = |shown: &CertificateInfo| state.fleet.admits(shown) == Ok(Admission::Certain);
        self.connections.cut_unless(certain);
    }

    /// Who has a valid certificate of which only the serial number is known. A host that has another one has renewed it;
    /// each one of an operator's may be a context of its own.
    pub(super) fn known_by_serial(&self) -> Vec<Missing> {
        let (state, now_s) = (self.handle.snapshot(), clock::now_seconds());
        let valid = |all: &[Certificate]| -> Vec<Certificate> {
            all.iter()
                .filter(|c| c.not_after > now_s)
                .cloned()
                .collect()
        };
        let mut missing = Vec::new();
        for (name, host) in &state.fleet.hosts {
            let valid = valid(&host.certificates);
            if valid.is_empty() || !valid.iter().all(is_bare) {
                continue;
            }
            missing.push(Missing {
                who: format!("host {name}"),
                why: format!(
                    "while the CA is not being replaced it is known once its agent has connected; else it joins again: `isyctl host token --host {name}`, then `isy-agent join --rejoin`"
                ),
            });
        }
        for (name, operator) in state.fleet.operators.iter().filter(|(_, o)| !o.revoked) {
            let valid = valid(&operator.certificates);
            let bare: Vec<_> = valid.iter().filter(|c| is_bare(c)).collect();
            let Some(end) = bare.iter().map(|c| c.not_after).max() else {
                continue;
            };
            let file = match operator.role {
                OperatorRole::Monitor => " --pem DIR",
                _ => "",
            };
            missing.push(Missing {
                who: format!("operator {name}"),
                why: format!(
                    "{} of {} certificates, until {}; while the CA is not being replaced each is known once isyctl has run with it; `isyctl operator renew {name}{file}` puts a new one in place of all",
                    bare.len(),
                    valid.len(),
                    utc(end)
                ),
            });
        }
        missing
    }

    /// Whether an admin is let in while the CA is being replaced.
    fn an_admin_is_known(&self) -> bool {
        let now_s = clock::now_seconds();
        let usable = |c: &Certificate| c.not_after > now_s && !is_bare(c);
        let state = self.handle.snapshot();
        state.fleet.operators.values().any(|operator| {
            operator.role == OperatorRole::Admin
                && !operator.revoked
                && operator.certificates.iter().any(usable)
        })
    }
}
