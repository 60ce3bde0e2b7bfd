//! What the process and tokio's runtime use, read at each scrape.
//!
//! Not here: what the coordinator does with it (mod.rs).

use std::{fmt, time::Duration};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};

use super::{Families, number};

/// Reads /proc and the runtime that serves the scrape; leaves out the figures of whichever is missing.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        process(&mut families)?;
        runtime(&mut families)
    }
}

fn process(families: &mut Families<'_>) -> fmt::Result {
    let Ok(me) = procfs::process::Process::myself() else {
        return Ok(());
    };
    if let Ok(stat) = me.stat() {
        let memory = stat.rss.saturating_mul(procfs::page_size());
        families.gauge(
            "process_resident_memory",
            "Of the coordinator",
            Some(&Unit::Bytes),
            i64::try_from(memory).unwrap_or(i64::MAX),
        )?;
        let ticks = procfs::ticks_per_second().max(1);
        families.seconds(
            "process_cpu",
            "User and system time of the coordinator",
            (stat.utime + stat.stime) as f64 / ticks as f64,
        )?;
    }
    if let Ok(count) = me.fd_count() {
        let help = "Open files of the coordinator";
        families.gauge("process_open_fds", help, None, number(count))?;
    }
    Ok(())
}

fn runtime(families: &mut Families<'_>) -> fmt::Result {
    let Ok(handle) = tokio::runtime::Handle::try_current() else {
        return Ok(());
    };
    let runtime = handle.metrics();
    let workers = runtime.num_workers();
    families.gauge(
        "runtime_workers",
        "Threads that tasks run on",
        None,
        number(workers),
    )?;
    families.gauge(
        "runtime_alive_tasks",
        "Tasks that have not ended",
        None,
        number(runtime.num_alive_tasks()),
    )?;
    families.gauge(
        "runtime_queue_depth",
        "Tasks that wait for any thread",
        None,
        number(runtime.global_queue_depth()),
    )?;
    let busy: Duration = (0..workers)
        .map(|worker| runtime.worker_total_busy_duration(worker))
        .sum();
    families.seconds(
        "runtime_busy",
        "Time that all threads together spent on tasks; its rate divided by the workers is how busy they are",
        busy.as_secs_f64(),
    )
}
