//! What is stored of the Fleet, and how it is loaded: each tenant, host, operation … is one JSON record; events are a
//! list.
//!
//! Stored: tenants (with placement, ports, sealed secrets, activation), hosts (with plan generation and certificates),
//! certificates of host names (keys sealed), failed certificate orders, the account with the certificate authority,
//! tenants' domains that do not lead here, operations (their existence; once ended also their steps), join tokens,
//! operators, keys of backups (sealed) and what was backed up, the digest of the configuration that plans were rendered with, the incarnation, the highest generation of
//! a removed host; and events. Not stored: anything that
//! hosts report, anything computable (indexes, loads, routes, targets).
//! Not here: where records are kept (the coordinator's store), what to write to get from one Fleet to another (changes).

mod changes;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use isyone_types::{
    generation::Generation,
    ids::{HostName, ShortName},
    spec::{Country, ImageRef, Language, Login, Module, TimeZone},
};
use serde::{Serialize, de::DeserializeOwned};

pub use self::changes::{between, everything};
use crate::{
    desired::{
        Fleet, Host, Operator, Tenant, Token,
        backups::{BackupKey, TenantBackups},
        certificates::{AcmeAccount, CertificateTrouble, EdgeCertificate},
        domains::DomainTrouble,
    },
    event::{Event, EventLog},
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
    /// A host name whose certificate order has failed so far.
    CertificateTrouble,
    /// A tenant's domain that does not lead here.
    DomainTrouble,
    /// The key of a tenant's backups. A kind of its own, apart from what else is stored of them, so that keys can be kept and
    /// shipped apart and be gone everywhere once they are deleted.
    BackupKey,
    /// What was backed up of a tenant.
    Backups,
    /// Single values: the plans' digest, the incarnation, the account with the certificate authority.
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
            Self::BackupKey => "backup_key",
            Self::Backups => "backups",
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
            Self::BackupKey,
            Self::Backups,
            Self::Meta,
        ];
        plain.into_iter().chain(rest).find(|k| k.as_str() == text)
    }
}

/// One stored value, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    /// Its key within its kind: a name or an id.
    pub id: String,
    pub body: String,
}

/// One value to store. It is serialised only when it is stored: when a group writes one host many times, only the last
/// value becomes JSON.
#[derive(Debug, Clone)]
pub enum RecordValue {
    Tenant(Arc<Tenant>),
    Host(Arc<Host>),
    Operation(Arc<Operation>),
    Token(Arc<Token>),
    Operator(Arc<Operator>),
    Certificate(Arc<EdgeCertificate>),
    CertificateTrouble(Arc<CertificateTrouble>),
    DomainTrouble(Arc<DomainTrouble>),
    BackupKey(Arc<BackupKey>),
    Backups(Arc<TenantBackups>),
    AcmeAccount(Arc<AcmeAccount>),
    /// The value of [`Fleet::plan_digest`].
    PlanDigest(String),
    /// The value of [`Fleet::incarnation`].
    Incarnation(u16),
    /// The value of [`Fleet::retired_generation`].
    RetiredGeneration(Generation),
    /// A record copied unchanged from another store.
    Copy(Record),
}

/// The key of [`RecordValue::PlanDigest`].
const PLAN_DIGEST: &str = "plan_digest";
/// The key of [`RecordValue::Incarnation`].
const INCARNATION: &str = "incarnation";
/// The key of [`RecordValue::RetiredGeneration`].
const RETIRED_GENERATION: &str = "retired_generation";
/// The key of [`RecordValue::AcmeAccount`].
const ACME_ACCOUNT: &str = "acme_account";

impl RecordValue {
    /// The key that it is stored under.
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
            Self::BackupKey(key) => (RecordKind::BackupKey, key.tenant.to_string().into()),
            Self::Backups(of) => (RecordKind::Backups, of.tenant.to_string().into()),
            Self::AcmeAccount(_) => (RecordKind::Meta, ACME_ACCOUNT.into()),
            Self::PlanDigest(_) => (RecordKind::Meta, PLAN_DIGEST.into()),
            Self::Incarnation(_) => (RecordKind::Meta, INCARNATION.into()),
            Self::RetiredGeneration(_) => (RecordKind::Meta, RETIRED_GENERATION.into()),
            Self::Copy(record) => (record.kind, record.id.as_str().into()),
        }
    }

    pub fn body(&self) -> String {
        fn json(value: &impl Serialize) -> String {
            // Our own types cannot fail: string keys only, no failing `Serialize`. The round-trip test pins this.
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
            Self::BackupKey(key) => json(&**key),
            Self::Backups(of) => json(&**of),
            Self::AcmeAccount(account) => json(&**account),
            Self::PlanDigest(digest) => json(digest),
            Self::Incarnation(incarnation) => json(incarnation),
            Self::RetiredGeneration(generation) => json(generation),
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
    Event(Arc<Event>),
    /// Forget the event with this sequence number.
    ForgetEvent(u64),
}

/// The net effect of a group of writes: the last value of each key, and the events.
#[derive(Debug, Default)]
pub struct Group<'a> {
    /// By kind and key: JSON, or `None` to delete the record.
    pub records: BTreeMap<(RecordKind, Cow<'a, str>), Option<String>>,
    /// Oldest first.
    pub events: Vec<&'a Event>,
    /// Sequence numbers of events to forget, perhaps of these very ones.
    pub forgotten: Vec<u64>,
}

impl<'a> Group<'a> {
    /// The net effect of writes that are stored together.
    pub fn of(writes: &'a [Write]) -> Self {
        let mut last: BTreeMap<(RecordKind, Cow<'a, str>), Option<&'a RecordValue>> =
            BTreeMap::new();
        let (mut events, mut forgotten) = (Vec::new(), Vec::new());
        for write in writes {
            match write {
                Write::Put(value) => drop(last.insert(value.key(), Some(value))),
                Write::Delete(kind, id) => drop(last.insert((*kind, id.into()), None)),
                Write::Event(event) => events.push(&**event),
                Write::ForgetEvent(sequence) => forgotten.push(*sequence),
            }
        }
        let records = last
            .into_iter()
            .map(|(key, value)| (key, value.map(RecordValue::body)))
            .collect();
        Self {
            records,
            events,
            forgotten,
        }
    }
}

/// Everything that is stored, as loaded at a start.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// In no particular order.
    pub records: Vec<Record>,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Number of commits that this is the result of. Each one raises it, within its own transaction: whoever lost the
    /// answer to a commit learns from it whether that was stored.
    pub commits: u64,
}

/// An in-memory store of records, which tests and simulations use in place of a database.
#[derive(Debug, Clone, Default)]
pub struct Records {
    records: BTreeMap<(RecordKind, String), String>,
    events: Vec<Event>,
    commits: u64,
}

impl From<Contents> for Records {
    fn from(contents: Contents) -> Self {
        let record = |record: Record| ((record.kind, record.id), record.body);
        Self {
            records: contents.records.into_iter().map(record).collect(),
            events: contents.events,
            commits: contents.commits,
        }
    }
}

impl Records {
    /// Number of commits so far.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Applies all writes, as one commit.
    pub fn apply(&mut self, writes: &[Write]) {
        self.commits += 1;
        let group = Group::of(writes);
        for ((kind, id), body) in group.records {
            match body {
                Some(body) => drop(self.records.insert((kind, id.into_owned()), body)),
                None => drop(self.records.remove(&(kind, id.into_owned()))),
            }
        }
        self.events.extend(group.events.into_iter().cloned());
        for sequence in group.forgotten {
            if let Ok(at) = self.events.binary_search_by_key(&sequence, |e| e.sequence) {
                self.events.remove(at);
            }
        }
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
            commits: self.commits,
        }
    }
}

/// A record that this version cannot read. The coordinator refuses to start on part of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {kind}/{id} cannot be read: {why}")]
pub struct UnreadableRecord {
    /// Its kind, as stored.
    pub kind: String,
    /// Its key within its kind.
    pub id: String,
    /// The JSON parser's error.
    pub why: String,
}

/// Texts that many tenants have in common, each kept once.
#[derive(Default)]
struct Texts {
    names: BTreeSet<ShortName>,
    hosts: BTreeSet<HostName>,
    images: BTreeSet<ImageRef>,
    languages: BTreeSet<Language>,
    countries: BTreeSet<Country>,
    time_zones: BTreeSet<TimeZone>,
    modules: BTreeSet<Module>,
    logins: BTreeSet<Login>,
}

impl Texts {
    fn share(&mut self, tenant: &mut Tenant) {
        fn once<T: Ord + Clone>(kept: &mut BTreeSet<T>, text: &mut T) {
            match kept.get(text) {
                Some(same) => text.clone_from(same),
                None => drop(kept.insert(text.clone())),
            }
        }
        let spec = &mut tenant.spec;
        once(&mut self.names, &mut spec.plan);
        once(&mut self.names, &mut spec.edition);
        once(&mut self.images, &mut spec.odoo_image);
        once(&mut self.images, &mut spec.postgres_image);
        once(&mut self.languages, &mut spec.language);
        once(&mut self.countries, &mut spec.country);
        once(&mut self.time_zones, &mut spec.time_zone);
        once(&mut self.logins, &mut spec.admin_login);
        for module in &mut spec.modules {
            once(&mut self.modules, module);
        }
        once(&mut self.hosts, &mut tenant.placement.host);
    }
}

/// Builds the Fleet from its records.
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
    let mut texts = Texts::default();
    // By value: what is read of one record may lie where another one was.
    for record in contents.records {
        let record = &record;
        match record.kind {
            RecordKind::Tenant => {
                let mut tenant = read::<Tenant>(record)?;
                texts.share(Arc::make_mut(&mut tenant));
                fleet.put_tenant(tenant);
            }
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
            RecordKind::BackupKey => fleet.put_backup_key(read::<BackupKey>(record)?),
            RecordKind::Backups => {
                fleet.put_backups(read::<TenantBackups>(record)?);
            }
            RecordKind::Meta => match record.id.as_str() {
                PLAN_DIGEST => fleet.plan_digest = (*read::<String>(record)?).clone(),
                INCARNATION => fleet.incarnation = *read::<u16>(record)?,
                RETIRED_GENERATION => fleet.retired_generation = *read::<Generation>(record)?,
                ACME_ACCOUNT => fleet.acme_account = Some(read::<AcmeAccount>(record)?),
                _ => {}
            },
        }
    }
    fleet.events = EventLog::load(contents.events);
    fleet.last_event = fleet.events.last().map_or(0, |e| e.sequence);
    Ok(fleet)
}
