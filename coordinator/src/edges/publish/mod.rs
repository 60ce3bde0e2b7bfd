//! What Traefik and Prometheus get, kept up to date with the snapshots: for the HTTP endpoints, and in files if
//! configured.
//!
//! A change costs only what it affects: the fragments of its tenants are rendered again (content) and their pages
//! copied (pages); the rest of a document is shared with the previous one. With shards there is a document for each
//! edge, and one of everything. Traefik rebuilds everything whenever its document changes, so the rate of changes of
//! each of its documents is limited (pace). A restart publishes at once what the store knows: an empty Observed removes
//! no route.
//! Not here: the documents' form (isyone-traefik, isyone-monitoring), serving them (ports/http).

mod content;
mod document;
mod files;
mod inputs;
mod pace;
mod pages;
mod tell;

use std::sync::Arc;

use arc_swap::ArcSwap;
use isyone_fleet::{desired::certificates::EdgeCertificate, shards::Shards, state::State};
use isyone_monitoring::{self as monitoring, Job};
use isyone_traefik as traefik;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub use self::document::Document;
use self::{
    content::{Content, DocumentKind},
    document::Frame,
    files::Files,
    pace::Pace,
    tell::Teller,
};
use crate::{
    base::{
        config::{Config, TlsMode, UrlScheme},
        metrics::Metrics,
        pki::Pki,
        secrets::Sealer,
    },
    edges::running::{Edges, ScopeProgress},
    writer::Handle,
};

/// Changes within this time are rendered together. Far below what a reader notices, and enough to keep this loop from
/// spinning under reports, of which there may be thousands a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How often we run without a change, to retry a file that could not be written.
const EVERY: Duration = Duration::from_secs(5);
/// The text before and after the map of host names.
const HOSTNAMES_FRAME: [&str; 2] = ["{", "\n}\n"];

/// Everything that is published. *Scope* 0 is everything; scope `n + 1` is shard `n`.
#[derive(Debug, Clone, Default)]
pub struct Published {
    traefik: Vec<Arc<Document>>,
    targets: [Vec<Arc<Document>>; Job::ALL.len()],
    hostnames: Option<Arc<Document>>,
}

impl Published {
    /// Traefik's dynamic configuration.
    pub fn traefik(&self, scope: usize) -> Option<&Arc<Document>> {
        self.traefik.get(scope)
    }

    /// A job's target groups.
    pub fn targets(&self, job: Job, scope: usize) -> Option<&Arc<Document>> {
        // `Job::ALL` has every job, in this order.
        self.targets[Job::ALL.iter().position(|j| *j == job)?].get(scope)
    }

    /// Tenants' host names with their shard, if there are shards.
    pub fn hostnames(&self) -> Option<&Arc<Document>> {
        self.hostnames.as_ref()
    }
}

/// The text around fragments, by kind of document.
struct Frames {
    traefik: Arc<Frame>,
    targets: Arc<Frame>,
    edges: Arc<Frame>,
    /// One for each scope.
    probes: Vec<Arc<Frame>>,
    platform: Arc<Frame>,
    hostnames: Arc<Frame>,
}

impl Frames {
    fn new(options: &traefik::Options, config: &Config, shards: &Shards) -> Self {
        let [before, after] = monitoring::FRAME;
        // Target groups that do not depend on the fleet are part of the frame.
        let fixed = |groups: String| {
            Arc::new(Frame::list([
                format!("{before}{}", groups.trim_start_matches(',')).into(),
                after.into(),
            ]))
        };
        Self {
            traefik: Arc::new(Frame::traefik(traefik::frame(options))),
            targets: Arc::new(Frame::list([before.into(), after.into()])),
            edges: fixed(
                config
                    .monitoring
                    .edges
                    .iter()
                    .map(|edge| monitoring::edge(edge))
                    .collect(),
            ),
            probes: std::iter::once(None)
                .chain(shards.names().iter().map(|shard| Some(shard.as_str())))
                .map(|shard| fixed(monitoring::probes(&config.metrics_address(), shard)))
                .collect(),
            platform: fixed(monitoring::platform(&config.metrics_address())),
            hostnames: Arc::new(Frame::list(HOSTNAMES_FRAME.map(Into::into))),
        }
    }
}

/// What publishing needs from the coordinator.
#[derive(Debug)]
pub struct Sources {
    /// The writer and its snapshots.
    pub handle: Handle,
    pub config: Arc<Config>,
    /// Traefik's dashboard, with the users that its file had at startup.
    pub dashboard: Option<traefik::Dashboard>,
    /// Holds the CA that edges verify our HTTP port with.
    pub pki: Arc<Pki>,
    /// Opens the private keys that edges get.
    pub sealer: Arc<Sealer>,
    /// Notified of each publication.
    pub edges: Arc<Edges>,
    /// Counts publications.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the coordinator stops.
    pub stop: CancellationToken,
}

/// Renders every snapshot's documents and provides them to edges and Prometheus.
pub struct Publisher {
    sources: Arc<Sources>,
    current: Arc<ArcSwap<Published>>,
    content: Content,
    frames: Frames,
    /// When each scope's configuration may change again.
    pace: Vec<Pace>,
    files: Files,
}

impl Publisher {
    /// Renders the present state, so that the first request gets an answer.
    pub fn new(sources: Arc<Sources>) -> Self {
        let (config, shards) = (&sources.config, sources.handle.settings().shards.clone());
        let options = options(&sources);
        let mut publisher = Self {
            current: Arc::default(),
            frames: Frames::new(&options, config, &shards),
            pace: vec![Pace::default(); shards.scopes()],
            files: Files::new(config, &shards),
            content: Content::new(options, config.monitoring.agent_port, shards),
            sources,
        };
        let state = publisher.sources.handle.snapshot();
        // Every start logs what is left out; there are events already from when it was new.
        publisher.pass(&state, Instant::now()).iter().for_each(log);
        publisher.files.write(&publisher.current.load());
        publisher
    }

    /// What is published now, for the HTTP port.
    pub fn current(&self) -> Arc<ArcSwap<Published>> {
        self.current.clone()
    }

    /// Follows the snapshots until the coordinator stops.
    pub async fn run(self) {
        let sources = self.sources.clone();
        let (teller, untold) = Teller::new();
        tokio::join!(
            self.follow(teller),
            tell::store(&sources.handle, untold, &sources.stop)
        );
    }

    async fn follow(mut self, teller: Teller) {
        let sources = self.sources.clone();
        let mut changes = sources.handle.subscribe();
        changes.mark_changed();
        let mut timer = tokio::time::interval(EVERY);
        loop {
            let due = self.pace.iter().filter_map(Pace::due).min();
            let alive = tokio::select! {
                changed = changes.changed() => changed.is_ok(),
                _ = timer.tick() => true,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => true,
                () = sources.stop.cancelled() => false,
            };
            if !alive {
                return;
            }
            let state = sources.handle.snapshot();
            let rejected = self.pass(&state, Instant::now());
            drop(state);
            if !self.write().await {
                return;
            }
            teller.tell(rejected);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Publishes a state, as far as the pace allows; returns what is newly left out.
    fn pass(&mut self, state: &State, now: Instant) -> Vec<traefik::Rejected> {
        let settings = self.sources.handle.settings();
        let mut update = self.content.update(state, settings);
        if self.sources.config.publishes_keys() {
            let key = |certificate: &EdgeCertificate| match self
                .sources
                .sealer
                .open_key(certificate)
            {
                Ok(key) => Some(key),
                Err(error) => {
                    tracing::error!(certificate = certificate.name, %error, "certificate left out");
                    None
                }
            };
            update.changed |= self.content.update_certificates(state, settings, key);
        }
        let waiting = self.pace.iter().any(|pace| pace.due().is_some());
        let mut progress = vec![ScopeProgress::default(); self.pace.len()];
        let current = self.current.load_full();
        if update.changed || waiting || current.traefik.is_empty() {
            let published = self.publish(&current, &mut progress, now);
            self.current.store(Arc::new(published));
        }
        // Even if no document changed: a second claim to a host name changes none.
        let left_out = self.content.left_out();
        let routes = left_out.values().map(Vec::len).sum::<usize>();
        self.sources
            .metrics
            .rejected_routes
            .set(i64::try_from(routes).unwrap_or(i64::MAX));
        self.sources.edges.leave_out(left_out.clone());
        // Only now that the documents are there: whoever this wakes fetches them.
        self.sources.edges.published(state.version, &progress);
        update.rejected
    }

    /// The next publication, and how far each scope's configuration has come.
    fn publish(
        &mut self,
        current: &Published,
        progress: &mut [ScopeProgress],
        now: Instant,
    ) -> Published {
        let (content, frames) = (&self.content, &self.frames);
        let document = |frame: &Arc<Frame>, shares| Document::new(frame.clone(), shares);
        let list = |job: Job, scope: usize| {
            let new = match job {
                Job::Odoo => document(&frames.targets, content.shares(DocumentKind::Odoo, scope)),
                Job::Postgres => document(
                    &frames.targets,
                    content.shares(DocumentKind::Postgres, scope),
                ),
                Job::Host => document(&frames.targets, content.shares(DocumentKind::Host, scope)),
                Job::Containers => document(
                    &frames.targets,
                    content.shares(DocumentKind::Containers, scope),
                ),
                Job::Traefik => document(&frames.edges, Vec::new()),
                Job::Probes => document(&frames.probes[scope], Vec::new()),
                Job::Isyone => document(&frames.platform, Vec::new()),
            };
            renew(current.targets(job, scope), new)
        };
        let targets =
            Job::ALL.map(|job| (0..progress.len()).map(|scope| list(job, scope)).collect());
        let hostnames = (progress.len() > 1).then(|| {
            let new = document(
                &frames.hostnames,
                content.shares(DocumentKind::Hostnames, 0),
            );
            renew(current.hostnames(), new)
        });
        let traefik =
            progress
                .iter_mut()
                .zip(&mut self.pace)
                .enumerate()
                .map(|(scope, (progress, pace))| {
                    let shares = content.shares(DocumentKind::Traefik, scope);
                    let new = Document::with_certificates(
                        frames.traefik.clone(),
                        shares,
                        content.certificates(scope),
                    );
                    progress.tenants = new.fragments();
                    let old = current.traefik(scope).filter(|old| {
                        let changed = old.etag() != new.etag();
                        let may_change = pace.may_change(changed, new.fragments(), now);
                        progress.pending = changed && !may_change;
                        !may_change
                    });
                    old.cloned().unwrap_or_else(|| {
                        progress.changed = Some(new.version().to_owned());
                        self.sources.metrics.published(content.shard(scope));
                        Arc::new(new)
                    })
                });
        Published {
            traefik: traefik.collect(),
            targets,
            hostnames,
        }
    }

    /// Writes the files that are behind; returns `false` if that panicked.
    async fn write(&mut self) -> bool {
        if self.files.is_empty() {
            return true;
        }
        let (mut files, published) = (std::mem::take(&mut self.files), self.current.load_full());
        // Off the runtime's threads: a large file takes a while.
        let written = tokio::task::spawn_blocking(move || {
            files.write(&published);
            files
        });
        written.await.map(|files| self.files = files).is_ok()
    }
}

/// Keeps the old document if the new one equals it: its pieces may already be collected.
fn renew(old: Option<&Arc<Document>>, new: Document) -> Arc<Document> {
    old.filter(|old| old.etag() == new.etag())
        .cloned()
        .unwrap_or_else(|| Arc::new(new))
}

fn what(route: &traefik::Rejected) -> &str {
    route.hostname.as_deref().unwrap_or("all of it")
}

fn log(route: &traefik::Rejected) {
    tracing::error!(
        tenant = route.tenant,
        what = what(route),
        reason = route.reason,
        "route left out"
    );
}

fn options(sources: &Sources) -> traefik::Options {
    let config = &sources.config;
    traefik::Options {
        base_domain: config.base_domain.to_string(),
        entry_points: config.edge.entry_points.clone(),
        scheme: match config.url_scheme {
            UrlScheme::Http => traefik::Scheme::Http,
            UrlScheme::Https => traefik::Scheme::Https,
        },
        port: config.url_port,
        pages_url: config.pages_url(),
        pages_identity: config.pages_over_tls().then(|| traefik::Identity {
            ca_pem: sources.pki.ca_pem(),
            server_name: isyone_proto::tls::COORDINATOR_NAME.to_owned(),
        }),
        rate_average: config.edge.rate_average,
        rate_burst: config.edge.rate_burst,
        in_flight: config.edge.in_flight,
        trusted_proxies: config.edge.trusted_proxies.clone(),
        frame_options: config.edge.frame_options.header(),
        dashboard: sources.dashboard.clone(),
        tls: tls(config),
    }
}

fn tls(config: &Config) -> Option<traefik::Tls> {
    let tls = &config.tls;
    let resolver = || {
        Some(traefik::Resolver {
            name: tls.resolver.clone(),
            wildcard: config.wildcard(),
        })
    };
    Some(traefik::Tls {
        entry_point: tls.entry_point.clone(),
        hsts_seconds: tls.hsts.get().as_secs(),
        resolver: match tls.mode {
            TlsMode::Off => return None,
            TlsMode::Traefik => resolver(),
            TlsMode::Coordinator => None,
        },
        challenges: config.orders_certificates(),
    })
}
