//! Checks tenants' domains periodically, and tells the writer which of them do not lead here any more.
//!
//! Nothing waits for it. Not here: when, and what follows (isyone_fleet::domains); how redirects react
//! (isyone_fleet::views).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use isyone_fleet::{
    change::Command,
    desired::{Tenant, domains::DomainTrouble},
    domains::{
        Ground, Look, Verdict,
        schedule::{Conclusion, Rhythm, Schedule, Seen},
    },
    state::State,
};
use isyone_proto::spec::Domain;
use tokio_util::sync::CancellationToken;

use crate::{
    base::{
        clock,
        config::{self, Config},
        secrets,
    },
    edges::dns::{self, Dns},
    writer::Handle,
};

/// How often we see which domains are due.
const EVERY: Duration = Duration::from_secs(1);
/// Most checks per turn; with an interval of an hour this is enough for 200,000 domains.
const MAX_LOOKS: usize = 64;
/// Most checks at the same time.
const AT_ONCE: usize = 16;

/// The findings, for everyone who asks.
#[derive(Debug)]
pub struct DomainLooks(Mutex<Schedule>);

impl DomainLooks {
    pub fn new(config: &config::Dns) -> Self {
        let mut chance = [0; 8];
        secrets::rand_bytes(&mut chance);
        let rhythm = Rhythm {
            interval_ms: config.interval.millis(),
            retry_ms: config.retry.millis(),
        };
        Self(Mutex::new(Schedule::new(
            rhythm,
            u64::from_be_bytes(chance),
        )))
    }

    /// What we know of a domain.
    pub fn seen(&self, name: &str) -> Option<Seen> {
        self.schedule().seen(name).cloned()
    }

    /// Records a domain that was checked and found good before it was added.
    pub fn found_good(&self, name: &str, look: &Look) {
        self.schedule().found_good(name, look, clock::now_ms());
    }

    /// Never held across an await.
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What checking domains needs from the coordinator.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) handle: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) looks: Arc<DomainLooks>,
    pub(crate) dns: Arc<dyn Dns>,
    pub(crate) stop: CancellationToken,
}

/// Runs until the coordinator stops.
pub(crate) async fn run(watch: Watch) {
    let mut timer = tokio::time::interval(EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = watch.stop.cancelled() => return,
        }
        let state = watch.handle.snapshot();
        let due = {
            let mut schedule = watch.looks.schedule();
            let now = clock::now_ms();
            schedule.follow(&state.fleet.by_domain, now);
            schedule.due(now, MAX_LOOKS)
        };
        let looks =
            stream::iter(due).for_each_concurrent(AT_ONCE, |name| look(&watch, &state, name));
        tokio::select! {
            () = looks => {}
            () = watch.stop.cancelled() => return,
        }
    }
}

async fn look(watch: &Watch, state: &State, name: String) {
    let owner = state
        .fleet
        .by_domain
        .get(&name)
        .and_then(|owner| state.fleet.tenants.get(owner));
    // A deleted tenant has no visitors.
    let Some(tenant) = owner.filter(|tenant| !tenant.is_deleted()) else {
        return;
    };
    let Ok(domain) = name.parse::<Domain>() else {
        return;
    };
    let look = at(&*watch.dns, &watch.config, tenant, &domain).await;
    let troubled = match watch.handle.snapshot().fleet.domain_troubles.get(&name) {
        // Good news ends it, and bad news is news still.
        Some(trouble) if trouble.unasked => look.verdict == Verdict::Here,
        trouble => trouble.is_some(),
    };
    let concluded = watch
        .looks
        .schedule()
        .looked(&name, &look, troubled, clock::now_ms());
    let command = match concluded {
        None => return,
        Some(Conclusion::Reachable) => Command::DomainReachable {
            domain,
            found: look.found,
        },
        Some(Conclusion::Unreachable(since)) => {
            tracing::warn!(domain = name, tenant = %tenant.name, found = look.found, "a domain does not lead here any more");
            let tenant = tenant.name.clone();
            Command::DomainUnreachable(Box::new(DomainTrouble {
                domain,
                tenant,
                since,
                found: look.found,
                unasked: false,
            }))
        }
    };
    // If it cannot be stored, the next check concludes it again.
    if let Err(error) = watch.handle.submit_patiently("coordinator", command).await {
        tracing::warn!(%error, "what was found of a domain could not be stored");
    }
}

/// Checks one domain of a tenant.
pub(crate) async fn at(dns: &dyn Dns, config: &Config, tenant: &Tenant, domain: &Domain) -> Look {
    let base_domain = config.base_domain.as_str();
    let platform = tenant.platform_name(base_domain);
    let edge = &config.edge;
    let ground = Ground {
        platform: &platform,
        base_domain,
        public: &edge.public_addresses,
        proxies: &edge.trusted_proxies,
    };
    dns::look(dns, domain, ground).await
}
