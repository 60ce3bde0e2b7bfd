//! Which snapshots a restore fetches beside the base, and whether the log that they bring follows without a hole. Pure.
//!
//! Segments are fetched generously and then looked at by their names: what is there counts, and not what somebody has said of it.
//! Not here: fetching (fill), how far the log is followed (plan::recovery).

use isyone_proto::{
    backup::{RestoreTo, Segment, Segments},
    plan::UnixMs,
};

use super::super::chain::SegmentSize;

/// How much earlier than a base a shipment may have begun that brings a segment which the base needs: both are short.
const EARLIER_MS: i64 = 600_000;
/// How much later than a moment everything of before is shipped, where it is: a segment is finished within a minute, and then waits for
/// the next shipment. After this, one more shipment is enough.
const SETTLED_MS: i64 = 600_000;

/// What is fetched beside a base.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of the shipments, oldest first.
    pub shipments: Vec<usize>,
    /// The last of them brings segments of so late a time, and all that waited then, that nothing of before the moment comes after it.
    pub settled: bool,
}

/// Which shipments are to be fetched for a base of this moment that cannot do without these segments. `shipped`: when each began, oldest
/// first. `brings`: the segments of one; it costs a call.
pub(super) fn wanted<E>(
    base_at: UnixMs,
    (needs, size): (Option<Segments>, Option<SegmentSize>),
    shipped: &[UnixMs],
    to: RestoreTo,
    mut brings: impl FnMut(usize) -> Result<Option<Segments>, E>,
) -> Result<Wanted, E> {
    let mut wanted = Wanted::default();
    let Some(needs) = needs else {
        return Ok(wanted); // nothing follows it
    };
    let from = base_at.saturating_sub(EARLIER_MS);
    let after = shipped.iter().copied().enumerate();
    for (index, at) in after.filter(|(_, at)| *at >= from) {
        match to {
            RestoreTo::Latest => wanted.shipments.push(index),
            RestoreTo::Backup => match brings(index)? {
                Some(own)
                    if own.first.timeline == needs.first.timeline && own.first > needs.last =>
                {
                    break;
                }
                Some(own) if own.first <= needs.last && own.last >= needs.first => {
                    wanted.shipments.push(index);
                }
                _ => {}
            },
            RestoreTo::Time(moment) => {
                wanted.shipments.push(index);
                if at >= moment.saturating_add(SETTLED_MS)
                    && brings(index)?.is_some_and(|own| is_all(own, size))
                {
                    wanted.settled = true;
                    break;
                }
            }
        }
    }
    Ok(wanted)
}

/// Whether a shipment that brings these has brought all that waited: what is more than one takes comes with the next ones.
fn is_all(brought: Segments, size: Option<SegmentSize>) -> bool {
    size.is_some_and(|size| {
        let count = size.ahead(brought.last, brought.first).saturating_add(1);
        usize::try_from(count).is_ok_and(|count| count < size.most())
    })
}

/// The log as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct Followed {
    /// The last segment that all before it lead to.
    pub last: Segment,
    /// The first one that is missing, although a later one is there.
    pub hole: Option<Segment>,
}

/// Follows the log from the first segment that the base needs; `Err`: one that it cannot do without is missing. `until`: there was
/// one, because a later base needs it.
pub(super) fn follow(
    there: &[Segment],
    (needs, until): (Segments, Option<Segment>),
    size: SegmentSize,
) -> Result<Followed, Segment> {
    let mut sorted: Vec<Segment> = there
        .iter()
        .copied()
        .filter(|segment| segment.timeline == needs.first.timeline)
        .collect();
    sorted.sort_unstable();
    let mut next = needs.first;
    for segment in sorted.iter().filter(|segment| **segment >= needs.first) {
        if *segment > next {
            break;
        }
        next = size.after(*segment);
    }
    if next <= needs.last {
        return Err(next);
    }
    let until = until.filter(|until| until.timeline == next.timeline);
    let hole = sorted.last().copied().max(until) >= Some(next);
    Ok(Followed {
        last: size.before(next),
        hole: hole.then_some(next),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> SegmentSize {
        SegmentSize::try_from(1 << 20).unwrap()
    }

    fn segment(number: u64) -> Segment {
        size().of(1, number << 20)
    }

    fn range(first: u64, last: u64) -> Segments {
        Segments {
            first: segment(first),
            last: segment(last),
        }
    }

    const MINUTE: i64 = 60_000;

    /// A minute apart, from the 80th on, each with a segment.
    fn minutes() -> Vec<UnixMs> {
        (0..60).map(|n| (80 + n) * MINUTE).collect()
    }

    fn chosen(
        to: RestoreTo,
        shipped: &[UnixMs],
        brings: impl Fn(usize) -> Option<Segments>,
    ) -> Wanted {
        let base = (Some(range(20, 22)), Some(size()));
        let brings = |index| Ok::<_, ()>(brings(index));
        wanted(100 * MINUTE, base, shipped, to, brings).unwrap()
    }

    fn own(index: usize) -> Option<Segments> {
        let number = u64::try_from(index).unwrap();
        Some(range(number, number))
    }

    #[test]
    fn a_moment_needs_what_was_shipped_until_it_is_settled_and_one_more() {
        let to = |to| chosen(to, &minutes(), own).shipments;
        assert_eq!(to(RestoreTo::Backup), [20, 21, 22]);
        assert_eq!(to(RestoreTo::Latest).first(), Some(&10));
        assert_eq!(to(RestoreTo::Latest).last(), Some(&59));
        let moment = to(RestoreTo::Time(110 * MINUTE));
        // 120 minutes is where it is settled.
        assert_eq!(moment.last(), Some(&40));
        let nothing = wanted(0, (None, None), &minutes(), RestoreTo::Latest, |_| Err(()));
        assert_eq!(nothing, Ok(Wanted::default()));
    }

    /// A destination was away, or much was written: what waited comes in several shipments, one after the other.
    #[test]
    fn a_shipment_that_is_full_or_brings_files_only_settles_nothing() {
        let full = size().most() as u64;
        let first_full = |index| match index {
            40 => None,
            41 => Some(range(41, 40 + full)),
            42 => Some(range(41 + full, 40 + 2 * full)),
            _ => Some(range(41 + 2 * full, 41 + 2 * full)),
        };
        let found = chosen(RestoreTo::Time(110 * MINUTE), &minutes(), first_full);
        assert_eq!((found.shipments.last(), found.settled), (Some(&43), true));
        let late = chosen(RestoreTo::Time(135 * MINUTE), &minutes(), own);
        assert_eq!((late.shipments.last(), late.settled), (Some(&59), false));
    }

    #[test]
    fn shipments_of_long_after_a_backup_are_not_asked_what_they_bring() {
        let brings = |index| match index {
            0..24 => own(index),
            _ => panic!("{index} is of later"),
        };
        let to = chosen(RestoreTo::Backup, &minutes(), brings);
        assert_eq!(to.shipments, [20, 21, 22]);
    }

    #[test]
    fn a_hole_is_seen_and_a_missing_segment_of_the_base_is_an_error() {
        let names: Vec<Segment> = [5, 6, 7, 9, 10].map(segment).to_vec();
        let followed = follow(&names, (range(5, 6), None), size()).unwrap();
        assert_eq!(followed.last, segment(7));
        assert_eq!(followed.hole, Some(segment(8)));
        assert_eq!(follow(&names, (range(7, 8), None), size()), Err(segment(8)));
        assert_eq!(follow(&names, (range(4, 6), None), size()), Err(segment(4)));
        assert_eq!(follow(&[], (range(4, 4), None), size()), Err(segment(4)));
        let whole = follow(&names, (range(9, 9), None), size()).unwrap();
        assert_eq!((whole.last, whole.hole), (segment(10), None));
        // A later base needs what has not come.
        for (until, hole) in [(10, None), (11, Some(11)), (20, Some(11))] {
            let of = (range(9, 9), Some(segment(until)));
            let found = follow(&names, of, size()).unwrap();
            assert_eq!(found.hole, hole.map(segment), "{until}");
        }
        // Another history's segments say nothing of this one.
        let other = size().of(2, 30 << 20);
        let with_other = [names.as_slice(), &[other]].concat();
        assert_eq!(follow(&with_other, (range(9, 9), None), size()), Ok(whole));
    }
}
