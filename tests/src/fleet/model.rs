//! What operators were told, and therefore what must be true: the expectation that a run is checked against.
//!
//! There is one operator, who sends the next request on a tenant only after the previous one was answered, so the model
//! is exact.

use std::collections::BTreeMap;

use isyone_proto::error::reason;
use tonic::{Code, Status};

use super::operator::{Acknowledged, Order, Request, leaves_in_doubt};

/// Tenant names that operators use; few, so that they collide.
pub const TENANTS: [&str; 10] = [
    "alfa", "beta", "gama", "delta", "echo", "fox", "golf", "hotel", "india", "juliet",
];

/// The expected state of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Running,
    Suspended,
    /// In quarantine; gone if it never ran, or once the quarantine is over.
    Deleted,
    Purged,
}

/// A tenant whose create was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Distinguishes incarnations of the same name.
    pub uid: String,
    pub expected: Expected,
}

impl Known {
    fn is_alive(&self) -> bool {
        matches!(self.expected, Expected::Running | Expected::Suspended)
    }
}

#[derive(Debug, Default)]
pub struct Model {
    pub tenants: BTreeMap<&'static str, Known>,
    /// Requests sent, possibly carried out, but not answered.
    pub in_doubt: Vec<Request>,
    /// Acknowledged requests with the operation that each began; repeating them later must change nothing.
    pub answered: Vec<(Request, String)>,
    /// Number of acknowledged and of refused requests.
    pub counts: (u32, u32),
}

impl Model {
    /// Whether a request on this tenant is waiting to be retried.
    pub fn is_in_doubt(&self, tenant: &str) -> bool {
        self.in_doubt.iter().any(|r| r.tenant == tenant)
    }

    /// Records an answer. Panics if it contradicts earlier ones.
    pub fn learn(&mut self, request: Request, answer: Result<Acknowledged, Status>) {
        match answer {
            Ok(acknowledged) => {
                self.counts.0 += 1;
                if self.acknowledged(&request, acknowledged.uid) {
                    self.answered.push((request, acknowledged.operation));
                }
            }
            // Another operation is under way: nothing was done, whoever asked before.
            Err(status) if reason(&status).as_deref() == Some("OPERATION_IN_PROGRESS") => {
                self.counts.1 += 1;
            }
            Err(status) if leaves_in_doubt(status.code()) => self.in_doubt.push(request),
            Err(status) => {
                self.counts.1 += 1;
                self.refused(&request, &status);
            }
        }
    }

    /// True if the request has changed something.
    fn acknowledged(&mut self, request: &Request, uid: Option<String>) -> bool {
        let before = self.tenants.get(request.tenant).cloned();
        if let Order::Create(_) = request.order {
            let uid = uid.expect("a create answers its tenant");
            if let Some(known) = before.filter(|k| k.is_alive()) {
                assert_eq!(known.uid, uid, "{request:?}: the tenant was replaced");
                return false;
            }
            self.tenants.insert(
                request.tenant,
                Known {
                    uid,
                    expected: Expected::Running,
                },
            );
            return true;
        }
        let known = before.unwrap_or_else(|| panic!("{request:?} was acknowledged for nobody"));
        let expected = match (request.order, known.expected) {
            (Order::Suspend, Expected::Running) => Expected::Suspended,
            (Order::Resume, Expected::Suspended) => Expected::Running,
            (Order::Delete, Expected::Running | Expected::Suspended) => Expected::Deleted,
            (Order::Purge, Expected::Deleted) => Expected::Purged,
            (Order::Undelete, Expected::Deleted) => Expected::Running,
            (Order::Restart(_), Expected::Running) => return true,
            // These change nothing that is checked, or nothing at all.
            (Order::Suspend | Order::Resume | Order::Resize(_) | Order::Upgrade(_), _)
                if known.is_alive() =>
            {
                return false;
            }
            (Order::Delete | Order::Purge, Expected::Deleted | Expected::Purged) => return false,
            _ => panic!("{request:?} was acknowledged for a tenant that is {known:?}"),
        };
        self.tenants
            .insert(request.tenant, Known { expected, ..known });
        request.order != Order::Purge
    }

    /// Panics on refusals that cannot be right.
    fn refused(&self, request: &Request, status: &Status) {
        let alive = self.tenants.get(request.tenant).filter(|k| k.is_alive());
        let wrong = match (request.order, alive) {
            (Order::Suspend | Order::Resume | Order::Delete, Some(_)) => true,
            (Order::Restart(_), Some(known)) => known.expected == Expected::Running,
            (_, Some(_)) => status.code() == Code::NotFound,
            (_, None) => matches!(
                status.code(),
                Code::InvalidArgument | Code::PermissionDenied
            ),
        };
        assert!(
            !wrong,
            "{request:?} was refused with {status:?} for {alive:?}"
        );
    }

    /// Checks the late repetition of an acknowledged request: it returns the same operation, or that its tenant is
    /// gone.
    pub fn take_repetition(
        &self,
        request: &Request,
        operation: &str,
        answer: Result<Acknowledged, Status>,
    ) {
        match answer {
            Ok(again) => assert_eq!(
                again.operation, operation,
                "{request:?} was carried out twice"
            ),
            Err(status) if leaves_in_doubt(status.code()) => {}
            Err(status) => {
                let known = self.tenants.get(request.tenant);
                let gone = matches!(request.order, Order::Create(_))
                    && reason(&status).as_deref() == Some("REQUEST_ID_REUSED");
                assert!(
                    gone,
                    "the repetition of {request:?} was refused with {status:?} for {known:?}"
                );
            }
        }
    }
}
