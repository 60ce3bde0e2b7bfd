//! Who keeps the next stage of the CA's replacement waiting, with what helps; and the whole in words.
//!
//! Not here: what follows when nobody does (mod.rs).

use std::{collections::BTreeSet, fmt};

use isyone_fleet::{desired::Certificate, liveness::HostState, views};
use isyone_proto::{
    ids::HostName,
    tls::{Identity, OperatorRole, fingerprint},
};

use super::{NAMED, Rotations, bare::is_bare, lines, without};
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

/// Who is not ready for the next stage.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// These are waited for.
    pub(super) missing: Vec<Missing>,
    /// These would be, had an admin not said otherwise.
    pub(super) left_out: Vec<Missing>,
}

impl Waiting {
    fn add_host(&mut self, host: &HostName, why: String, is_left_out: bool) {
        let who = format!("host {host}");
        let list = match is_left_out {
            true => &mut self.left_out,
            false => &mut self.missing,
        };
        list.push(Missing { who, why });
    }
}

impl Rotations {
    /// Hosts that have not said that they trust the new CA. One that is lost keeps nobody waiting: it learns of it when it
    /// comes back, by the old one. Nor are those in `without` waited for.
    pub(super) fn before_switch(&self, rotation: &Rotation, without: &[HostName]) -> Waiting {
        let mut waiting = Waiting::default();
        let Some(next) = next_ca(rotation) else {
            return waiting;
        };
        let (state, now) = (self.handle.snapshot(), clock::now_ms());
        let settings = self.handle.settings();
        for (host, record) in &state.fleet.hosts {
            // Whom nobody has let in holds nothing up.
            if record.pending || self.trusts.has(host, &next) {
                continue;
            }
            let (judged, _) = views::host_state(&state, settings, host, now);
            let why = match (self.streams.is_connected(host), judged) {
                (false, HostState::Lost) => continue,
                (false, _) => format!(
                    "not connected; it is waited for until it is lost, or `pki switch --without {host}`"
                ),
                (true, _) if self.trusts.speaks(host) => {
                    "connected, and has not answered yet; if that lasts, restart its agent".to_owned()
                }
                (true, _) => {
                    "its agent is of a version before and learns of it when it renews its certificate; a restart of a newer agent is quicker".to_owned()
                }
            };
            waiting.add_host(host, why, self.is_left_out(rotation, without, host));
        }
        waiting
    }

    /// Hosts that have certificates of the old CA alone, and certificates of operators that none of the new CA has followed:
    /// each may be a context of its own. Those that are refused already are not meant.
    pub(super) fn before_retire(&self, rotation: &Rotation, without: &[HostName]) -> Waiting {
        let (state, now_s) = (self.handle.snapshot(), clock::now_seconds());
        let is_new = |c: &Certificate| self.pki.signed_serial(&c.serial);
        let valid = |all: &[Certificate]| -> Vec<Certificate> {
            let valid = all.iter().filter(|c| c.not_after > now_s && !is_bare(c));
            valid.cloned().collect()
        };
        let mut waiting = Waiting::default();
        for (name, host) in &state.fleet.hosts {
            let valid = valid(&host.certificates);
            let end = valid.iter().map(|c| c.not_after).max();
            if valid.iter().any(is_new) {
                if self.is_on_its_way(name) {
                    let why = "has a new certificate, and is connected by its old one still";
                    waiting.add_host(name, why.to_owned(), false);
                }
            } else if let Some(end) = end {
                let why = format!(
                    "renews when it is connected; without that it must join again after {} anyway, or now by `pki retire --without {name}`",
                    utc(end)
                );
                waiting.add_host(name, why, self.is_left_out(rotation, without, name));
            }
        }
        for (name, operator) in state.fleet.operators.iter().filter(|(_, o)| !o.revoked) {
            let valid = valid(&operator.certificates);
            let behind = match rotation.by_certificate {
                false if valid.iter().any(is_new) => Vec::new(),
                _ => left_behind(&valid, is_new),
            };
            let Some(end) = behind.iter().map(|c| c.not_after).max() else {
                continue;
            };
            let (behind, all, end, role) = (behind.len(), valid.len(), utc(end), operator.role);
            let what = match role {
                OperatorRole::Monitor => format!(
                    "[monitoring] certificate_dir renews by itself, other files are for you: `isyctl operator renew {name} --pem DIR` puts a new one in place of all"
                ),
                _ => format!(
                    "any command of isyctl renews that of its context, or an admin puts a new one in place of all: `isyctl operator renew {name}`"
                ),
            };
            waiting.missing.push(Missing {
                who: format!("operator {name}"),
                why: format!("{role}, {behind} of {all} certificates, until {end}; {what}"),
            });
        }
        waiting
    }

    /// Whether a host may not have its new certificate yet: the answer goes over a connection by the old one, and who is cut off
    /// before it is there has none that is accepted.
    fn is_on_its_way(&self, host: &HostName) -> bool {
        let shown = self.connections.serials_of(&Identity::Agent(host.clone()));
        !shown.is_empty() && !shown.iter().any(|serial| self.pki.signed_serial(serial))
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
        let (stage, what, waiting) = match rotation.stage {
            Stage::Prepared => (
                format!("prepared {}", utc(rotation.prepared_at)),
                "the new CA signs as soon as these know it",
                self.before_switch(rotation, &[]),
            ),
            Stage::Switched | Stage::Retiring => {
                let end = rotation.ends_at().map(utc).unwrap_or_default();
                (
                    format!("the new one signs; the old one is accepted until {end}"),
                    "these have no certificate of the new CA yet, and are waited for",
                    self.before_retire(rotation, &[]),
                )
            }
        };
        let mut text = format!("CA            being replaced: {stage}\n");
        let missing = waiting.missing;
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
        let refused = self.known_by_serial();
        if !refused.is_empty() {
            let lines = lines(&refused);
            text.push_str(&format!(
                "refused       only the serial number of these is known:\n{lines}\n"
            ));
        }
        text.push_str(&without::told(&waiting.left_out));
        text.push_str(
            "by hand       edges and programs with a copy of pki/ca.pem get the new one before the old CA is forgotten\n",
        );
        text
    }
}

/// Those of an operator's valid certificates, oldest first, that none of the new CA has followed.
fn left_behind(valid: &[Certificate], is_new: impl Fn(&Certificate) -> bool) -> Vec<&Certificate> {
    let (mut behind, mut followed) = (Vec::new(), BTreeSet::new());
    // What follows another one was made after it: so it has been looked at by then.
    for certificate in valid.iter().rev() {
        if is_new(certificate) || followed.contains(&certificate.sha256) {
            followed.extend(&certificate.follows);
        } else {
            behind.push(certificate);
        }
    }
    behind
}

/// SHA-256 of the CA that comes.
fn next_ca(rotation: &Rotation) -> Option<String> {
    let all = isyone_proto::tls::certificates("CA", &rotation.next_ca_pem).ok()?;
    all.first().map(fingerprint)
}

pub(super) fn utc(at_s: i64) -> String {
    let since = std::time::Duration::from_secs(u64::try_from(at_s).unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(n: u8, follows: Option<u8>) -> Certificate {
        Certificate {
            serial: n.to_string(),
            not_after: 1 << 40,
            sha256: n.to_string(),
            follows: follows.map(|n| n.to_string()),
        }
    }

    /// 9 and above are of the new CA.
    fn behind(valid: &[(u8, Option<u8>)]) -> Vec<String> {
        let valid: Vec<_> = valid.iter().map(|(n, of)| certificate(*n, *of)).collect();
        let is_new = |c: &Certificate| c.serial.parse::<u8>().is_ok_and(|n| n >= 9);
        let behind = left_behind(&valid, is_new);
        behind.into_iter().map(|c| c.serial.clone()).collect()
    }

    #[test]
    fn each_certificate_is_waited_for_until_one_of_the_new_ca_has_followed_it() {
        assert_eq!(behind(&[(1, None), (2, None)]), ["2", "1"]);
        assert_eq!(behind(&[(1, None), (2, None), (9, Some(1))]), ["2"]);
        // One that somebody made for her beside those says nothing of theirs.
        assert_eq!(behind(&[(1, None), (9, None)]), ["1"]);
        // The same context on two machines; and one that was renewed twice.
        assert!(behind(&[(1, None), (9, Some(1)), (10, Some(1))]).is_empty());
        assert!(behind(&[(1, None), (2, Some(1)), (9, Some(2))]).is_empty());
    }
}
