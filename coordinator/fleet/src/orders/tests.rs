//! Tables of what is ordered when, and properties of all plans.
//! Not here: the orders themselves (the coordinator's edges/acme).

use proptest::prelude::*;

use super::*;
use crate::desired::Sealed;

const DAY: i64 = 86_400_000;
const LIMITS: OrderLimits = OrderLimits {
    orders_at_once: 4,
    weekly_per_domain: 50,
    weekly_same: 5,
    retry_first_ms: 300_000,
    retry_most_ms: 21_600_000,
};

/// The inputs of one plan, owned.
#[derive(Default, Clone)]
struct World {
    wanted: BTreeSet<String>,
    held: Vec<EdgeCertificate>,
    troubles: Vec<CertificateTrouble>,
    elsewhere: BTreeSet<&'static str>,
    running: BTreeSet<String>,
    closed_until: i64,
    now: i64,
}

impl World {
    fn wanting(names: &[&str]) -> Self {
        Self {
            wanted: names.iter().map(|n| (*n).to_owned()).collect(),
            now: 100 * DAY,
            ..Self::default()
        }
    }

    /// Adds a certificate of 90 days that was issued this many days ago.
    fn holding(mut self, name: &str, days_ago: i64, origin: Origin, hostnames: &[&str]) -> Self {
        let at = self.now - days_ago * DAY;
        self.held.push(EdgeCertificate {
            name: name.to_owned(),
            origin,
            hostnames: hostnames.iter().map(|n| (*n).to_owned()).collect(),
            serial: String::new(),
            issuer: String::new(),
            not_before: at / 1000,
            not_after: (at + 90 * DAY) / 1000,
            chain_pem: String::new(),
            key: Sealed("".into()),
            issued: vec![at],
        });
        self
    }

    fn acme(self, name: &str, days_ago: i64) -> Self {
        self.holding(name, days_ago, Origin::Acme, &[name])
    }

    fn trouble(mut self, name: &str, retry_in: i64) -> Self {
        let (at, retry_at) = (self.now, self.now + retry_in);
        self.troubles.push(CertificateTrouble {
            name: name.to_owned(),
            failures: 1,
            at,
            retry_at,
            error: String::new(),
        });
        self
    }

    fn plan(&self, limits: OrderLimits) -> OrderPlan {
        plan(&OrderInputs {
            wanted: &self.wanted,
            held: &self.held.iter().map(|c| (c.name.as_str(), c)).collect(),
            troubles: &self.troubles.iter().map(|t| (t.name.as_str(), t)).collect(),
            elsewhere: &self.elsewhere,
            running: &self.running,
            closed_until: self.closed_until,
            limits,
            now: self.now,
            chance: 7,
        })
    }

    fn begins(&self) -> Vec<String> {
        self.plan(LIMITS).begin
    }
}

#[test]
fn a_table_of_what_is_ordered() {
    let alfa = || World::wanting(&["alfa.isy.one"]);
    let own = |days_ago, hostname| alfa().holding("own", days_ago, Origin::Uploaded, &[hostname]);
    let below =
        World::wanting(&["a.b.isy.one"]).holding("own", 1, Origin::Uploaded, &["*.isy.one"]);
    let table = [
        ("missing", alfa(), 1),
        ("fresh", alfa().acme("alfa.isy.one", 10), 0),
        (
            "before two thirds less the jitter",
            alfa().acme("alfa.isy.one", 52),
            0,
        ),
        ("after two thirds", alfa().acme("alfa.isy.one", 60), 1),
        ("expired", alfa().acme("alfa.isy.one", 91), 1),
        ("covered by an uploaded one", own(10, "alfa.isy.one"), 0),
        ("covered by an uploaded wildcard", own(10, "*.isy.one"), 0),
        ("the uploaded one is about to end", own(84, "*.isy.one"), 1),
        ("a wildcard is not for two labels", below, 1),
        ("failed a moment ago", alfa().trouble("alfa.isy.one", 1), 0),
        ("failed long ago", alfa().trouble("alfa.isy.one", 0), 1),
        (
            "renewal failed a moment ago",
            alfa().acme("alfa.isy.one", 70).trouble("alfa.isy.one", 1),
            0,
        ),
        (
            "already under way",
            World {
                running: ["alfa.isy.one".to_owned()].into(),
                ..alfa()
            },
            0,
        ),
        (
            "it leads elsewhere",
            World {
                elsewhere: ["alfa.isy.one"].into(),
                ..alfa()
            },
            0,
        ),
        (
            "another one leads elsewhere",
            World {
                elsewhere: ["beta.isy.one"].into(),
                ..alfa()
            },
            1,
        ),
        (
            "the authority is away",
            World {
                closed_until: 100 * DAY + 1,
                ..alfa()
            },
            0,
        ),
        (
            "the authority is back",
            World {
                closed_until: 100 * DAY,
                ..alfa()
            },
            1,
        ),
    ];
    for (what, world, expected) in table {
        assert_eq!(world.begins().len(), expected, "{what}");
    }
}

#[test]
fn missing_ones_go_first_then_those_that_end_soonest_and_only_so_many_at_once() {
    let names = [
        "a.x.one", "b.x.one", "c.x.one", "d.x.one", "e.x.one", "f.x.one",
    ];
    let world = World::wanting(&names)
        .acme("a.x.one", 70)
        .acme("b.x.one", 80)
        .acme("c.x.one", 75);
    assert_eq!(world.begins(), ["d.x.one", "e.x.one", "f.x.one", "b.x.one"]);
    let busy = World {
        running: ["d.x.one".to_owned(), "e.x.one".to_owned()].into(),
        ..world
    };
    assert_eq!(busy.begins(), ["f.x.one", "b.x.one"]);
}

#[test]
fn what_a_clock_that_was_ahead_wrote_down_keeps_nothing_waiting() {
    let mut world =
        World::wanting(&["a.example.com", "b.example.com"]).trouble("a.example.com", DAY);
    assert_eq!(world.begins(), ["b.example.com"]);
    world.troubles[0].at += 400 * DAY;
    world.troubles[0].retry_at += 400 * DAY;
    assert_eq!(world.begins(), ["a.example.com", "b.example.com"]);
    for n in 0..LIMITS.weekly_per_domain {
        world = world.acme(&format!("c{n}.example.com"), -400);
    }
    assert_eq!(world.begins(), ["a.example.com", "b.example.com"]);
}

#[test]
fn a_failing_domain_stops_no_other() {
    let names: Vec<String> = (0..100).map(|n| format!("t{n}.bad.example")).collect();
    let mut world = World::wanting(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        world = world.trouble(name, 1000);
    }
    world.wanted.insert("alfa.isy.one".to_owned());
    assert_eq!(world.begins(), ["alfa.isy.one"]);
}

#[test]
fn weekly_limits_hold_a_registered_domain_back_and_no_other() {
    let limits = OrderLimits {
        weekly_per_domain: 3,
        weekly_same: 2,
        ..LIMITS
    };
    let mut world = World::wanting(&[
        "c.isy.one",
        "d.isy.one",
        "erp.cliente.com.br",
        "erp.outro.com.br",
    ])
    .acme("a.isy.one", 1)
    .acme("b.isy.one", 6)
    .acme("z.isy.one", 8);
    world.wanted.extend([
        "a.isy.one".to_owned(),
        "b.isy.one".to_owned(),
        "z.isy.one".to_owned(),
    ]);
    let made = world.plan(limits);
    assert_eq!(
        made.begin,
        ["c.isy.one", "erp.cliente.com.br", "erp.outro.com.br"]
    );
    assert_eq!(made.held_back, ["d.isy.one"]);
    // The same name, lost and ordered again several times.
    let mut lost = World::wanting(&["a.x.one"]).acme("a.x.one", 1);
    lost.held[0].issued = vec![lost.now - 1, lost.now];
    lost.held[0].not_after = 0;
    assert_eq!(lost.plan(limits).held_back, ["a.x.one"]);
    assert_eq!(lost.plan(LIMITS).begin, ["a.x.one"]);
}

#[test]
fn registered_domains() {
    for (name, expected) in [
        ("alfa.isy.one", "isy.one"),
        ("*.isy.one", "isy.one"),
        ("isy.one", "isy.one"),
        ("one", "one"),
        ("erp.cliente.com.br", "cliente.com.br"),
        ("cliente.com.br", "cliente.com.br"),
        ("com.br", "com.br"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("a.com.example", "com.example"),
    ] {
        assert_eq!(registered(name), expected);
    }
}

#[test]
fn what_nobody_wants_is_forgotten_when_it_counts_no_more() {
    let world = World::wanting(&["alfa.isy.one"])
        .acme("new.isy.one", 3)
        .acme("old.isy.one", 8)
        .acme("alfa.isy.one", 20)
        .holding("own", 50, Origin::Uploaded, &["gone.example"])
        .trouble("gone.isy.one", 5)
        .trouble("alfa.isy.one", 5);
    let made = world.plan(LIMITS);
    assert_eq!(
        (made.forget, made.settled),
        (
            vec!["old.isy.one".to_owned()],
            vec!["gone.isy.one".to_owned()]
        )
    );
}

#[test]
fn retries_double_up_to_the_most_and_never_undercut_the_authority() {
    let at = |failures, asked| retry_at("a.x", failures, 1_000, asked, &LIMITS, 7) - 1_000;
    let table = [
        (1, 300_000),
        (2, 600_000),
        (3, 1_200_000),
        (8, 21_600_000),
        (u32::MAX, 21_600_000),
    ];
    for (failures, pause) in table {
        let pauses = pause..=pause + pause / 4;
        assert!(
            pauses.contains(&at(failures, None)),
            "{failures}: {}",
            at(failures, None)
        );
    }
    assert_eq!(at(1, Some(90_001_000)), 90_000_000);
    assert!(at(8, Some(2_000)) >= 21_600_000);
    // The first attempt and these retries: within an hour, below Let's Encrypt's limit of five failed validations.
    let mut now = 0;
    let retries = (1..).map(|failures| {
        now = retry_at("a.x", failures, now, None, &LIMITS, 7);
        now
    });
    assert!(retries.take_while(|at| *at < 3_600_000).count() <= 3);
}

proptest! {
    /// Whatever the inputs: nothing is ordered twice, beyond a limit, too early or in vain; the same inputs give the
    /// same plan.
    #[test]
    fn orders_are_within_bounds(
        wanted in proptest::collection::btree_set("[a-f]\\.(x|y)\\.one", 0..12),
        held in proptest::collection::btree_map("[a-f]\\.(x|y)\\.one", 0..95_i64, 0..8),
        troubles in proptest::collection::btree_map("[a-f]\\.(x|y)\\.one", -2..3_i64, 0..6),
        running in proptest::collection::btree_set("[a-f]\\.(x|y)\\.one", 0..5),
        at_once in 1..6_usize,
        weekly in 1..6_usize,
    ) {
        let mut world = World { wanted, running, now: 100 * DAY, ..World::default() };
        for (name, days_ago) in &held {
            world = world.acme(name, *days_ago);
        }
        for (name, retry_in) in &troubles {
            world = world.trouble(name, *retry_in);
        }
        let limits = OrderLimits { orders_at_once: at_once, weekly_per_domain: weekly, ..LIMITS };
        let made = world.plan(limits);
        prop_assert_eq!(&made, &world.plan(limits));
        prop_assert!(made.begin.len() + world.running.len() <= at_once.max(world.running.len()));
        let unique: BTreeSet<_> = made.begin.iter().chain(&world.running).collect();
        prop_assert_eq!(unique.len(), made.begin.len() + world.running.len());
        for name in &made.begin {
            prop_assert!(world.wanted.contains(name));
            prop_assert!(troubles.get(name).is_none_or(|retry_in| *retry_in <= 0));
            prop_assert!(held.get(name).is_none_or(|days_ago| *days_ago >= 52));
            prop_assert!(!made.forget.contains(name));
        }
        for domain in ["x.one", "y.one"] {
            let of = |name: &&String| name.ends_with(domain);
            let issued = held.iter().filter(|(name, days)| of(name) && **days < 7).count();
            let begun = made.begin.iter().filter(of).count();
            prop_assert!(begun == 0 || issued + begun + world.running.iter().filter(of).count() <= weekly);
        }
        for name in &made.forget {
            prop_assert!(!world.wanted.contains(name) && held[name] >= 7);
        }
    }

    /// Renewal lies between 7/12 and 2/3 of the lifetime, whatever the random number.
    #[test]
    fn renewal_is_spread(chance in any::<u64>(), name in "[a-z]{1,8}\\.isy\\.one", days in 1..400_i64) {
        let mut world = World::wanting(&[]).acme(&name, 0);
        let certificate = &mut world.held[0];
        certificate.not_after = certificate.not_before + days * DAY / 1000;
        let begin = certificate.not_before * 1000;
        let share = (renew_at(certificate, chance) - begin) as f64 / (days * DAY) as f64;
        prop_assert!((7.0 / 12.0 - 0.001..=2.0 / 3.0 + 0.001).contains(&share), "{}", share);
    }
}
