//! Leases between hosts: asking those that keep our tenants' standbys to let them go on, over and over, and answering those whose standbys
//! are here. One task and one connection for each host that is asked, so that one that hangs holds up no other.
//!
//! Only directly: the coordinator, which could pass connections on, grants leases itself. Not here: what follows from an answer, and what
//! is answered (host::leases).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::TenantName,
    pb::agent::v1::{
        PeerTenant, RenewLeasesRequest, RenewLeasesResponse, peer_service_client::PeerServiceClient,
    },
    tls,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use uuid::Uuid;

use super::{Of, admit::PeerIdentity, reach::dial};
use crate::{
    base::clock::now_ms,
    host::Host,
    plan::lease::{Question, Renewer},
};

/// Tenants in one message.
const MOST: usize = 256;
/// Shortest and longest time that an answer is waited for, with the connection that it may need. Otherwise as long as until the next
/// question.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The pause after an answer is no shorter than this, however long that took.
const BREATH: Duration = Duration::from_millis(50);

/// A host that is being asked; not any more when this is dropped.
struct Asked(JoinHandle<()>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks for as long as plans say whom, until `stop`. `tls`: the newest identity.
pub async fn renew_leases(
    host: Arc<Host>,
    tls: Arc<ArcSwap<ClientConfig>>,
    stop: CancellationToken,
) {
    let mut changes = host.leases.changes();
    let mut asked = BTreeMap::<Renewer, Asked>::new();
    loop {
        changes.mark_unchanged();
        let questions = host.leases.questions();
        asked.retain(|renewer, _| questions.contains_key(renewer));
        for renewer in questions.into_keys() {
            let asking = || ask(host.clone(), tls.clone(), renewer.clone());
            asked
                .entry(renewer.clone())
                .or_insert_with(|| Asked(tokio::spawn(asking())));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Asks one host until no plan has it asked.
async fn ask(host: Arc<Host>, tls: Arc<ArcSwap<ClientConfig>>, renewer: Renewer) {
    let mut connection = None;
    let mut is_told = false;
    while let Some(question) = host.leases.questions().remove(&renewer) {
        let begun = Instant::now();
        let pause = Duration::from_millis(question.pause_ms);
        let asking = ask_once(&host, &tls, &renewer, &question, &mut connection);
        let (least, most) = PATIENCE;
        let done = timeout(pause.clamp(least, most), asking).await;
        let done = done.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match &done {
            Ok(()) => is_told = false,
            Err(why) => {
                connection = None;
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(host = %renewer.host, "leases are not renewed there: {why}");
                }
            }
        }
        sleep_until((begun + pause).max(Instant::now() + BREATH)).await;
    }
}

async fn ask_once(
    host: &Host,
    tls: &Arc<ArcSwap<ClientConfig>>,
    renewer: &Renewer,
    question: &Question,
    connection: &mut Option<PeerServiceClient<Channel>>,
) -> Result<(), String> {
    for tenants in question.tenants.chunks(MOST) {
        // A lease counts from before anything was done for it.
        let asked_ms = host.leases.now_ms();
        if connection.is_none() {
            *connection = Some(connect(tls, renewer).await?);
        }
        let Some(client) = connection.as_mut() else {
            return Ok(());
        };
        let wire = |(tenant, uid): &(TenantName, Uuid)| {
            let (tenant, uid) = (tenant.clone(), *uid);
            Of { tenant, uid }.to_wire()
        };
        let request = RenewLeasesRequest {
            tenants: tenants.iter().map(wire).collect(),
        };
        let answer = client.renew_leases(request).await;
        let answer = answer.map_err(|status| tls::error_chain(&status))?;
        let said = answer.into_inner().tenant_uids;
        let said: Vec<Uuid> = said.iter().filter_map(|uid| uid.parse().ok()).collect();
        let uids = tenants.iter().map(|(_, uid)| *uid);
        let renewed: Vec<Uuid> = uids.filter(|uid| said.contains(uid)).collect();
        host.leases.renewed(&renewer.host, &renewed, asked_ms);
    }
    Ok(())
}

async fn connect(
    tls: &Arc<ArcSwap<ClientConfig>>,
    renewer: &Renewer,
) -> Result<PeerServiceClient<Channel>, String> {
    let tcp = dial(renewer.address).await.map_err(|e| e.to_string())?;
    let channel = tls::peer_over(tcp, &renewer.host, tls.load_full()).await;
    let channel = channel.map_err(|e| tls::error_chain(&e))?;
    Ok(PeerServiceClient::new(channel))
}

/// What another host hears that asks for its tenants. Whoever has no grant is left out, and so is what names nobody.
pub(super) fn answer(
    host: &Host,
    peer: &PeerIdentity,
    asked: &[PeerTenant],
) -> Result<RenewLeasesResponse, Status> {
    if asked.len() > MOST {
        let why = format!("at most {MOST} tenants at once");
        return Err(Status::invalid_argument(why));
    }
    if now_ms() / 1_000 >= peer.not_after {
        return Err(Status::permission_denied("not granted"));
    }
    let asked = asked.iter().filter_map(|wire| Of::parse(Some(wire)));
    let asked: Vec<(TenantName, Uuid)> = asked.map(|of| (of.tenant, of.uid)).collect();
    let given = host.leases.gives(&peer.host, &asked);
    Ok(RenewLeasesResponse {
        tenant_uids: given.iter().map(Uuid::to_string).collect(),
    })
}
