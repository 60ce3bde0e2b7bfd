//! Routes that were left out become events: operators must see that a tenant lacks (some of) its routes. Publishing
//! does not wait for that, and neither a busy writer nor a disk that fails for a while loses any.
//!
//! Not here: which routes are left out (isyone-traefik).

use isyone_fleet::{change::Command, event::EventKind};
use isyone_proto::ids::TenantName;
use isyone_traefik::Rejected;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{EVERY, log, what};
use crate::writer::{Handle, SubmitError};

/// Most rejections that wait to be stored. Rejections are rare: domains are checked before we accept them.
const MAX_UNTOLD: usize = 4_096;

/// Accepts rejections without blocking.
pub(super) struct Teller(mpsc::Sender<Rejected>);

impl Teller {
    /// Returns the receiving end, too, for [`store`].
    pub(super) fn new() -> (Self, mpsc::Receiver<Rejected>) {
        let (sender, untold) = mpsc::channel(MAX_UNTOLD);
        (Self(sender), untold)
    }

    /// Queues rejections without waiting.
    pub(super) fn tell(&self, rejected: Vec<Rejected>) {
        for route in rejected {
            log(&route);
            if self.0.try_send(route).is_err() {
                tracing::warn!("too many routes left out: there is no event of the one above");
            }
        }
    }
}

/// Stores each as an event, one after the other, until the sender is gone or `stop`.
pub(super) async fn store(
    handle: &Handle,
    mut untold: mpsc::Receiver<Rejected>,
    stop: &CancellationToken,
) {
    while let Some(route) = untold.recv().await {
        let Ok(tenant) = route.tenant.parse::<TenantName>() else {
            continue;
        };
        let message = format!("route left out ({}): {}", what(&route), route.reason);
        loop {
            let (tenant, message) = (tenant.clone(), message.clone());
            let audit = Command::Audit {
                kind: EventKind::TenantRouteRejected,
                tenant,
                message,
            };
            match handle.submit_patiently("coordinator", audit).await {
                Ok(_) => break,
                Err(error @ (SubmitError::NotStored(_) | SubmitError::Overloaded(_))) => {
                    tracing::warn!(%error, "an event could not be stored yet");
                    tokio::select! {
                        () = tokio::time::sleep(EVERY) => {}
                        () = stop.cancelled() => return,
                    }
                }
                Err(
                    error @ (SubmitError::Refused(_)
                    | SubmitError::Unknown(_)
                    | SubmitError::Stopping),
                ) => {
                    tracing::warn!(%error, "an event could not be stored");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future;
    use isyone_fleet::testing::{Bench, resources, settings};

    use super::*;
    use crate::{
        writer,
        writer::{OPERATOR_QUEUE, SystemSource, store::memory::MemoryStore},
    };

    fn rejected(reason: &str) -> Rejected {
        Rejected {
            tenant: "alfa".to_owned(),
            hostname: None,
            reason: reason.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn routes_left_out_are_told_whatever_the_writer_has_to_do_and_when_the_disk_is_well_again()
     {
        let (mut bench, disk) = (Bench::default(), MemoryStore::default());
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        disk.apply(&bench.effects.writes).unwrap();
        let stop = CancellationToken::new();
        let store_box = Box::new(disk.clone());
        let (handle, _task) =
            writer::start(store_box, Arc::new(settings()), SystemSource, stop.clone())
                .await
                .unwrap();
        let cordon = |_| handle.submit("ana", Command::AdoptSettings);
        let rush = future::join_all((0..OPERATOR_QUEUE + 1).map(cordon));
        let (teller, untold) = Teller::new();
        disk.fail_next(1);
        let telling = async {
            teller.tell(vec![rejected("one"), rejected("two")]);
            drop(teller);
            store(&handle, untold, &stop).await;
        };
        let (rush, ()) = tokio::join!(rush, telling);
        assert!(matches!(rush.last(), Some(Err(SubmitError::Overloaded(_)))));
        let state = handle.snapshot();
        let told: Vec<_> = state
            .fleet
            .events
            .iter()
            .filter(|e| e.kind == EventKind::TenantRouteRejected)
            .collect();
        assert_eq!(told.len(), 2);
        assert!(told[0].message.ends_with("one") && told[1].message.ends_with("two"));
    }
}
