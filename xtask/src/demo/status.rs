//! Which parts of the demo are running.

use super::settings::Settings;
use super::{Demo, said};
use anyhow::Result;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Prints a line per program, then the hosts and tenants. Exit code 1 if something is not running.
pub(super) fn print(folder: &Path) -> Result<ExitCode> {
    let Some(settings) = Settings::load(folder)? else {
        println!("there is no demo in {}", folder.display());
        return Ok(ExitCode::FAILURE);
    };
    let demo = Demo {
        folder: folder.to_owned(),
        settings,
        start: Instant::now(),
    };
    let mut all_run = true;
    println!("{:<12} {:<12} {:>7}  LOG", "PART", "STATE", "PID");
    for process in demo.processes() {
        let pid = process.pid();
        let state = match pid {
            Some(_) => "running",
            None if process.was_started() => "ended",
            None => "not started",
        };
        all_run &= pid.is_some();
        let number = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!(
            "{:<12} {state:<12} {number:>7}  {}",
            process.name,
            process.log().display()
        );
    }
    for list in [["host", "list"], ["tenant", "list"]] {
        if let Some(table) = said(&mut demo.isyctl(&list)).filter(|table| !table.is_empty()) {
            println!("\n{table}");
        }
    }
    if !all_run {
        println!("\n`cargo xtask demo` starts what is missing");
    }
    Ok(if all_run {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
