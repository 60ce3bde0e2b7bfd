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

/// A shipment, as far as choosing needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shipped {
    /// When it began.
    pub at: UnixMs,
    pub segments: Option<Segments>,
}

/// Which of these, oldest first, are to be fetched for a base of this moment that cannot do without these segments.
pub(super) fn wanted(
    base_at: UnixMs,
    needs: Option<Segments>,
    shipped: &[Shipped],
    to: RestoreTo,
) -> Vec<usize> {
    let Some(needs) = needs else {
        return Vec::new(); // nothing follows it
    };
    let from = base_at.saturating_sub(EARLIER_MS);
    let after = shipped.iter().enumerate().filter(|(_, s)| s.at >= from);
    let brings = |shipped: &Shipped| {
        let overlaps = |own: Segments| own.first <= needs.last && own.last >= needs.first;
        shipped.segments.is_some_and(overlaps)
    };
    match to {
        RestoreTo::Backup => after
            .filter(|(_, s)| brings(s))
            .map(|(index, _)| index)
            .collect(),
        RestoreTo::Latest => after.map(|(index, _)| index).collect(),
        RestoreTo::Time(at) => {
            let settled = at.saturating_add(SETTLED_MS);
            let mut enough = false;
            let until_settled = after.take_while(|(_, s)| {
                let take = !enough;
                enough |= s.at >= settled;
                take
            });
            until_settled.map(|(index, _)| index).collect()
        }
    }
}

/// The log as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct Followed {
    /// The last segment that all before it lead to.
    pub last: Segment,
    /// The first one that is missing, although a later one is there.
    pub hole: Option<Segment>,
}

/// Follows the log from the first segment that the base needs; `Err`: one that it cannot do without is missing.
pub(super) fn follow(
    there: &[Segment],
    needs: Segments,
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
    let hole = sorted.last().is_some_and(|last| *last > next);
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

    #[test]
    fn a_moment_needs_what_was_shipped_until_it_is_settled_and_one_more() {
        let base_at = 100 * MINUTE;
        let shipped: Vec<Shipped> = (0..60)
            .map(|n| Shipped {
                at: (80 + n) * MINUTE,
                segments: Some(range(u64::try_from(n).unwrap(), u64::try_from(n).unwrap())),
            })
            .collect();
        let to = |to| wanted(base_at, Some(range(20, 22)), &shipped, to);
        assert_eq!(to(RestoreTo::Backup), [20, 21, 22]);
        assert_eq!(to(RestoreTo::Latest).first(), Some(&10));
        assert_eq!(to(RestoreTo::Latest).last(), Some(&59));
        let moment = to(RestoreTo::Time(110 * MINUTE));
        // 120 minutes is where it is settled.
        assert_eq!(moment.last(), Some(&40));
        assert!(wanted(base_at, None, &shipped, RestoreTo::Latest).is_empty());
    }

    #[test]
    fn a_hole_is_seen_and_a_missing_segment_of_the_base_is_an_error() {
        let names: Vec<Segment> = [5, 6, 7, 9, 10].map(segment).to_vec();
        let followed = follow(&names, range(5, 6), size()).unwrap();
        assert_eq!(followed.last, segment(7));
        assert_eq!(followed.hole, Some(segment(8)));
        assert_eq!(follow(&names, range(7, 8), size()), Err(segment(8)));
        assert_eq!(follow(&names, range(4, 6), size()), Err(segment(4)));
        assert_eq!(follow(&[], range(4, 4), size()), Err(segment(4)));
        let whole = follow(&names, range(9, 9), size()).unwrap();
        assert_eq!((whole.last, whole.hole), (segment(10), None));
        // Another history's segments say nothing of this one.
        let other = size().of(2, 30 << 20);
        let with_other = [names.as_slice(), &[other]].concat();
        assert_eq!(follow(&with_other, range(9, 9), size()), Ok(whole));
    }
}
