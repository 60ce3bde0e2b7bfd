//! Chains against a model: whatever happens to spool, base and shipments, a destination that says that it can be restored has every
//! segment that this takes, and nothing is removed that somebody needs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::try_from(MIB).unwrap()
}

fn segment(number: u64) -> Segment {
    size().numbered(1, number)
}

fn range(first: u64, last: u64) -> Segments {
    Segments {
        first: segment(first),
        last: segment(last),
    }
}

fn base(first: u64, last: u64) -> Base {
    Base {
        snapshot: SnapshotName([1; 32]),
        at: 7,
        needs: Some(range(first, last)),
    }
}

fn segments(numbers: std::ops::RangeInclusive<u64>) -> Vec<Segment> {
    numbers.map(segment).collect()
}

#[test]
fn segments_follow_each_other_over_the_end_of_four_gigabytes() {
    let size = SegmentSize::try_from(16 * MIB).unwrap();
    let last: Segment = "0000000100000001000000FF".parse().unwrap();
    assert_eq!(size.after(last).to_string(), "000000010000000200000000");
    assert_eq!(size.before(size.after(last)), last);
    assert_eq!(size.begin(size.after(last)), 2 << 32);
    assert_eq!(size.of(1, (2 << 32) - 1), last);
    assert!(size.has(last) && !size.has("000000010000000100000100".parse().unwrap()));
    for odd in [0, 1, MIB - 1, 3 * MIB, 2 << 30] {
        assert!(SegmentSize::try_from(odd).is_err(), "{odd}");
    }
}

#[test]
fn without_a_base_nothing_is_shipped_and_with_one_all_that_follows() {
    let spool = segments(1..=5);
    let mut chain = Chain::default();
    assert_eq!(chain.next(&spool, size()), Next::default());
    assert_eq!(removable(&spool, &[chain.needs_from(size())]), spool);
    chain.begin(segment(3));
    assert_eq!(chain.next(&spool, size()).ship, segments(3..=5));
    assert_eq!(
        removable(&spool, &[chain.needs_from(size())]),
        segments(1..=2)
    );
    let rest = chain.rest_of(range(3, 4), &spool, size()).unwrap();
    chain.shipped(&rest, size());
    chain.based(base(3, 4));
    assert!(chain.is_whole());
    assert_eq!(chain.next(&spool, size()).ship, segments(5..=5));
}

#[test]
fn a_hole_ends_a_chain_until_the_next_base() {
    let mut chain = Chain::default();
    chain.begin(segment(1));
    chain.shipped(&segments(1..=2), size());
    chain.based(base(1, 2));
    let spool = segments(5..=6);
    let next = chain.next(&spool, size());
    assert!(next.hole && next.ship.is_empty());
    chain.broken(99);
    assert_eq!(chain.gap_since, Some(99));
    assert_eq!(chain.needs_from(size()), None);
    chain.begin(segment(6));
    let next = chain.next(&spool, size());
    assert!(!next.hole);
    assert_eq!(next.ship, segments(6..=6));
    chain.shipped(&next.ship, size());
    assert_eq!(
        chain.rest_of(range(6, 8), &segments(6..=7), size()),
        Err(segment(8))
    );
    chain.based(base(6, 6));
    assert_eq!((chain.gap_since, chain.is_whole()), (None, true));
}

#[test]
fn a_shipment_is_bounded_and_says_that_there_is_more() {
    let mut chain = Chain::default();
    chain.begin(segment(0));
    let next = chain.next(&segments(0..=299), size());
    assert_eq!((next.ship.len(), next.more), (256, true));
    let next = chain.next(&segments(0..=255), size());
    assert_eq!((next.ship.len(), next.more), (256, false));
}

#[test]
fn a_base_in_the_midst_of_a_chain_lets_it_lead_on() {
    let mut chain = Chain::default();
    chain.begin(segment(1));
    chain.shipped(&segments(1..=2), size());
    chain.based(base(1, 2));
    let leads = |chain: &Chain, spool: &[Segment]| chain.leads_to(segment(5), spool, size());
    assert!(leads(&chain, &segments(1..=6)));
    assert!(!leads(&chain, &segments(1..=4)), "it has not come");
    assert!(!leads(&chain, &segments(4..=6)), "a hole");
    assert!(!chain.leads_to(size().numbered(2, 5), &segments(3..=6), size()));
    // What a base of 4 to 5 brings is shipped as well, and so is what lies before it.
    chain.begin(segment(4));
    chain.based(base(4, 5));
    assert!(chain.is_whole());
    assert_eq!(chain.next(&segments(3..=6), size()).ship, segments(3..=6));
    chain.broken(9);
    assert!(!leads(&chain, &segments(1..=6)), "there was a hole");
}

#[test]
fn another_timeline_is_a_hole() {
    let mut chain = Chain::default();
    chain.begin(segment(1));
    chain.shipped(&segments(1..=2), size());
    chain.based(base(1, 1));
    let other = size().numbered(2, 3);
    assert!(chain.next(&[other], size()).hole);
    chain.begin(other);
    assert_eq!(chain.next(&[other], size()).ship, [other]);
}

#[test]
fn a_return_to_an_earlier_timeline_ends_a_chain_until_the_next_base() {
    let on = |timeline, number| size().numbered(timeline, number);
    let mut chain = Chain::default();
    chain.begin(on(2, 5));
    chain.shipped(&[on(2, 5), on(2, 6)], size());
    let needs = Segments {
        first: on(2, 5),
        last: on(2, 6),
    };
    chain.based(Base {
        needs: Some(needs),
        ..base(5, 6)
    });
    assert!(chain.is_ahead_of(1) && !chain.is_ahead_of(2));
    chain.broken(7);
    assert!(!chain.is_whole() && !chain.is_ahead_of(1), "once");
    assert_eq!(chain.needs_from(size()), None, "until the next base begins");
    chain.begin(on(1, 7));
    let next = chain.next(&[on(1, 7), on(1, 8)], size());
    assert_eq!((next.ship.len(), next.hole), (2, false));
    chain.shipped(&next.ship, size());
    let needs = Segments {
        first: on(1, 7),
        last: on(1, 8),
    };
    assert_eq!(chain.rest_of(needs, &[], size()), Ok(Vec::new()));
    chain.based(Base {
        needs: Some(needs),
        ..base(7, 8)
    });
    assert!(chain.is_whole() && !chain.is_ahead_of(1));
}

#[test]
fn a_stopped_tenant_has_a_base_and_no_log() {
    let mut chain = Chain::default();
    let stopped = Base {
        needs: None,
        ..base(0, 0)
    };
    chain.based(stopped);
    assert!(chain.base.is_some() && !chain.is_whole());
    assert_eq!(chain.needs_from(size()), None);
    assert_eq!(chain.shipped_to, Some(7));
}

#[test]
fn nothing_is_removed_where_nobody_has_said_what_is_needed() {
    let spool = segments(1..=3);
    assert_eq!(removable(&spool, &[]), []);
    assert_eq!(
        removable(&spool, &[None, Some(segment(2))]),
        segments(1..=1)
    );
}

#[test]
fn what_is_safe_is_older_than_what_postgresql_has_not_finished() {
    let position = Position {
        at: 1_000_000,
        timeline: 1,
        lsn: 5 * MIB + 1,
        size: size(),
        archives: true,
    };
    assert_eq!(
        (position.segment(), position.finished()),
        (segment(5), segment(4))
    );
    assert_eq!(safe_to(&position, 60_000, true), 1_000_000);
    assert_eq!(safe_to(&position, 60_000, false), 925_000);
}

/// A cluster, its spool, and two destinations with what really lies there.
#[derive(Default)]
struct World {
    /// The segment under way.
    now: u64,
    spool: BTreeSet<Segment>,
    chains: [Chain; 2],
    there: [BTreeSet<Segment>; 2],
    clock: i64,
}

impl World {
    fn names(&self) -> Vec<Segment> {
        self.spool.iter().copied().collect()
    }

    fn archive(&mut self, count: u64, let_go: bool) {
        for _ in 0..count {
            if !let_go {
                self.spool.insert(segment(self.now));
            }
            self.now += 1;
        }
    }

    fn ship(&mut self, to: usize) {
        let spool = self.names();
        let chain = &mut self.chains[to];
        let next = chain.next(&spool, size());
        if next.hole {
            chain.broken(self.clock);
        }
        self.there[to].extend(&next.ship);
        chain.shipped(&next.ship, size());
    }

    fn remove(&mut self) {
        let needed = [0, 1].map(|to: usize| self.chains[to].needs_from(size()));
        for segment in removable(&self.names(), &needed) {
            self.spool.remove(&segment);
        }
    }

    /// The end of a base backup that began at a segment.
    fn finish(&mut self, to: usize) {
        let Some(first) = self.chains[to].begun else {
            return;
        };
        self.archive(1, false); // what the end of a base backup finishes
        let needs = Segments {
            first,
            last: segment(self.now - 1),
        };
        let spool = self.names();
        let chain = &mut self.chains[to];
        let are_shipped_too = chain.leads_to(needs.last, &spool, size());
        match chain.rest_of(needs, &spool, size()) {
            Ok(rest) => {
                self.there[to].extend(&rest);
                if !are_shipped_too {
                    chain.shipped(&rest, size());
                }
                let base = Base {
                    needs: Some(needs),
                    ..base(0, 0)
                };
                chain.based(base);
            }
            Err(_) => chain.begun = None,
        }
    }

    fn check(&self) {
        for (chain, there) in self.chains.iter().zip(&self.there) {
            let Some(needs) = chain.base.as_ref().and_then(|base| base.needs) else {
                continue;
            };
            let mut at = needs.first;
            while at <= needs.last {
                assert!(there.contains(&at), "{at} of the base of {chain:?}");
                at = size().after(at);
            }
            // What it says to have, from the base on, it has.
            if let Some(said) = chain.there {
                let mut at = needs.first.max(said.first);
                while at <= said.last {
                    assert!(there.contains(&at), "{at} of {chain:?}");
                    at = size().after(at);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_what_is_said_to_be_there_is_there(
        story in proptest::collection::vec((0u8..8, 0usize..2, 1u64..4), 1..60),
    ) {
        let mut world = World { now: 10, ..World::default() };
        for (what, to, count) in story {
            world.clock += 1;
            match what {
                0 | 1 => world.archive(count, false),
                2 => world.archive(count, true),
                3 | 4 => world.ship(to),
                5 => world.remove(),
                6 => { let now = world.now; world.chains[to].begin(segment(now)); }
                _ => world.finish(to),
            }
            world.check();
        }
        // In the end a base makes it good again.
        let now = world.now;
        world.chains[0].begin(segment(now));
        world.archive(2, false);
        world.ship(0);
        world.finish(0);
        world.remove();
        world.archive(2, false);
        world.ship(0);
        world.check();
        prop_assert!(world.chains[0].is_whole());
        prop_assert_eq!(world.chains[0].there.map(|t| t.last), Some(segment(world.now - 1)));
    }
}
