//! What a take-over reads and says of a PostgreSQL cluster: where one that was shut down ended, what its sequences stood at, and the SQL
//! that makes its standby a database of its own.
//!
//! What is read are files that a tenant's program has written: each is checked for what it claims to be, and nothing more is taken from
//! it than numbers. Layouts are those of 64-bit little-endian machines, PostgreSQL 12 to 18. Not here: reading (jobs), running (tenant).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a cluster says how it ended.
pub const CONTROL_FILE: &str = "global/pg_control";
/// As much of that file as is looked at.
pub const CONTROL_BYTES: u64 = 40;
/// A page of a relation, with the size that all images have.
pub const PAGE_BYTES: usize = 8192;
/// Sequences that are taken along: an Odoo with hundreds of modules has some thousand. Of more, the rest stand up to 32 ahead.
pub const MAX_SEQUENCES: usize = 20_000;
/// The slot that holds the source's log for a copy that is kept up. One for each source: a tenant has one move at a time.
pub const SLOT: &str = "isyone_move";

/// A position in the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// How a cluster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Made by initdb: a copy has that of its source.
    pub system: u64,
    /// It was shut down, and nothing of it is missing on disk.
    pub is_shut_down: bool,
    /// Where its last checkpoint begins; of one that was shut down, that is the last thing in its log.
    pub checkpoint: Lsn,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads the beginning of [`CONTROL_FILE`].
pub fn control(bytes: &[u8]) -> Option<Control> {
    const SHUT_DOWN: u32 = 1;
    Some(Control {
        system: u64::from_le_bytes(number(bytes, 0)?),
        is_shut_down: u32::from_le_bytes(number(bytes, 16)?) == SHUT_DOWN,
        checkpoint: Lsn(u64::from_le_bytes(number(bytes, 32)?)),
    })
}

/// What a sequence stood at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The same in a copy.
    pub oid: u32,
    pub last: i64,
    /// `last` was given to somebody.
    pub called: bool,
}

/// Reads the only page of a sequence's file. A standby's own stands up to 32 ahead of its source's, because that is how its log is
/// written; the source's file, once that is shut down, has what was given last.
pub fn sequence(oid: u32, page: &[u8]) -> Option<Sequence> {
    const MAGIC: u32 = 0x1717;
    let at16 = |at: usize| number(page, at).map(u16::from_le_bytes).map(usize::from);
    let special = at16(16)?;
    if page.len() != PAGE_BYTES || u32::from_le_bytes(number(page, special)?) != MAGIC {
        return None;
    }
    // Of the first and only item: 15 bits of offset, 2 of state (1: in use), 15 of length.
    let item = u32::from_le_bytes(number(page, 24)?);
    let (offset, state) = ((item & 0x7fff) as usize, item >> 15 & 3);
    if state != 1 {
        return None;
    }
    let data = offset + usize::from(*page.get(offset + 22)?);
    Some(Sequence {
        oid,
        last: i64::from_le_bytes(number(page, data)?),
        called: *page.get(data + 16)? == 1,
    })
}

/// Highest timeline that is believed: a tenant's program says which it is, and each promotion begins but one.
const MOST_TIMELINES: u32 = 10_000;
/// The timeline of the last checkpoint, by the beginning of [`CONTROL_FILE`].
pub fn control_timeline(bytes: &[u8]) -> Option<u32> {
    let timeline = u32::from_le_bytes(number(bytes, 48)?);
    (1..=MOST_TIMELINES).contains(&timeline).then_some(timeline)
}

/// What the line begins with that says it.
const TIMELINE: &str = "timeline ";

/// The timeline that a promotion has begun, by what its script has printed.
pub fn timeline(printed: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(printed);
    let said = text.lines().find_map(|line| line.strip_prefix(TIMELINE))?;
    said.trim().parse().ok().filter(|n| *n <= MOST_TIMELINES)
}

/// Before a promotion. Archiving begins with that, and with what our files say of it by now. And a standby that has just tried to reach
/// whom it follows rests before it looks whether it is promoted, for 5 s by default.
pub const BEFORE: [&str; 2] = [
    "ALTER SYSTEM SET wal_retrieve_retry_interval = '20ms'",
    "SELECT pg_catalog.pg_reload_conf()",
];
/// The promotion. May be repeated.
pub const PROMOTE: &str =
    "SELECT pg_catalog.pg_promote(true, 30) WHERE pg_catalog.pg_is_in_recovery()";
/// After it: it forgets whom it followed. A session that began on a standby is not used any further.
pub const AFTER: [&str; 5] = [
    "DO $$ BEGIN IF pg_catalog.pg_is_in_recovery() THEN RAISE EXCEPTION 'it was not promoted within 30 s'; END IF; END $$",
    "ALTER SYSTEM RESET primary_conninfo",
    "ALTER SYSTEM RESET primary_slot_name",
    "ALTER SYSTEM RESET wal_retrieve_retry_interval",
    "SELECT pg_catalog.pg_reload_conf()",
];

/// Makes a standby a primary, forgets whom it followed, and sets its sequences to what was given last. May be repeated: nobody has used
/// it before it ends. Says which timeline has begun.
pub fn promote(database: &str, sequences: &[Sequence]) -> String {
    let mut script = "SET search_path = pg_catalog, pg_temp;\n".to_owned();
    for statement in BEFORE.iter().chain([&PROMOTE]).chain(&AFTER) {
        script.push_str(statement);
        script.push_str(";\n");
    }
    // The last checkpoint, which names a timeline as well, may be of before for minutes.
    script.push_str(&format!(
        "COPY (SELECT '{TIMELINE}' || ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8) TO STDOUT;\n"
    ));
    if let Some(statement) = set_sequences(sequences) {
        script.push_str(&format!(
            "\\connect \"{database}\"\nSET search_path = pg_catalog, pg_temp;\n{statement};\n"
        ));
    }
    script
}

/// Sets a database's sequences to what was given last; `None`: there are none. One that is gone, or is none any more, is left alone.
pub fn set_sequences(sequences: &[Sequence]) -> Option<String> {
    let row = |s: &Sequence| format!("({}::oid, {}::int8, {})", s.oid, s.last, s.called);
    let rows: Vec<String> = sequences.iter().map(row).collect();
    let set = format!(
        "SELECT count(setval(c.oid::regclass, s.last, s.called)) FROM (VALUES {}) AS s (oid, last, called) JOIN pg_class AS c \
         ON c.oid = s.oid AND c.relkind = 'S'",
        rows.join(", ")
    );
    (!rows.is_empty()).then_some(set)
}

/// A timeline that a session has named, if it can be one.
pub fn believed(timeline: u64) -> Option<u32> {
    u32::try_from(timeline)
        .ok()
        .filter(|n| *n <= MOST_TIMELINES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_control_file_names_its_timeline_and_a_strange_one_is_not_believed() {
        let mut bytes = [0u8; 64];
        for (written, read) in [(0, None), (3, Some(3)), (4_000_000, None)] {
            bytes[48..52].copy_from_slice(&u32::to_le_bytes(written));
            assert_eq!(control_timeline(&bytes), read);
        }
        assert_eq!(control_timeline(&bytes[..50]), None);
    }

    /// As PostgreSQL 15 writes one.
    fn page(last: i64, called: bool) -> Vec<u8> {
        let mut page = vec![0u8; PAGE_BYTES];
        let (special, tuple) = (PAGE_BYTES - 8, PAGE_BYTES - 8 - 48);
        page[12..14].copy_from_slice(&28u16.to_le_bytes());
        page[14..16].copy_from_slice(&(tuple as u16).to_le_bytes());
        page[16..18].copy_from_slice(&(special as u16).to_le_bytes());
        let item = (tuple as u32) | 1 << 15 | 41 << 17;
        page[24..28].copy_from_slice(&item.to_le_bytes());
        page[tuple + 22] = 24;
        page[tuple + 24..tuple + 32].copy_from_slice(&last.to_le_bytes());
        page[tuple + 40] = u8::from(called);
        page[special..special + 4].copy_from_slice(&0x1717u32.to_le_bytes());
        page
    }

    #[test]
    fn a_sequence_is_read_from_its_page_and_from_nothing_else() {
        for (last, called) in [(5, true), (1, false), (-7, true), (i64::MAX, true)] {
            let wanted = Sequence {
                oid: 7,
                last,
                called,
            };
            assert_eq!(sequence(7, &page(last, called)), Some(wanted));
        }
        let good = page(5, true);
        assert_eq!(sequence(7, &good[..PAGE_BYTES - 1]), None);
        let mut table = good.clone();
        table[PAGE_BYTES - 8] = 0;
        assert_eq!(sequence(7, &table), None, "a table's page");
        let mut dead = good;
        dead[25] |= 0x80; // the lower bit of its state is in the 16th bit
        dead[26] |= 1;
        assert_eq!(sequence(7, &dead), None);
    }

    #[test]
    fn how_a_cluster_ended() {
        let mut file = vec![0u8; CONTROL_BYTES as usize];
        file[..8].copy_from_slice(&7_123_456_789u64.to_le_bytes());
        file[16..20].copy_from_slice(&1u32.to_le_bytes());
        file[32..40].copy_from_slice(&0x3_0290_98b8u64.to_le_bytes());
        let read = control(&file).unwrap();
        assert_eq!((read.system, read.is_shut_down), (7_123_456_789, true));
        assert_eq!(read.checkpoint.to_string(), "3/29098B8");
        file[16] = 6; // in production
        assert!(!control(&file).unwrap().is_shut_down);
        assert_eq!(control(&file[..39]), None);
    }

    #[test]
    fn a_promotion_sets_sequences_in_the_tenants_own_database() {
        let five = Sequence {
            oid: 16_400,
            last: 5,
            called: true,
        };
        let script = promote("odoo_alfa", &[five]);
        let connects = script.find("\\connect \"odoo_alfa\"").unwrap();
        let sets = script.find("(16400::oid, 5::int8, true)").unwrap();
        assert!(script.find("pg_promote").unwrap() < connects && connects < sets);
        assert!(!promote("odoo_alfa", &[]).contains("VALUES"));
    }

    #[test]
    fn the_timeline_that_has_begun_is_read_from_its_own_line() {
        let printed = b" pg_promote \n------------\n t\n(1 row)\n\ntimeline 3\n count \n";
        assert_eq!(timeline(printed), Some(3));
        assert_eq!(timeline(b"timeline 4294967295\n"), None);
        assert_eq!(timeline(b" t\n"), None);
    }

    proptest! {
        #[test]
        fn whatever_a_page_holds_it_is_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..PAGE_BYTES) {
            let mut page = page(5, true);
            for (offset, byte) in bytes.iter().enumerate() {
                if let Some(place) = page.get_mut(at + offset) {
                    *place = *byte;
                }
            }
            let _ = sequence(1, &page);
            let _ = control(&page);
        }
    }
}
