//! Starts of containers that fail, and when a container is made anew for it: half of it may be left of a Docker that was killed, in a
//! place that only this container uses, such as its folder of containerd's. Data lies elsewhere and is not touched. Pure.
//!
//! In memory only: an agent that starts counts from the beginning. Not here: doing it (tenant::execute), which containers there
//! should be (diff).

use std::collections::BTreeMap;

/// So many starts in a row that fail in the same way are no accident.
pub const EQUAL: u32 = 3;
/// So often in a row a container is made anew: what that has not mended, it does not mend.
pub const MOST_ANEW: u32 = 3;
/// Containers that are counted at most; a host has some hundreds, of which few fail.
const MOST_KNOWN: usize = 4_096;
/// Refusals that have nothing to do with the container: a taken port, a full disk, an image or a network that is gone.
const ELSEWHERE: [&str; 7] = [
    "no space left",
    "address already in use",
    "port is already allocated",
    "cannot assign requested address",
    "no such image",
    "network",
    "iptables",
];

/// What is known of one container's starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tries {
    /// How the last one failed, as the engine says it.
    why: String,
    /// How many in a row failed like that.
    equal: u32,
    /// How often in a row it was made anew for it.
    anew: u32,
}

/// Of all containers of which a start has failed, by name.
#[derive(Debug, Default)]
pub struct Starts(BTreeMap<String, Tries>);

/// What two failures have in common that differ by a number, such as a process.
fn gist(why: &str) -> String {
    let mut gist = String::with_capacity(why.len());
    for c in why.chars() {
        match c.is_ascii_digit() {
            true if gist.ends_with('#') => {}
            true => gist.push('#'),
            false => gist.push(c),
        }
    }
    gist
}

impl Starts {
    /// A start was refused.
    pub fn failed(&mut self, container: &str, why: &str) {
        if self.0.len() >= MOST_KNOWN {
            self.0.clear(); // counted from the beginning
        }
        let tries = self.0.entry(container.to_owned()).or_default();
        tries.equal = match gist(&tries.why) == gist(why) {
            true => tries.equal.saturating_add(1),
            false => 1,
        };
        why.clone_into(&mut tries.why);
    }

    /// Whether the container is to be removed and made anew.
    pub fn is_stuck(&self, container: &str) -> bool {
        self.0.get(container).is_some_and(|tries| {
            let why = tries.why.to_lowercase();
            let here = !ELSEWHERE.iter().any(|text| why.contains(text));
            here && tries.equal >= EQUAL && tries.anew < MOST_ANEW
        })
    }

    /// The container was removed: the next one has its own tries.
    pub fn removed(&mut self, container: &str) {
        let Some(tries) = self.0.get_mut(container) else {
            return;
        };
        if tries.equal < EQUAL {
            self.0.remove(container); // for another reason
            return;
        }
        (tries.anew, tries.equal) = (tries.anew.saturating_add(1), 0);
    }

    /// The container has started; if it was made anew for it, why.
    pub fn started(&mut self, container: &str) -> Option<String> {
        let tries = self.0.remove(container)?;
        (tries.anew > 0).then(|| {
            format!(
                "its container was made anew, because {EQUAL} starts failed in the same way; its data is untouched ({})",
                tries.why
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIM: &str = "failed to create shim task: mkdir /run/moby/ab12: file exists: unknown";

    #[test]
    fn equal_failures_in_a_row_make_a_container_stuck_a_bounded_number_of_times() {
        let mut starts = Starts::default();
        let name = "odoo_alfa";
        for _ in 0..MOST_ANEW {
            for n in 0..EQUAL {
                assert!(!starts.is_stuck(name), "{n}");
                starts.failed(name, &format!("{SHIM} (pid {n})"));
            }
            assert!(starts.is_stuck(name));
            starts.removed(name);
        }
        for _ in 0..2 * EQUAL {
            starts.failed(name, SHIM);
            assert!(!starts.is_stuck(name));
        }
        let told = starts.started(name).unwrap();
        assert!(
            told.contains("made anew") && told.contains("file exists"),
            "{told}"
        );
        assert_eq!(starts.started(name), None);
    }

    #[test]
    fn other_failures_begin_anew_and_those_of_elsewhere_never_count() {
        let mut starts = Starts::default();
        for why in [SHIM, SHIM, "another", SHIM, SHIM] {
            starts.failed("a", why);
            assert!(!starts.is_stuck("a"));
        }
        starts.removed("a");
        assert_eq!(starts.started("a"), None, "removed for another reason");
        for why in [
            "driver failed programming external connectivity: Bind for 0.0.0.0:20000 failed: port is already allocated",
            "write /var/lib/docker: no space left on device",
        ] {
            for _ in 0..9 {
                starts.failed("b", why);
            }
            assert!(!starts.is_stuck("b"), "{why}");
        }
    }
}
