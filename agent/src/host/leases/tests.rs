//! The keeper by a clock of the test's: what survives an agent and not a boot, what is told, and plans that race with grants.
//!
//! Not here: what follows from which moment (plan::lease), tenants' loops (the crate's tests with two agents).

use std::sync::atomic::{AtomicU64, Ordering};

use isyone_proto::plan::{DesiredState, Lease, TenantPlan};
use proptest::prelude::*;

use super::*;
use crate::testing::{host_plan, tenant_plan};

const FOR_MS: u32 = 800;

/// A machine that may start anew, and whose agent may.
struct Machine {
    dir: tempfile::TempDir,
    now: Arc<AtomicU64>,
    boot: String,
}

impl Machine {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            now: Arc::new(AtomicU64::new(1_000)),
            boot: "one".to_owned(),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("leases.json")
    }

    fn agent(&self, plan: TenantPlan) -> Leases {
        let now = self.now.clone();
        let clock = Arc::new(move || now.load(Ordering::SeqCst));
        let leases = Leases::open_at(self.file(), self.boot.clone(), clock);
        leases.adapt(&force(plan));
        leases
    }

    fn passes(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// As the task does.
    fn write(&self, leases: &Leases) -> bool {
        let Some(kept) = leases.untold() else {
            return false;
        };
        fsutil::write_atomic(
            &self.file(),
            &serde_json::to_vec(&kept).unwrap(),
            0o600,
            false,
        )
        .unwrap();
        true
    }
}

fn force(plan: TenantPlan) -> InForce {
    InForce {
        plan: Some(Arc::new(host_plan(1, vec![plan]))),
        stale: vec![],
        unasked: false,
    }
}

fn h(name: &str) -> HostName {
    name.parse().unwrap()
}

fn needed() -> TenantPlan {
    TenantPlan {
        lease: Some(Lease::Needed {
            for_ms: FOR_MS,
            renewer: h("h2"),
            address: None,
        }),
        ..tenant_plan("alfa")
    }
}

fn grants() -> TenantPlan {
    TenantPlan {
        desired: DesiredState::Standby,
        lease: Some(Lease::Granted { to: h("h1") }),
        ..tenant_plan("alfa")
    }
}

fn is_free(leases: &Leases) -> bool {
    leases.standing(&needed().uid) == Standing::Free
}

fn until(leases: &Leases) -> Option<u64> {
    let lease = leases.of_route(&needed().name, None)?;
    Some(lease.until_boot_ms)
}

#[test]
fn what_was_granted_survives_the_agent_and_not_the_boot() {
    let mut machine = Machine::new();
    let leases = machine.agent(needed());
    leases.acknowledged(1_000);
    assert!(machine.write(&leases) && !machine.write(&leases));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(machine.file()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    machine.passes(500);
    let next = machine.agent(needed());
    assert!(is_free(&next) && until(&next) == Some(1_800));
    machine.passes(300);
    assert!(!is_free(&next) && next.lapsed() == 1);
    // The file of before a boot, whose clock begins anew.
    machine.boot = "two".to_owned();
    machine.now.store(100, Ordering::SeqCst);
    let rebooted = machine.agent(needed());
    assert!(!is_free(&rebooted));
    let route = rebooted.of_route(&needed().name, None).unwrap();
    assert_eq!((route.boot.as_str(), route.until_boot_ms), ("two", 0));
    // A machine that does not name its boot.
    machine.boot = String::new();
    std::fs::write(
        machine.file(),
        format!(
            "{{\"boot_id\":\"\",\"granted_at_boot_ms\":{{\"{}\":99}}}}",
            needed().uid
        ),
    )
    .unwrap();
    assert!(!is_free(&machine.agent(needed())));
}

#[test]
fn a_file_that_cannot_be_read_grants_nothing_and_none_grants_what_is_to_come() {
    let machine = Machine::new();
    for text in ["", "{", "[]", "{\"boot_id\":\"one\"}"] {
        std::fs::write(machine.file(), text).unwrap();
        assert!(!is_free(&machine.agent(needed())), "{text}");
    }
    std::fs::write(
        machine.file(),
        format!(
            "{{\"boot_id\":\"one\",\"granted_at_boot_ms\":{{\"{}\":900000}}}}",
            needed().uid
        ),
    )
    .unwrap();
    assert_eq!(
        until(&machine.agent(needed())),
        Some(1_800),
        "from now on at most"
    );
}

#[test]
fn before_there_is_a_plan_the_relay_goes_by_what_it_was_told() {
    let machine = Machine::new();
    let now = machine.now.clone();
    let clock = Arc::new(move || now.load(Ordering::SeqCst));
    let leases = Leases::open_at(machine.file(), "one".to_owned(), clock);
    let kept = RouteLease {
        boot: "one".to_owned(),
        until_boot_ms: 7,
    };
    let alfa = needed().name;
    assert_eq!(
        leases.of_route(&alfa, Some(kept.clone())),
        Some(kept.clone())
    );
    leases.adapt(&InForce::default());
    assert_eq!(
        leases.of_route(&alfa, Some(kept.clone())),
        Some(kept.clone())
    );
    leases.adapt(&force(needed()));
    assert_eq!(until(&leases), Some(0));
    leases.adapt(&force(tenant_plan("alfa")));
    assert_eq!(leases.of_route(&alfa, Some(kept)), None);
}

#[test]
fn whoever_acts_on_leases_hears_of_what_matters_and_of_nothing_else() {
    let machine = Machine::new();
    let leases = machine.agent(needed());
    let mut changes = leases.changes();
    let mut heard = || {
        let heard = changes.has_changed().unwrap();
        changes.mark_unchanged();
        heard
    };
    leases.acknowledged(1_000);
    assert!(heard(), "it may run");
    machine.passes(100);
    leases.acknowledged(1_100);
    leases.look();
    assert!(!heard());
    machine.passes(350);
    leases.acknowledged(1_450);
    assert!(heard(), "the relay is told");
    machine.passes(800);
    assert!(!heard());
    leases.look();
    assert!(heard(), "it is over");
    assert_eq!(leases.pause(), None);
    leases.renewed(&h("h2"), &[needed().uid], 2_200);
    assert!(
        heard() && leases.pause() == Some(LOOK),
        "{:?}",
        leases.pause()
    );
}

/// Fails if a grant can come between the end of a plan that allows it and what is done under the next.
#[test]
fn no_grant_is_later_than_the_plan_that_takes_it_away() {
    for _ in 0..200 {
        let machine = Machine::new();
        let leases = Arc::new(machine.agent(grants()));
        let asked = vec![(grants().name, grants().uid)];
        let asking = {
            let leases = leases.clone();
            std::thread::spawn(move || while let [_] = leases.gives(&h("h1"), &asked)[..] {})
        };
        let ticking = {
            let (now, leases) = (machine.now.clone(), leases.clone());
            std::thread::spawn(move || {
                while leases.standing(&grants().uid) == Standing::Free {
                    now.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let over = TenantPlan {
            desired: DesiredState::Running,
            as_it_is: true,
            lease: Some(Lease::Over { after_ms: 5_000 }),
            ..grants()
        };
        leases.adapt(&force(over));
        let Standing::Waits(wait) = leases.standing(&grants().uid) else {
            panic!("it waits");
        };
        let ends = machine.now.load(Ordering::SeqCst) + wait.left_ms;
        ticking.join().unwrap();
        // What was given was given before: the wait covers it whole.
        asking.join().unwrap();
        assert!(
            leases
                .gives(&h("h1"), &[(grants().name, grants().uid)])
                .is_empty()
        );
        let still = leases.lock().book.standing(&grants().uid, ends - 1);
        assert_ne!(still, Standing::Free);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Passes(u64),
    Acknowledged(u64),
    Renewed(u64),
    Writes,
    Restarts,
    Boots,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..500).prop_map(Event::Passes),
        3 => (0u64..500).prop_map(Event::Acknowledged),
        3 => (0u64..500).prop_map(Event::Renewed),
        2 => Just(Event::Writes),
        1 => Just(Event::Restarts),
        1 => Just(Event::Boots),
    ]
}

proptest! {
    /// Whatever happens: nobody runs later than a grant of this boot and its time, and the relay is told no more.
    #[test]
    fn nobody_goes_on_later_than_granted(events in proptest::collection::vec(event(), 1..40)) {
        let mut machine = Machine::new();
        let mut leases = machine.agent(needed());
        let mut latest = None;
        for (n, event) in events.into_iter().enumerate() {
            let now = machine.now.load(Ordering::SeqCst);
            match event {
                Event::Passes(ms) => machine.passes(ms),
                Event::Acknowledged(ago) | Event::Renewed(ago) => {
                    let at = now.saturating_sub(ago);
                    latest = latest.max(Some(at));
                    match event {
                        Event::Renewed(_) => leases.renewed(&h("h2"), &[needed().uid], at),
                        _ => leases.acknowledged(at),
                    }
                }
                Event::Writes => drop(machine.write(&leases)),
                Event::Restarts => leases = machine.agent(needed()),
                Event::Boots => {
                    machine.boot = format!("boot {n}");
                    machine.now.store(10, Ordering::SeqCst);
                    leases = machine.agent(needed());
                    latest = None;
                }
            }
            let now = machine.now.load(Ordering::SeqCst);
            let end = latest.map_or(0, |at| at + u64::from(FOR_MS));
            prop_assert!(!is_free(&leases) || now < end);
            prop_assert!(until(&leases).unwrap() <= end);
        }
    }
}
