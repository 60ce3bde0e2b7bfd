//! Which jobs to start, stop and forget, from what the plan orders and what is known of each. Pure.
//!
//! Not here: doing it (the parent).

use std::collections::{BTreeMap, BTreeSet};

use isyone_proto::plan::JobOrder;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::record::Record;

/// A job at work.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// The order that it carries out.
    pub(super) order: JobOrder,
    pub(super) stop: CancellationToken,
    /// It was told to stop.
    pub(super) stopping: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell a running job to end; what follows is decided when it has.
    Stop(Uuid),
    /// Remove the record of a job that does not run.
    Forget(Uuid),
    /// Begin, or go on.
    Start(JobOrder),
}

/// Compares. A job that has ended is left alone until the plan drops it; one whose order has changed (another address,
/// another rate) is stopped and goes on under the new one.
pub(super) fn decide(
    orders: &[JobOrder],
    records: &BTreeMap<Uuid, Record>,
    running: &BTreeMap<Uuid, Running>,
) -> Vec<Step> {
    let wanted: BTreeMap<Uuid, &JobOrder> = orders.iter().map(|o| (o.id, o)).collect();
    let known: BTreeSet<Uuid> = records.keys().chain(running.keys()).copied().collect();
    let mut steps = Vec::new();
    for id in known {
        match (wanted.get(&id), running.get(&id)) {
            (None, None) => steps.push(Step::Forget(id)),
            (Some(order), Some(at_work)) if at_work.order == **order => {}
            (_, Some(at_work)) if !at_work.stopping => steps.push(Step::Stop(id)),
            (_, Some(_)) | (Some(_), None) => {}
        }
    }
    for (id, order) in wanted {
        let ended = records.get(&id).is_some_and(Record::is_final);
        if !running.contains_key(&id) && !ended {
            steps.push(Step::Start(order.clone()));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use isyone_proto::plan::JobWork;
    use proptest::prelude::*;

    use super::*;
    use crate::jobs::record::Stage;

    pub(super) fn order(id: u128, rate: u64) -> JobOrder {
        JobOrder {
            id: Uuid::from_u128(id),
            operation: Uuid::nil(),
            tenant: "alfa".parse().unwrap(),
            uid: Uuid::nil(),
            work: JobWork::Fetch {
                from: "h1".parse().unwrap(),
                address: None,
            },
            rate_bytes_per_s: rate,
        }
    }

    fn at_work(order: JobOrder) -> Running {
        Running {
            order,
            stop: CancellationToken::new(),
            stopping: false,
        }
    }

    #[derive(Default)]
    struct World {
        records: BTreeMap<Uuid, Record>,
        running: BTreeMap<Uuid, Running>,
        starts: Vec<Uuid>,
    }

    impl World {
        fn decide(&mut self, orders: &[JobOrder]) -> usize {
            let steps = decide(orders, &self.records, &self.running);
            for step in &steps {
                match step {
                    Step::Stop(id) => self.running.get_mut(id).unwrap().stopping = true,
                    Step::Forget(id) => {
                        assert!(!self.running.contains_key(id));
                        self.records.remove(id);
                    }
                    Step::Start(order) => {
                        assert!(
                            !self.records.get(&order.id).is_some_and(Record::is_final),
                            "an ended job runs again"
                        );
                        self.starts.push(order.id);
                        let taken = self.running.insert(order.id, at_work(order.clone()));
                        assert!(taken.is_none(), "one job at work twice");
                        let record = Record::new(order.clone());
                        self.records.insert(order.id, record);
                    }
                }
            }
            steps.len()
        }

        /// Ends the job if it runs: as told, or by itself.
        fn end(&mut self, id: Uuid, stage: Stage) {
            if let Some(running) = self.running.remove(&id)
                && !running.stopping
                && let Some(record) = self.records.get_mut(&id)
            {
                record.stage = stage;
            }
        }

        fn restart(&mut self) {
            self.running.clear();
        }
    }

    proptest! {
        #[test]
        fn whatever_plans_come_in_the_end_exactly_the_ordered_jobs_run_or_have_ended(
            story in proptest::collection::vec(
                (proptest::collection::btree_map(0u128..5, 0u64..2, 0..4), 0u128..5, 0u8..5),
                1..30,
            ),
        ) {
            let mut world = World::default();
            let mut orders = Vec::new();
            for (plan, who, what) in story {
                orders = plan.into_iter().map(|(id, rate)| order(id, rate)).collect();
                world.decide(&orders);
                match what {
                    0 => world.end(Uuid::from_u128(who), Stage::Done),
                    1 => world.end(Uuid::from_u128(who), Stage::Failed),
                    2 => world.restart(),
                    _ => {}
                }
                world.decide(&orders);
            }
            // All that were told to stop do so.
            for _ in 0..3 {
                let stopping: Vec<_> = world.running.iter().filter(|(_, r)| r.stopping).map(|(id, _)| *id).collect();
                stopping.into_iter().for_each(|id| world.end(id, Stage::Done));
                world.decide(&orders);
            }
            prop_assert_eq!(world.decide(&orders), 0, "nothing is left to decide");
            let wanted: BTreeSet<Uuid> = orders.iter().map(|o| o.id).collect();
            let known: BTreeSet<Uuid> = world.records.keys().copied().collect();
            prop_assert_eq!(&wanted, &known);
            for order in &orders {
                let ended = world.records[&order.id].is_final();
                let runs = world.running.get(&order.id).map(|r| r.order == *order);
                prop_assert!(ended == runs.is_none() && runs != Some(false));
            }
        }
    }
}
