//! `bench publish`: what a change of one tenant's routes and targets costs the coordinator, in fleets of several sizes.
//! Not here: what it costs a Traefik (edge).
//!
//! The coordinator runs in this process, as in production except that its store is in memory. Its CPU time is that of
//! the process without the measuring thread.

pub(crate) mod cost;
pub(crate) mod fleet;

use anyhow::Result;

use crate::{Run, figures::Report};

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    cost::measure(run, &mut report)?;
    Ok(report)
}
