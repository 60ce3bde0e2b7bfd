//! Keeps the certificate fresh: renews it with a new key and CSR at half of its lifetime, and reloads files changed by
//! hand.
//!
//! Not here: the files (identity), moving the session to a new certificate (session).

use std::{sync::Arc, time::Duration};

use isyone_proto::{
    identity::CertificateInfo,
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
/// So many failures wait the longest.
const MANY: u32 = 16;

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
        let fresh = |identity: &LiveIdentity| identity.info().is_fresh(now_ms() / 1000);
        if fresh(&identity) && !lacks && !other_ca {
            continue;
        }
        match renew(&identity, &endpoint, &host_name).await {
            Ok(()) => {
                (failures, lacks) = (0, false);
                tracing::info!("certificate renewed");
                if !fresh(&identity) {
                    // Or one would be asked for every few seconds.
                    failures = MANY;
                    tracing::error!(
                        "this host's clock and the coordinator's differ: a certificate of just now is not valid now, or old already; set both"
                    );
                }
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
    let issued = tls::certificates("certificate", &answer.certificate_pem).map_err(|e| text(&e))?;
    let issued = issued.first().ok_or("an empty answer")?;
    let issued = tls::certificate_info(issued).map_err(|e| text(&e))?;
    if is_worse(&identity.info(), &issued, now_ms() / 1000) {
        return Err(format!(
            "the coordinator's clock is off: what it has just issued is valid from {} to {} (seconds since 1970); the present one stays",
            issued.not_before, issued.not_after
        ));
    }
    let pems = Pems {
        key,
        certificate: answer.certificate_pem,
        ca: answer.ca_pem,
    };
    identity.replace(&pems).map_err(|e| tls::error_chain(&e))
}

/// Whether a new certificate is not valid now, and the present one is: its issuer's clock is off, and it would be refused when that is
/// set.
fn is_worse(present: &CertificateInfo, issued: &CertificateInfo, now_s: i64) -> bool {
    present.is_valid(now_s) && !issued.is_valid(now_s)
}

#[cfg(test)]
mod tests {
    use isyone_proto::{identity::Identity, ids::HostName};

    use super::*;

    fn valid(not_before: i64, not_after: i64) -> CertificateInfo {
        CertificateInfo {
            identity: Identity::Agent("h1".parse::<HostName>().unwrap()),
            serial: vec![1],
            sha256: [0; 32],
            not_before,
            not_after,
            serves: true,
        }
    }

    /// Fails where a certificate of a clock that is years ahead takes the place of a good one, or is kept once the clock is right.
    #[test]
    fn a_certificate_of_a_wrong_clock_is_neither_taken_nor_kept() {
        let (present, ahead) = (valid(0, 100), valid(10_000, 10_100));
        assert!(is_worse(&present, &ahead, 60));
        assert!(!is_worse(&present, &valid(55, 155), 60));
        assert!(
            !is_worse(&present, &ahead, 10_050),
            "the present one is over"
        );
        assert!(!ahead.is_fresh(60) && ahead.is_fresh(10_020));
        assert!(present.is_fresh(49) && !present.is_fresh(50));
    }
}
