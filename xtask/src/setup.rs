//! `cargo xtask setup`: installs what a Debian or Ubuntu machine needs to run, demonstrate and test isyone.
//!
//! Idempotent: it checks for each program first and installs only what is missing. If a Docker daemon already answers,
//! nothing of Docker is installed or started.

use crate::cmd::{cmd, need_root, output, run, say, succeeds, took};
use crate::{engine, paths};
use anyhow::{Context as _, Result, ensure};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Options of `setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit code 1 when something is
    #[arg(long)]
    check: bool,
}

/// A program, the packages that provide it, and what it is for.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    purpose: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        program: "nft",
        packages: &["nftables"],
        purpose: "the agent keeps tenant ports closed with it",
    },
    Need {
        program: "ip",
        packages: &["iproute2"],
        purpose: "test hosts",
    },
    Need {
        program: "iptables",
        packages: &["iptables"],
        purpose: "Docker and test hosts",
    },
    Need {
        program: "gcc",
        packages: &["gcc", "libc6-dev"],
        purpose: "C parts of Rust crates, the stand-in image",
    },
    Need {
        program: "mmdebstrap",
        packages: &["mmdebstrap"],
        purpose: "images where no registry answers",
    },
    Need {
        program: "python3",
        packages: &["python3"],
        purpose: "the sample client, fetching Traefik",
    },
    Need {
        program: "curl",
        packages: &["curl", "ca-certificates"],
        purpose: "the README's looks from outside, tests of HTTPS",
    },
    Need {
        program: "openssl",
        packages: &["openssl"],
        purpose: "tests with other people's certificates",
    },
    Need {
        program: "xz",
        packages: &["xz-utils"],
        purpose: "unpacking packages",
    },
    Need {
        program: "mkfs.btrfs",
        packages: &["btrfs-progs"],
        purpose: "tests of tenants' quotas",
    },
    Need {
        program: "mkfs.ext4",
        packages: &["e2fsprogs"],
        purpose: "tests of hosts whose disk is full",
    },
    Need {
        program: "faketime",
        packages: &["faketime"],
        purpose: "tests of clocks that are off",
    },
    Need {
        program: "restic",
        packages: &["restic"],
        purpose: "tests that backups are readable without isyone",
    },
    Need {
        program: "zstd",
        packages: &["zstd"],
        purpose: "the bench of backups, beside a compressed dump",
    },
];

/// What browser tests need in addition; only `cargo xtask test` installs it.
const BROWSER: [(&str, &str); 3] = [
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("certutil", "libnss3-tools"),
];

/// Whether tests can drive a browser.
pub(crate) fn has_browser() -> bool {
    BROWSER
        .iter()
        .all(|(program, _)| paths::which(program).is_some())
}

/// Installs what browser tests need, once: a download of some 100 MB. Without fonts its screenshots would have no
/// letters.
pub(crate) fn ensure_browser() -> Result<()> {
    if has_browser() {
        return Ok(());
    }
    need_root("installing Chromium for the tests")?;
    let packages: Vec<_> = BROWSER
        .iter()
        .map(|(_, package)| *package)
        .chain(["fonts-dejavu-core"])
        .collect();
    install(&packages)?;
    // Ubuntu's packages of these names only install snaps.
    ensure!(
        has_browser(),
        "{} do not bring {:?} here",
        packages.join(" "),
        BROWSER.map(|(program, _)| program)
    );
    Ok(())
}

pub(crate) fn run_setup(args: &Args) -> Result<ExitCode> {
    if args.check {
        let docker_works = engine::version().is_some();
        return Ok(report(&missing_packages(docker_works), docker_works));
    }
    ensure()?;
    Ok(ExitCode::SUCCESS)
}

/// Installs and starts what is missing.
pub(crate) fn ensure() -> Result<()> {
    let start = Instant::now();
    let docker_works = engine::version().is_some();
    let missing = missing_packages(docker_works);
    if !missing.is_empty() {
        need_root(&format!("installing {}", missing.join(" ")))?;
        install(&missing)?;
    }
    if !docker_works {
        need_root("starting Docker")?;
        // Newer Debian releases have the client in a separate package.
        if paths::which("docker").is_none() {
            install(&["docker-cli"])?;
        }
    }
    let version = engine::ensure_running()?;
    ensure_compose();
    say!(
        "ready: Docker {version}, all packages there ({})",
        took(start)
    );
    Ok(())
}

fn missing_packages(docker_works: bool) -> Vec<&'static str> {
    let mut missing = Vec::new();
    for need in NEEDS
        .iter()
        .filter(|need| paths::which(need.program).is_none())
    {
        say!("missing: {} ({})", need.program, need.purpose);
        missing.extend_from_slice(need.packages);
    }
    if !succeeds(&mut cmd("python3", ["-m", "pip", "--version"])) {
        say!("missing: pip (fetching Traefik)");
        missing.push("python3-pip");
    }
    if !docker_works && paths::which("dockerd").is_none() {
        say!("missing: dockerd (tenants run on it)");
        missing.push("docker.io");
    }
    missing
}

fn report(missing: &[&str], docker_works: bool) -> ExitCode {
    if missing.is_empty() && docker_works {
        say!("nothing is missing");
        return ExitCode::SUCCESS;
    }
    if !missing.is_empty() {
        say!("packages to install: {}", missing.join(" "));
    }
    if !docker_works {
        say!("no Docker daemon answers");
    }
    say!("`cargo xtask setup` repairs this");
    ExitCode::FAILURE
}

fn install(packages: &[&str]) -> Result<()> {
    say!("installing {}", packages.join(" "));
    update_lists();
    let mut command = apt_get(&["install", "--yes", "-qq", "--no-install-recommends"]);
    output(command.args(packages)).context("are the apt sources of this machine reachable?")?;
    Ok(())
}

/// Refreshes the package lists. Errors are not fatal: a source that does not answer may not be needed, and what is
/// really missing shows during installation. Frozen mirrors have expired lists, hence the second try.
fn update_lists() {
    if output(&mut apt_get(&["update", "-qq"])).is_err() {
        let mut again = apt_get(&["update", "-qq", "-o", "Acquire::Check-Valid-Until=false"]);
        if let Err(err) = output(&mut again) {
            say!("warning: some package lists could not be refreshed: {err:#}");
        }
    }
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = cmd("apt-get", args);
    // Another apt-get may be running (unattended upgrades): wait for it.
    command
        .args(["-o", "DPkg::Lock::Timeout=120"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The compose plugin is only a convenience for people, so its absence is just a warning.
fn ensure_compose() {
    if engine::has_compose() {
        return;
    }
    let script = paths::root().join("images/compose/fetch.sh");
    let start = Instant::now();
    match run(Command::new("bash")
        .arg(script)
        .env("CACHE", paths::cache()))
    {
        Ok(()) => say!("`docker compose` fetched in {}", took(start)),
        Err(err) => say!("warning: no `docker compose` plugin ({err:#}); isyone works without it"),
    }
}
