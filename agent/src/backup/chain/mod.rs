//! A tenant's log at one destination: what is there, what is to be shipped next, and from where on it is still needed. Pure.
//!
//! A chain is a base backup and the segments that follow each other from the base's first. Names alone say whether one is missing:
//! what is let go for want of room, or lost with a crash, leaves a hole, and nothing after it helps until the next base.
//! Not here: reading the spool (spool), writing snapshots (ship, make), keeping this on disk (record).

use isyone_proto::{
    backup::{BackupMade, Segment, Segments, SnapshotName},
    plan::UnixMs,
};
use serde::{Deserialize, Serialize};

/// Most bytes of segments in one snapshot: what a busy tenant writes in some minutes. More go into the next.
const SHIPMENT_BYTES: u64 = 256 << 20;
/// PostgreSQL's sizes of a segment.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

/// The size of a cluster's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

impl TryFrom<u64> for SegmentSize {
    type Error = &'static str;
    fn try_from(bytes: u64) -> Result<Self, &'static str> {
        let is_one = bytes.is_power_of_two() && SEGMENT_BYTES.contains(&bytes);
        is_one.then_some(Self(bytes)).ok_or("no size of a segment")
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl SegmentSize {
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// How many of them one snapshot of a shipment takes at most.
    pub fn most(self) -> usize {
        usize::try_from(SHIPMENT_BYTES / self.0).unwrap_or(1).max(1)
    }

    /// Segments of one size in 4 GiB.
    fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }

    /// The segment that a position is in.
    pub fn of(self, timeline: u32, lsn: u64) -> Segment {
        self.numbered(timeline, lsn / self.0)
    }

    fn numbered(self, timeline: u32, number: u64) -> Segment {
        let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Segment {
            timeline,
            log: part(number / self.per_log()),
            number: part(number % self.per_log()),
        }
    }

    fn number(self, segment: Segment) -> u64 {
        u64::from(segment.log) * self.per_log() + u64::from(segment.number)
    }

    /// The position that a segment begins at.
    pub fn begin(self, segment: Segment) -> u64 {
        self.number(segment).saturating_mul(self.0)
    }

    /// How many segments one is ahead of another.
    pub fn ahead(self, later: Segment, earlier: Segment) -> u64 {
        self.number(later).saturating_sub(self.number(earlier))
    }

    /// Whether PostgreSQL names a segment of this size so.
    pub fn has(self, segment: Segment) -> bool {
        segment.timeline > 0 && u64::from(segment.number) < self.per_log()
    }

    pub fn after(self, segment: Segment) -> Segment {
        self.numbered(segment.timeline, self.number(segment).saturating_add(1))
    }

    /// The one before; itself where there is none.
    pub fn before(self, segment: Segment) -> Segment {
        self.numbered(segment.timeline, self.number(segment).saturating_sub(1))
    }
}

/// A base backup that is whole and there, with the log that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub snapshot: SnapshotName,
    /// Everything that was committed before is in it.
    pub at: UnixMs,
    /// The segments that it cannot be started without; `None` of a tenant that was stopped, which no log follows.
    pub needs: Option<Segments>,
}

/// What is known of one destination. Kept on disk: what is not in it is shipped again, which costs time and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    pub base: Option<Base>,
    /// A base under way needs the log from here on.
    #[serde(default)]
    pub begun: Option<Segment>,
    /// Segments that are there, without a hole. It begins at, or before, what the base or the one under way needs; or there was a hole.
    #[serde(default)]
    pub there: Option<Segments>,
    #[serde(default)]
    pub gap_since: Option<UnixMs>,
    /// Everything that was committed before is there.
    #[serde(default)]
    pub shipped_to: Option<UnixMs>,
    /// Files that have changed since are not there yet; `None`: no file is.
    #[serde(default)]
    pub files_since: Option<UnixMs>,
    #[serde(default)]
    pub newest: Option<BackupMade>,
}

/// What follows from what waits in the spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// To be shipped now, following each other.
    pub ship: Vec<Segment>,
    /// More wait than one snapshot takes.
    pub more: bool,
    /// A segment that the chain needs is not there and never will be.
    pub hole: bool,
}

impl Chain {
    /// The first segment that is not there and is needed; `None`: no segment is.
    pub fn needs_from(&self, size: SegmentSize) -> Option<Segment> {
        if let Some(there) = self
            .there
            .filter(|_| self.begun.is_some() || self.is_whole())
        {
            return Some(size.after(there.last));
        }
        let base = self.base.as_ref().filter(|_| self.gap_since.is_none());
        let base = base.and_then(|base| base.needs).map(|needs| needs.first);
        base.or(self.begun)
    }

    /// Whether there is a base that the log follows without a hole so far.
    pub fn is_whole(&self) -> bool {
        let needs = self.base.as_ref().and_then(|base| base.needs);
        self.gap_since.is_none() && needs.is_some()
    }

    /// Whether a cluster on this timeline has gone back to a history of before: a restore in the tenant's place was taken back. Then
    /// what is there leads no further, although it lies ahead by its names.
    pub fn is_ahead_of(&self, timeline: u32) -> bool {
        let base = self.base.as_ref().and_then(|base| base.needs);
        let last = self.there.or(base.filter(|_| self.is_whole()));
        last.is_some_and(|own| own.last.timeline > timeline)
    }

    /// What to ship of `spool`, which is sorted. PostgreSQL archives in order: where a later one waits, an earlier one will not come.
    pub fn next(&self, spool: &[Segment], size: SegmentSize) -> Next {
        let mut next = Next::default();
        let Some(mut from) = self.needs_from(size) else {
            return next;
        };
        let waiting = |from: Segment| spool.iter().copied().find(|s| *s >= from);
        if waiting(from).is_some_and(|first| first != from) {
            next.hole = true;
            // A base under way that begins after the hole does not need what is before it.
            match self.begun.filter(|begun| *begun > from) {
                Some(begun) => from = begun,
                None => return next,
            }
        }
        let most = size.most();
        let mut expected = from;
        for segment in spool.iter().filter(|s| **s >= from) {
            if *segment != expected || next.ship.len() == most {
                // Behind another hole nothing is needed yet: it is found when this is shipped.
                next.more = *segment == expected;
                break;
            }
            next.ship.push(*segment);
            expected = size.after(expected);
        }
        next
    }

    /// Which of the segments that a base needs are to go with it, because they are not there yet; `Err`: one that is neither there nor
    /// in the spool. `spool` is sorted.
    pub fn rest_of(
        &self,
        needs: Segments,
        spool: &[Segment],
        size: SegmentSize,
    ) -> Result<Vec<Segment>, Segment> {
        let covers = |there: &Segments| there.first <= needs.first && there.last >= needs.first;
        let from = self
            .there
            .filter(covers)
            .map_or(needs.first, |there| size.after(there.last));
        let mut rest = Vec::new();
        let mut next = from;
        while next <= needs.last {
            if spool.binary_search(&next).is_err() {
                return Err(next);
            }
            rest.push(next);
            next = size.after(next);
        }
        Ok(rest)
    }

    /// Whether all that is finished at a position is there.
    pub fn has(&self, position: Position) -> bool {
        let last = self.there.map(|there| there.last);
        last.is_some_and(|last| last >= position.finished())
    }

    /// Whether what is there leads on to `last` with what waits in the spool, which is sorted. Then all of that is still to be shipped,
    /// although some of it goes with a base that is being made: the moments just before that base, and while it is made, are reached
    /// from the one before.
    pub fn leads_to(&self, last: Segment, spool: &[Segment], size: SegmentSize) -> bool {
        let Some(there) = self.there.filter(|_| self.is_whole()) else {
            return false;
        };
        let mut next = size.after(there.last);
        while next <= last {
            if spool.binary_search(&next).is_err() {
                return false;
            }
            next = size.after(next);
        }
        there.last.timeline == last.timeline
    }

    /// A hole was found at `now`: the base that is there leads no further.
    pub fn broken(&mut self, now: UnixMs) {
        if self.base.as_ref().is_some_and(|base| base.needs.is_some()) {
            self.gap_since.get_or_insert(now);
        }
        self.there = None;
    }

    /// These are there now; they follow each other.
    pub fn shipped(&mut self, segments: &[Segment], size: SegmentSize) {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return;
        };
        let follows = |there: &Segments| size.after(there.last) == *first;
        let first = self
            .there
            .filter(follows)
            .map_or(*first, |there| there.first);
        self.there = Some(Segments { first, last: *last });
    }

    /// A base backup begins, and needs the log from `first` on.
    pub fn begin(&mut self, first: Segment) {
        if self
            .there
            .is_some_and(|there| there.first.timeline != first.timeline)
        {
            self.there = None;
        }
        self.begun = Some(first);
    }

    /// A base backup is there, and so is the log that it needs.
    pub fn based(&mut self, base: Base) {
        self.begun = None;
        self.gap_since = None;
        if base.needs.is_none() {
            self.there = None;
        }
        self.shipped_to = self.shipped_to.max(Some(base.at));
        self.base = Some(base);
    }
}

/// Which segments of a spool nobody needs any more. `needed`: of each destination that counts, the first that it needs, `None` where it
/// needs none. Without any destination nothing is removed: then nobody has said what is to become of them.
pub(super) fn removable(spool: &[Segment], needed: &[Option<Segment>]) -> Vec<Segment> {
    if needed.is_empty() {
        return Vec::new();
    }
    let unneeded = |segment: &Segment| {
        let by = |first: &Option<Segment>| first.is_none_or(|first| *segment < first);
        needed.iter().all(by)
    };
    spool.iter().copied().filter(unneeded).collect()
}

/// Where a cluster's log ends, at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The moment: before it was asked.
    pub at: UnixMs,
    pub timeline: u32,
    pub lsn: u64,
    pub size: SegmentSize,
    /// It puts its finished segments into the spool. One that was started by a version before does not, until it is started anew.
    pub archives: bool,
}

impl Position {
    /// The segment under way.
    pub fn segment(&self) -> Segment {
        self.size.of(self.timeline, self.lsn)
    }

    /// The last one that is finished.
    pub fn finished(&self) -> Segment {
        self.size.before(self.segment())
    }
}

/// Up to when everything committed is there, if all segments that were finished at `position` are: PostgreSQL finishes a segment in which
/// something was written after `switch_ms`, so what is in no finished one is younger. With `switched`, the segment under way was
/// finished by the very question.
pub(super) fn safe_to(position: &Position, switch_ms: i64, switched: bool) -> UnixMs {
    /// The checkpointer looks in intervals, and writing a segment takes time.
    const SLACK_MS: i64 = 15_000;
    match switched {
        true => position.at,
        false => position.at - switch_ms - SLACK_MS,
    }
}

#[cfg(test)]
mod tests;
