//! Keeps a session with the coordinator open: tries again after each, and soon once this host's address is there.
//!
//! Not here: how long it waits otherwise (comeback), the session itself (session).

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    comeback::{Comeback, WaitSpan},
    error::SessionError,
    session::Link,
};
use crate::{base::clock::jitter, host::addresses::Arrivals};

/// A moment within the span.
fn drawn(span: WaitSpan) -> Duration {
    span.least + jitter(span.most - span.least)
}

impl Link {
    /// Keeps a session open until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut comeback = Comeback::default();
        let mut arrivals = self.host.arrivals.clone();
        loop {
            let begin = Instant::now();
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.session(&mut comeback) => Some(ended),
                () = self.is_left_behind(&mut arrivals) => None,
            };
            self.connected.send_replace(false);
            let span = match &ended {
                None => comeback.anew(),
                Some(ended) => {
                    self.say(ended);
                    comeback.after(ended, begin.elapsed())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(drawn(span)) => {}
                () = arrivals.next() => sleep(drawn(comeback.anew())).await,
            }
        }
    }

    fn say(&self, ended: &Result<(), SessionError>) {
        match ended {
            Ok(()) => {}
            Err(e @ SessionError::Displaced) => tracing::error!("{e}"),
            Err(e) => tracing::warn!("session with {} ended: {e}", self.endpoint),
        }
    }

    /// Waits until the host's address comes while an attempt has no answer: what was sent without it is lost, and is sent again only
    /// after seconds.
    async fn is_left_behind(&self, arrivals: &mut Arrivals) {
        loop {
            arrivals.next().await;
            if !*self.connected.borrow() {
                return;
            }
        }
    }
}
