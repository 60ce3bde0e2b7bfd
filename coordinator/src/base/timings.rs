//! Where the coordinator spends its time, as histograms: the writer's stages, the plans, the reports. Always on: an
//! observation costs some tens of nanoseconds.
//!
//! Not here: counters and the fleet's own numbers (metrics), one request's path through all programs (writer/traces).

use std::time::{Duration, Instant};

use prometheus_client::{
    metrics::histogram::Histogram,
    registry::{Registry, Unit},
};

/// From a step in memory to a commit on a slow disk, in seconds.
const SECONDS: [f64; 14] = [
    0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
    5.0,
];
/// From a single command to a full group.
const COMMANDS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// See the module. Clones share the histograms.
#[derive(Debug, Clone)]
pub struct Timings {
    /// A command's wait in the writer's queue.
    pub queue_wait: Histogram,
    /// Applying one command to the Fleet.
    pub apply: Histogram,
    /// Storing one group.
    pub commit: Histogram,
    /// Commands in a group.
    pub group: Histogram,
    /// Publishing one snapshot and waking the hosts concerned.
    pub snapshot: Histogram,
    /// Rendering one host's plan from a snapshot, including opening its secrets.
    pub plan_render: Histogram,
    /// Parsing one report from wire types to checked ones.
    pub report_parse: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = || Histogram::new(SECONDS);
        Self {
            queue_wait: seconds(),
            apply: seconds(),
            commit: seconds(),
            group: Histogram::new(COMMANDS),
            snapshot: seconds(),
            plan_render: seconds(),
            report_parse: seconds(),
        }
    }
}

impl Timings {
    /// Adds the histograms to the registry that is scraped.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds(
            "writer_queue_wait",
            "From a command's arrival in the queue to its turn",
            &self.queue_wait,
        );
        seconds("writer_apply", "One command on the Fleet", &self.apply);
        seconds(
            "writer_commit",
            "One group of commands into the store",
            &self.commit,
        );
        seconds(
            "writer_snapshot",
            "One new snapshot published, hosts woken",
            &self.snapshot,
        );
        seconds("plan_render", "One host's plan rendered", &self.plan_render);
        seconds("report_parse", "One report checked", &self.report_parse);
        registry.register(
            "writer_group_commands",
            "Commands stored in one transaction",
            self.group.clone(),
        );
    }
}

/// Runs `work` and records its duration.
pub(crate) fn timed<T>(histogram: &Histogram, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    observe(histogram, began.elapsed());
    done
}

/// Records a duration, in seconds.
pub(crate) fn observe(histogram: &Histogram, time: Duration) {
    histogram.observe(time.as_secs_f64());
}
