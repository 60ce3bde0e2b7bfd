//! What Traefik and Prometheus get: rendered from the snapshot when the part of it that matters has changed, kept for the
//! HTTP endpoints, and written to files if so configured.
//!
//! A restart publishes at once what the store knows: an empty Observed takes no route away.
//! Not here: the documents' form (isyone-traefik, isyone-monitoring) and serving them (http).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use imbl::OrdMap;
use isyone_monitoring::{Job, Targets};
use isyone_proto::ids::{HostName, TenantName};
use isyone_traefik as traefik;
use sha2::{Digest as _, Sha256};

use crate::{
    change::Command,
    config::{Config, UrlScheme},
    context::Context,
    files,
    fleet::{Host, Tenant},
    settings::Settings,
    state::State,
    views,
};

/// Changes within this time are rendered together: Traefik asks once a second, and rebuilds everything each time.
const PAUSE: Duration = Duration::from_millis(100);
/// Also without a change: a file that could not be written is tried again.
const EVERY: Duration = Duration::from_secs(5);

/// A document as HTTP serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Content.
    pub body: Bytes,
    /// Strong entity tag, quoted.
    pub etag: String,
}

impl Document {
    fn new(text: String) -> Self {
        let etag = format!("\"{}\"", hex::encode(&Sha256::digest(text.as_bytes())[..16]));
        Self { body: text.into(), etag }
    }
}

/// Everything that is published.
#[derive(Debug, Default)]
pub struct Published {
    /// Dynamic configuration.
    pub traefik: Document,
    /// Target groups, in the order of [`Job::ALL`].
    targets: [Document; 4],
}

impl Published {
    /// The target groups of a job.
    pub fn targets(&self, job: Job) -> &Document {
        // `Job::ALL` has every job, in this order.
        &self.targets[Job::ALL.iter().position(|j| *j == job).unwrap_or(0)]
    }
}

/// The part of a state that documents are made of; comparing it is cheap.
#[derive(Default)]
struct Inputs {
    tenants: OrdMap<TenantName, Arc<Tenant>>,
    hosts: OrdMap<HostName, Arc<Host>>,
    /// Tenants in their first start that already have a route.
    early: Vec<TenantName>,
}

impl Inputs {
    fn of(state: &State, settings: &Settings) -> Self {
        let settling = state.fleet.by_host.values().flat_map(|index| index.settling.iter());
        let early = settling
            .filter(|name| {
                state.fleet.tenants.get(*name).is_some_and(|t| views::route(state, settings, t).is_some())
            })
            .cloned()
            .collect();
        Self { tenants: state.fleet.tenants.clone(), hosts: state.fleet.hosts.clone(), early }
    }

    fn same(&self, other: &Self) -> bool {
        self.tenants.ptr_eq(&other.tenants) && self.hosts.ptr_eq(&other.hosts) && self.early == other.early
    }
}

/// Where a document also goes.
struct Destination {
    path: PathBuf,
    /// Where the unfinished file lies: outside a watched directory, whose watcher would otherwise wake twice.
    scratch: PathBuf,
    written: Option<String>,
}

impl Destination {
    fn new(path: PathBuf, data_dir: &Path) -> Self {
        if let Some(dir) = path.parent() {
            // If it cannot be made, writing says so, again and again.
            let _ = std::fs::create_dir_all(dir);
        }
        let above = path.parent().and_then(Path::parent).unwrap_or(data_dir);
        let scratch = files::scratch_for(&path, &[data_dir, above]).to_owned();
        Self { path, scratch, written: None }
    }

    fn write(&mut self, document: &Document) {
        if self.written.as_deref() == Some(&document.etag) {
            return;
        }
        // After a restart: the same content is no change.
        let same = std::fs::read(&self.path).is_ok_and(|old| old == document.body);
        let result =
            if same { Ok(()) } else { files::replace_from(&self.scratch, &self.path, &document.body, 0o644) };
        match result {
            Ok(()) => self.written = Some(document.etag.clone()),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot be written; tried again")
            }
        }
    }
}

/// See the module.
pub struct Publisher {
    context: Arc<Context>,
    current: Arc<ArcSwap<Published>>,
    inputs: Inputs,
    rejected: BTreeSet<traefik::Rejected>,
    traefik_file: Option<Destination>,
    target_files: Vec<(Job, Destination)>,
}

impl Publisher {
    /// Renders the present state, so that whoever asks first gets an answer.
    pub fn new(context: Arc<Context>) -> Self {
        let config = &context.config;
        let destination = |path: PathBuf| Destination::new(config.data_dir.join(path), &config.data_dir);
        let target_file =
            |dir: &PathBuf, job: Job| (job, destination(dir.join(format!("{}.json", job.as_str()))));
        let mut publisher = Self {
            current: Arc::default(),
            inputs: Inputs::default(),
            rejected: BTreeSet::new(),
            traefik_file: config.edge.traefik_file.clone().map(destination),
            target_files: config
                .monitoring
                .file_sd_dir
                .iter()
                .flat_map(|dir| Job::ALL.map(|job| target_file(dir, job)))
                .collect(),
            context,
        };
        let state = publisher.context.handle.snapshot();
        publisher.inputs = Inputs::of(&state, publisher.context.handle.settings());
        publisher.render(&state);
        publisher.write();
        publisher
    }

    /// What is published now, for the HTTP port.
    pub fn current(&self) -> Arc<ArcSwap<Published>> {
        self.current.clone()
    }

    /// Follows the snapshots until the coordinator stops.
    pub async fn run(mut self) {
        let context = self.context.clone();
        let mut changes = context.handle.subscribe();
        changes.mark_changed();
        let mut timer = tokio::time::interval(EVERY);
        loop {
            let alive = tokio::select! {
                changed = changes.changed() => changed.is_ok(),
                _ = timer.tick() => true,
                () = context.stop.cancelled() => false,
            };
            if !alive {
                return;
            }
            let state = context.handle.snapshot();
            let inputs = Inputs::of(&state, context.handle.settings());
            let mut rejected = Vec::new();
            if !inputs.same(&self.inputs) {
                self.inputs = inputs;
                rejected = self.render(&state);
            }
            self.write();
            context.edges.published(state.version, false);
            self.tell(rejected).await;
            drop(state);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Renders all documents; answers the routes that Traefik would refuse and that were not known before.
    fn render(&mut self, state: &State) -> Vec<traefik::Rejected> {
        let (config, settings) = (&self.context.config, self.context.handle.settings());
        let routes: Vec<_> = views::routes(state, settings).map(route).collect();
        let rendered = traefik::render(&options(config), &routes);
        let targets = targets(state, config);
        let mut changed = false;
        let published = Published {
            traefik: Document::new(rendered.json),
            targets: Job::ALL.map(|job| Document::new(isyone_monitoring::render(job, &targets))),
        };
        if published.traefik != self.current.load().traefik {
            self.context.metrics.publications.inc();
            changed = true;
            tracing::debug!(routes = routes.len(), "Traefik's configuration changed");
        }
        self.current.store(Arc::new(published));
        // After the document is there: who asks from now on gets it.
        self.context.edges.published(state.version, changed);
        let rejected: BTreeSet<_> = rendered.rejected.into_iter().collect();
        self.context.metrics.rejected_routes.set(i64::try_from(rejected.len()).unwrap_or(i64::MAX));
        let new = rejected.difference(&self.rejected).cloned().collect();
        self.rejected = rejected;
        new
    }

    fn write(&mut self) {
        let published = self.current.load();
        if let Some(file) = &mut self.traefik_file {
            file.write(&published.traefik);
        }
        for (job, file) in &mut self.target_files {
            file.write(published.targets(*job));
        }
    }

    /// A tenant without (all of) its routes is something that operators must see.
    async fn tell(&self, rejected: Vec<traefik::Rejected>) {
        for route in rejected {
            let what = route.hostname.as_deref().unwrap_or("all of it");
            tracing::error!(tenant = route.tenant, what, reason = route.reason, "route left out");
            let Ok(tenant) = route.tenant.parse::<TenantName>() else { continue };
            let message = format!("route left out ({what}): {}", route.reason);
            let audit = Command::Audit { kind: "tenant.route_rejected", tenant, message };
            if let Err(error) = self.context.handle.submit("coordinator", audit).await {
                tracing::warn!(%error, "the event could not be stored");
            }
        }
    }
}

fn options(config: &Config) -> traefik::Options {
    traefik::Options {
        entry_points: config.edge.entry_points.clone(),
        scheme: match config.url_scheme {
            UrlScheme::Http => traefik::Scheme::Http,
            UrlScheme::Https => traefik::Scheme::Https,
        },
        pages_url: config.pages_url(),
        rate_average: config.edge.rate_average,
        rate_burst: config.edge.rate_burst,
    }
}

fn route(route: views::Route) -> traefik::Route {
    traefik::Route {
        tenant: route.tenant.to_string(),
        hostnames: route.hostnames,
        target: if route.suspended {
            traefik::Target::Suspended
        } else {
            traefik::Target::Running {
                address: route.address,
                http_port: route.http_port,
                websocket_port: route.websocket_port,
            }
        },
    }
}

fn targets(state: &State, config: &Config) -> Targets {
    let tenant = |t: views::Target| isyone_monitoring::Tenant {
        name: t.tenant.to_string(),
        host: t.host.to_string(),
        plan: t.plan,
    };
    Targets {
        address: config.metrics_address(),
        tenants: views::targets(state).map(tenant).collect(),
        hosts: state.fleet.hosts.keys().map(ToString::to_string).collect(),
    }
}
