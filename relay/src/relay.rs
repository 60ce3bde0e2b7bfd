//! Puts it together: the routes' file is watched, listeners and tenants follow it, a successor takes over, and all comes to an end.
//!
//! Not here: the program around it (signals, logs, the command line).

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use isyone_types::ids::TenantName;
use tokio::{
    net::UnixListener,
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Shown},
    clock,
    file::{self, Stamp},
    handover::{self, Prepared},
    ledger::{TenantId, locked},
    listeners::{Listeners, Owner},
    place::{self, Reached, There},
    routes::{Routes, RoutesError},
    spool::Spool,
    tenant::{Current, Host, Role, Tenant},
};

/// How often the routes' file is looked at: a hold for a restart should not wait for it.
const LOOK: Duration = Duration::from_secs(1);
/// At the end, how long connections that are idle are still answered on before they are closed: edges reuse them, and one that is closed
/// while a request is on its way loses it. The answer tells the edge to close, so few are left after that.
const LINGER: Duration = Duration::from_secs(10);

/// How often it is looked at whether all requests have ended.
const DONE_LOOK: Duration = Duration::from_millis(100);

/// Until those who accept have closed their sockets.
const CLOSED: Duration = Duration::from_millis(20);

/// Where things are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that the agent writes; replaced by renaming.
    pub routes: PathBuf,
    /// A directory of the relay's own, made if need be.
    pub spool: PathBuf,
    /// The unix socket for `/health` and `/metrics`.
    pub admin: PathBuf,
    /// The unix socket by which a successor takes over.
    pub handover: PathBuf,
    /// Which version of the program this is, as `/health` says it.
    pub version: String,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spool's directory.
    #[error("the spool {path} cannot be used", path = .0.display())]
    Spool(PathBuf, #[source] io::Error),
    /// A unix socket.
    #[error("cannot listen at {path}", path = .0.display())]
    Socket(PathBuf, #[source] io::Error),
    /// There is a predecessor, and it keeps its sockets.
    #[error("the relay that runs does not hand over (at {path})", path = .0.display())]
    Handover(PathBuf, #[source] io::Error),
    /// There is a predecessor with routes that work; bad ones take nothing over.
    #[error("{path} does not hold routes, so the relay that runs goes on", path = .0.display())]
    Routes(PathBuf, #[source] RoutesFault),
}

/// Why there are no (new) routes.
#[derive(Debug, thiserror::Error)]
pub enum RoutesFault {
    /// The file cannot be read.
    #[error("the file of routes cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Its content.
    #[error("the file of routes is refused: {0}")]
    Content(#[from] RoutesError),
}

/// How an end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections, requests and websockets that had to be cut off.
    pub cut_off: usize,
}

/// A relay at work. Dropping it stops it at once; `drain` does it well.
#[derive(Debug)]
pub struct Relay {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    host: Arc<Host>,
    shown: Arc<Shown>,
    /// Changed by one at a time: the look at the file, the hand-over, the end.
    work: tokio::sync::Mutex<Work>,
    handed_over: CancellationToken,
    stop: CancellationToken,
    ends: Mutex<bool>,
    reached: Mutex<Reached>,
}

#[derive(Debug, Default)]
struct Work {
    listeners: Listeners,
    tenants: HashMap<TenantName, Arc<Tenant>>,
    next_id: TenantId,
    seen: Option<Stamp>,
    routes: Option<Routes>,
    file_fault: Option<String>,
    listen_faults: Vec<(SocketAddr, io::Error)>,
}

impl Relay {
    /// Starts with what the file says; takes over from a relay that runs. A file that is missing or wrong is no hindrance where none
    /// runs: it will be there.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        allow_many_files();
        let spool = Spool::open(&settings.spool)
            .map_err(|error| StartError::Spool(settings.spool.clone(), error))?;
        let host = Host::new(Arc::new(spool));
        let shown = Arc::new(Shown {
            host: Arc::clone(&host),
            tenants: Mutex::default(),
            faults: Mutex::default(),
            version: settings.version.clone(),
            look_now: Notify::new(),
        });
        let inner = Arc::new(Inner {
            host,
            shown,
            work: tokio::sync::Mutex::default(),
            handed_over: CancellationToken::new(),
            stop: CancellationToken::new(),
            ends: Mutex::new(false),
            reached: Mutex::default(),
            settings,
        });
        inner.begin().await?;
        Ok(Self { inner })
    }

    /// Looks at the file of routes at once, not only within a second.
    pub fn reload(&self) {
        self.inner.shown.look_now.notify_one();
    }

    /// Ends when a successor has taken over: then `drain`, and leave.
    pub async fn handed_over(&self) {
        self.inner.handed_over.cancelled().await;
    }

    /// Accepts nobody any more, lets what is under way come to its end within `bound`, and cuts off the rest.
    pub async fn drain(self, bound: Duration) -> Drained {
        self.inner.drain(bound).await
    }

    /// Like `drain`, where no successor answers meanwhile: websockets are not waited for, so that this is soon over. Their visitors
    /// come back by themselves.
    pub async fn drain_requests(self, bound: Duration) -> Drained {
        let shown = Arc::clone(&self.inner.shown);
        let is_done = async {
            // Twice in a row: what was answered last is on its way by then.
            let mut quiet = 0;
            while quiet < 2 {
                tokio::time::sleep(DONE_LOOK).await;
                let tenants = locked(&shown.tenants).clone();
                let requests = |tenant: &Arc<Tenant>| {
                    let now = tenant.now();
                    now.open.saturating_sub(now.websockets)
                };
                match tenants.iter().map(requests).sum::<u64>() {
                    0 => quiet += 1,
                    _ => quiet = 0,
                }
            }
        };
        tokio::select! {
            drained = self.inner.drain(bound) => drained,
            () = is_done => Drained { cut_off: 0 },
        }
    }

    /// What is wrong at the moment; empty when nothing is.
    pub fn faults(&self) -> Vec<String> {
        locked(&self.inner.shown.faults).clone()
    }

    /// The routes' number.
    pub fn revision(&self) -> u64 {
        self.inner.host.revision.load(Ordering::Relaxed)
    }

    /// The page for Prometheus.
    pub fn metrics(&self) -> String {
        admin::metrics(&self.inner.shown)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.inner.stop.cancel();
        self.inner.host.killed.cancel();
    }
}

impl Inner {
    async fn begin(self: &Arc<Self>) -> Result<(), StartError> {
        let path = self.settings.handover.clone();
        let asked = tokio::task::spawn_blocking(move || handover::ask(&path)).await;
        let handover = |error| StartError::Handover(self.settings.handover.clone(), error);
        let mut taking = asked
            .map_err(io::Error::other)
            .and_then(|asked| asked)
            .map_err(handover)?;
        let mut work = self.work.lock().await;
        if let Some(taking) = &mut taking {
            work.listeners.inherit(std::mem::take(&mut taking.sockets));
        }
        let looked = self.look(&mut work).await;
        if let (Err(fault), true) = (looked, taking.is_some()) {
            return Err(StartError::Routes(self.settings.routes.clone(), fault));
        }
        drop(work);
        // All that can fail comes before the predecessor stops.
        let sockets = self.come()?;
        if let Some(taking) = taking {
            // This process accepts already: whatever has become of the predecessor, it goes on.
            let taken = tokio::task::spawn_blocking(move || taking.take_over()).await;
            if let Err(error) = taken.map_err(io::Error::other).and_then(|taken| taken) {
                tracing::warn!(%error, "the predecessor did not say that it has stopped");
            }
        }
        self.listen(sockets);
        crate::lapse::begin(&self.shown, &self.stop);
        tokio::spawn(Arc::clone(self).watch());
        Ok(())
    }

    /// Puts our sockets, for the agent and for a successor, where they belong.
    fn come(&self) -> Result<[UnixListener; 2], StartError> {
        let Settings {
            admin, handover, ..
        } = &self.settings;
        let socket = |path: &Path, error| StartError::Socket(path.to_owned(), error);
        let prepare = |path: &Path| Prepared::new(path).map_err(|error| socket(path, error));
        let prepared = (prepare(admin)?, prepare(handover)?);
        let put = |prepared: Prepared, path: &Path| prepared.put().map_err(|e| socket(path, e));
        let sockets = [put(prepared.0, admin)?, put(prepared.1, handover)?];
        locked(&self.reached).own = place::of(handover);
        Ok(sockets)
    }

    /// Answers at these from now on, and nowhere else.
    fn listen(self: &Arc<Self>, [for_admin, for_successor]: [UnixListener; 2]) {
        let stop = self.stop.child_token();
        let before = std::mem::replace(&mut locked(&self.reached).stop, stop.clone());
        before.cancel();
        let shown = Arc::clone(&self.shown);
        tokio::spawn(admin::serve(for_admin, shown, stop.clone()));
        tokio::spawn(Arc::clone(self).wait_for_successor(for_successor, stop));
    }

    async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.shown.look_now.notified() => {}
                _ = ticks.tick() => {}
            }
            let mut work = self.work.lock().await;
            // What was wrong is shown; the next look may find it mended.
            let _ = self.look(&mut work).await;
            let own = locked(&self.reached).own;
            // A successor that asks has its sockets there, too.
            let Some(own) = own.filter(|_| !*locked(&self.ends)) else {
                continue;
            };
            match place::there(&self.settings.handover, own).await {
                There::Nobody => self.come_back(),
                There::Other => {
                    // It follows the same file, which may be another since the look above: what we have now is what it has.
                    let _ = self.look(&mut work).await;
                    if work.file_fault.is_none() {
                        return self.let_go(&mut work).await;
                    }
                }
                There::Own | There::Unknown => {}
            }
        }
    }

    /// Our sockets are gone with their directory, or those of a successor that has died half-way are in their place: there is a
    /// relay, and so the agent need not start one that would not get the addresses.
    fn come_back(self: &Arc<Self>) {
        // While there is no directory, visitors are served on.
        let spool = self.host.spool.open_again(&self.settings.spool);
        match spool.map(|()| self.come()) {
            Ok(Ok(sockets)) => {
                tracing::warn!("this relay's sockets were gone: it is reached again");
                self.listen(sockets);
            }
            Ok(Err(error)) => tracing::debug!(%error, "this relay is not reached"),
            Err(error) => tracing::debug!(%error, "this relay is not reached"),
        }
    }

    /// Another relay has begun in our place without asking us, and has routes: it gets our addresses, at once.
    async fn let_go(&self, work: &mut Work) {
        tracing::warn!("another relay is in this one's place: it gets the addresses");
        *locked(&self.ends) = true;
        self.host.is_draining.store(true, Ordering::Relaxed);
        work.listeners.close();
        tokio::time::sleep(CLOSED).await;
        place::ring(&self.settings.admin).await;
        self.handed_over.cancel();
    }

    /// Reads the file if it is another than before, and follows it. What is wrong changes nothing but `faults`.
    async fn look(self: &Arc<Self>, work: &mut Work) -> Result<(), RoutesFault> {
        let path = self.settings.routes.clone();
        let seen = work.seen;
        let found = tokio::task::spawn_blocking(move || file::read(&path, seen)).await;
        let found = found.map_err(io::Error::other).and_then(|found| found);
        let read = match found {
            Ok(None) => Ok(()),
            Ok(Some((stamp, text))) => {
                work.seen = Some(stamp);
                Routes::read(&text)
                    .map(|routes| work.routes = Some(routes))
                    .map_err(RoutesFault::from)
            }
            Err(error) => {
                work.seen = None;
                Err(RoutesFault::from(error))
            }
        };
        let is_news = matches!(&read, Ok(())) && work.seen != seen;
        match &read {
            Ok(()) if is_news => work.file_fault = None,
            Ok(()) => {}
            Err(fault) => self.refuse(work, fault),
        }
        if is_news || !work.listen_faults.is_empty() {
            self.follow(work);
        }
        self.show(work);
        read
    }

    fn refuse(&self, work: &mut Work, fault: &RoutesFault) {
        let text = fault.to_string();
        if work.file_fault.as_ref() != Some(&text) {
            tracing::warn!(%fault, "the routes stay as they were");
            self.host.own.routes_refused.one();
        }
        work.file_fault = Some(text);
    }

    /// Makes tenants and listeners what the routes say.
    fn follow(self: &Arc<Self>, work: &mut Work) {
        let Some(routes) = work.routes.clone() else {
            return;
        };
        self.host.set(routes.host());
        let (unix_ms, now) = (clock::unix_ms(), Instant::now());
        let mut wanted: HashMap<SocketAddr, Owner> = HashMap::new();
        let mut stays = HashMap::new();
        for route in routes.tenants() {
            let current = Current::of(route, &routes, unix_ms, now);
            let tenant = match work.tenants.remove(&route.name) {
                Some(tenant) => {
                    let before = tenant.current();
                    if before.route != current.route || before.edges != current.edges {
                        tenant.set(current);
                    }
                    tenant
                }
                None => {
                    work.next_id += 1;
                    Tenant::new(work.next_id, &self.host, current)
                }
            };
            wanted.insert(route.listen.http, (Arc::clone(&tenant), Role::Http));
            if let Some(address) = route.listen.websocket {
                wanted.insert(address, (Arc::clone(&tenant), Role::Websocket));
            }
            stays.insert(route.name.clone(), tenant);
        }
        for gone in std::mem::replace(&mut work.tenants, stays).into_values() {
            gone.end();
        }
        // At the end routes are still followed, for those who wait; nobody new comes.
        if !*locked(&self.ends) {
            work.listen_faults = work.listeners.set(wanted, &self.host);
            let failures = work.listen_faults.len() as u64;
            self.host.own.listen_failures.add(failures);
        }
        self.host
            .revision
            .store(routes.revision(), Ordering::Relaxed);
    }

    fn show(&self, work: &Work) {
        let mut tenants: Vec<_> = work.tenants.values().cloned().collect();
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        *locked(&self.shown.tenants) = tenants;
        let of_listening = work.listen_faults.iter();
        let of_listening =
            of_listening.map(|(address, error)| format!("cannot listen at {address}: {error}"));
        *locked(&self.shown.faults) = work
            .file_fault
            .clone()
            .into_iter()
            .chain(of_listening)
            .collect();
    }

    /// Gives the sockets to a successor of the same user, and stops accepting once that one accepts.
    async fn wait_for_successor(self: Arc<Self>, listener: UnixListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(LOOK).await; // no file handles
                continue;
            };
            let own = rustix::process::geteuid().as_raw();
            if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own) {
                continue;
            }
            match self.hand_over(stream).await {
                Ok(()) => return self.handed_over.cancel(),
                Err(error) => {
                    tracing::warn!(%error, "who asked for the sockets did not take over; this relay goes on")
                }
            }
        }
    }

    async fn hand_over(&self, stream: tokio::net::UnixStream) -> io::Result<()> {
        // Locked throughout: what is handed over is what there is.
        let work = self.work.lock().await;
        let (stream, sockets) = (stream.into_std()?, work.listeners.sockets()?);
        let taken = tokio::task::spawn_blocking(move || {
            let mut handing = handover::give(stream, &sockets)?;
            handing.taken().map(|()| handing)
        });
        let handing = taken.await.map_err(io::Error::other)??;
        *locked(&self.ends) = true;
        self.host.is_draining.store(true, Ordering::Relaxed);
        work.listeners.stop();
        let told = tokio::task::spawn_blocking(move || handing.stopped()).await;
        told.map_err(io::Error::other)?
    }

    async fn drain(&self, bound: Duration) -> Drained {
        let end = Instant::now() + bound;
        *locked(&self.ends) = true;
        self.host.is_draining.store(true, Ordering::Relaxed);
        self.work.lock().await.listeners.close();
        let tasks = &self.host.tasks;
        tasks.close();
        let linger = LINGER.min(bound / 2);
        let _ = tokio::time::timeout(linger, tasks.wait()).await;
        self.host.closing.cancel();
        let _ = tokio::time::timeout_at(end, tasks.wait()).await;
        let cut_off = tasks.len();
        self.stop.cancel();
        self.host.killed.cancel();
        Drained { cut_off }
    }
}

/// As many open files as the system lets this process have: each request has up to four.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
