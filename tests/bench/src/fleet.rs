//! Being written.

use anyhow::{Result, bail};

use crate::{Run, figures::Report};

/// See the module.
pub(crate) fn run(_run: &Run) -> Result<Report> {
    bail!("not written yet")
}
