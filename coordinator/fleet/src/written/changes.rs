//! What to write so that a store which holds one Fleet holds another.
//!
//! Looks only at what the two do not share, so that of a large fleet little is read when little has changed.
//! Not here: how what is written is read back (the parent).

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};

use super::{RecordValue, Write};
use crate::desired::Fleet;

/// All of a Fleet, as writes for an empty store: what [`fleet`](super::fleet) reads back.
pub fn everything(fleet: &Fleet) -> Vec<Write> {
    let mut writes: Vec<Write> = single(fleet).into_iter().map(Write::Put).collect();
    put(&Fleet::default(), fleet, &mut writes);
    writes
}

/// What makes `after` of a store that holds `before`; nothing, when they are the same.
pub fn between(before: &Fleet, after: &Fleet) -> Vec<Write> {
    let was = single(before).map(|value| value.body());
    let is = single(after).into_iter().zip(was);
    let changed = is.filter(|(value, was)| value.body() != *was);
    let mut writes: Vec<Write> = changed.map(|(value, _)| Write::Put(value)).collect();
    put(before, after, &mut writes);
    writes
}

/// The values that are there once.
fn single(fleet: &Fleet) -> [RecordValue; 3] {
    [
        RecordValue::PlanDigest(fleet.plan_digest.clone()),
        RecordValue::Incarnation(fleet.incarnation),
        RecordValue::RetiredGeneration(fleet.retired_generation),
    ]
}

fn put(before: &Fleet, after: &Fleet, writes: &mut Vec<Write>) {
    // Every field by its name, so that a new one is not forgotten here.
    let Fleet {
        tenants,
        hosts,
        operations,
        tokens,
        operators,
        certificates,
        certificate_troubles,
        domain_troubles,
        acme_account,
        backup_keys,
        backups,
        events,
        last_event: _,
        plan_digest: _,
        incarnation: _,
        retired_generation: _,
        by_host: _,
        by_domain: _,
        by_request: _,
        ended: _,
        running: _,
        copying: _,
        fenced: _,
        standbys: _,
        quarantines: _,
        key_ends: _,
        proving: _,
    } = after;
    let was = before;
    differing(&was.tenants, tenants, RecordValue::Tenant, writes);
    differing(&was.hosts, hosts, RecordValue::Host, writes);
    differing(&was.operations, operations, RecordValue::Operation, writes);
    differing(&was.tokens, tokens, RecordValue::Token, writes);
    differing(&was.operators, operators, RecordValue::Operator, writes);
    let certificate = RecordValue::Certificate;
    differing(&was.certificates, certificates, certificate, writes);
    let (known, trouble) = (&was.certificate_troubles, RecordValue::CertificateTrouble);
    differing(known, certificate_troubles, trouble, writes);
    let (known, trouble) = (&was.domain_troubles, RecordValue::DomainTrouble);
    differing(known, domain_troubles, trouble, writes);
    differing(
        &was.backup_keys,
        backup_keys,
        RecordValue::BackupKey,
        writes,
    );
    differing(&was.backups, backups, RecordValue::Backups, writes);
    match (&was.acme_account, acme_account) {
        (was, Some(account)) if was.as_ref() != Some(account) => {
            writes.push(Write::Put(RecordValue::AcmeAccount(account.clone())));
        }
        (Some(account), None) => writes.push(gone(RecordValue::AcmeAccount(account.clone()))),
        _ => {}
    }
    let (new, forgotten) = events.since(&was.events);
    writes.extend(new.into_iter().map(Write::Event));
    writes.extend(forgotten.into_iter().map(Write::ForgetEvent));
}

fn differing<K: Ord + Clone, V: PartialEq>(
    before: &OrdMap<K, Arc<V>>,
    after: &OrdMap<K, Arc<V>>,
    of: impl Fn(Arc<V>) -> RecordValue,
    writes: &mut Vec<Write>,
) {
    writes.extend(before.diff(after).map(|item| match item {
        DiffItem::Add(_, value) => Write::Put(of(value.clone())),
        DiffItem::Update { new: (_, new), .. } => Write::Put(of(new.clone())),
        DiffItem::Remove(_, value) => gone(of(value.clone())),
    }));
}

fn gone(value: RecordValue) -> Write {
    let (kind, id) = value.key();
    Write::Delete(kind, id.into_owned())
}
