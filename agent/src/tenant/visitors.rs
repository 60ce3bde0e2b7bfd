//! What becomes of a tenant's visitors while its containers stop and start: the relay holds their requests, those under way end first,
//! and it serves again when Odoo answers.
//!
//! Without a relay, and for a container whose ports Docker publishes, nothing is done here. Not here: the relay's routes as a whole
//! (host::relay), what a route says (plan::relay).

use std::{net::SocketAddr, time::Duration};

use isyone_proto::plan::{Callers, DesiredState, Role};
use isyone_relay::routes::Ends;
use tokio::time::{Instant, sleep};

use super::{Tenant, psql::session};
use crate::{
    base::clock::now_ms,
    host::cluster,
    plan::{
        container::{Container, LABEL_UID},
        relay,
        stack::{ODOO_STOP_S, QUIET_STOP_S},
    },
};

/// How long requests are held at most; then visitors see the waiting page.
const HOLD_MS: u64 = 60_000;
/// How long requests under way are waited for before Odoo is told to stop: as long as that has for them today.
const LONGEST: Duration = Duration::from_secs(ODOO_STOP_S as u64 - LAST_S as u64);
/// Seconds that Odoo has for its own end even so.
const LAST_S: u32 = 10;
/// First and longest pause between looks at the requests under way. Most end at once; the relay tells of all its tenants each time.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// Before Odoo is started where nobody is served: edges would be refused until it answers, though the coordinator may have told them
/// to come again; so who comes is held. `odoo` is its container, if there is one already.
pub(super) async fn expect(tenant: &Tenant, odoo: Option<&Container>) {
    let host = &tenant.host;
    let is_ours = odoo.is_none_or(relay::is_relayed);
    if !host.relay.is_on() || !is_ours || !is_to_run(tenant) || tenant.stale {
        return;
    }
    let until = u64::try_from(now_ms()).unwrap_or(0) + HOLD_MS;
    host.relay
        .expect(relay::route_to_come(&tenant.plan, host.advertise(), until));
    publish(tenant).await;
}

/// Before a role's container is stopped: has new requests held, and waits until those under way have ended. Returns how many seconds
/// the container then has to stop.
pub(super) async fn wait_for(tenant: &Tenant, role: Role, grace_s: u32) -> u32 {
    let (name, routes) = (tenant.name(), &tenant.host.relay);
    let now = u64::try_from(now_ms()).unwrap_or(0);
    let waits =
        relay::waits_for_requests(&tenant.plan, role) && routes.hold(name, now, now + HOLD_MS);
    if !waits || !publish(tenant).await {
        return grace_s;
    }
    let begin = Instant::now();
    let (mut pause, longest) = LOOKS;
    while routes.in_flight(name).await.is_some_and(|n| n > 0) {
        if begin.elapsed() >= LONGEST {
            tracing::warn!(tenant = %name, "requests are cut off that take longer than {} s", LONGEST.as_secs());
            break;
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(longest);
    }
    let waited = u32::try_from(begin.elapsed().as_secs()).unwrap_or(u32::MAX);
    grace_s.saturating_sub(waited).max(LAST_S)
}

/// How long requests under way are waited for in one attempt, with new ones held: it adds to the pause of a tenant that moves.
const QUIET: Duration = Duration::from_secs(1);
/// Between two attempts, in which new requests are served.
const BREATH: Duration = Duration::from_secs(3);

/// What is known of the requests under way before Odoo is stopped for a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiet {
    /// There are none, nor is anything begun in its database: Odoo need not be told, which saves its users most of a second.
    Idle,
    /// There are none, or such as were waited for long enough. Or its database does not say what is begun there.
    Yes,
    /// There is no relay that could hold new ones, or it does not say whether the others have ended: Odoo waits for them itself.
    Unknown,
    /// Nobody wants it stopped any more.
    Unwanted,
}

impl Quiet {
    /// Seconds that Odoo has to stop; `None`: it is not stopped.
    pub(super) fn grace_s(self) -> Option<u32> {
        match self {
            Self::Idle => Some(0),
            Self::Yes => Some(QUIET_STOP_S),
            Self::Unknown => Some(ODOO_STOP_S),
            Self::Unwanted => None,
        }
    }
}

/// Before Odoo is stopped for a move: holds new requests while those under way end, and what runs by schedule, which takes no longer than
/// one attempt; where they do not, new ones are served again, and it is tried later. Where there is no database, nothing is begun there.
pub(super) async fn await_quiet(tenant: &Tenant, most_ms: u32, has_database: bool) -> Quiet {
    let (name, routes) = (tenant.name(), &tenant.host.relay);
    let begin = Instant::now();
    loop {
        let now = u64::try_from(now_ms()).unwrap_or(0);
        let holds = routes.hold(name, now, now + u64::from(most_ms));
        tenant.host.board.set_held(name, holds);
        if !holds || !publish(tenant).await {
            return Quiet::Unknown;
        }
        let until = Instant::now() + QUIET;
        match is_quiet_until(tenant, until).await {
            Some(true) if !has_database => return Quiet::Yes,
            Some(true) => match is_idle_until(tenant, until).await {
                Some(true) => return Quiet::Idle,
                None => return Quiet::Yes,
                Some(false) => {}
            },
            None => return Quiet::Unknown,
            Some(false) => {}
        }
        if begin.elapsed() >= LONGEST {
            tracing::warn!(tenant = %name, "requests are cut off that take longer than {} s", LONGEST.as_secs());
            return Quiet::Yes;
        }
        routes.serve_again(name);
        tenant.host.board.set_held(name, false);
        publish(tenant).await;
        let asked_otherwise = tokio::select! {
            () = tenant.interrupted() => true,
            () = sleep(BREATH) => false,
        };
        if asked_otherwise {
            return Quiet::Unwanted;
        }
    }
}

/// `None`: the relay does not say.
async fn is_quiet_until(tenant: &Tenant, until: Instant) -> Option<bool> {
    let (mut pause, longest) = LOOKS;
    while tenant.host.relay.in_flight(tenant.name()).await? > 0 {
        if Instant::now() >= until {
            return Some(false);
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(longest);
    }
    Some(true)
}

/// Whether Odoo comes to an end with what it has begun in its database; `None`: that does not say.
async fn is_idle_until(tenant: &Tenant, until: Instant) -> Option<bool> {
    let asked = async || {
        let session = session(tenant, "postgres").await?;
        session.number(cluster::BEGUN).await
    };
    let (mut pause, longest) = LOOKS;
    loop {
        match asked().await {
            Ok(0) => return Some(true),
            Ok(_) if Instant::now() >= until => return Some(false),
            Ok(_) => sleep(pause).await,
            Err(e) => {
                tracing::warn!(tenant = %tenant.name(), "what is begun in its database is not known: {e}");
                return None;
            }
        }
        pause = (pause * 3 / 2).min(longest);
    }
}

/// Odoo does not run here, and its callers wait, or go on to where it lives; `false`: they are refused as usual.
fn care_for_callers(tenant: &Tenant) -> bool {
    let (name, routes) = (tenant.name(), &tenant.host.relay);
    match &tenant.plan.callers {
        Callers::Refused => false,
        Callers::Held { most_ms } => {
            let now = u64::try_from(now_ms()).unwrap_or(0);
            routes.hold(name, now, now + u64::from(*most_ms))
        }
        Callers::PassedOn {
            address,
            http_port,
            websocket_port,
        } => {
            let at = |port: &u16| SocketAddr::new(*address, *port);
            let ends = Ends {
                http: at(http_port),
                websocket: websocket_port.as_ref().map(at),
            };
            routes.pass_on(name, ends)
        }
    }
}

/// After Odoo was stopped, or before it is stopped in haste: edges are refused from now on, unless it is to run again.
pub(super) async fn send_away(tenant: &Tenant) {
    tenant.host.relay.remove(tenant.name());
    publish(tenant).await;
}

/// Whether this tenant is to be served when its Odoo answers.
pub(super) fn is_to_run(tenant: &Tenant) -> bool {
    tenant.plan.desired == DesiredState::Running && !tenant.disk_state().stops_odoo()
}

/// Odoo is this container, or none: it is served there, or nowhere.
pub(super) async fn follow(tenant: &Tenant, odoo: Option<&Container>) {
    let host = &tenant.host;
    if !host.relay.is_on() {
        return;
    }
    if tenant.is_lapsed() {
        return follow_lapse(tenant).await;
    }
    let reached =
        odoo.filter(|c| is_to_run(tenant) && !tenant.stale && c.is_up() && relay::is_relayed(c));
    let is_up = odoo.is_some_and(Container::is_up);
    match reached.and_then(|c| c.ip) {
        Some(ip) => {
            host.board.set_held(tenant.name(), false);
            host.relay
                .serve(relay::route(&tenant.plan, host.advertise(), ip));
        }
        // Of one that is about to be stopped, whoever stops it decides.
        None if !is_to_run(tenant) && !is_up && care_for_callers(tenant) => {}
        None => host.relay.remove(tenant.name()),
    }
    publish(tenant).await;
}

/// Its lease is over: its route stays, by which the relay says so, and leads nowhere until it runs again.
pub(super) async fn follow_lapse(tenant: &Tenant) {
    let now = u64::try_from(now_ms()).unwrap_or(0);
    tenant.host.relay.hold(tenant.name(), now, now + HOLD_MS);
    publish(tenant).await;
}

/// A first look at it, which may be long before it is as planned. Where no file says routes, nobody's are written before all were looked
/// at; where one does, it counts until then.
pub(super) async fn first_look(tenant: &Tenant, odoo: Option<&Container>) {
    if !tenant.host.relay.has_begun() {
        follow(tenant, odoo).await;
    }
}

/// Those who were held go on to where the tenant lives now, before anything is tidied up here.
pub(super) async fn let_go(tenant: &Tenant, odoo: Option<&Container>) {
    if matches!(tenant.plan.callers, Callers::PassedOn { .. }) {
        tenant.host.board.set_held(tenant.name(), false);
        follow(tenant, odoo).await;
    }
}

/// Beside long work: Docker may have started an Odoo that ended again, at another address.
pub(super) async fn follow_restart(tenant: &Tenant) {
    if let Some(Some(odoo)) = ours(tenant).await
        && odoo.ip.is_some()
    {
        follow(tenant, Some(&odoo)).await;
    }
}

/// After a failure half-way: looks at what there is, so that nobody is held for a restart that does not come.
pub(super) async fn follow_what_is(tenant: &Tenant) {
    if let Some(odoo) = ours(tenant).await {
        follow(tenant, odoo.as_ref()).await;
    }
}

/// Its Odoo, or none; `None`: there is no relay to tell, or the engine does not say, which changes nothing.
async fn ours(tenant: &Tenant) -> Option<Option<Container>> {
    if !tenant.host.relay.is_on() {
        return None;
    }
    let name = tenant.container_name(Role::Odoo);
    let uid = tenant.plan.uid.to_string();
    let found = tenant.host.docker.container(&name).await.ok()?;
    Some(found.filter(|c| c.label(LABEL_UID) == uid))
}

async fn publish(tenant: &Tenant) -> bool {
    match tenant.host.relay.publish().await {
        Ok(follows) => follows,
        Err(e) => {
            tracing::warn!(tenant = %tenant.name(), "the relay is not told: {e}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odoo_is_hurried_only_where_nobody_waits_for_it() {
        assert_eq!(Quiet::Idle.grace_s(), Some(0));
        assert_eq!(Quiet::Yes.grace_s(), Some(5));
        assert_eq!(Quiet::Unknown.grace_s(), Some(ODOO_STOP_S));
        assert_eq!(Quiet::Unwanted.grace_s(), None);
    }
}
