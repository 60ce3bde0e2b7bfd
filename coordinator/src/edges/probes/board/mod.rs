//! The probes' results, in memory only: after a restart nothing is known, and one round fills it.
//!
//! Not here: asking (ask), and when to report changes (the parent module).

mod records;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isyone_fleet::{
    desired::Tenant,
    liveness::HostState,
    probes::{
        answers::Tally,
        judge::{Counts, Judgement, News, Probe, Told},
    },
    settings::Settings,
    state::State,
};
use isyone_proto::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};

use self::records::{EdgeRecord, Inner, Moment, Record, uncount};

/// A probe older than this many rounds says nothing any more.
const STALE_ROUNDS: i64 = 3;
/// Most tenants' news waiting to be reported; the rest is reported after the tenants' next probes.
pub const MAX_NEWS: usize = 30;

/// A tenant's last probe, and whose fault a failure is.
#[derive(Debug, Clone)]
pub struct Seen {
    pub probe: Arc<Probe>,
    /// What the probe means now.
    pub judgement: Judgement,
}

/// An edge address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeSeen {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections in about the last round.
    pub counts: Counts,
    /// Set if it answers wrongly: for how many tenants.
    pub wrong: Option<Tally>,
}

impl EdgeSeen {
    /// Whether it takes connections and answers correctly.
    pub fn is_up(&self) -> bool {
        !self.counts.most_failed() && self.wrong.is_none()
    }
}

/// An edge that stopped taking connections or answers wrongly, or that works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeNews {
    /// The edge as it is now.
    pub edge: EdgeSeen,
    /// What to report.
    pub news: News,
}

/// A host that reports as healthy but whose tenants are unreachable, or reachable again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNews {
    pub host: HostName,
    /// The edge that its tenants were probed through.
    pub edge: SocketAddr,
    /// What to report.
    pub news: News,
}

/// A tenant's news, still to be reported.
#[derive(Debug, Clone)]
pub struct TenantNews {
    pub tenant: TenantName,
    pub news: News,
    /// The probe that caused it.
    pub probe: Arc<Probe>,
}

/// What the probes found about tenants and edges, shared by the prober and everything that displays it.
#[derive(Debug)]
pub struct ProbeBoard {
    interval_ms: i64,
    inner: Mutex<Inner>,
}

impl ProbeBoard {
    /// Empty. One round of probes takes `interval_ms`.
    pub fn new(interval_ms: i64) -> Self {
        Self {
            interval_ms: interval_ms.max(1),
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a probe. Judges it with what `state` knows of the tenant's host.
    pub fn take(&self, state: &State, settings: &Settings, tenant: &Tenant, probe: Probe) {
        let (now, probe) = (probe.at, Arc::new(probe));
        let mut guard = self.lock();
        let inner = &mut *guard;
        let edge = inner.edges.entry(probe.edge).or_default();
        edge.window.add(now, self.interval_ms, probe.connected());
        let counts = edge.window.counts(now, self.interval_ms);
        let counted = inner.count(tenant, &probe);
        let answers = inner.edges.get(&probe.edge).map(|edge| &edge.answers);
        let judgement = Moment {
            state,
            settings,
            now,
        }
        .judge(tenant, &probe, counts, answers);
        let room = inner.news.len() < MAX_NEWS;
        let new = || Record {
            uid: tenant.uid,
            shard: settings.shards.of(tenant.name.as_str()),
            probe: probe.clone(),
            told: Told::default(),
            counted: None,
        };
        let record = inner.tenants.entry(tenant.name.clone()).or_insert_with(new);
        if record.uid != tenant.uid {
            (record.uid, record.told) = (tenant.uid, Told::default());
        }
        (record.probe, record.counted) = (probe.clone(), counted);
        match record.told.hear(judgement) {
            Some(_) if !room => record.told.not_told(),
            Some(news) => inner.news.push(TenantNews {
                tenant: tenant.name.clone(),
                news,
                probe,
            }),
            None => {}
        }
    }

    /// What is known of a tenant; `None` if it was not probed lately.
    pub fn seen(
        &self,
        state: &State,
        settings: &Settings,
        tenant: &Tenant,
        now: UnixMs,
    ) -> Option<Seen> {
        let inner = self.lock();
        let record = inner
            .tenants
            .get(&tenant.name)
            .filter(|record| record.uid == tenant.uid)?;
        let fresh = now - record.probe.at <= STALE_ROUNDS * self.interval_ms;
        let probe = fresh.then(|| record.probe.clone())?;
        let edge = inner.edges.get(&probe.edge);
        let counts = edge
            .map(|e| e.window.counts(now, self.interval_ms))
            .unwrap_or_default();
        let answers = edge.map(|edge| &edge.answers);
        let judgement = Moment {
            state,
            settings,
            now,
        }
        .judge(tenant, &probe, counts, answers);
        Some(Seen { probe, judgement })
    }

    /// Whether a tenant that was probed belongs to that shard.
    pub fn is_of_shard(&self, tenant: &TenantName, shard: usize) -> bool {
        self.lock()
            .tenants
            .get(tenant)
            .is_some_and(|record| record.shard == Some(shard))
    }

    /// The edges that were probed lately.
    pub fn edges(&self, state: &State, settings: &Settings, now: UnixMs) -> Vec<EdgeSeen> {
        let view = Moment {
            state,
            settings,
            now,
        };
        let seen = |(address, record): (&SocketAddr, &EdgeRecord)| {
            record.seen(*address, record.window.counts(now, self.interval_ms), &view)
        };
        self.lock()
            .edges
            .iter()
            .map(seen)
            .filter(|edge| edge.counts.tried > 0)
            .collect()
    }

    /// Whether most of an edge's connections failed lately.
    pub fn takes_no_connections(&self, edge: SocketAddr, now: UnixMs) -> bool {
        let inner = self.lock();
        inner
            .edges
            .get(&edge)
            .is_some_and(|e| e.window.counts(now, self.interval_ms).most_failed())
    }

    /// Tenants' news since the last call, at most [`MAX_NEWS`].
    pub fn take_news(&self) -> Vec<TenantNews> {
        std::mem::take(&mut self.lock().news)
    }

    /// Edges' news since the last call.
    pub fn take_edge_news(&self, state: &State, settings: &Settings, now: UnixMs) -> Vec<EdgeNews> {
        let (interval_ms, view) = (
            self.interval_ms,
            Moment {
                state,
                settings,
                now,
            },
        );
        let changed = |(address, record): (&SocketAddr, &mut EdgeRecord)| {
            let edge = record.seen(*address, record.window.counts(now, interval_ms), &view);
            let down = !edge.is_up();
            // An edge that nothing was probed through is neither up nor down.
            (edge.counts.tried > 0 && down != record.told_down).then(|| {
                record.told_down = down;
                EdgeNews {
                    edge,
                    news: if down { News::Down } else { News::Up },
                }
            })
        };
        self.lock().edges.iter_mut().filter_map(changed).collect()
    }

    /// News since the last call about hosts that report but whose tenants get wrong answers. For a silent host, its
    /// silence is the news.
    pub fn take_host_news(&self, state: &State, settings: &Settings, now: UnixMs) -> Vec<HostNews> {
        let view = Moment {
            state,
            settings,
            now,
        };
        let silent =
            |host: &HostName| matches!(view.host(host), HostState::Suspect | HostState::Lost);
        let mut news = Vec::new();
        for (edge, record) in &mut self.lock().edges {
            let blamed = record
                .answers
                .blamed_host()
                .filter(|host| !silent(host))
                .cloned();
            if blamed == record.told_host {
                continue;
            }
            let before = std::mem::replace(&mut record.told_host, blamed.clone());
            let one = |news| {
                move |host| HostNews {
                    host,
                    edge: *edge,
                    news,
                }
            };
            news.extend(
                before
                    .map(one(News::Up))
                    .into_iter()
                    .chain(blamed.map(one(News::Down))),
            );
        }
        news
    }

    /// Drops tenants that are not wanted any more, and edges that no longer exist.
    pub fn tidy(&self, wanted: impl Fn(&TenantName) -> bool, edges: &[SocketAddr]) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.edges.retain(|address, _| edges.contains(address));
        inner.tenants.retain(|name, record| {
            let keep = wanted(name);
            // An edge that returns starts afresh.
            if !keep
                || record
                    .counted
                    .as_ref()
                    .is_some_and(|c| !inner.edges.contains_key(&c.edge))
            {
                uncount(&mut inner.edges, record.counted.take());
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests;
