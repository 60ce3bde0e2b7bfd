//! Parts of a command that are carried out as a whole or not at all, where the command itself may go on.
//!
//! Not here: whole commands that are refused, whose writer throws away what they have changed.

use super::{ChangeError, Edit, Effects};

impl Edit<'_> {
    /// What ends with an error has changed nothing.
    pub(super) fn all_or_nothing<T>(
        &mut self,
        change: impl FnOnce(&mut Edit<'_>) -> Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        let (mut state, mut effects) = (self.state.clone(), Effects::default());
        let changed = change(&mut Edit {
            state: &mut state,
            settings: self.settings,
            stamp: self.stamp,
            effects: &mut effects,
            asked: self.asked.clone(),
        })?;
        *self.state = state;
        self.effects.writes.append(&mut effects.writes);
        self.effects
            .touched_hosts
            .append(&mut effects.touched_hosts);
        Ok(changed)
    }
}
