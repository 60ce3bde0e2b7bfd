//! What becomes of a changing call to the fake engine: it is refused, its answer is lost, or its caller dies before or after it.
//!
//! Not here: the calls (calls), and who says how often (the parent).

use super::{FakeDocker, Fate, Faults};
use crate::docker::{DockerError, Result};

impl FakeDocker {
    /// Runs before a changing call: it may be refused, or its caller may die.
    pub(super) async fn before(&self, what: String) -> Result<(Fate, bool)> {
        let (fate, dies, early) = {
            let mut world = self.up()?;
            world.calls += 1;
            world.log.push(what.clone());
            let dies = world.dies_at == Some(world.calls);
            let Faults {
                refused,
                answer_lost,
                ..
            } = world.faults;
            if world.chance(refused) {
                return Err(DockerError::Refused(format!("{what}: refused by the test")));
            }
            let fate = if world.chance(answer_lost) {
                Fate::LostAnswer
            } else {
                Fate::Fine
            };
            (fate, dies, world.calls % 2 == 1)
        };
        if dies && early {
            self.die().await;
        }
        Ok((fate, dies))
    }

    pub(super) async fn after<T>(&self, (fate, dies): (Fate, bool), value: T) -> Result<T> {
        if dies {
            self.die().await;
        }
        match fate {
            Fate::Fine => Ok(value),
            Fate::LostAnswer => Err(DockerError::Unreachable(
                "the answer was lost (by the test)".to_owned(),
            )),
        }
    }

    async fn die(&self) {
        self.dead.send_replace(true);
        std::future::pending::<()>().await;
    }
}
