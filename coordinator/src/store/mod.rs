//! Where the Fleet is kept: a small trait, SQLite behind it, and memory for tests.
//!
//! Stored, each as one JSON record: tenants (with placement, ports, sealed secrets, activation), hosts (with plan generation and
//! certificates), certificates of host names (keys sealed; why one could not be had; the account with their authority), tenants' domains that lead elsewhere, operations (their existence; their steps once ended), join tokens, operators, the digest of the configuration that
//! plans were made of; and events. Not stored: anything a host reports, anything computable (indexes, loads, routes, targets).
//! SQL stays inside this folder.

pub mod memory;
pub mod sqlite;

use std::{borrow::Cow, collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    change::MAX_EVENTS,
    fleet::{
        Event, Fleet, Host, Operation, Operator, Tenant, Token,
        certificates::{AcmeAccount, EdgeCertificate, Trouble},
        domains::DomainTrouble,
    },
};

/// Kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// By name.
    Tenant,
    /// By name.
    Host,
    /// By id.
    Operation,
    /// By id.
    Token,
    /// By name.
    Operator,
    /// Of tenants' host names, by name.
    Certificate,
    /// A host name without one, by name.
    Trouble,
    /// A tenant's domain that leads elsewhere, by name.
    DomainTrouble,
    /// Single values.
    Meta,
}

impl Kind {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Host => "host",
            Self::Operation => "operation",
            Self::Token => "token",
            Self::Operator => "operator",
            Self::Certificate => "certificate",
            Self::Trouble => "certificate_trouble",
            Self::DomainTrouble => "domain_trouble",
            Self::Meta => "meta",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let plain = [
            Self::Tenant,
            Self::Host,
            Self::Operation,
            Self::Token,
            Self::Operator,
        ];
        let rest = [
            Self::Certificate,
            Self::Trouble,
            Self::DomainTrouble,
            Self::Meta,
        ];
        plain.into_iter().chain(rest).find(|k| k.as_str() == text)
    }
}

/// One stored value, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of what.
    pub kind: Kind,
    /// Which.
    pub id: String,
    /// JSON.
    pub body: String,
}

/// One value to store. It becomes JSON when it is stored, not on the way there: of a group's many writes of one host only the last
/// does.
#[derive(Debug, Clone)]
pub enum Value {
    /// A tenant.
    Tenant(Arc<Tenant>),
    /// A host.
    Host(Arc<Host>),
    /// An operation.
    Operation(Arc<Operation>),
    /// A join token.
    Token(Arc<Token>),
    /// An operator.
    Operator(Arc<Operator>),
    /// A certificate.
    Certificate(Arc<EdgeCertificate>),
    /// Why there is none.
    Trouble(Arc<Trouble>),
    /// Where a domain leads.
    DomainTrouble(Arc<DomainTrouble>),
    /// At the certificate authority.
    AcmeAccount(Arc<AcmeAccount>),
    /// [`Fleet::plan_digest`].
    PlanDigest(String),
    /// Out of another store, as it was.
    Copy(Record),
}

/// Where [`Value::PlanDigest`] lies.
const PLAN_DIGEST: &str = "plan_digest";
/// Where [`Value::AcmeAccount`] lies.
const ACME_ACCOUNT: &str = "acme_account";

impl Value {
    /// Its place: of what, and which.
    fn key(&self) -> (Kind, Cow<'_, str>) {
        match self {
            Self::Tenant(tenant) => (Kind::Tenant, tenant.name.as_str().into()),
            Self::Host(host) => (Kind::Host, host.name.as_str().into()),
            Self::Operation(operation) => (Kind::Operation, operation.id.to_string().into()),
            Self::Token(token) => (Kind::Token, token.id.as_str().into()),
            Self::Operator(operator) => (Kind::Operator, operator.name.as_str().into()),
            Self::Certificate(certificate) => (Kind::Certificate, certificate.name.as_str().into()),
            Self::Trouble(trouble) => (Kind::Trouble, trouble.name.as_str().into()),
            Self::DomainTrouble(trouble) => (Kind::DomainTrouble, trouble.domain.as_str().into()),
            Self::AcmeAccount(_) => (Kind::Meta, ACME_ACCOUNT.into()),
            Self::PlanDigest(_) => (Kind::Meta, PLAN_DIGEST.into()),
            Self::Copy(record) => (record.kind, record.id.as_str().into()),
        }
    }

    fn body(&self) -> String {
        fn json(value: &impl Serialize) -> String {
            // Our own types: string keys only, no failing `Serialize`; pinned by the round-trip test.
            serde_json::to_string(value).unwrap_or_default()
        }
        match self {
            Self::Tenant(tenant) => json(&**tenant),
            Self::Host(host) => json(&**host),
            Self::Operation(operation) => json(&**operation),
            Self::Token(token) => json(&**token),
            Self::Operator(operator) => json(&**operator),
            Self::Certificate(certificate) => json(&**certificate),
            Self::Trouble(trouble) => json(&**trouble),
            Self::DomainTrouble(trouble) => json(&**trouble),
            Self::AcmeAccount(account) => json(&**account),
            Self::PlanDigest(digest) => json(digest),
            Self::Copy(record) => record.body.clone(),
        }
    }
}

/// One change to store.
#[derive(Debug, Clone)]
pub enum Write {
    /// Insert or replace.
    Put(Value),
    /// Forget.
    Delete(Kind, String),
    /// Append; the oldest beyond [`MAX_EVENTS`] go.
    Event(Arc<Event>),
}

/// What a group of writes comes to: the last word on each key (its JSON, or nothing), and the events.
#[derive(Debug, Default)]
struct Group<'a> {
    records: BTreeMap<(Kind, Cow<'a, str>), Option<String>>,
    events: Vec<&'a Event>,
}

impl<'a> Group<'a> {
    fn of(writes: &'a [Write]) -> Self {
        let mut last: BTreeMap<(Kind, Cow<'a, str>), Option<&'a Value>> = BTreeMap::new();
        let mut events = Vec::new();
        for write in writes {
            match write {
                Write::Put(value) => drop(last.insert(value.key(), Some(value))),
                Write::Delete(kind, id) => drop(last.insert((*kind, id.into()), None)),
                Write::Event(event) => events.push(&**event),
            }
        }
        let records = last
            .into_iter()
            .map(|(key, value)| (key, value.map(Value::body)))
            .collect();
        Self { records, events }
    }
}

/// Everything stored.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// In no particular order.
    pub records: Vec<Record>,
    /// The newest [`MAX_EVENTS`], oldest first.
    pub events: Vec<Event>,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's words.
    #[error("database: {0}")]
    Database(String),
    /// A record that this version cannot read. Nothing is started on half a fleet.
    #[error("record {kind}/{id} cannot be read: {why}")]
    Unreadable {
        /// Of what.
        kind: String,
        /// Which.
        id: String,
        /// The reader's words.
        why: String,
    },
}

/// A future of a store.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Durable storage with one user: the writer.
pub trait Store: Send {
    /// Everything.
    fn load(&mut self) -> StoreFuture<'_, Contents>;
    /// All writes or none; durable (power loss included) when it answers.
    fn commit<'a>(&'a mut self, writes: &'a [Write]) -> StoreFuture<'a, ()>;
}

/// The Fleet that records make.
pub fn fleet(contents: Contents) -> Result<Fleet, StoreError> {
    fn read<T: DeserializeOwned>(record: &Record) -> Result<Arc<T>, StoreError> {
        serde_json::from_str(&record.body)
            .map(Arc::new)
            .map_err(|e| StoreError::Unreadable {
                kind: record.kind.as_str().to_owned(),
                id: record.id.clone(),
                why: e.to_string(),
            })
    }
    let mut fleet = Fleet::default();
    for record in &contents.records {
        match record.kind {
            Kind::Tenant => fleet.put_tenant(read::<Tenant>(record)?),
            Kind::Host => {
                let host = read::<Host>(record)?;
                fleet.hosts.insert(host.name.clone(), host);
            }
            Kind::Operation => fleet.put_operation(read::<Operation>(record)?),
            Kind::Token => {
                let token = read::<Token>(record)?;
                fleet.tokens.insert(token.id.clone(), token);
            }
            Kind::Operator => {
                let operator = read::<Operator>(record)?;
                fleet.operators.insert(operator.name.clone(), operator);
            }
            Kind::Certificate => {
                let certificate = read::<EdgeCertificate>(record)?;
                fleet
                    .certificates
                    .insert(certificate.name.clone(), certificate);
            }
            Kind::Trouble => {
                let trouble = read::<Trouble>(record)?;
                fleet
                    .certificate_troubles
                    .insert(trouble.name.clone(), trouble);
            }
            Kind::DomainTrouble => {
                let trouble = read::<DomainTrouble>(record)?;
                fleet
                    .domain_troubles
                    .insert(trouble.domain.to_string(), trouble);
            }
            Kind::Meta => match record.id.as_str() {
                PLAN_DIGEST => fleet.plan_digest = (*read::<String>(record)?).clone(),
                ACME_ACCOUNT => fleet.acme_account = Some(read::<AcmeAccount>(record)?),
                _ => {}
            },
        }
    }
    let skip = contents.events.len().saturating_sub(MAX_EVENTS);
    fleet.events = contents
        .events
        .into_iter()
        .skip(skip)
        .map(Arc::new)
        .collect();
    fleet.last_event = fleet.events.last().map_or(0, |e| e.sequence);
    Ok(fleet)
}
