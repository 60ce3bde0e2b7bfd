//! What a policy may say, nights by any clock, and the rhythm of shipments.

use proptest::prelude::*;

use super::{
    super::policy::{DAY, HOUR, Keep, MINUTE, Policy, PolicyError, Window},
    T0, changing, changing_in_spring, short, tenant,
};

fn standard() -> Policy {
    Policy::standard(vec![short("main")])
}

#[test]
fn the_standard_is_a_policy_and_ships_each_five_minutes() {
    assert_eq!(standard().check(), Ok(()));
    assert_eq!(standard().ship_every_ms(), 5 * MINUTE);
}

#[test]
fn what_cannot_be_held_is_no_policy() {
    type Change = fn(&mut Policy);
    let wrong: &[(Change, PolicyError)] = &[
        (|p| p.may_lose_ms = 0, PolicyError::TooLittleLoss),
        (|p| p.may_lose_ms = i64::MAX, PolicyError::TooMuchLoss),
        (|p| p.window.begin_minute = 1440, PolicyError::Window),
        (|p| p.window.length_minutes = 29, PolicyError::Window),
        (|p| p.window.length_minutes = 721, PolicyError::Window),
        (|p| p.keep.last = 0, PolicyError::Keep),
        (|p| p.keep.monthly = 1001, PolicyError::Keep),
        (|p| p.keep.every_second_ms = -1, PolicyError::Time),
        (|p| p.keep.on_purpose_ms = i64::MAX, PolicyError::Time),
        (
            |p| p.destinations.push(p.destinations[0].clone()),
            PolicyError::Destinations,
        ),
        (
            |p| p.destinations = ["a", "b", "c", "d", "e"].map(short).to_vec(),
            PolicyError::Destinations,
        ),
    ];
    for (change, error) in wrong {
        let mut policy = standard();
        change(&mut policy);
        assert_eq!(policy.check(), Err(*error), "{policy:?}");
    }
    // Backups that go nowhere are allowed: nothing is said to be protected by them.
    let nowhere = Policy {
        destinations: Vec::new(),
        ..standard()
    };
    assert_eq!(nowhere.check(), Ok(()));
}

#[test]
fn a_night_begins_by_the_customers_clock() {
    let window = Window {
        begin_minute: 60,
        length_minutes: 240,
    };
    let sao_paulo = |_| -3 * 3600;
    let night = window.night(T0 + 5 * HOUR, sao_paulo);
    assert_eq!((night.begin, night.end), (T0 + 4 * HOUR, T0 + 8 * HOUR));
    // At three minutes to one it is still the night before.
    let before = window.night(T0 + 4 * HOUR - 3 * MINUTE, sao_paulo);
    assert_eq!(before.begin, T0 + 4 * HOUR - DAY);
    assert_eq!(before.day + 1, night.day);
}

fn any_window() -> impl Strategy<Value = Window> {
    (0..1440_u16, 30..=720_u16).prop_map(|(begin_minute, length_minutes)| Window {
        begin_minute,
        length_minutes,
    })
}

proptest! {
    /// By any clock, also one that is changed: nights follow each other without overlapping, each has its length, and whoever
    /// asks within one is told the same night.
    #[test]
    fn nights_follow_each_other(
        window in any_window(), ahead in -12..14_i32, minutes in 0..30 * 1440_i64, autumn: bool,
    ) {
        let autumn_clock = changing(ahead);
        let spring_clock = changing_in_spring(ahead);
        let clock = |at| if autumn { autumn_clock(at) } else { spring_clock(at) };
        let now = T0 + minutes * MINUTE;
        let night = window.night(now, clock);
        prop_assert!(night.begin <= now);
        prop_assert_eq!(night.end - night.begin, i64::from(window.length_minutes) * MINUTE);
        prop_assert!(now - night.begin < DAY + HOUR, "it is the last one");
        for at in [night.begin, night.end - 1, i64::midpoint(night.begin, night.end)] {
            prop_assert_eq!(window.night(at, clock), night);
        }
        let next = window.night(night.begin + DAY + HOUR + 1, clock);
        prop_assert_eq!(next.day, night.day + 1);
        prop_assert!(night.end <= next.begin);
        let distance = next.begin - night.begin;
        prop_assert!((DAY - HOUR..=DAY + HOUR).contains(&distance), "{distance}");
    }

    /// A shipment may fail, and take half a minute, and what is lost is within what may be.
    #[test]
    fn the_loss_that_is_promised_can_be_held(may_lose_ms in 2 * MINUTE..=DAY) {
        let policy = Policy { may_lose_ms, ..standard() };
        prop_assert_eq!(policy.check(), Ok(()));
        let every = policy.ship_every_ms();
        prop_assert!(every > 0);
        prop_assert!(MINUTE + 2 * every <= may_lose_ms);
    }

    #[test]
    fn shipments_are_an_interval_apart_and_spread(number in 0..1000_usize, now in 0..10 * DAY) {
        let policy = standard();
        let first = policy.next_shipment(tenant(number), T0 + now);
        prop_assert!((1..=policy.ship_every_ms()).contains(&(first - T0 - now)));
        let second = policy.next_shipment(tenant(number), first);
        prop_assert_eq!(second - first, policy.ship_every_ms());
    }
}

#[test]
fn tenants_do_not_ship_at_the_same_moment() {
    let policy = standard();
    let mut seconds = [0_u32; 300];
    for number in 0..3000 {
        let at = policy.next_shipment(tenant(number), T0) - T0;
        seconds[usize::try_from(at / 1000).unwrap().min(299)] += 1;
    }
    let most = seconds.iter().max().unwrap();
    assert!(*most < 30, "10 in each second on average, here {most}");
}

#[test]
fn policies_are_stored_as_they_are() {
    let policy = Policy {
        keep: Keep {
            last: 3,
            ..standard().keep
        },
        ..standard()
    };
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
}
