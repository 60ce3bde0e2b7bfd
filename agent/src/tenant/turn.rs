//! A tenant's turn: its place among the few that are looked at and worked on at the same time, so that hundreds of them do not ask
//! everything of Docker at once.
//!
//! A tenant's own programs are hostile: they answer when they like. So a turn is given back while they are waited for, and whatever
//! else takes long goes on without one: no tenant keeps others from theirs. Those whose disk is full take turns among themselves,
//! because the whole host's disk is at stake. Not here: how many have one at once (host), what is done in it (settle, execute).

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isyone_telemetry::{
    child_span,
    tracing::{Instrument as _, Span},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::Tenant;
use crate::plan::diff::{Action, PlannedAction};

/// How long a turn is kept while a tenant's programs are asked: they answer within milliseconds, or let us wait.
pub(super) const ASK: Duration = Duration::from_secs(1);
/// How often one that waits among all looks whether its disk has become full meanwhile.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Among those that are looked at.
    Quick { _place: OwnedSemaphorePermit },
    /// Among those that are created: kept until that is done.
    Create { _place: OwnedSemaphorePermit },
}

/// What a tenant holds of its host's turns.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<Held>);

impl Turn {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_held(&self) -> bool {
        !matches!(*self.lock(), Held::Nothing)
    }

    fn creates(&self) -> bool {
        matches!(*self.lock(), Held::Create { .. })
    }

    /// Before something that takes as long as others like. Who is being created keeps its turn: there are others for quick looks.
    pub(super) fn give_back(&self) {
        if !self.creates() {
            self.end();
        }
    }

    /// Gives back whatever it is.
    pub(super) fn end(&self) {
        *self.lock() = Held::Nothing;
    }

    /// Does something, and gives the turn back when that takes longer than `most`.
    pub(super) async fn at_most<T>(&self, most: Duration, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(most) => self.give_back(),
        }
        work.await
    }
}

/// Waits for a place. Semaphores are never closed: `ok` only drops an error that cannot happen.
async fn place(pool: &Arc<Semaphore>, wait: Span) -> Option<OwnedSemaphorePermit> {
    pool.clone().acquire_owned().instrument(wait).await.ok()
}

impl Tenant {
    /// Waits for a turn, unless it has one.
    pub(super) async fn take_turn(&self) {
        // What must be gone within seconds waits for nobody.
        if self.turn.is_held() || self.is_lapsed() {
            return;
        }
        let wait = child_span!(&Span::current(), "wait");
        let is_full = async {
            while !self.disk_state().stops_odoo() {
                sleep(LOOK).await;
            }
        };
        let taken = tokio::select! {
            biased;
            () = is_full => place(&self.host.full, wait.clone()).await,
            taken = place(&self.host.light, wait.clone()) => taken,
        };
        if let Some(_place) = taken {
            *self.turn.lock() = Held::Quick { _place };
        }
    }

    /// Creating a tenant takes long: it waits among other creates, out of the way of quick looks at others.
    pub(super) async fn take_turn_to_create(&self) {
        if self.turn.creates() {
            return;
        }
        self.turn.end();
        let wait = child_span!(&Span::current(), "wait for a turn");
        if let Some(_place) = place(&self.host.heavy, wait).await {
            *self.turn.lock() = Held::Create { _place };
        }
    }

    /// Has a turn for a wave of actions, or none where the wave waits for others: a registry, or the tenant's own programs.
    ///
    /// Where a program is started besides, that waits within the turn, so that an upgrade does not stop all of a host's Odoos at once and
    /// have them load at once: [`Turn::at_most`] ends that. Who has lost its turn by then goes on without, not to be down for longer.
    pub(super) async fn turn_for(&self, wave: &[PlannedAction], starts: bool, first: bool) {
        let waits = |action| match action {
            // A registry may take minutes, and so may an app.
            Action::PullImage(_) | Action::FinishInstall => true,
            Action::StopContainer(_)
            | Action::StopOdooSoon
            | Action::StopNow(_)
            | Action::AwaitOdoo
            | Action::AwaitPostgres => !starts,
            _ => false,
        };
        if wave.iter().any(|planned| waits(planned.action)) {
            self.turn.give_back();
        } else if first || !starts {
            self.take_turn().await;
        }
    }
}

/// Whether one of these actions starts a program.
pub(super) fn starts(todo: &[PlannedAction]) -> bool {
    let starts = |action| {
        matches!(
            action,
            Action::StartContainer(_) | Action::RestartContainer(_)
        )
    };
    todo.iter().any(|planned| starts(planned.action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_goes_on_without_a_turn_unless_it_is_a_create() {
        let pool = Arc::new(Semaphore::new(1));
        let turn = Turn::default();
        let place = || pool.clone().try_acquire_owned();
        let _place = place().unwrap();
        *turn.lock() = Held::Quick { _place };
        let second = Duration::from_secs(1);
        turn.at_most(second, sleep(second / 2)).await;
        assert!(turn.is_held() && place().is_err());
        let long = async {
            sleep(second * 2).await;
            assert!(place().is_ok(), "somebody else's by now");
        };
        turn.at_most(second, long).await;
        assert!(!turn.is_held());
        let _place = place().unwrap();
        *turn.lock() = Held::Create { _place };
        turn.at_most(second, sleep(second * 2)).await;
        turn.give_back();
        assert!(place().is_err());
        turn.end();
        assert!(place().is_ok());
    }
}
