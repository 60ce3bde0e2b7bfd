//! Who keeps the next stage of the CA's replacement waiting, with what helps; and the whole in words.
//!
//! Not here: what follows when nobody does (mod.rs).

use std::fmt;

use isyone_fleet::{desired::Certificate, liveness::HostState, views};
use isyone_proto::tls::{OperatorRole, fingerprint};

use super::{NAMED, Rotations, lines};
use crate::base::{
    clock,
    pki::rotation::{Rotation, Stage},
};

/// Somebody who is not ready for the next stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// `host h1`, `operator ana`.
    pub who: String,
    /// Why, and what helps.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who, self.why)
    }
}

impl Rotations {
    /// Hosts that have not said that they trust the new CA. One that is lost keeps nobody waiting: it learns of it when it
    /// comes back, by the old one.
    pub fn before_switch(&self) -> Vec<Missing> {
        let Some(next) = self.pki.rotation().and_then(|rotation| next_ca(&rotation)) else {
            return Vec::new();
        };
        let (state, now) = (self.handle.snapshot(), clock::now_ms());
        let settings = self.handle.settings();
        let mut missing = Vec::new();
        for (host, record) in &state.fleet.hosts {
            // Whom nobody has let in holds nothing up.
            if record.pending || self.trusts.has(host, &next) {
                continue;
            }
            let (judged, _) = views::host_state(&state, settings, host, now);
            let why = match (self.streams.is_connected(host), judged) {
                (false, HostState::Lost) => continue,
                (false, _) => "not connected; it is waited for until it is lost",
                (true, _) if self.trusts.speaks(host) => "connected, and has not answered yet",
                (true, _) => {
                    "its agent is of a version before and learns of it when it renews its certificate; a restart of a newer agent is quicker"
                }
            };
            missing.push(Missing {
                who: format!("host {host}"),
                why: why.to_owned(),
            });
        }
        missing
    }

    /// Hosts and operators who have certificates of the old CA alone.
    pub fn before_retire(&self) -> Vec<Missing> {
        let (state, now_s) = (self.handle.snapshot(), clock::now_seconds());
        let mut missing = Vec::new();
        for (name, host) in &state.fleet.hosts {
            if let Some(end) = self.of_the_old_alone(&host.certificates, now_s) {
                missing.push(Missing {
                    who: format!("host {name}"),
                    why: format!(
                        "renews when it is connected; without that it must join again after {end} anyway"
                    ),
                });
            }
        }
        for (name, operator) in &state.fleet.operators {
            if operator.revoked {
                continue;
            }
            let Some(end) = self.of_the_old_alone(&operator.certificates, now_s) else {
                continue;
            };
            let why = match operator.role {
                OperatorRole::Monitor => format!(
                    "until {end}; [monitoring] certificate_dir renews by itself, other files are for you: `isyctl operator create {name} --role monitor --pem DIR`"
                ),
                role => format!(
                    "{role}, until {end}; any command of isyctl with that context renews it, or an admin does: `isyctl operator create {name} --role {role}`"
                ),
            };
            missing.push(Missing {
                who: format!("operator {name}"),
                why,
            });
        }
        missing
    }

    /// The end of the last valid certificate, if there is one and none is of the new CA.
    fn of_the_old_alone(&self, certificates: &[Certificate], now_s: i64) -> Option<String> {
        let mut valid = certificates.iter().filter(|c| c.not_after > now_s);
        let moved = valid.clone().any(|c| self.pki.signed_serial(&c.serial));
        let end = valid.by_ref().map(|c| c.not_after).max()?;
        (!moved).then(|| utc(end))
    }

    /// Whether an admin can still call after the old CA is forgotten.
    pub(super) fn an_admin_is_left(&self) -> bool {
        let (state, now_s) = (self.handle.snapshot(), clock::now_seconds());
        state.fleet.operators.values().any(|operator| {
            operator.role == OperatorRole::Admin
                && !operator.revoked
                && operator
                    .certificates
                    .iter()
                    .any(|c| c.not_after > now_s && self.pki.signed_serial(&c.serial))
        })
    }

    /// How far everything is, for people.
    pub fn status(&self) -> String {
        let mut text = match self.pki.rotation() {
            None => "CA            not being replaced\n".to_owned(),
            Some(rotation) => self.stage(&rotation),
        };
        let trust = self.pki.trust().borrow().clone();
        for (number, ca) in trust.sha256.iter().enumerate() {
            let role = if number == 0 { "signs" } else { "accepted" };
            text.push_str(&format!("CA {role:<11}{ca}\n"));
        }
        text.push_str(if self.sealer.has_two() {
            "sealing key   being replaced: what is sealed is sealed anew\n"
        } else {
            "sealing key   not being replaced\n"
        });
        text
    }

    fn stage(&self, rotation: &Rotation) -> String {
        let (stage, what, missing) = match rotation.stage {
            Stage::Prepared => (
                format!("prepared {}", utc(rotation.prepared_at)),
                "the new CA signs as soon as these know it",
                self.before_switch(),
            ),
            Stage::Switched | Stage::Retiring => {
                let end = rotation.ends_at().map(utc).unwrap_or_default();
                (
                    format!("the new one signs; the old one is accepted until {end}"),
                    "these have no certificate of the new CA yet, and are waited for",
                    self.before_retire(),
                )
            }
        };
        let mut text = format!("CA            being replaced: {stage}\n");
        if missing.is_empty() {
            text.push_str("waits for     nobody\n");
        } else {
            let shown = missing.len().min(NAMED);
            text.push_str(&format!(
                "waits for     {what} ({shown} of {}):\n",
                missing.len()
            ));
            text.push_str(&lines(&missing));
            text.push('\n');
        }
        text.push_str(
            "by hand       edges and programs with a copy of pki/ca.pem get the new one before the old CA is forgotten\n",
        );
        text
    }
}

/// SHA-256 of the CA that comes.
fn next_ca(rotation: &Rotation) -> Option<String> {
    let all = isyone_proto::tls::certificates("CA", &rotation.next_ca_pem).ok()?;
    all.first().map(fingerprint)
}

fn utc(at_s: i64) -> String {
    let since = std::time::Duration::from_secs(u64::try_from(at_s).unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
