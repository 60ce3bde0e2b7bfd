//! How often each host's agent may call: a token bucket for each kind of call of each host, in bounded memory. The host is
//! the one in the certificate, however many connections it has. An agent that does what it should stays far below; one that
//! is broken, or was taken over, takes no time from the others.
//!
//! Who exceeds is told when to come back, or, within a session, is listened to more slowly: its stream does not end.
//! Not here: how many connections a host may have (ports/listener), what agents' commands cost (writer).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use isyone_proto::ids::HostName;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    base::rate::{Bucket, Rate},
    wire::status,
};

/// What an agent does. The order is that of the buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Asks for another certificate.
    Renew,
    /// Begins a session.
    Session,
    /// Opens a stream that it was asked for, or one to another host.
    Stream,
    /// Sends a report within its session.
    Report,
    /// Says within its session what became of a plan.
    Result,
}

const CALLS: [Call; 5] = [
    Call::Renew,
    Call::Session,
    Call::Stream,
    Call::Report,
    Call::Result,
];

/// An agent whose connection keeps breaking begins a session every few seconds.
const SESSIONS: Rate = Rate {
    burst: 60.0,
    per_second: 1.0,
};
/// One for each log and shell that operators open on the host: as many at once as one operator's script may have.
const STREAMS: Rate = Rate {
    burst: 512.0,
    per_second: 50.0,
};
/// Ten a second while it works, and one for each change of ours.
const REPORTS: Rate = Rate {
    burst: 500.0,
    per_second: 50.0,
};
/// Certificates at once: the agent tries again when an answer was lost.
const RENEWALS: f64 = 10.0;
/// Renewals in the life of a certificate, beyond those at once; two are needed.
const RENEWALS_IN_A_LIFE: f64 = 20.0;
/// However long certificates live: one a minute.
const LEAST_RENEWALS_PER_SECOND: f64 = 1.0 / 60.0;
/// From so many hosts on, those are forgotten that have not called for a while.
const TIDY_FROM: usize = 1_000;

/// What each host may still do, for all hosts of the fleet.
#[derive(Debug)]
pub struct Rates {
    renewals: Rate,
    hosts: Mutex<Hosts>,
}

#[derive(Debug)]
struct Hosts {
    buckets: HashMap<HostName, [Bucket; CALLS.len()]>,
    /// How many there may be before we look whom to forget.
    tidy_at: usize,
}

impl Rates {
    /// For agents whose certificates live this long.
    pub fn new(agent_ttl_s: i64) -> Self {
        let life = agent_ttl_s.max(1) as f64;
        Self {
            renewals: Rate {
                burst: RENEWALS,
                per_second: (RENEWALS_IN_A_LIFE / life).max(LEAST_RENEWALS_PER_SECOND),
            },
            hosts: Mutex::new(Hosts {
                buckets: HashMap::new(),
                tidy_at: TIDY_FROM,
            }),
        }
    }

    fn of(&self, call: Call) -> Rate {
        match call {
            Call::Renew => self.renewals,
            Call::Session => SESSIONS,
            Call::Stream => STREAMS,
            Call::Report | Call::Result => REPORTS,
        }
    }

    /// Whether the host may, at `now`; otherwise, after which time.
    fn take(&self, host: &HostName, call: Call, now: Instant) -> Result<(), Duration> {
        // Nothing panics while holding it; the map is consistent in any case.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.buckets.len() >= hosts.tidy_at {
            hosts.buckets.retain(|_, buckets| {
                let mut all = CALLS.into_iter().zip(buckets.iter());
                all.any(|(call, bucket)| !bucket.is_full(self.of(call), now))
            });
            // Only hosts of the fleet come this far, so there are never many more.
            hosts.tidy_at = TIDY_FROM.max(2 * hosts.buckets.len());
        }
        if !hosts.buckets.contains_key(host) {
            let fresh = CALLS.map(|call| Bucket::full(self.of(call), now));
            hosts.buckets.insert(host.clone(), fresh);
        }
        match hosts.buckets.get_mut(host) {
            Some(buckets) => buckets[call as usize].take(self.of(call), now),
            None => Ok(()), // it was put there
        }
    }

    /// Admits a call, or says when to come back.
    pub fn admit(&self, host: &HostName, call: Call) -> Result<(), Status> {
        self.take(host, call, Instant::now()).map_err(|wait| {
            tracing::warn!(%host, ?call, "an agent calls too often: refused");
            let message = format!("host `{host}` calls too often ({call:?})");
            status::overloaded(message, wait)
        })
    }

    /// Waits until a message of a session may be heard; whether it had to wait.
    pub async fn pace(&self, host: &HostName, call: Call) -> bool {
        let mut waited = false;
        while let Err(wait) = self.take(host, call, Instant::now()) {
            waited = true;
            // Boxed: it is seldom, and must not take up room in each of thousands of sessions.
            Box::pin(tokio::time::sleep(wait)).await;
        }
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> HostName {
        format!("h{number}").parse().unwrap()
    }

    #[test]
    fn who_calls_too_often_is_told_when_to_come_back_and_nobody_else_notices() {
        let rates = Rates::new(86_400);
        for call in CALLS {
            assert_eq!(CALLS[call as usize], call, "each has its own bucket");
        }
        let renewed = (0..50).filter(|_| rates.admit(&host(1), Call::Renew).is_ok());
        assert_eq!(renewed.count(), 10);
        let refused = rates.admit(&host(1), Call::Renew).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let after = isyone_proto::error::retry_after(&refused).unwrap();
        assert!(
            after > Duration::from_secs(50) && after <= Duration::from_secs(60),
            "{after:?}"
        );
        rates.admit(&host(1), Call::Session).unwrap();
        rates.admit(&host(2), Call::Renew).unwrap();
    }

    #[test]
    fn certificates_that_live_for_seconds_are_renewed_every_second() {
        let (rates, start) = (Rates::new(4), Instant::now());
        for second in 0..1_000 {
            let now = start + Duration::from_secs(second);
            rates.take(&host(1), Call::Renew, now).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_reports_without_pause_is_listened_to_at_the_rate() {
        let rates = Rates::new(86_400);
        let (host, begin) = (host(1), Instant::now());
        let mut waited = 0;
        for _ in 0..1_000 {
            waited += u32::from(rates.pace(&host, Call::Report).await);
        }
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_secs(10) && took < Duration::from_secs(12),
            "{took:?}"
        );
        assert!(waited > 400, "{waited}");
    }

    #[test]
    fn hosts_that_are_quiet_are_forgotten_and_those_that_flood_are_not() {
        let (rates, start) = (Rates::new(86_400), Instant::now());
        while rates.take(&host(0), Call::Renew, start).is_ok() {}
        let later = start + Duration::from_secs(30);
        for number in 1..TIDY_FROM {
            rates.take(&host(number), Call::Report, start).unwrap();
        }
        rates.take(&host(TIDY_FROM), Call::Report, later).unwrap();
        assert_eq!(rates.hosts.lock().unwrap().buckets.len(), 2);
        assert!(rates.take(&host(0), Call::Renew, later).is_err());
    }
}
