//! The public services, one file each: parse the request into checked types, hand a command to the writer or read a
//! snapshot, and answer in wire types.
//!
//! [`access`] decides who may call what before any of this runs. Not here: decisions (isyone_fleet: change, placement,
//! views).

pub mod access;
mod accounts;
mod backups;
mod certificates;
mod domains;
mod edges;
mod events;
mod exec;
mod gate;
mod hosts;
mod mail;
mod maintenance;
mod moving;
mod operations;
mod outcomes;
mod page;
mod rebalancing;
mod renewals;
mod spec;
mod standbys;
mod system;
mod tenant_access;
mod tenants;
mod top;

use std::{pin::Pin, sync::Arc};

use isyone_fleet::{
    desired::{Tenant, VisitorAccess},
    operation::Operation,
    state::State,
    views,
};
use isyone_proto::{
    convert::parse,
    error::{self, FieldError},
    ids::TenantName,
    pb::v1,
    plan::UnixMs,
    tls::{CertificateInfo, OperatorRole},
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use self::{backups::inside::Readings, renewals::Renewals};
use crate::{
    agents::streams::Streams,
    base::{clock, config::Config, pki::Pki, secrets::Sealer},
    edges::{dns::Dns, domains::DomainLooks, probes::board::ProbeBoard, running::Edges},
    ports::listener::Peer,
    repositories::upkeep::Upkeep,
    wire::{caller::Caller, shown},
    writer::Handle,
};

/// A streamed answer.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Items queued for one client: enough to keep a stream busy, and little to hold for a client that does not read.
pub(crate) const STREAM_QUEUE: usize = 16;

/// Page size: the default and the maximum.
const PAGE: (usize, usize) = (100, 1000);
/// Longest idempotency key; a UUID has 36 characters.
const MAX_REQUEST_ID: usize = 64;

/// What the services need from the coordinator.
#[derive(Debug)]
pub struct Parts {
    /// The writer and its snapshots.
    pub handle: Handle,
    pub config: Arc<Config>,
    /// Signs operators' certificates.
    pub pki: Arc<Pki>,
    /// Seals and opens tenants' passwords and certificates' keys.
    pub sealer: Arc<Sealer>,
    /// The agents' sessions, for logs and shells.
    pub streams: Arc<Streams>,
    /// Which edges poll routes, and how far they are.
    pub edges: Arc<Edges>,
    /// The results of the probes through the edges.
    pub probes: Arc<ProbeBoard>,
    /// The results of DNS checks of tenants' domains.
    pub domains: Arc<DomainLooks>,
    /// Looks after tenants' repositories.
    pub upkeep: Arc<Upkeep>,
    /// Resolves where host names lead.
    pub dns: Arc<dyn Dns>,
    /// `host:port` that hosts join at.
    pub enroll_endpoint: String,
    /// When the coordinator started.
    pub started_at: UnixMs,
    /// Cancelled when the coordinator stops; ends every stream.
    pub stop: CancellationToken,
}

/// Implements all the public services.
#[derive(Debug, Clone)]
pub struct Api {
    parts: Arc<Parts>,
    renewals: Arc<Renewals>,
    readings: Readings,
}

impl Api {
    pub fn new(parts: Arc<Parts>) -> Self {
        Self {
            parts,
            renewals: Arc::default(),
            readings: Readings::default(),
        }
    }

    fn state(&self) -> Arc<State> {
        self.parts.handle.snapshot()
    }

    /// An operation in wire form, as of this state.
    fn shown_operation(&self, state: &State, operation: &Operation) -> v1::Operation {
        shown::operation(state, self.parts.handle.settings(), operation, now())
    }

    /// A tenant in wire form, with its probe's result.
    fn shown(&self, state: &State, tenant: &Tenant) -> v1::Tenant {
        let (settings, now) = (self.parts.handle.settings(), now());
        let seen = self.parts.probes.seen(state, settings, tenant, now);
        // A tenant that should not run is not missed.
        let seen = seen.filter(|_| views::monitored(tenant));
        v1::Tenant {
            probe: seen.map(|seen| shown::probe(&seen)),
            access: (tenant.access != VisitorAccess::default())
                .then(|| tenant_access::wire(&tenant.access, &self.parts.config.edge)),
            domains: self.domains_of(state, tenant),
            ..shown::tenant(state, settings, tenant, now)
        }
    }
}

fn now() -> UnixMs {
    clock::now_ms()
}

fn steady() -> i64 {
    clock::steady_ms()
}

/// The caller, as admitted by [`access`].
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("request without a caller"))
}

/// The certificate that a call comes with.
fn shown_certificate<T>(request: &Request<T>) -> Result<CertificateInfo, Status> {
    let peer = request.extensions().get::<Arc<Peer>>();
    let certificate = peer.and_then(|peer| peer.certificate.clone());
    certificate.ok_or_else(|| Status::internal("request without a certificate"))
}

/// Refuses a field that only admins may set to whoever is none; `remedy` says what they can do.
fn admin_only(caller: &Caller, field: &str, remedy: &str) -> Result<(), Status> {
    let who = match caller {
        Caller::Operator(_, OperatorRole::Admin) => return Ok(()),
        Caller::Operator(name, role) => format!("operator `{name}` has the role {role}"),
        other => format!("{other} is no operator"),
    };
    let problem = format!("{who}; this needs the role admin: {remedy}");
    Err(error::denied(FieldError::new(field, problem)))
}

fn tenant_name(text: &str) -> Result<TenantName, FieldError> {
    parse("name", text)
}

fn request_id(text: String) -> Result<Option<String>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() <= MAX_REQUEST_ID && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Some(text))
    } else {
        let problem =
            format!("must be at most {MAX_REQUEST_ID} printable characters, such as a UUID");
        Err(FieldError::new("request_id", problem))
    }
}

fn page_size(wanted: u32) -> Result<usize, FieldError> {
    match usize::try_from(wanted).unwrap_or(usize::MAX) {
        0 => Ok(PAGE.0),
        n if n <= PAGE.1 => Ok(n),
        n => Err(FieldError::new(
            "page_size",
            format!("{n} is more than {}", PAGE.1),
        )),
    }
}
