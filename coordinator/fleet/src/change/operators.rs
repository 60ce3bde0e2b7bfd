//! Commands on operators: certificates, roles and revocation.
//!
//! Not here: what a role may do (the coordinator's operators/access), and signing certificates (its base/pki).

use std::sync::Arc;

use isyone_types::{
    identity::{CertificateInfo, Identity, OperatorRole},
    ids::ShortName,
};

use super::{ChangeError, Edit, MAX_OPERATOR_CERTIFICATES, Outcome, RenewOperator};
use crate::{
    desired::{Certificate, Operator},
    event::{EventKind, is_the_platform},
    written::{RecordValue, Write},
};

impl Edit<'_> {
    /// Adds an operator, or another certificate of one that is there. With `again` a revoked name begins anew: what was
    /// accepted before stays refused.
    pub(super) fn create_operator(
        &mut self,
        name: ShortName,
        role: OperatorRole,
        certificate: Certificate,
        again: bool,
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
        let fresh = || Operator {
            name: name.clone(),
            role,
            created_at: self.stamp.now,
            revoked: false,
            certificates: Vec::new(),
        };
        let (mut operator, note) = match self.state.fleet.operators.get(&name) {
            Some(old) if old.revoked && again => (fresh(), ", whose name was revoked before"),
            Some(old) if old.revoked => return Err(conflict(is_revoked(old))),
            Some(old) if old.role != role => {
                let problem = format!(
                    "has the role {}; `isyctl operator renew {name} --role {role}` gives it another",
                    old.role
                );
                return Err(conflict(problem));
            }
            Some(old) => ((**old).clone(), ""),
            None => (fresh(), ""),
        };
        let now_s = self.stamp.now / 1000;
        operator.certificates.retain(|c| c.not_after > now_s);
        if operator.certificates.len() >= MAX_OPERATOR_CERTIFICATES {
            return Err(conflict(format!(
                "holds {MAX_OPERATOR_CERTIFICATES} certificates already; `isyctl operator renew {name}` puts one in place of all"
            )));
        }
        operator.certificates.push(certificate);
        let operator = self.put_operator(operator);
        self.tell_of_operator(
            EventKind::OperatorCertified,
            format!("{name}, role {role}{note}"),
        );
        Ok(Outcome::Operator(operator))
    }

    /// Puts a new certificate in the place of all that an operator has, and perhaps another role in the place of its own.
    /// Those are refused from now on, but for the one that the operator itself asks with.
    pub(super) fn renew_operator(&mut self, renew: RenewOperator) -> Result<Outcome, ChangeError> {
        let RenewOperator {
            name,
            role,
            certificate,
            asked_with,
        } = renew;
        self.still_accepted(asked_with.as_deref())?;
        let certificate = following(certificate, &name, asked_with.as_deref());
        let own = asked_with.filter(|shown| is_of(shown, &name));
        let old = self.operator(&name)?;
        let conflict = |problem: String| ChangeError::OperatorConflict {
            name: name.clone(),
            problem,
        };
        if old.revoked {
            return Err(conflict(is_revoked(&old)));
        }
        if own.is_some() && role != old.role {
            let problem = "cannot change its own role; another admin can".to_owned();
            return Err(conflict(problem));
        }
        if role != OperatorRole::Admin && self.is_the_last_admin(&old) {
            return Err(conflict(
                "is the last admin; make another one first".to_owned(),
            ));
        }
        let mut certificates = old.certificates.clone();
        certificates.retain(|c| own.as_ref().is_some_and(|shown| c.is(shown)));
        let refused = old.certificates.len() - certificates.len();
        certificates.push(certificate);
        let operator = self.put_operator(Operator {
            role,
            certificates,
            ..(*old).clone()
        });
        let (kind, role) = match role == old.role {
            true => (EventKind::OperatorRenewed, role.to_string()),
            false => (
                EventKind::OperatorRoleChanged,
                format!("{role}, before {}", old.role),
            ),
        };
        let mut message = format!("{name}, role {role}; {}", are_refused(refused));
        if own.is_some() {
            message += ", and the one in use once the new one is there";
        }
        self.tell_of_operator(kind, message);
        Ok(Outcome::Operator(operator))
    }

    /// Refuses all of an operator's certificates but the one that it has come with.
    pub(super) fn retire_certificates(
        &mut self,
        name: &ShortName,
        keep: &CertificateInfo,
    ) -> Result<Outcome, ChangeError> {
        let old = self.operator(name)?;
        let mut certificates = old.certificates.clone();
        certificates.retain(|c| c.is(keep));
        if old.revoked || certificates.is_empty() {
            return Err(ChangeError::OperatorConflict {
                name: name.clone(),
                problem: REPLACED.to_owned(),
            });
        }
        let refused = old.certificates.len() - certificates.len();
        if refused == 0 {
            return Ok(Outcome::Operator(old));
        }
        let operator = self.put_operator(Operator {
            certificates,
            ..(*old).clone()
        });
        let message = format!("{name}, role {}; {}", old.role, are_refused(refused));
        self.tell_of_operator(EventKind::OperatorRenewed, message);
        Ok(Outcome::Operator(operator))
    }

    /// Refuses what is asked for with a certificate that was replaced or taken back while it was on its way.
    pub(super) fn still_accepted(
        &self,
        asked_with: Option<&CertificateInfo>,
    ) -> Result<(), ChangeError> {
        match asked_with.map(|shown| self.state.fleet.admits(shown)) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(refusal)) => Err(ChangeError::CallerRefused(refusal)),
        }
    }

    fn operator(&self, name: &ShortName) -> Result<Arc<Operator>, ChangeError> {
        let known = self.state.fleet.operators.get(name).cloned();
        known.ok_or_else(|| ChangeError::OperatorNotFound(name.clone()))
    }

    fn is_the_last_admin(&self, operator: &Operator) -> bool {
        let is_admin = |o: &&Arc<Operator>| !o.revoked && o.role == OperatorRole::Admin;
        let admins = self.state.fleet.operators.values().filter(is_admin);
        operator.role == OperatorRole::Admin && admins.count() == 1
    }

    fn tell_of_operator(&mut self, kind: EventKind, message: String) {
        self.event(kind, None, None, None, message);
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
                let mut operator = (*self.operator(name)?).clone();
                if pin(&mut operator.certificates).is_some() {
                    self.put_operator(operator);
                }
            }
            Identity::Coordinator => {}
        }
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_operator(&mut self, name: &ShortName) -> Result<Outcome, ChangeError> {
        let old = self.operator(name)?;
        if old.revoked {
            return Ok(Outcome::Operator(old));
        }
        if self.is_the_last_admin(&old) {
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
        self.tell_of_operator(EventKind::OperatorRevoked, name.to_string());
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

fn is_of(shown: &CertificateInfo, operator: &ShortName) -> bool {
    matches!(&shown.identity, Identity::Operator(name, _) if name == operator)
}

/// A certificate for `operator`, with a note of which of its own it was asked for with.
pub(super) fn following(
    certificate: Certificate,
    operator: &ShortName,
    asked_with: Option<&CertificateInfo>,
) -> Certificate {
    let own = asked_with.filter(|shown| is_of(shown, operator));
    Certificate {
        follows: own.map(CertificateInfo::sha256_hex),
        ..certificate
    }
}

/// To whoever asks with a certificate that is refused by now.
const REPLACED: &str = "has another certificate by now; if that was not you, let an admin renew it (`isyctl operator renew NAME`)";

fn is_revoked(operator: &Operator) -> String {
    let (name, role) = (&operator.name, operator.role);
    format!("is revoked; `isyctl operator create {name} --role {role}` begins anew under this name")
}

fn are_refused(certificates: usize) -> String {
    match certificates {
        1 => "the certificate before is refused from now on".to_owned(),
        n => format!("{n} certificates before are refused from now on"),
    }
}

#[cfg(test)]
mod tests {
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
                follows: None,
            },
            again: false,
            asked_with: None,
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

    /// A certificate of ana's, told apart by one byte.
    fn issued(n: u8) -> Certificate {
        Certificate {
            serial: format!("{n:02x}"),
            not_after: 1 << 40,
            sha256: hex::encode([n; 32]),
            follows: None,
        }
    }

    fn holder(n: u8, role: OperatorRole) -> CertificateInfo {
        CertificateInfo {
            identity: Identity::Operator(name("ana"), role),
            serial: vec![n],
            ..shown(n)
        }
    }

    fn create(n: u8, role: OperatorRole) -> Command {
        Command::CreateOperator {
            name: name("ana"),
            role,
            certificate: issued(n),
            again: true,
            asked_with: None,
        }
    }

    fn renew(n: u8, role: OperatorRole, asked_with: Option<CertificateInfo>) -> Command {
        Command::RenewOperator(Box::new(RenewOperator {
            name: name("ana"),
            role,
            certificate: issued(n),
            asked_with: asked_with.map(Box::new),
        }))
    }

    fn is_in(bench: &Bench, n: u8, role: OperatorRole) -> bool {
        bench.state.fleet.admits(&holder(n, role)).is_ok()
    }

    fn told(bench: &Bench) -> &str {
        bench.state.fleet.events.last().unwrap().kind.as_str()
    }

    #[test]
    fn a_renewal_by_an_admin_refuses_all_that_was_there_at_once() {
        use OperatorRole::{Operator, Viewer};
        let mut bench = Bench::default();
        bench.apply(create(1, Viewer)).unwrap();
        bench.apply(create(2, Viewer)).unwrap();
        bench.apply(renew(3, Viewer, None)).unwrap();
        assert_eq!(
            [1, 2, 3].map(|n| is_in(&bench, n, Viewer)),
            [false, false, true]
        );
        assert_eq!(told(&bench), "operator.renewed");
        bench.apply(renew(4, Operator, None)).unwrap();
        assert_eq!(told(&bench), "operator.role_changed");
        assert!(!is_in(&bench, 3, Viewer) && is_in(&bench, 4, Operator));
    }

    /// The answer comes over a connection with the old certificate: cut too early, it would be lost, and the owner with it.
    #[test]
    fn who_renews_itself_keeps_what_it_asked_with_until_it_comes_with_the_new_one() {
        let role = OperatorRole::Viewer;
        let mut bench = Bench::default();
        for n in [1, 2] {
            bench.apply(create(n, role)).unwrap();
        }
        bench.apply(renew(3, role, Some(holder(1, role)))).unwrap();
        assert_eq!(
            [1, 2, 3].map(|n| is_in(&bench, n, role)),
            [true, false, true]
        );
        let retire = |n| Command::RetireCertificates {
            name: name("ana"),
            keep: Box::new(holder(n, role)),
        };
        bench.apply(retire(3)).unwrap();
        assert_eq!(
            [1, 2, 3].map(|n| is_in(&bench, n, role)),
            [false, false, true]
        );
        assert_eq!(told(&bench), "operator.renewed");
        // What was on its way with a refused one changes nothing.
        assert!(bench.apply(retire(1)).is_err());
        assert!(bench.apply(renew(4, role, Some(holder(1, role)))).is_err());
        assert!(is_in(&bench, 3, role) && !is_in(&bench, 4, role));
        // Nobody gives itself a role.
        let raised = renew(4, OperatorRole::Admin, Some(holder(3, role)));
        assert!(bench.apply(raised).is_err());
    }

    #[test]
    fn the_last_admin_stays_one() {
        let mut bench = Bench::default();
        bench.apply(create(1, OperatorRole::Admin)).unwrap();
        let lowered = bench
            .apply(renew(2, OperatorRole::Viewer, None))
            .unwrap_err();
        assert!(
            lowered.to_string().contains("is the last admin"),
            "{lowered}"
        );
        bench.apply(renew(2, OperatorRole::Admin, None)).unwrap();
        assert!(is_in(&bench, 2, OperatorRole::Admin));
    }

    #[test]
    fn a_revoked_name_begins_anew_and_what_it_had_stays_refused() {
        use OperatorRole::{Monitor, Viewer};
        let mut bench = Bench::default();
        bench.apply(create(1, Monitor)).unwrap();
        bench
            .apply(Command::RevokeOperator { name: name("ana") })
            .unwrap();
        let unasked = Command::CreateOperator {
            name: name("ana"),
            role: Monitor,
            certificate: issued(2),
            again: false,
            asked_with: None,
        };
        let refused = bench.apply(unasked).unwrap_err().to_string();
        assert!(
            refused.contains("`isyctl operator create ana --role monitor`"),
            "{refused}"
        );
        assert!(bench.apply(renew(2, Monitor, None)).is_err());
        bench.apply(create(2, Viewer)).unwrap();
        assert!(is_in(&bench, 2, Viewer));
        assert!(!is_in(&bench, 1, Monitor) && !is_in(&bench, 1, Viewer));
    }
}
