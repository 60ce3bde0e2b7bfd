//! Turns a cell's backups on and off as an operator does: by the coordinator's configuration, and a start.
//!
//! Not here: what follows from it (ours, rest).

use anyhow::{Context as _, Result, bail};
use isyone_tests::e2e::cell::Cell;

/// What a cell's configuration says of backups, with which it was made.
pub(super) const OFF: &str = "[backup]\nenabled = false\n";
pub(super) const ON: &str = "[backup]\nenabled = true\n";

/// Backups to one destination, below the coordinator's data directory. `rpo`: twice in this time what was written is shipped.
pub(super) fn to(destination: &str, rpo: &str) -> String {
    format!(
        "[backup]\nrpo = \"{rpo}\"\n[backup.destinations.{destination}]\npath = \"{destination}\"\nreserve = \"100MiB\"\n"
    )
}

/// Starts the coordinator anew with another `[backup]`.
pub(super) fn switch(cell: &mut Cell, backup: &str) -> Result<()> {
    let config = cell.dir.path().join("coordinator/coordinator.toml");
    let first = config.with_extension("first");
    if !first.exists() {
        std::fs::copy(&config, &first)?;
    }
    let text = std::fs::read_to_string(&first)?;
    std::fs::write(&config, with(&text, backup)?)?;
    let coordinator = cell.coordinator.take();
    coordinator.context("no coordinator")?.terminate();
    cell.start_coordinator();
    Ok(())
}

fn with(config: &str, backup: &str) -> Result<String> {
    match [OFF, ON].into_iter().find(|said| config.contains(said)) {
        Some(said) => Ok(config.replace(said, backup)),
        None => bail!("the cell's configuration says nothing of backups"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_says_of_backups_is_replaced_and_nothing_else() {
        let off = "[liveness]\nlost = \"1m\"\n[backup]\nenabled = false\n\n[editions.\"19.0\"]\n";
        assert_eq!(with(off, OFF).unwrap(), off);
        assert_eq!(with(&with(off, ON).unwrap(), OFF).unwrap(), off);
        let expected = "[liveness]\nlost = \"1m\"\n[backup]\nrpo = \"11m\"\n\
            [backup.destinations.d1]\npath = \"d1\"\nreserve = \"100MiB\"\n\n[editions.\"19.0\"]\n";
        assert_eq!(with(off, &to("d1", "11m")).unwrap(), expected);
        assert!(with("[liveness]\n", ON).is_err());
    }
}
