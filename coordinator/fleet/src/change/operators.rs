//! Commands on operators: certificates and revocation.
//!
//! Not here: what a role may do (the coordinator's operators/access), and signing certificates (its base/pki).

use std::sync::Arc;

use isyone_types::{
    identity::{Identity, OperatorRole},
    ids::ShortName,
};

use super::{ChangeError, Edit, MAX_OPERATOR_CERTIFICATES, Outcome};
use crate::{
    desired::{Certificate, Operator},
    event::{EventKind, is_the_platform},
    written::{RecordValue, Write},
};

impl Edit<'_> {
    pub(super) fn create_operator(
        &mut self,
        name: ShortName,
        role: OperatorRole,
        certificate: Certificate,
    ) -> Result<Outcome, ChangeError> {
        let conflict = |problem: String| ChangeError::OperatorConflict {
            name: name.clone(),
            problem,
        };
        if is_the_platform(name.as_str()) {
            return Err(conflict(
                "cannot be created: the platform itself acts under this name; choose another"
                    .to_owned(),
            ));
        }
        let mut operator = match self.state.fleet.operators.get(&name) {
            Some(old) if old.revoked => {
                return Err(conflict("was revoked; choose another name".to_owned()));
            }
            Some(old) if old.role != role => {
                return Err(conflict(format!("has the role {}", old.role)));
            }
            Some(old) => (**old).clone(),
            None => Operator {
                name: name.clone(),
                role,
                created_at: self.stamp.now,
                revoked: false,
                certificates: Vec::new(),
            },
        };
        let now_s = self.stamp.now / 1000;
        operator.certificates.retain(|c| c.not_after > now_s);
        if operator.certificates.len() >= MAX_OPERATOR_CERTIFICATES {
            return Err(conflict(format!(
                "holds {MAX_OPERATOR_CERTIFICATES} certificates already"
            )));
        }
        operator.certificates.push(certificate);
        let operator = self.put_operator(operator);
        self.event(
            EventKind::OperatorCertified,
            None,
            None,
            None,
            format!("{name}, role {role}"),
        );
        Ok(Outcome::Operator(operator))
    }

    /// Completes the record of a certificate that a version before issued. What is complete stays as it is.
    pub(super) fn pin_certificate(
        &mut self,
        identity: &Identity,
        serial: &str,
        sha256: &str,
    ) -> Result<Outcome, ChangeError> {
        let pin = |list: &mut Vec<Certificate>| {
            let bare = |c: &&mut Certificate| c.serial == serial && c.sha256.is_empty();
            let found = list.iter_mut().find(bare);
            found.map(|known| sha256.clone_into(&mut known.sha256))
        };
        match identity {
            Identity::Agent(name) => {
                let mut host = (*self.host(name)?).clone();
                if pin(&mut host.certificates).is_some() {
                    self.put_host(host);
                }
            }
            Identity::Operator(name, _) => {
                let known = self.state.fleet.operators.get(name).cloned();
                let known = known.ok_or_else(|| ChangeError::OperatorNotFound(name.clone()))?;
                let mut operator = (*known).clone();
                if pin(&mut operator.certificates).is_some() {
                    self.put_operator(operator);
                }
            }
            Identity::Coordinator => {}
        }
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_operator(&mut self, name: &ShortName) -> Result<Outcome, ChangeError> {
        let old = self
            .state
            .fleet
            .operators
            .get(name)
            .cloned()
            .ok_or_else(|| ChangeError::OperatorNotFound(name.clone()))?;
        if old.revoked {
            return Ok(Outcome::Operator(old));
        }
        let admins = self
            .state
            .fleet
            .operators
            .values()
            .filter(|o| !o.revoked && o.role == OperatorRole::Admin)
            .count();
        if old.role == OperatorRole::Admin && admins == 1 {
            let problem = "is the last admin; make another one first".to_owned();
            return Err(ChangeError::OperatorConflict {
                name: name.clone(),
                problem,
            });
        }
        let operator = self.put_operator(Operator {
            revoked: true,
            certificates: Vec::new(),
            ..(*old).clone()
        });
        self.event(
            EventKind::OperatorRevoked,
            None,
            None,
            None,
            name.to_string(),
        );
        Ok(Outcome::Operator(operator))
    }

    fn put_operator(&mut self, operator: Operator) -> Arc<Operator> {
        let operator = Arc::new(operator);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Operator(operator.clone())));
        self.state
            .fleet
            .operators
            .insert(operator.name.clone(), operator.clone());
        operator
    }
}

#[cfg(test)]
mod tests {
    use isyone_types::identity::CertificateInfo;

    use super::*;
    use crate::{
        change::Command,
        desired::{Admission, Refusal},
        testing::{Bench, name},
    };

    fn shown(sha256: u8) -> CertificateInfo {
        CertificateInfo {
            identity: Identity::Operator(name("ana"), OperatorRole::Admin),
            serial: vec![7],
            not_before: 0,
            not_after: 1 << 40,
            serves: false,
            sha256: [sha256; 32],
        }
    }

    /// A record of a version before is completed when its owner connects, and never changed after that.
    #[test]
    fn a_certificate_is_known_by_its_fingerprint_once_its_owner_has_connected() {
        let mut bench = Bench::default();
        let create = Command::CreateOperator {
            name: name("ana"),
            role: OperatorRole::Admin,
            certificate: Certificate {
                serial: "07".to_owned(),
                not_after: 1 << 40,
                sha256: String::new(),
            },
        };
        bench.apply(create).unwrap();
        let admitted = |bench: &Bench, by: u8| bench.state.fleet.admits(&shown(by));
        assert_eq!(admitted(&bench, 1), Ok(Admission::BySerial));
        for sha256 in [1, 2] {
            let pin = Command::PinCertificate {
                identity: shown(sha256).identity,
                serial: "07".to_owned(),
                sha256: shown(sha256).sha256_hex(),
            };
            bench.apply(pin).unwrap();
            assert_eq!(admitted(&bench, 1), Ok(Admission::Certain));
            assert_eq!(admitted(&bench, 2), Err(Refusal::Forged));
        }
    }
}
