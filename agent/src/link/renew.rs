//! Keeps the certificate fresh: renews it with a new key and CSR at half of its lifetime, and reloads files changed by
//! hand.
//!
//! Not here: the files (identity), moving the session to a new certificate (session).

use std::{sync::Arc, time::Duration};

use isyone_proto::{
    pb::agent::v1::{RenewRequest, agent_service_client::AgentServiceClient},
    tls,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    base::clock::{backoff, jitter, now_ms},
    host::identity::{LiveIdentity, Pems},
};

/// How often to check the files and the expiry.
const LOOK: Duration = Duration::from_secs(5);
/// First and longest wait after a failed renewal: half of the lifetime is left for retries.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs until `stop`.
pub async fn run(
    identity: Arc<LiveIdentity>,
    endpoint: String,
    host_name: String,
    stop: CancellationToken,
) {
    let mut failures = 0;
    // A certificate from before hosts were scraped cannot serve: replace it, once, since an old coordinator issues none
    // that can.
    let mut lacks = !identity.info().serves;
    let mut wanted = identity.wanted();
    loop {
        let wait = if failures == 0 {
            look_interval(&identity)
        } else {
            jitter(backoff(failures - 1, RETRY.0, RETRY.1)).max(LOOK)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
            Ok(()) = wanted.changed(), if failures == 0 => {
                let within = wanted.borrow_and_update().map(|wanted| wanted.within);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(jitter(within.unwrap_or_default())) => {}
                }
            }
        }
        match identity.reload() {
            Ok(true) => tracing::info!("identity files have changed and are in use now"),
            Ok(false) => {}
            Err(e) => tracing::error!("the changed identity is not used: {}", tls::error_chain(&e)),
        }
        let other_ca = wanted.borrow().is_some();
        if now_ms() / 1000 < identity.info().renew_at() && !lacks && !other_ca {
            continue;
        }
        match renew(&identity, &endpoint, &host_name).await {
            Ok(()) => {
                (failures, lacks) = (0, false);
                tracing::info!("certificate renewed");
            }
            Err(why) => {
                failures += 1;
                tracing::warn!("the certificate could not be renewed, tried again: {why}");
            }
        }
    }
}

/// Short-lived certificates (tests) are checked more often.
fn look_interval(identity: &LiveIdentity) -> Duration {
    let info = identity.info();
    let life = (info.not_after - info.not_before).max(1) as u64;
    LOOK.min(Duration::from_millis(life * 1000 / 20))
        .max(Duration::from_millis(50))
}

async fn renew(identity: &LiveIdentity, endpoint: &str, host_name: &str) -> Result<(), String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let (key, csr_pem) = tls::new_key_and_csr(host_name).map_err(|e| text(&e))?;
    let channel = tls::channel(endpoint, identity.config()).map_err(|e| text(&e))?;
    let mut client = AgentServiceClient::new(channel);
    let answer = timeout(CALL_TIMEOUT, client.renew(RenewRequest { csr_pem }))
        .await
        .map_err(|_| "no answer".to_owned())?
        .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?
        .into_inner();
    let pems = Pems {
        key,
        certificate: answer.certificate_pem,
        ca: answer.ca_pem,
    };
    identity.replace(&pems).map_err(|e| tls::error_chain(&e))
}
