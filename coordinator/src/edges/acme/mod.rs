//! The coordinator as an ACME client (RFC 8555): gets a certificate for every name that needs one, and renews it before
//! it expires, for all edges.
//!
//! This loop looks (after changes of the Fleet, when orders end, and periodically), lets isyone_fleet::orders decide,
//! starts orders ([`order`]) and hands their results to the writer. Nothing that runs depends on it: what is published
//! stays published whatever happens here.
//! Not here: publishing (edges/publish), what operators upload (operators/certificates).

mod challenges;
mod client;
mod hook;
mod order;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use isyone_fleet::{
    change::Command,
    desired::{
        Fleet,
        certificates::{CertificateTrouble, EdgeCertificate, Origin},
    },
    orders::{self, OrderInputs, OrderLimits, OrderPlan},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::challenges::Challenges;
use self::{
    order::{Failure, Issued, SharedAccount, Whose},
    wanted::Wanted,
};
use crate::{
    base::{
        clock,
        config::{self, Config},
        metrics::Metrics,
        secrets::{self, Sealer},
    },
    edges::certificates,
    writer::Handle,
};

/// Pause after each look, so that a burst of new tenants costs only one.
const PAUSE: Duration = Duration::from_millis(200);
/// How often we look without a change, because retries and renewals come due.
const EVERY: Duration = Duration::from_secs(5);
/// After this time we try a CA that does not answer again; doubles up to [`CLOSED_MOST_MS`].
const CLOSED_FIRST_MS: i64 = 10_000;
/// Short enough to notice soon that an outage is over.
const CLOSED_MOST_MS: i64 = 600_000;

/// The parts of the Fleet that this depends on, as of the last look.
#[derive(Default)]
struct Seen {
    tenants: imbl::OrdMap<isyone_proto::ids::TenantName, Arc<isyone_fleet::desired::Tenant>>,
    certificates: imbl::OrdMap<String, Arc<EdgeCertificate>>,
}

impl Seen {
    fn differs(&mut self, fleet: &Fleet) -> bool {
        let same =
            self.tenants.ptr_eq(&fleet.tenants) && self.certificates.ptr_eq(&fleet.certificates);
        (self.tenants, self.certificates) = (fleet.tenants.clone(), fleet.certificates.clone());
        !same
    }
}

/// What ordering certificates needs from the coordinator.
#[derive(Debug)]
pub(crate) struct Acme {
    pub(crate) handle: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
}

struct Worker {
    acme: Arc<Acme>,
    account: Arc<SharedAccount>,
    wanted: Wanted,
    limits: OrderLimits,
    orders: JoinSet<(String, Result<Issued, Failure>)>,
    running: BTreeSet<String>,
    /// Consecutive failures of the CA.
    closed: u32,
    closed_until: i64,
    /// When that was set: later than now if the clock was ahead then.
    closed_at: i64,
    chance: u64,
}

/// Runs until the coordinator stops. That abandons the current orders; the next start makes them anew.
pub(crate) async fn run(acme: Arc<Acme>) {
    let mut changes = acme.handle.subscribe();
    let mut worker = Worker::new(acme.clone());
    let (mut seen, mut timer) = (Seen::default(), tokio::time::interval(EVERY));
    loop {
        let look = tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                seen.differs(&acme.handle.snapshot().fleet)
            }
            Some(ended) = worker.orders.join_next() => {
                match ended {
                    Ok((name, issued)) => worker.ended(name, issued).await,
                    // An order that panicked blocks its name until the next start, and nothing else.
                    Err(error) => tracing::error!(%error, "an order of a certificate has failed badly"),
                }
                true
            }
            _ = timer.tick() => true,
            () = acme.stop.cancelled() => return,
        };
        if look {
            worker.look().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(crate) fn limits(acme: &config::Acme) -> OrderLimits {
    let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    OrderLimits {
        orders_at_once: acme.orders_at_once,
        weekly_per_domain: number(acme.weekly_per_domain),
        weekly_same: number(acme.weekly_same),
        retry_first_ms: acme.retry_first.millis(),
        retry_most_ms: acme.retry_most.millis(),
    }
}

impl Worker {
    fn new(acme: Arc<Acme>) -> Self {
        let config = &acme.config;
        let mut chance = [0; 8];
        secrets::rand_bytes(&mut chance);
        Self {
            wanted: Wanted::new(
                config.base_domain.to_string(),
                config.wildcard(),
                config.dashboard_hostname(),
            ),
            limits: limits(&config.tls.acme),
            account: Arc::default(),
            orders: JoinSet::new(),
            running: BTreeSet::new(),
            closed: 0,
            closed_until: 0,
            closed_at: 0,
            chance: u64::from_be_bytes(chance),
            acme,
        }
    }

    async fn look(&mut self) {
        let state = self.acme.handle.snapshot();
        self.wanted.follow(&state.fleet);
        let held: BTreeMap<&str, &EdgeCertificate> = state
            .fleet
            .certificates
            .iter()
            .map(|(name, c)| (name.as_str(), &**c))
            .collect();
        let troubles: BTreeMap<&str, &CertificateTrouble> = state
            .fleet
            .certificate_troubles
            .iter()
            .map(|(name, t)| (name.as_str(), &**t))
            .collect();
        let elsewhere: BTreeSet<&str> = state
            .fleet
            .domain_troubles
            .keys()
            .map(String::as_str)
            .collect();
        let now = clock::now_ms();
        let plan = orders::plan(&OrderInputs {
            wanted: self.wanted.names(),
            held: &held,
            troubles: &troubles,
            elsewhere: &elsewhere,
            running: &self.running,
            closed_until: match now < self.closed_at {
                true => now,
                false => self.closed_until,
            },
            limits: self.limits,
            now,
            chance: self.chance,
        });
        self.carry_out(plan).await;
    }

    async fn carry_out(&mut self, plan: OrderPlan) {
        let held_back = i64::try_from(plan.held_back.len()).unwrap_or(i64::MAX);
        let before = self.acme.metrics.certificates_held_back.set(held_back);
        if before == 0 && held_back > 0 {
            tracing::warn!(
                names = held_back,
                "certificates wait for the authority's weekly limit ([tls.acme] weekly_per_domain); with `wildcard = true` in [tls] one is for all of the platform's names"
            );
        }
        for name in plan.begin {
            tracing::info!(name, "ordering a certificate");
            self.running.insert(name.clone());
            self.orders
                .spawn(self.account.clone().issue(self.acme.clone(), name));
        }
        for name in plan.forget {
            self.submit(Command::RemoveCertificate {
                name,
                why: "no tenant needs it".to_owned(),
            })
            .await;
        }
        for name in plan.settled {
            let trouble = CertificateTrouble {
                name,
                failures: 0,
                at: 0,
                retry_at: 0,
                error: String::new(),
            };
            self.submit(Command::CertificateTrouble(Box::new(trouble)))
                .await;
        }
    }

    /// If a change cannot be stored, the next look decides on it again.
    async fn submit(&self, command: Command) {
        if let Err(error) = self
            .acme
            .handle
            .submit_patiently("coordinator", command)
            .await
        {
            tracing::warn!(%error, "a certificate's change could not be stored");
        }
    }

    async fn ended(&mut self, name: String, issued: Result<Issued, Failure>) {
        self.running.remove(&name);
        let made = issued.and_then(|issued| self.certificate(&name, &issued));
        self.acme.metrics.certificate_order(made.is_ok());
        match made {
            Ok(certificate) => {
                self.closed = 0;
                tracing::info!(name, "a certificate was issued");
                self.submit(Command::PutCertificate(Box::new(certificate)))
                    .await;
            }
            Err(failure) => self.failed(name, failure).await,
        }
    }

    /// We do not trust the CA's answer blindly: the certificate must be for this name and this key.
    fn certificate(&self, name: &str, issued: &Issued) -> Result<EdgeCertificate, Failure> {
        let of_name = |why: String| Failure {
            whose: Whose::Name,
            why,
            retry_after_s: None,
        };
        let judged = certificates::judge(&issued.chain_pem, &issued.key_pem, clock::now_seconds())
            .map_err(|e| of_name(format!("the authority's answer: {e}")))?;
        let key = self.acme.sealer.seal(
            &EdgeCertificate::sealed_for(name),
            issued.key_pem.as_bytes(),
        );
        let certificate = judged.kept(name.to_owned(), Origin::Acme, key);
        match certificate.covers(name) {
            true => Ok(certificate),
            false => Err(of_name(format!(
                "the authority's answer is for {}",
                certificate.hostnames.join(", ")
            ))),
        }
    }

    async fn failed(&mut self, name: String, failure: Failure) {
        let now = clock::now_ms();
        let asked = failure
            .retry_after_s
            .map(|s| now.saturating_add(i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1000)));
        tracing::warn!(name, error = failure.why, "no certificate; tried again");
        let state = self.acme.handle.snapshot();
        let before = state
            .fleet
            .certificate_troubles
            .get(&name)
            .map_or(0, |t| t.failures);
        let failures = if failure.whose == Whose::Name {
            before.saturating_add(1)
        } else {
            // Not the name's fault: it waits no longer than after a first failure, and all names wait for the CA.
            self.closed = self.closed.saturating_add(1);
            let pauses = OrderLimits {
                retry_first_ms: CLOSED_FIRST_MS.min(self.limits.retry_first_ms),
                retry_most_ms: CLOSED_MOST_MS,
                ..self.limits
            };
            self.closed_at = now;
            self.closed_until = orders::retry_at("", self.closed, now, asked, &pauses, self.chance);
            before.max(1)
        };
        let retry_failures = if failure.whose == Whose::Name {
            failures
        } else {
            1
        };
        let retry_at =
            orders::retry_at(&name, retry_failures, now, asked, &self.limits, self.chance);
        let trouble = CertificateTrouble {
            name,
            failures,
            at: now,
            retry_at,
            error: failure.why,
        };
        self.submit(Command::CertificateTrouble(Box::new(trouble)))
            .await;
    }
}
