//! Real components for end-to-end tests: the built binaries, real Docker Engines, real Traefik and Prometheus, all on
//! this machine, each started and stopped by the test that uses it. Two such tests run side by side (lane).
//!
//! Runs if `ISYONE_E2E=1` (`cargo xtask test` sets it, with `ISYONE_BIN` and `ISYONE_CACHE`). Not here: what is tested.

pub mod acme;
pub mod authority;
pub mod bare;
pub mod bombard;
pub mod browser;
pub mod cell;
pub mod disks;
pub mod docker;
pub mod doctors;
pub mod faketime;
pub mod faults;
pub mod host;
pub mod http;
pub mod https;
pub mod lane;
pub mod moving;
pub mod odoo;
pub mod process;
pub mod replies;
pub mod upload;
pub mod watch;
pub mod websocket;

pub use lane::{alone, beside};

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Between two questions of [`wait_for`], at first and after some seconds.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_millis(400);

/// Whether end-to-end tests run; prints a notice if not.
pub fn enabled(test: &str) -> bool {
    let on = std::env::var("ISYONE_E2E").is_ok_and(|value| value == "1");
    if !on {
        println!("{test}: not run, ISYONE_E2E is not 1 (use `cargo xtask test`)");
    }
    on
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

/// One of our binaries, as built.
pub fn binary(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("ISYONE_BIN").map_or_else(|| root().join("target/debug"), PathBuf::from);
    folder.join(name)
}

/// Whether this machine's own engine has an image, which hosts of tests can be given.
pub fn has_image(name: &str) -> bool {
    let mut docker = std::process::Command::new("docker");
    process::run(docker.args(["image", "inspect", name])).code == 0
}

/// A downloaded third-party binary (traefik, prometheus).
pub fn tool(name: &str) -> PathBuf {
    let cache = std::env::var_os("ISYONE_CACHE")
        .map_or_else(|| root().join("target/isyone"), PathBuf::from);
    cache.join("bin").join(name)
}

/// Waits until `condition` returns a value; panics with `what` after `limit`. Most conditions start a program of ours, a tenth of a
/// second of a core as tests have it built: so the longer it has waited, the more seldom it asks.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = begin.elapsed();
        assert!(waited < limit, "gave up after {limit:?} waiting for {what}");
        std::thread::sleep((waited / 8).clamp(OFTEN, SELDOM));
    }
}
