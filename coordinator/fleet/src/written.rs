//! What is stored of the Fleet, and how it is read back: each tenant, host, operation … is one JSON record; events are a list.
//!
//! Stored: tenants (with placement, ports, sealed secrets, activation), hosts (with plan generation and certificates),
//! certificates of host names (keys sealed; why one could not be had; the account with their authority), tenants' domains that
//! lead elsewhere, operations (their existence; their steps once ended), join tokens, operators, the digest of the configuration
//! that plans were made of; and events. Not stored: anything a host reports, anything computable (indexes, loads, routes,
//! targets). Not here: where records are kept (the coordinator's store).

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    desired::{
        Fleet, Host, MAX_EVENTS, Operator, Tenant, Token,
        certificates::{AcmeAccount, CertificateTrouble, EdgeCertificate},
        domains::DomainTrouble,
    },
    event::Event,
    operation::Operation,
};

/// Kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    Tenant,
    Host,
    Operation,
    Token,
    Operator,
    /// A certificate of tenants' host names.
    Certificate,
    /// A host name for which no certificate could be had.
    CertificateTrouble,
    /// A tenant's domain that leads elsewhere.
    DomainTrouble,
    /// Values of which there is one each: the plans' digest, the account with the authority.
    Meta,
}

impl RecordKind {
    /// The word that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Host => "host",
            Self::Operation => "operation",
            Self::Token => "token",
            Self::Operator => "operator",
            Self::Certificate => "certificate",
            Self::CertificateTrouble => "certificate_trouble",
            Self::DomainTrouble => "domain_trouble",
            Self::Meta => "meta",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let plain = [
            Self::Tenant,
            Self::Host,
            Self::Operation,
            Self::Token,
            Self::Operator,
        ];
        let rest = [
            Self::Certificate,
            Self::CertificateTrouble,
            Self::DomainTrouble,
            Self::Meta,
        ];
        plain.into_iter().chain(rest).find(|k| k.as_str() == text)
    }
}

/// One stored value, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    /// Its key among its kind: a name or an id.
    pub id: String,
    pub body: String,
}

/// One value to store. It becomes JSON when it is stored, not on the way there: of a group's many writes of one host only the last
/// does.
#[derive(Debug, Clone)]
pub enum RecordValue {
    Tenant(Arc<Tenant>),
    Host(Arc<Host>),
    Operation(Arc<Operation>),
    Token(Arc<Token>),
    Operator(Arc<Operator>),
    Certificate(Arc<EdgeCertificate>),
    /// Why there is no certificate.
    CertificateTrouble(Arc<CertificateTrouble>),
    DomainTrouble(Arc<DomainTrouble>),
    AcmeAccount(Arc<AcmeAccount>),
    /// The value of [`Fleet::plan_digest`].
    PlanDigest(String),
    /// A record out of another store, as it was.
    Copy(Record),
}

/// Where [`RecordValue::PlanDigest`] lies.
const PLAN_DIGEST: &str = "plan_digest";
/// Where [`RecordValue::AcmeAccount`] lies.
const ACME_ACCOUNT: &str = "acme_account";

impl RecordValue {
    /// Its place: of what, and which.
    pub fn key(&self) -> (RecordKind, Cow<'_, str>) {
        match self {
            Self::Tenant(tenant) => (RecordKind::Tenant, tenant.name.as_str().into()),
            Self::Host(host) => (RecordKind::Host, host.name.as_str().into()),
            Self::Operation(operation) => (RecordKind::Operation, operation.id.to_string().into()),
            Self::Token(token) => (RecordKind::Token, token.id.as_str().into()),
            Self::Operator(operator) => (RecordKind::Operator, operator.name.as_str().into()),
            Self::Certificate(certificate) => {
                (RecordKind::Certificate, certificate.name.as_str().into())
            }
            Self::CertificateTrouble(trouble) => {
                (RecordKind::CertificateTrouble, trouble.name.as_str().into())
            }
            Self::DomainTrouble(trouble) => {
                (RecordKind::DomainTrouble, trouble.domain.as_str().into())
            }
            Self::AcmeAccount(_) => (RecordKind::Meta, ACME_ACCOUNT.into()),
            Self::PlanDigest(_) => (RecordKind::Meta, PLAN_DIGEST.into()),
            Self::Copy(record) => (record.kind, record.id.as_str().into()),
        }
    }

    pub fn body(&self) -> String {
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
            Self::CertificateTrouble(trouble) => json(&**trouble),
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
    Put(RecordValue),
    Delete(RecordKind, String),
    /// Append; the oldest beyond [`MAX_EVENTS`] go.
    Event(Arc<Event>),
}

/// What a group of writes comes to: the last word on each key (its JSON, or nothing), and the events.
#[derive(Debug, Default)]
pub struct Group<'a> {
    /// By kind and key: JSON, or none where the record goes.
    pub records: BTreeMap<(RecordKind, Cow<'a, str>), Option<String>>,
    /// Oldest first.
    pub events: Vec<&'a Event>,
}

impl<'a> Group<'a> {
    /// What writes come to that are stored together.
    pub fn of(writes: &'a [Write]) -> Self {
        let mut last: BTreeMap<(RecordKind, Cow<'a, str>), Option<&'a RecordValue>> =
            BTreeMap::new();
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
            .map(|(key, value)| (key, value.map(RecordValue::body)))
            .collect();
        Self { records, events }
    }
}

/// Everything that is stored, as it is loaded at a start.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// In no particular order.
    pub records: Vec<Record>,
    /// The newest [`MAX_EVENTS`], oldest first.
    pub events: Vec<Event>,
}

/// Records as a store holds them, in memory: what tests and simulations keep in place of a database.
#[derive(Debug, Clone, Default)]
pub struct Records {
    records: BTreeMap<(RecordKind, String), String>,
    events: Vec<Event>,
}

impl Records {
    /// Carries out writes, all of them.
    pub fn apply(&mut self, writes: &[Write]) {
        let group = Group::of(writes);
        for ((kind, id), body) in group.records {
            match body {
                Some(body) => drop(self.records.insert((kind, id.into_owned()), body)),
                None => drop(self.records.remove(&(kind, id.into_owned()))),
            }
        }
        self.events.extend(group.events.into_iter().cloned());
        let surplus = self.events.len().saturating_sub(MAX_EVENTS);
        self.events.drain(..surplus);
    }

    /// Everything, as a store loads it.
    pub fn contents(&self) -> Contents {
        let record = |((kind, id), body): (&(RecordKind, String), &String)| Record {
            kind: *kind,
            id: id.clone(),
            body: body.clone(),
        };
        Contents {
            records: self.records.iter().map(record).collect(),
            events: self.events.clone(),
        }
    }
}

/// A record that this version cannot read. Nothing is started on half a fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {kind}/{id} cannot be read: {why}")]
pub struct UnreadableRecord {
    /// Its kind, as stored.
    pub kind: String,
    /// Its key among its kind.
    pub id: String,
    /// The JSON reader's words.
    pub why: String,
}

/// The Fleet that records make.
pub fn fleet(contents: Contents) -> Result<Fleet, UnreadableRecord> {
    fn read<T: DeserializeOwned>(record: &Record) -> Result<Arc<T>, UnreadableRecord> {
        serde_json::from_str(&record.body)
            .map(Arc::new)
            .map_err(|e| UnreadableRecord {
                kind: record.kind.as_str().to_owned(),
                id: record.id.clone(),
                why: e.to_string(),
            })
    }
    let mut fleet = Fleet::default();
    for record in &contents.records {
        match record.kind {
            RecordKind::Tenant => fleet.put_tenant(read::<Tenant>(record)?),
            RecordKind::Host => {
                let host = read::<Host>(record)?;
                fleet.hosts.insert(host.name.clone(), host);
            }
            RecordKind::Operation => fleet.put_operation(read::<Operation>(record)?),
            RecordKind::Token => {
                let token = read::<Token>(record)?;
                fleet.tokens.insert(token.id.clone(), token);
            }
            RecordKind::Operator => {
                let operator = read::<Operator>(record)?;
                fleet.operators.insert(operator.name.clone(), operator);
            }
            RecordKind::Certificate => {
                let certificate = read::<EdgeCertificate>(record)?;
                fleet
                    .certificates
                    .insert(certificate.name.clone(), certificate);
            }
            RecordKind::CertificateTrouble => {
                let trouble = read::<CertificateTrouble>(record)?;
                fleet
                    .certificate_troubles
                    .insert(trouble.name.clone(), trouble);
            }
            RecordKind::DomainTrouble => {
                let trouble = read::<DomainTrouble>(record)?;
                fleet
                    .domain_troubles
                    .insert(trouble.domain.to_string(), trouble);
            }
            RecordKind::Meta => match record.id.as_str() {
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
