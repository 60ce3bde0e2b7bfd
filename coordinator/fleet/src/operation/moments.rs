//! The moments from which, and up to which, an operation under way is waited for. They are times of day, as an operation outlives
//! every process: when the clock is set, all of them go with it.
//!
//! Not here: when that is (change/clock), and how long is waited (procedures).

use isyone_types::{ids::HostName, plan::UnixMs};

use super::{MoveStage, Operation, Procedure};

impl Operation {
    /// The newest moment from which something of it is counted.
    pub(crate) fn counted_since(&self) -> UnixMs {
        match &self.procedure {
            Procedure::Move(relocation) => self
                .stage_since
                .max(relocation.copying_since.unwrap_or(self.stage_since)),
            Procedure::Converge(_) | Procedure::Restore(_) => self.stage_since,
        }
    }

    /// The operation by a clock that is ahead by so much. What is over stays as it was written down.
    pub(crate) fn moved_by(&self, ms: i64) -> Self {
        let mut moved = self.clone();
        for moment in moved.moments() {
            *moment = moment.saturating_add(ms);
        }
        moved
    }

    fn moments(&mut self) -> impl Iterator<Item = &mut UnixMs> {
        let own = [
            &mut self.created_at,
            &mut self.stage_since,
            &mut self.deadline,
        ];
        let relocation = match &mut self.procedure {
            Procedure::Move(relocation) => Some(relocation),
            // These record none.
            Procedure::Converge(_) | Procedure::Restore(_) => None,
        };
        let of_a_move = relocation.map(|relocation| {
            let held_at = relocation
                .live
                .as_mut()
                .and_then(|live| live.held_at.as_mut());
            let optional = relocation.copying_since.as_mut().into_iter().chain(held_at);
            std::iter::once(&mut relocation.leave_until).chain(optional)
        });
        own.into_iter().chain(of_a_move.into_iter().flatten())
    }

    /// The host whose plan shows one of them: until when another may fetch from it.
    pub(crate) fn shown_to(&self) -> Option<&HostName> {
        match &self.procedure {
            Procedure::Move(relocation)
                if matches!(
                    relocation.stage,
                    MoveStage::Follow | MoveStage::Stop | MoveStage::Copy
                ) =>
            {
                Some(&relocation.from)
            }
            Procedure::Move(_) | Procedure::Converge(_) | Procedure::Restore(_) => None,
        }
    }
}
