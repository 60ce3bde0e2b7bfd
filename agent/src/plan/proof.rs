//! What a proof asks a restored database, and what the answers of PostgreSQL and its programs mean: which table, file or segment is
//! damaged. Pure.
//!
//! A name is all that is taken from an answer: what else it says may repeat a tenant's data, and is for nobody. Not here: asking
//! (backup::proof), how far the log is followed (recovery).

use std::collections::BTreeMap;

use isyone_proto::{
    backup::{Counts, Segment},
    echo::echo,
};

/// Blocks in one file of a relation.
const BLOCKS_PER_FILE: u64 = (1 << 30) / 8192;
/// Where the functions of amcheck and what they find is put: in a database that is thrown away.
const SCHEMA: &str = "isyone_proof";

/// Whether this PostgreSQL has what looks into tables and indexes.
pub const HAS_AMCHECK: &str =
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";

/// What was counted when the backup was made, asked again.
pub const RELATIONS: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class";
pub const ATTACHMENTS: &str =
    "SELECT pg_catalog.count(*) FROM public.ir_attachment WHERE store_fname IS NOT NULL";

/// Looks into every table and B-tree, and gives out a line for each that is damaged: its kind, its name, the block, or −1, and the
/// error. What one throws does not end the look at the others, and is a damage only where PostgreSQL says that it is one (class XX,
/// and a file that is not there).
/// Of an index over what a function makes, or over some rows only, that its rows are all in it is not compared: the function is a
/// tenant's.
pub fn amcheck() -> String {
    format!(
        "SET search_path = pg_catalog; DROP EXTENSION IF EXISTS amcheck; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; \
         CREATE SCHEMA {SCHEMA}; CREATE EXTENSION amcheck SCHEMA {SCHEMA}; \
         CREATE TABLE {SCHEMA}.found (kind text, name text, block int8, why text); \
         DO $look$ DECLARE r record; has_heap bool := to_regproc('{SCHEMA}.verify_heapam') IS NOT NULL; BEGIN \
         FOR r IN SELECT c.oid, c.oid::regclass::text AS name, c.relkind, \
         i.indexprs IS NULL AND i.indpred IS NULL AS is_plain FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
         LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relpersistence = 'p' AND c.relnamespace <> '{SCHEMA}'::regnamespace \
         AND (a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') OR a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid) ORDER BY c.oid \
         LOOP BEGIN \
         IF r.relkind = 'i' THEN PERFORM {SCHEMA}.bt_index_check(r.oid::regclass, r.is_plain); \
         ELSIF has_heap THEN EXECUTE 'INSERT INTO {SCHEMA}.found SELECT ''table'', $1, v.blkno, v.msg FROM \
         {SCHEMA}.verify_heapam(relation := $2, on_error_stop := true, check_toast := true) v LIMIT 5' USING r.name, r.oid::regclass; \
         END IF; \
         EXCEPTION WHEN others THEN INSERT INTO {SCHEMA}.found VALUES \
         (CASE WHEN SQLSTATE NOT LIKE 'XX%' AND SQLSTATE <> '58P01' THEN 'left out' WHEN r.relkind = 'i' THEN 'index' ELSE 'table' END, r.name, -1, SQLERRM); \
         END; END LOOP; END $look$; \
         COPY (SELECT kind, name, coalesce(block, -1), why FROM {SCHEMA}.found LIMIT 1000) TO STDOUT"
    )
}

/// Which relation each file of the database is of.
pub const FILES: &str = "SET search_path = pg_catalog; COPY (SELECT pg_relation_filepath(c.oid), \
    CASE c.relkind WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 't' THEN 'long values of table' ELSE 'table' END, \
    coalesce(o.oid, c.oid)::regclass FROM pg_class c LEFT JOIN pg_class o ON o.reltoastrelid = c.oid AND c.relkind = 't' \
    WHERE pg_relation_filepath(c.oid) IS NOT NULL LIMIT 100000) TO STDOUT";

/// What the answer to [`amcheck`] names.
pub fn relations(said: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let (kind, name, block, why) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let kind = if kind == "index" { "index" } else { "table" };
        // A page that cannot be read is named in the error only.
        let block = block
            .parse::<u64>()
            .ok()
            .or_else(|| number_after(why, "block "));
        Some(damaged(kind, name, block))
    };
    let damages = said.lines().filter(|line| !line.starts_with(LEFT_OUT));
    damages.filter_map(line).collect()
}

/// How the lines of what was not looked at begin.
const LEFT_OUT: &str = "left out\t";

/// What the answer to [`amcheck`] says that it could not look at: the first by its name.
pub fn not_looked_at(said: &str) -> Option<String> {
    let mut names = said.lines().filter_map(|line| {
        let rest = line.strip_prefix(LEFT_OUT)?;
        rest.split('\t').next()
    });
    let first = names.next()?;
    let beyond = match names.count() {
        0 => String::new(),
        more => format!(" and {more} more tables and indexes"),
    };
    Some(format!("{}{beyond}: amcheck could not", echo(first)))
}

fn damaged(kind: &str, name: &str, block: Option<u64>) -> String {
    let block = block.map_or_else(String::new, |block| format!(", block {block}"));
    format!("{kind} {}{block}", echo(name))
}

fn number_after(text: &str, word: &str) -> Option<u64> {
    let rest = &text[text.find(word)? + word.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The relations of files, by their path in the cluster.
#[derive(Debug, Clone, Default)]
pub struct Files(BTreeMap<String, String>);

impl Files {
    /// Reads the answer to [`FILES`].
    pub fn read(said: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.split('\t');
            let (path, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
            Some((path.to_owned(), format!("{kind} {}", echo(name))))
        };
        Self(said.lines().filter_map(line).collect())
    }

    /// What lies there, by its relation where that is known.
    fn name(&self, file: &PageFile) -> String {
        match self.0.get(&file.path) {
            Some(relation) => format!("{relation}{}, block {}", file.part(), file.block),
            None => format!(
                "file {} of the database{}, block {}",
                echo(&file.path),
                file.part(),
                file.block
            ),
        }
    }
}

/// A page of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFile {
    /// Of the relation's first file, from the cluster's root on.
    path: String,
    /// `fsm`, `vm` or `init`; empty for the data itself.
    fork: String,
    /// In the relation.
    block: u64,
}

impl PageFile {
    fn part(&self) -> String {
        match self.fork.as_str() {
            "" => String::new(),
            "fsm" => " (its map of free space)".to_owned(),
            fork => format!(" ({fork})"),
        }
    }

    /// From the path that a program names, wherever it has the cluster.
    fn of(path: &str, block: u64) -> Option<Self> {
        let begin = ["/base/", "/global/", "/pg_tblspc/"]
            .into_iter()
            .find_map(|folder| path.find(folder))?;
        let path = &path[begin + 1..];
        let (path, number) = match path.rsplit_once('.') {
            Some((path, number)) => (path, number.parse().ok()?),
            None => (path, 0u64),
        };
        let (path, fork) = path.split_once('_').unwrap_or((path, ""));
        Some(Self {
            path: path.to_owned(),
            fork: fork.to_owned(),
            block: block.saturating_add(number.saturating_mul(BLOCKS_PER_FILE)),
        })
    }
}

/// What `pg_checksums` has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    /// All are as they were written.
    Good,
    /// These are not, and so many altogether.
    Bad(Vec<PageFile>, u64),
    /// They carry no checksums.
    Unmarked,
    /// It did not look at them.
    Failed,
}

/// Reads the last lines of `pg_checksums` and how it ended.
pub fn pages(code: i32, said: &str) -> Pages {
    if code == 0 {
        return Pages::Good;
    }
    if said.contains("data checksums are not enabled") {
        return Pages::Unmarked;
    }
    let line = |line: &str| {
        let rest = &line[line.find("checksum verification failed in file \"")?..];
        let path = quoted(rest)?;
        PageFile::of(path, number_after(rest, "\", block ")?)
    };
    let bad: Vec<PageFile> = said.lines().filter_map(line).collect();
    let counted = said.lines().find_map(|line| {
        let number = line.strip_prefix("Bad checksums:")?;
        number.trim().parse().ok()
    });
    match bad.len() {
        0 => Pages::Failed,
        named => Pages::Bad(bad, counted.unwrap_or(named as u64)),
    }
}

/// Names pages.
pub fn name_pages(pages: &[PageFile], files: &Files) -> Vec<String> {
    pages.iter().map(|page| files.name(page)).collect()
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

/// What `pg_verifybackup` names; nothing where it did not look at the files.
pub fn against_manifest(said: &str) -> Vec<String> {
    let is_damage = |line: &str| {
        [
            "checksum mismatch for file",
            "present in the manifest but not on disk",
            "present on disk but not in the manifest",
            "in the manifest",
        ]
        .into_iter()
        .any(|words| line.contains(words))
    };
    let lines = said.lines().filter(|line| is_damage(line));
    let named = lines.filter_map(|line| {
        let name = quoted(line)?;
        Some(format!("file {} of the database", echo(name)))
    });
    named.collect()
}

/// Where the log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDamage {
    /// At this position.
    At(u64),
    /// In this segment.
    In(Segment),
}

/// What PostgreSQL says of a log that it cannot follow further although there is more of it. An end of the log that is none is not
/// reported by its exit: it begins a new timeline there.
const BROKEN: [&str; 11] = [
    "incorrect resource manager data checksum in record",
    "record with incorrect prev-link",
    "record with invalid length",
    "invalid resource manager ID",
    "invalid magic number",
    "invalid info bits",
    "unexpected pageaddr",
    "there is no contrecord flag",
    "invalid contrecord length",
    "invalid record offset",
    "WAL file is from different database system",
];

/// Reads what it said while it recovered. A record length of zero is where a log that is whole ends.
pub fn log_damage(said: &str) -> Option<LogDamage> {
    let is_broken = |line: &&str| {
        BROKEN.iter().any(|words| line.contains(words))
            || line.contains("invalid record length") && !line.ends_with("got 0")
    };
    said.lines().filter(is_broken).find_map(|line| {
        let words = || line.split(|c: char| !(c.is_ascii_hexdigit() || c == '/'));
        let segment = words().find_map(|word| word.parse::<Segment>().ok());
        // Where two positions are named, the record's own comes last.
        let at = words().filter_map(position).next_back();
        segment.map(LogDamage::In).or(at.map(LogDamage::At))
    })
}

fn position(word: &str) -> Option<u64> {
    let (high, low) = word.split_once('/')?;
    let part = |digits: &str| u32::from_str_radix(digits, 16).ok();
    Some(u64::from(part(high)?) << 32 | u64::from(part(low)?))
}

/// How what was restored differs from what its manifest counts. `is_quiet`: nothing was committed after it was counted, and then both
/// are the same; otherwise a tenant may have removed much, but hardly most of what it had within a day.
pub fn differs(manifest: Counts, found: Counts, is_quiet: bool) -> Vec<String> {
    let compare = |what: &str, then: u64, now: u64| {
        let is_odd = match is_quiet {
            true => then != now,
            false => now < then / 2,
        };
        (then > 0 && is_odd).then(|| format!("{now} {what}, and the manifest counts {then}"))
    };
    [
        compare("tables and indexes", manifest.relations, found.relations),
        compare("attachments", manifest.attachments, found.attachments),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_by_their_tables() {
        let said = "pg_checksums: error: checksum verification failed in file \"/var/lib/postgresql/data/base/16384/16390.2\", block 7: calculated checksum 1F but block contains 2\n\
                    pg_checksums: error: checksum verification failed in file \"./global/1262_fsm\", block 0: calculated checksum 1F but block contains 2\n\
                    Checksum operation completed\nFiles scanned:   9\nBad checksums:  3\n";
        let Pages::Bad(bad, 3) = pages(1, said) else {
            panic!("{:?}", pages(1, said));
        };
        let files =
            Files::read("base/16384/16390\ttable\tpublic.rows\nbase/16384/1\tindex\tpublic.x\n");
        assert_eq!(
            name_pages(&bad, &files),
            [
                format!("table public.rows, block {}", 7 + 2 * BLOCKS_PER_FILE),
                "file global/1262 of the database (its map of free space), block 0".to_owned()
            ]
        );
        assert_eq!(pages(0, ""), Pages::Good);
        let unmarked = "pg_checksums: error: data checksums are not enabled in cluster";
        assert_eq!(pages(1, unmarked), Pages::Unmarked);
        assert_eq!(pages(1, "cluster must be shut down"), Pages::Failed);
    }

    #[test]
    fn what_amcheck_finds_is_named_and_nothing_else_of_it() {
        let said = "table\tpublic.rows\t3\tsecret\nindex\tpublic.rows_pkey\t-1\tsecret\n\
                    table\tpublic.x\t-1\tinvalid page in block 12 of relation base/5/6\nodd\n";
        assert_eq!(
            relations(said),
            [
                "table public.rows, block 3",
                "index public.rows_pkey",
                "table public.x, block 12"
            ]
        );
        assert!(amcheck().contains("bt_index_check") && !amcheck().contains('\n'));
        // A full disk, a lock, a function of the tenant's.
        let said = "left out\tpublic.x\t-1\tsecret\nleft out\tpublic.y\t-1\tsecret\ntable\tpublic.z\t3\t\n";
        assert_eq!(relations(said), ["table public.z, block 3"]);
        let left = not_looked_at(said).unwrap();
        assert!(left.starts_with("public.x and 1 more"), "{left}");
        assert_eq!(not_looked_at("table\tpublic.z\t3\t\n"), None);
    }

    #[test]
    fn files_that_differ_from_postgresqls_manifest_are_named() {
        let said = "pg_verifybackup: error: checksum mismatch for file \"base/5/1259\"\n\
                    pg_verifybackup: error: \"base/5/7\" is present in the manifest but not on disk\n\
                    pg_verifybackup: error: \"base/5/8\" has size 1 on disk but size 8192 in the manifest\nother\n";
        assert_eq!(against_manifest(said).len(), 3);
        assert_eq!(
            against_manifest(said)[0],
            "file base/5/1259 of the database"
        );
        assert!(against_manifest("backup successfully verified").is_empty());
    }

    #[test]
    fn a_log_that_ends_too_early_says_where() {
        let at = |said: &str| log_damage(said);
        assert_eq!(
            at("LOG:  incorrect resource manager data checksum in record at 1/3000060"),
            Some(LogDamage::At(0x1_0300_0060))
        );
        assert_eq!(
            at("LOG:  record with incorrect prev-link 0/1 at 0/5000028"),
            Some(LogDamage::At(0x500_0028))
        );
        let segment = "000000010000000000000003";
        assert_eq!(
            at(&format!(
                "LOG:  invalid magic number 0000 in log segment {segment}, offset 0"
            )),
            Some(LogDamage::In(segment.parse().unwrap()))
        );
        assert_eq!(
            at("LOG:  invalid record length at 0/5000028: wanted 24, got 0"),
            None
        );
        assert_eq!(at("LOG:  redo done at 0/5000028"), None);
    }

    #[test]
    fn what_was_written_since_explains_a_difference_but_not_each() {
        let counts = |relations, attachments| Counts {
            database_bytes: 1,
            relations,
            attachments,
        };
        assert!(differs(counts(800, 90), counts(800, 90), true).is_empty());
        assert_eq!(differs(counts(800, 90), counts(800, 89), true).len(), 1);
        assert!(differs(counts(800, 90), counts(799, 60), false).is_empty());
        assert_eq!(differs(counts(800, 90), counts(12, 0), false).len(), 2);
        assert!(
            differs(Counts::default(), counts(1, 1), true).is_empty(),
            "not counted then"
        );
    }
}
