//! Commands on operators: certificates and revocation.
//!
//! Not here: what a role may do (the coordinator's operators/access), and signing certificates (its base/pki).

use std::sync::Arc;

use isyone_types::{identity::OperatorRole, ids::ShortName};

use super::{ChangeError, Edit, MAX_OPERATOR_CERTIFICATES, Outcome};
use crate::{
    desired::{Certificate, Operator},
    event::EventKind,
    written::{RecordValue, Write},
};

/// Names under which the platform itself acts; see [`crate::operation::Operation::is_the_platforms`].
const PLATFORMS_OWN: [&str; 2] = ["coordinator", "visitor"];

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
        if PLATFORMS_OWN.contains(&name.as_str()) {
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
