//! The agent's own side: its certificate, its address, its directory, the coordinator.
//!
//! Not here: the machine (the parent).

use isyone_proto::{
    finding::{Finding, Level},
    identity::CertificateInfo,
};

use super::check;
use crate::doctor::facts::Joined;

/// A certificate is renewed at half of its life: with a tenth left, that fails.
const TENTH: i64 = 10;

pub(super) fn own(all: &mut Vec<Finding>, joined: &Joined, now_s: i64) {
    let config = &joined.config;
    all.push(Finding::good("joined", format!("as {}", config.name)));
    all.push(certificate(&joined.certificate, now_s));
    all.push(check(
        "address",
        joined.has_address,
        match joined.has_address {
            true => config.advertise.to_string(),
            false => format!("{} is not there", config.advertise),
        },
        (
            Level::Bad,
            "edges reach this host's tenants at it, and nowhere else",
            "bring the interface up (VPN, DHCP); if the address has changed: `isy-agent join --rejoin --advertise ADDRESS`",
        ),
    ));
    all.push(match &joined.coordinator {
        Ok(()) => Finding::good(
            "coordinator",
            format!("{} takes connections", config.endpoint),
        ),
        Err(why) => Finding::new(
            Level::Warning,
            "coordinator",
            why.clone(),
            "tenants run on, but nothing new is heard, and the certificate ends within a day",
            "look at the coordinator, DNS, and the firewall between; its address is in agent.toml",
        ),
    });
    all.push(check(
        "data directory",
        joined.is_private,
        if joined.is_private {
            "its owner's alone"
        } else {
            "readable by others"
        },
        (
            Level::Bad,
            "the key of this host and tenants' passwords are in it",
            "`chmod 0700` it, and then renew what others may have read (`isy-agent join --rejoin`)",
        ),
    ));
}

fn certificate(certificate: &Result<CertificateInfo, String>, now_s: i64) -> Finding {
    let again = "join again: `isyctl host token --host NAME`, `isy-agent join --rejoin`";
    let why = "the coordinator refuses this host without one";
    let info = match certificate {
        Ok(info) => info,
        Err(e) => return Finding::new(Level::Bad, "certificate", e.clone(), why, again),
    };
    let (left, life) = (info.not_after - now_s, info.not_after - info.not_before);
    let found = format!("valid for {} minutes", left / 60);
    if now_s < info.not_before {
        let found = "it begins in the future";
        return Finding::new(
            Level::Bad,
            "certificate",
            found,
            why,
            "set this host's clock",
        );
    }
    if left <= 0 {
        let found = format!("it ended {} minutes ago", -left / 60);
        return Finding::new(Level::Bad, "certificate", found, why, again);
    }
    check(
        "certificate",
        left > life / TENTH,
        found,
        (
            Level::Warning,
            "it is renewed at half of its life: that fails",
            "`journalctl -u isy-agent | grep renewed`; is the coordinator reached?",
        ),
    )
}
