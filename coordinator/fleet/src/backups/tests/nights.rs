//! Whole nights: tenants on hosts, backups that take their time, hosts that are away, failures; and bounds that always hold.

use std::collections::BTreeMap;

use isyone_types::plan::UnixMs;
use proptest::prelude::*;

use super::{
    super::{
        policy::{DAY, HOUR, MINUTE, Policy},
        turns::{
            Due, LONGEST_RETRY_MS, Limits, OVERDUE_MS, RETRY_MS, Running, Subject, Wait, Work, due,
            turns,
        },
    },
    T0, changing, host, short, tenant,
};

/// The first evening, by the clock that is three hours behind UTC in the beginning.
const EVENING: i64 = T0 + DAY;

fn policy(destinations: usize) -> Policy {
    let names = ["main", "off-site", "third"];
    Policy::standard(names[..destinations].iter().map(|n| short(n)).collect())
}

fn subject(number: usize, hosts: usize, destination: &str) -> Subject {
    Subject {
        tenant: tenant(number),
        host: host(number % hosts),
        destination: short(destination),
        host_is_ready: true,
        exists_since: Some(T0 - 30 * DAY),
        stopped_since: None,
        base_at: Some(T0 + 5 * HOUR),
        dump_at: Some(T0 + 5 * HOUR),
        is_asked_for: false,
        failures: 0,
        failed_at: None,
    }
}

/// A simulated fleet.
struct Fleet {
    policy: Policy,
    limits: Limits,
    subjects: Vec<Subject>,
    running: Vec<(Running, Work, UnixMs)>,
    /// What was made: subject, work, begin.
    made: Vec<(usize, Work, UnixMs)>,
    most_at_a_host: usize,
    most_at_a_destination: usize,
}

impl Fleet {
    fn new(tenants: usize, hosts: usize, destinations: usize) -> Self {
        let policy = policy(destinations);
        let names: Vec<_> = policy.destinations.clone();
        let all = (0..tenants).flat_map(|number| {
            let of = |name| subject(number, hosts, name);
            names
                .iter()
                .map(move |n| of(n.as_str()))
                .collect::<Vec<_>>()
        });
        Self {
            subjects: all.collect(),
            policy,
            limits: Limits::default(),
            running: Vec::new(),
            made: Vec::new(),
            most_at_a_host: 0,
            most_at_a_destination: 0,
        }
    }

    fn index(&self, job: &Running) -> usize {
        let is = |s: &Subject| s.tenant == job.tenant && s.destination == job.destination;
        self.subjects.iter().position(is).unwrap()
    }

    /// A minute: what is done ends, what is due begins. `takes` is how long a subject's backup takes, or that it fails.
    fn minute(&mut self, now: UnixMs, takes: impl Fn(usize) -> Option<i64>) {
        let all = self.running.drain(..);
        let (done, running): (Vec<_>, Vec<_>) = all.partition(|(.., end)| *end <= now);
        self.running = running;
        for (job, work, _) in done {
            let index = self.index(&job);
            let subject = &mut self.subjects[index];
            if takes(index).is_none() {
                subject.failures += 1;
                subject.failed_at = Some(now);
                continue;
            }
            (subject.failures, subject.failed_at) = (0, None);
            match work {
                Work::Dump => subject.dump_at = Some(now),
                Work::Base | Work::Stopped | Work::Asked => subject.base_at = Some(now),
            }
        }
        let night = self.policy.window.night(now, changing(-4));
        let jobs: Vec<_> = self.running.iter().map(|(job, ..)| job.clone()).collect();
        let subjects = self.subjects.iter().map(|s| (s, &self.policy, night));
        let (begun, waiting) = turns(subjects, &jobs, self.limits, now);
        for (subject, wait) in waiting {
            let is_true = match wait {
                Wait::HostIsNotReady => !subject.host_is_ready,
                // Filled by those that begin in the same minute.
                Wait::Tenant | Wait::Host | Wait::Destination => {
                    !jobs.is_empty() || !begun.is_empty()
                }
            };
            assert!(is_true, "{subject:?} {wait:?}");
        }
        for turn in begun {
            let job = Running {
                tenant: turn.tenant,
                host: turn.host,
                destination: turn.destination,
            };
            let index = self.index(&job);
            assert!(self.subjects[index].host_is_ready);
            self.made.push((index, turn.work, now));
            let minutes = takes(index).unwrap_or(3);
            self.running.push((job, turn.work, now + minutes * MINUTE));
        }
        self.count();
    }

    fn count(&mut self) {
        let (mut hosts, mut destinations) = (BTreeMap::new(), BTreeMap::new());
        let mut tenants = BTreeMap::new();
        for (job, ..) in &self.running {
            *hosts.entry(&job.host).or_insert(0) += 1;
            *destinations.entry(&job.destination).or_insert(0) += 1;
            *tenants.entry(job.tenant).or_insert(0) += 1;
        }
        assert!(tenants.values().all(|n| *n == 1), "one at a time");
        let most = |counts: BTreeMap<_, usize>| counts.values().copied().max().unwrap_or(0);
        self.most_at_a_host = self.most_at_a_host.max(most(hosts));
        let most = destinations.values().copied().max().unwrap_or(0);
        self.most_at_a_destination = self.most_at_a_destination.max(most);
    }

    fn run(&mut self, begin: UnixMs, minutes: i64, takes: impl Fn(usize) -> Option<i64>) {
        // Each second minute: a debug build takes its time for each.
        for minute in (0..minutes).step_by(2) {
            self.minute(begin + minute * MINUTE, &takes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Two weeks with a change of the clock. Where a night has room, each tenant gets one base in it at each destination and a
    /// dump a week; whatever happens, no host and no destination has more than it may.
    #[test]
    fn each_night_each_tenant_gets_its_base_within_the_bounds(
        tenants in 1..16_usize, hosts in 1..6_usize, destinations in 1..=2_usize,
        takes in prop::collection::vec(1..4_i64, 80), per_destination in 2..9_usize,
    ) {
        let mut fleet = Fleet::new(tenants, hosts, destinations);
        fleet.limits.per_destination = per_destination;
        fleet.run(EVENING, 14 * 1440, |index| Some(takes[index]));
        prop_assert!(fleet.most_at_a_host <= fleet.limits.per_host);
        prop_assert!(fleet.most_at_a_destination <= per_destination);
        let mut nights = BTreeMap::new();
        let mut dumps = BTreeMap::new();
        for (index, work, at) in &fleet.made {
            let night = fleet.policy.window.night(*at, changing(-4));
            prop_assert!(night.holds(*at), "by day nothing is begun");
            match work {
                Work::Base => *nights.entry((night.day, *index)).or_insert(0) += 1,
                Work::Dump => *dumps.entry(*index).or_insert(0) += 1,
                Work::Stopped | Work::Asked => prop_assert!(false),
            }
        }
        prop_assert_eq!(nights.len(), 14 * fleet.subjects.len());
        prop_assert!(nights.values().all(|n| *n == 1));
        prop_assert_eq!(dumps.len(), fleet.subjects.len());
        prop_assert!(dumps.values().all(|n| *n == 2 || *n == 1), "{dumps:?}");
    }

    /// Too much for a night, hosts that come and go, backups that fail: bounds hold, who waited longest is first, and once it is
    /// possible again everybody is caught up with.
    #[test]
    fn trouble_is_caught_up_with(
        tenants in 20..60_usize, hosts in 1..4_usize, away in 0..4_usize, bad in 0..60_usize, seed: u64,
    ) {
        let mut fleet = Fleet::new(tenants, hosts, 1);
        for subject in &mut fleet.subjects {
            subject.host_is_ready = subject.host != host(away);
        }
        // A host in a hurry: 20 minutes for each of up to 60 tenants is more than a night.
        fleet.run(EVENING, 3 * 1440, |index| (index != bad).then_some(20 + (seed % 7) as i64));
        for subject in &mut fleet.subjects {
            subject.host_is_ready = true;
        }
        let end = EVENING + 7 * DAY;
        fleet.run(EVENING + 3 * DAY, 4 * 1440, |_| Some(2));
        prop_assert!(fleet.most_at_a_host <= 1);
        for subject in &fleet.subjects {
            let age = end - subject.base_at.unwrap();
            prop_assert!(age <= OVERDUE_MS, "{age}");
            prop_assert_eq!(subject.failures, 0);
        }
    }

    #[test]
    fn equal_inputs_give_equal_answers_in_any_order(
        order in Just((0..30).collect::<Vec<usize>>()).prop_shuffle(), minutes in 0..1440_i64,
    ) {
        let fleet = Fleet::new(30, 3, 1);
        let now = EVENING + minutes * MINUTE;
        let night = fleet.policy.window.night(now, changing(-4));
        let of = |order: &[usize]| {
            let subjects = order.iter().map(|n| (&fleet.subjects[*n], &fleet.policy, night));
            turns(subjects, &[], Limits::default(), now).0
        };
        prop_assert_eq!(of(&order), of(&(0..30).collect::<Vec<_>>()));
    }
}

#[test]
fn a_night_is_used_evenly_and_each_tenant_keeps_its_place() {
    let mut fleet = Fleet::new(400, 100, 1);
    fleet.limits.per_destination = 100;
    fleet.run(EVENING, 5 * 1440, |_| Some(1));
    let night = |at| fleet.policy.window.night(at, changing(-4));
    let mut eighths = [0; 8];
    let mut begun = BTreeMap::<usize, Vec<i64>>::new();
    for (index, work, at) in &fleet.made {
        if *work == Work::Base {
            let night = night(*at);
            let eighth = (at - night.begin) * 8 / (night.end - night.begin);
            eighths[usize::try_from(eighth).unwrap()] += 1;
            begun.entry(*index).or_default().push(*at);
        }
    }
    for count in &eighths[..6] {
        assert!((240..440).contains(count), "{eighths:?}");
    }
    for times in begun.values() {
        let apart = times.windows(2).map(|two| two[1] - two[0]);
        let days: Vec<_> = apart.collect();
        let near = |ms: &i64| (ms - DAY).abs() < 30 * MINUTE;
        assert!(days.iter().all(near), "{days:?}");
    }
}

#[test]
fn what_has_none_is_made_at_once_and_before_what_is_overdue() {
    let policy = policy(1);
    let now = T0 + DAY + 15 * HOUR;
    let night = policy.window.night(now, changing(-4));
    assert!(!night.holds(now), "by day");
    let mut subjects: Vec<_> = (0..4).map(|n| subject(n, 1, "main")).collect();
    subjects[1].base_at = Some(now - OVERDUE_MS - 1);
    subjects[2].base_at = None;
    subjects[3].base_at = Some(now - OVERDUE_MS - 2);
    subjects[0].base_at = Some(now - 10 * HOUR);
    let dues: Vec<_> = subjects
        .iter()
        .map(|s| due(s, &policy, night, now))
        .collect();
    assert!(matches!(dues[0], Due::Later(_)), "{dues:?}");
    assert_eq!(
        dues[1..],
        [
            Due::Overdue(Work::Base),
            Due::Never(Work::Base),
            Due::Overdue(Work::Base)
        ]
    );
    let limits = Limits {
        per_host: 3,
        per_destination: 9,
    };
    let (begun, waiting) = turns(
        subjects.iter().map(|s| (s, &policy, night)),
        &[],
        limits,
        now,
    );
    let order: Vec<_> = begun.iter().map(|turn| turn.tenant).collect();
    assert_eq!(order, [tenant(2), tenant(3), tenant(1)]);
    assert_eq!(waiting, []);
    // Nothing to back up before it exists.
    subjects[2].exists_since = None;
    assert_eq!(due(&subjects[2], &policy, night, now), Due::Nothing);
}

#[test]
fn what_stopped_is_backed_up_once() {
    let policy = policy(1);
    let now = T0 + 3 * DAY;
    let night = policy.window.night(now, changing(-4));
    let mut stopped = subject(0, 1, "main");
    stopped.stopped_since = Some(now - HOUR);
    let is = |subject: &Subject| due(subject, &policy, night, now);
    assert_eq!(is(&stopped), Due::Overdue(Work::Stopped));
    stopped.base_at = Some(now - HOUR + MINUTE);
    assert_eq!(is(&stopped), Due::Nothing);
    let year = now + 365 * DAY;
    let night = policy.window.night(year, changing(-4));
    assert_eq!(due(&stopped, &policy, night, year), Due::Nothing);
}

#[test]
fn failures_are_tried_again_less_and_less_often_and_never_given_up() {
    let policy = policy(1);
    let failed = T0 + 3 * DAY;
    let mut subject = subject(0, 1, "main");
    subject.base_at = None;
    subject.failed_at = Some(failed);
    let pauses = (1..40).map(|failures| {
        subject.failures = failures;
        let night = policy.window.night(failed, changing(-4));
        match due(&subject, &policy, night, failed) {
            Due::Retry(at) => at - failed,
            other => panic!("{other:?}"),
        }
    });
    let pauses: Vec<_> = pauses.collect();
    assert_eq!(pauses[..3], [RETRY_MS, 2 * RETRY_MS, 4 * RETRY_MS]);
    assert_eq!(pauses[38], LONGEST_RETRY_MS);
    let later = failed + LONGEST_RETRY_MS;
    let night = policy.window.night(later, changing(-4));
    assert_eq!(due(&subject, &policy, night, later), Due::Never(Work::Base));
    // The clock was set back: nobody waits for a time that lies far ahead.
    let back = failed - 100 * DAY;
    let night = policy.window.night(back, changing(-4));
    assert_eq!(due(&subject, &policy, night, back), Due::Never(Work::Base));
}
