//! Leases by stories: whoever needs one never goes on later than a grant and its time, and never while another host may take over.

use isyone_proto::plan::{JobOrder, Seed};
use proptest::prelude::*;

use super::*;
use crate::testing::{host_plan, tenant_plan};

const FOR_MS: u32 = 800;
const AFTER_MS: u32 = 1_000;

fn h(name: &str) -> HostName {
    name.parse().unwrap()
}

fn needed(name: &str, for_ms: u32) -> TenantPlan {
    TenantPlan {
        lease: Some(Lease::Needed {
            for_ms,
            renewer: h("h2"),
            address: Some("192.0.2.8:7483".parse().unwrap()),
        }),
        ..tenant_plan(name)
    }
}

fn copy(name: &str, lease: Option<Lease>) -> TenantPlan {
    let desired = match lease {
        Some(Lease::Over { .. }) => DesiredState::Running,
        _ => DesiredState::Standby,
    };
    TenantPlan {
        desired,
        seed: Seed::Peer(h("h1")),
        follows: desired == DesiredState::Standby,
        as_it_is: desired == DesiredState::Running,
        lease,
        ..tenant_plan(name)
    }
}

fn grants() -> TenantPlan {
    copy("alfa", Some(Lease::Granted { to: h("h1") }))
}

fn over() -> TenantPlan {
    copy("alfa", Some(Lease::Over { after_ms: AFTER_MS }))
}

fn under(tenants: Vec<TenantPlan>, now_ms: u64) -> Book {
    let mut book = Book::new(now_ms, BTreeMap::new());
    book.adapt(&host_plan(1, tenants), &[], false, now_ms);
    book
}

fn adapt(book: &mut Book, tenants: Vec<TenantPlan>, now_ms: u64) {
    book.adapt(&host_plan(2, tenants), &[], false, now_ms);
}

fn is_free(book: &Book, tenant: &TenantPlan, now_ms: u64) -> bool {
    book.standing(&tenant.uid, now_ms) == Standing::Free
}

#[test]
fn a_lease_counts_from_before_it_was_asked_for() {
    let alfa = needed("alfa", FOR_MS);
    let mut book = under(vec![alfa.clone()], 1_000);
    let never = book.standing(&alfa.uid, 1_000);
    assert!(
        matches!(&never, Standing::Lapsed(lapse) if !lapse.was_granted),
        "{never:?}"
    );
    book.acknowledged(1_100);
    assert!(is_free(&book, &alfa, 1_899) && !is_free(&book, &alfa, 1_900));
    assert_eq!(book.next_change(1_200), Some(1_900));
    book.renewed(&h("h2"), &[alfa.uid], 1_500);
    assert!(is_free(&book, &alfa, 2_299));
    // An answer that was long on its way takes nothing away.
    book.acknowledged(1_200);
    let over = book.standing(&alfa.uid, 2_300);
    assert!(
        matches!(&over, Standing::Lapsed(lapse) if lapse.was_granted),
        "{over:?}"
    );
    assert_eq!(book.holds(2_300), [(alfa.uid, Hold::Lapsed)].into());
    assert!(book.next_change(2_300).is_none());
}

#[test]
fn only_the_host_that_keeps_the_standby_renews_and_only_what_it_was_asked_for() {
    let (alfa, beta) = (needed("alfa", FOR_MS), tenant_plan("beta"));
    let mut book = under(vec![alfa.clone(), beta.clone()], 0);
    book.renewed(&h("h3"), &[alfa.uid], 10);
    book.renewed(&h("h2"), &[beta.uid, Uuid::nil()], 10);
    assert!(!is_free(&book, &alfa, 10) && is_free(&book, &beta, 10));
    assert_eq!(book.granted().len(), 0);
}

#[test]
fn after_a_boot_the_coordinator_alone_counts() {
    let alfa = needed("alfa", FOR_MS);
    let mut book = Book::new(0, BTreeMap::new());
    book.adapt(&host_plan(1, vec![alfa.clone()]), &[], true, 0);
    book.renewed(&h("h2"), &[alfa.uid], 10);
    assert!(!is_free(&book, &alfa, 10));
    book.adapt(&host_plan(1, vec![alfa.clone()]), &[], false, 20);
    assert!(!is_free(&book, &alfa, 20), "a boot is no grant");
    book.acknowledged(15);
    assert!(is_free(&book, &alfa, 20));
}

#[test]
fn a_shorter_lease_counts_at_once_and_the_relay_hears_of_it() {
    let alfa = needed("alfa", FOR_MS);
    let mut book = under(vec![alfa.clone()], 0);
    book.acknowledged(0);
    assert!(book.tell(0));
    assert_eq!(book.told(&alfa.name), Some(800));
    adapt(&mut book, vec![needed("alfa", 300)], 10);
    assert_eq!(
        book.told(&alfa.name),
        Some(300),
        "before anybody is told anew"
    );
    assert!(is_free(&book, &alfa, 299) && !is_free(&book, &alfa, 300));
    assert!(book.tell(10) && !book.tell(10));
}

#[test]
fn the_relay_is_told_when_half_of_what_it_knows_has_passed_and_of_all_at_once() {
    let (alfa, beta) = (needed("alfa", FOR_MS), needed("beta", FOR_MS * 10));
    let mut book = under(vec![alfa.clone(), beta.clone()], 0);
    book.acknowledged(0);
    assert!(book.tell(0));
    for at in [100, 200, 300, 400] {
        book.acknowledged(at);
        assert!(!book.tell(at), "{at}");
    }
    assert_eq!(book.told(&alfa.name), Some(800));
    assert!(book.tell(401));
    let told = [&alfa, &beta].map(|tenant| book.told(&tenant.name));
    assert_eq!(told, [Some(1_200), Some(8_400)]);
    assert!(!book.tell(900), "there is nothing new to tell");
    assert_eq!(book.told(&tenant_plan("gama").name), None);
    // It lives elsewhere now: what it had here is no more.
    adapt(&mut book, vec![copy("alfa", None), beta], 910);
    assert_eq!((book.told(&alfa.name), book.granted().len()), (None, 1));
}

#[test]
fn what_ran_without_a_lease_is_not_stopped_by_the_plan_that_brings_one() {
    let alfa = needed("alfa", FOR_MS);
    let mut book = under(vec![tenant_plan("alfa")], 0);
    adapt(&mut book, vec![alfa.clone()], 5_000);
    assert!(is_free(&book, &alfa, 5_799) && !is_free(&book, &alfa, 5_800));
    // The same plan once more is no news.
    adapt(&mut book, vec![alfa.clone()], 5_900);
    assert!(!is_free(&book, &alfa, 5_900));
    // One that did not run here, or that nobody let run yet, begins with the first grant.
    let suspended = TenantPlan {
        desired: DesiredState::Suspended,
        ..tenant_plan("alfa")
    };
    let mut book = under(vec![suspended], 0);
    adapt(&mut book, vec![alfa.clone()], 10);
    assert!(!is_free(&book, &alfa, 10));
    let mut book = Book::new(0, BTreeMap::new());
    book.adapt(&host_plan(1, vec![tenant_plan("alfa")]), &[], true, 0);
    book.adapt(&host_plan(2, vec![alfa.clone()]), &[], false, 10);
    assert!(!is_free(&book, &alfa, 10));
}

#[test]
fn a_lease_means_nothing_to_what_does_not_run() {
    for desired in [
        DesiredState::Suspended,
        DesiredState::Fenced,
        DesiredState::Standby,
    ] {
        let alfa = TenantPlan {
            desired,
            ..needed("alfa", FOR_MS)
        };
        let book = under(vec![alfa.clone()], 0);
        assert!(is_free(&book, &alfa, 9_999) && book.questions().is_empty());
    }
}

#[test]
fn one_question_for_each_host_with_all_its_tenants() {
    let mut away = needed("gama", FOR_MS);
    away.lease = Some(Lease::Needed {
        for_ms: FOR_MS,
        renewer: h("h3"),
        address: None,
    });
    let tenants = vec![needed("alfa", 52_500), needed("beta", 16_000), away];
    let questions = under(tenants, 0).questions();
    let [(renewer, question)] = questions.iter().collect::<Vec<_>>()[..] else {
        panic!("{questions:?}");
    };
    assert_eq!((renewer.host.as_str(), question.pause_ms), ("h2", 2_000));
    let mut names: Vec<_> = question
        .tenants
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["alfa", "beta"]);
    for (for_ms, pause_ms) in [(52_500, 6_562), (3_600_000, 10_000), (1, 100)] {
        let one = under(vec![needed("alfa", for_ms)], 0).questions();
        assert!(one.values().all(|q| q.pause_ms == pause_ms), "{one:?}");
    }
}

#[test]
fn a_copy_grants_to_whom_its_plan_says_and_to_nobody_once_it_does_not() {
    let alfa = grants();
    let mut book = under(vec![alfa.clone()], 100);
    let ask = |book: &mut Book, to: &str, name: &str, uid, at| {
        book.gives(&h(to), &name.parse().unwrap(), uid, at)
    };
    assert!(ask(&mut book, "h1", "alfa", alfa.uid, 200));
    assert!(!ask(&mut book, "h3", "alfa", alfa.uid, 300), "another host");
    assert!(!ask(&mut book, "h1", "beta", alfa.uid, 300), "another name");
    assert!(
        !ask(&mut book, "h1", "alfa", Uuid::nil(), 300),
        "another tenant of that name"
    );
    for next in [over(), copy("alfa", None), tenant_plan("alfa")] {
        let mut book = book.clone();
        adapt(&mut book, vec![next], 400);
        assert!(!ask(&mut book, "h1", "alfa", alfa.uid, 500));
    }
    let mut stale = book.clone();
    stale.adapt(
        &host_plan(3, vec![alfa.clone()]),
        std::slice::from_ref(&alfa.name),
        false,
        400,
    );
    assert!(!ask(&mut stale, "h1", "alfa", alfa.uid, 500), "an old copy");
}

#[test]
fn a_copy_takes_over_so_long_after_its_last_grant() {
    let alfa = over();
    let mut book = under(vec![grants()], 100);
    assert!(book.gives(&h("h1"), &alfa.name, alfa.uid, 700));
    adapt(&mut book, vec![alfa.clone()], 900);
    let wait = Wait {
        left_ms: 800,
        from: Some(h("h1")),
    };
    assert_eq!(book.standing(&alfa.uid, 900), Standing::Waits(wait));
    assert_eq!(book.next_change(900), Some(1_700));
    assert!(!is_free(&book, &alfa, 1_699) && is_free(&book, &alfa, 1_700));
    // Its agent began anew, and knows of no grant, nor whose it was.
    let book = under(vec![alfa.clone()], 5_000);
    let wait = Wait {
        left_ms: 1_000,
        from: None,
    };
    assert_eq!(book.standing(&alfa.uid, 5_000), Standing::Waits(wait));
    // A plan without one waits for nobody: somebody has made sure.
    let sure = TenantPlan {
        lease: None,
        ..over()
    };
    assert!(is_free(&under(vec![sure.clone()], 5_000), &sure, 5_000));
}

#[test]
fn a_grant_is_remembered_of_a_copy_that_was_gone_meanwhile() {
    let alfa = over();
    let mut book = under(vec![grants()], 100);
    assert!(book.gives(&h("h1"), &alfa.name, alfa.uid, 700));
    adapt(&mut book, vec![], 800);
    adapt(&mut book, vec![alfa.clone()], 900);
    assert!(!is_free(&book, &alfa, 1_699) && is_free(&book, &alfa, 1_700));
}

#[test]
fn the_age_of_the_last_grant_is_told_where_the_plan_grants() {
    let alfa = grants();
    let order = JobOrder {
        id: Uuid::from_u128(7),
        operation: Uuid::nil(),
        tenant: alfa.name.clone(),
        uid: alfa.uid,
        work: JobWork::Follow {
            from: h("h1"),
            address: None,
            last: false,
            standing: true,
        },
        rate_bytes_per_s: 0,
    };
    let plan = |tenant: TenantPlan, jobs: Vec<JobOrder>| HostPlan {
        jobs,
        ..host_plan(1, vec![tenant])
    };
    let mut book = Book::new(100, BTreeMap::new());
    book.adapt(&plan(alfa.clone(), vec![order.clone()]), &[], false, 150);
    assert_eq!(book.given_ms(&order.id, 400), Some(300), "since its start");
    assert!(book.gives(&h("h1"), &alfa.name, alfa.uid, 500));
    assert_eq!(book.given_ms(&order.id, 750), Some(250));
    assert_eq!(book.given_ms(&Uuid::nil(), 750), None);
    book.adapt(
        &plan(copy("alfa", None), vec![order.clone()]),
        &[],
        false,
        800,
    );
    assert_eq!(book.given_ms(&order.id, 850), None);
}

/// What happens in a story.
#[derive(Debug, Clone)]
enum Event {
    Passes(u64),
    /// A question goes out to the coordinator, or to the other host.
    Asks(bool),
    /// The oldest that is on its way is answered: by the other host only if it may.
    Answers,
    /// An answer arrives.
    Arrives,
    /// The time of a lease by the plan.
    Length(u32),
    /// The agent begins anew, with what it wrote down last.
    Restarts,
    /// The other host's does.
    OtherRestarts,
    /// The other host is to take over.
    TakesOver,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u64..400).prop_map(Event::Passes),
        4 => any::<bool>().prop_map(Event::Asks),
        4 => Just(Event::Answers),
        4 => Just(Event::Arrives),
        1 => (100u32..=FOR_MS).prop_map(Event::Length),
        1 => Just(Event::Restarts),
        1 => Just(Event::OtherRestarts),
        1 => Just(Event::TakesOver),
    ]
}

/// Two hosts and a coordinator; each grants by what it knows.
struct Story {
    now: u64,
    for_ms: u32,
    holder: Book,
    other: Book,
    written: BTreeMap<Uuid, u64>,
    /// Moments of questions, and whether the coordinator is asked.
    asked: Vec<(u64, bool)>,
    answered: Vec<(u64, bool)>,
    /// The latest question that was answered with yes.
    latest: Option<u64>,
    /// When the coordinator last heard of the holder; it decides by that, and silently from then on.
    heard: u64,
    decided: bool,
}

impl Story {
    fn new() -> Self {
        let alfa = needed("alfa", FOR_MS);
        Self {
            now: 1_000,
            for_ms: FOR_MS,
            holder: under(vec![alfa], 1_000),
            other: under(vec![grants()], 1_000),
            written: BTreeMap::new(),
            asked: Vec::new(),
            answered: Vec::new(),
            latest: None,
            heard: 1_000,
            decided: false,
        }
    }

    fn goes_on(&mut self, event: Event) {
        let (h1, h2) = (h("h1"), h("h2"));
        let alfa = needed("alfa", self.for_ms);
        match event {
            Event::Passes(ms) => self.now += ms,
            Event::Asks(coordinator) => self.asked.push((self.now, coordinator)),
            Event::Answers if self.asked.is_empty() => {}
            Event::Answers => {
                let (at, by_coordinator) = self.asked.remove(0);
                let yes = match by_coordinator {
                    true => !self.decided,
                    false => self.other.gives(&h1, &alfa.name, alfa.uid, self.now),
                };
                if by_coordinator {
                    self.heard = self.now;
                }
                if yes {
                    self.answered.push((at, by_coordinator));
                }
            }
            Event::Arrives if self.answered.is_empty() => {}
            Event::Arrives => {
                let (at, by_coordinator) = self.answered.remove(0);
                self.latest = self.latest.max(Some(at));
                match by_coordinator {
                    true => self.holder.acknowledged(at),
                    false => self.holder.renewed(&h2, &[alfa.uid], at),
                }
                if self.holder.tell(self.now) {
                    self.written = self.holder.granted().clone();
                }
            }
            Event::Length(for_ms) => {
                self.for_ms = for_ms;
                adapt(&mut self.holder, vec![needed("alfa", for_ms)], self.now);
            }
            Event::Restarts => {
                self.holder = Book::new(self.now, self.written.clone());
                adapt(&mut self.holder, vec![alfa], self.now);
            }
            Event::OtherRestarts => {
                self.other = Book::new(self.now, BTreeMap::new());
                let plan = if self.decided { over() } else { grants() };
                adapt(&mut self.other, vec![plan], self.now);
            }
            Event::TakesOver if self.now < self.heard + u64::from(AFTER_MS) => {}
            Event::TakesOver => {
                self.decided = true;
                adapt(&mut self.other, vec![over()], self.now);
            }
        }
    }

    fn holds(&mut self) -> Result<(), TestCaseError> {
        let alfa = needed("alfa", self.for_ms);
        let runs = is_free(&self.holder, &alfa, self.now);
        let until = self.latest.map_or(0, |at| at + u64::from(self.for_ms));
        prop_assert!(!runs || self.now < until, "later than any grant");
        self.holder.tell(self.now);
        let told = self.holder.told(&alfa.name).unwrap();
        prop_assert!(told <= until, "the relay was told too much");
        let takes_over = self.decided && is_free(&self.other, &over(), self.now);
        prop_assert!(!(takes_over && runs), "two hosts");
        prop_assert!(
            !(takes_over && self.now < told),
            "the relay answers, and another host"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nobody_goes_on_later_than_granted_nor_beside_another(
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut story = Story::new();
        for event in events {
            story.goes_on(event);
            story.holds()?;
        }
    }

    /// Whatever is answered, and in whatever order: no moment is ever taken back, and none is later than its question.
    #[test]
    fn a_grant_is_as_old_as_its_question(moments in proptest::collection::vec((0u64..5_000, any::<bool>()), 1..20)) {
        let alfa = needed("alfa", FOR_MS);
        let mut book = under(vec![alfa.clone()], 0);
        let mut latest = 0;
        for (at, coordinator) in moments {
            match coordinator {
                true => book.acknowledged(at),
                false => book.renewed(&h("h2"), &[alfa.uid], at),
            }
            latest = latest.max(at);
            prop_assert_eq!(book.granted()[&alfa.uid], latest);
        }
    }
}
