//! `isy-coordinator pki …`: orders for the coordinator that runs, given on its control socket.
//!
//! Not here: what they do (rotation).

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::DEFAULT_DATA_DIR;
use crate::rotation::control::{self, Order};

/// `isy-coordinator pki …`.
#[derive(Subcommand)]
pub(super) enum Pki {
    /// Say which CAs are trusted, how far a replacement is, and who keeps it waiting.
    ///
    /// Example: isy-coordinator pki status
    Status(Common),
    /// Replace the CA and the sealing key; hosts stay connected, tenants run on.
    ///
    /// A new CA is made and all hosts are told to trust it; when those that are connected do, it signs, and hosts renew
    /// their certificates at once. Operators' contexts follow at their next command. Certificates of both CAs are accepted
    /// for --overlap; then the old one is forgotten, unless somebody would be shut out. The new sealing key seals from now
    /// on; what is stored is sealed anew, and the old key is removed.
    ///
    /// Certificates of which only the serial number is known, because a version before made them and their owners have not
    /// connected since, are refused from the beginning. If there are any, they are named and nothing begins; --yes goes on.
    ///
    /// Example: isy-coordinator pki rotate --overlap 14d
    Rotate(Rotate),
    /// Let the new CA sign now, although some hosts have not said that they trust it.
    ///
    /// They go on, but other hosts' copies and Prometheus do not get through to them until they have learnt of it: at the
    /// latest when half of their certificate's life is over. With --without nobody waits for the hosts that are named, now
    /// or later: who of them is not back before the old CA is forgotten joins again (`isy-agent join --rejoin`).
    ///
    /// Example: isy-coordinator pki switch --without h7
    Switch(Insist),
    /// Forget the old CA now: what it signed is accepted no more.
    ///
    /// Refused while somebody has no certificate of the new one; `pki status` names them. With --force they are shut out:
    /// hosts join again (`isy-agent join --rejoin`), operators get a new context from an admin. With --without only the
    /// hosts that are named are.
    ///
    /// Example: isy-coordinator pki retire --without h7
    Retire(Insist),
}

#[derive(Args)]
pub(super) struct Common {
    /// The data directory of the coordinator that runs.
    #[arg(long, env = "ISYONE_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    common: Common,
    /// For how long certificates of both CAs are accepted once the new one signs: 7d, 12h.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
    overlap: std::time::Duration,
    /// The CA alone.
    #[arg(long, conflicts_with = "seal_only")]
    ca_only: bool,
    /// The sealing key alone.
    #[arg(long)]
    seal_only: bool,
    /// Although somebody is cut off by it.
    #[arg(long, conflicts_with = "seal_only")]
    yes: bool,
}

#[derive(Args)]
pub(super) struct Insist {
    #[command(flatten)]
    common: Common,
    /// Whoever is not ready.
    #[arg(long)]
    force: bool,
    /// Do not wait for this host, which is away. May be given several times.
    #[arg(
        long,
        value_name = "HOST",
        value_delimiter = ',',
        conflicts_with = "force"
    )]
    without: Vec<String>,
}

/// Gives the order, and prints the answer.
pub(super) fn run(pki: Pki) -> Result<ExitCode> {
    let (common, order) = match pki {
        Pki::Status(common) => (common, Order::Status),
        Pki::Rotate(rotate) => {
            let order = Order::Rotate {
                ca: !rotate.seal_only,
                seal: !rotate.ca_only,
                overlap_s: i64::try_from(rotate.overlap.as_secs()).ok(),
                yes: rotate.yes,
            };
            (rotate.common, order)
        }
        Pki::Switch(Insist {
            common,
            force,
            without,
        }) => (common, Order::Switch { force, without }),
        Pki::Retire(Insist {
            common,
            force,
            without,
        }) => (common, Order::Retire { force, without }),
    };
    let answer = control::ask(&common.data_dir, &order)?;
    if answer.done {
        print!("{}", answer.text);
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("isy-coordinator: {}", answer.text);
    Ok(ExitCode::FAILURE)
}
