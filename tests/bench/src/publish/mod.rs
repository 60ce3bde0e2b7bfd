//! `bench publish`: what it costs the coordinator that one tenant's routes and targets change, in fleets of several sizes.
//! Not here: what it costs a Traefik (edge).
//!
//! The coordinator runs in this process, with everything that it has in production but for its store, which is in memory; its
//! CPU time is that of the process without the measuring thread.

pub(crate) mod cost;
pub(crate) mod fleet;

use anyhow::Result;

use crate::{Run, figures::Report};

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    cost::measure(run, &mut report)?;
    Ok(report)
}
