//! Has a PostgreSQL bring a restored database to the moment that is asked for, and asks it what was reached and whether every
//! attachment's file is there.
//!
//! A moment after the last commit is fatal to PostgreSQL, and idle tenants are just that: then all of the log is what was asked for, as
//! long as there is no hole in it. Not here: the PostgreSQL itself (server), getting the data (fill).

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    time::Duration,
};

use isyone_backup::{Stop, source::Producer};
use isyone_proto::{backup::Fault, plan::UnixMs};
use sha1::{Digest as _, Sha1};
use tokio::time::{Instant, sleep};

use super::{
    super::words::Problem,
    choose::Followed,
    server::{Launch, Server, Servers},
    unpack::own,
};
use crate::{
    base::{
        beneath::{RelPath, Root},
        fsutil::{Owner, blocking},
    },
    plan::recovery::{self, Ended, Extent},
};

/// Replaying a day of a busy tenant takes minutes.
const LONGEST: Duration = Duration::from_secs(6 * 3_600);
/// How often it is looked at: at first, and after a while. Each look is a program in its container.
const LOOKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// An answer to one of our questions is a number.
const MOST_ANSWER: u64 = 4 << 10;
/// A list of relations: of a hundred thousand, a line each.
const MOST_LIST: u64 = 32 << 20;
/// Longest line of a list of files: a name has 43 bytes.
const MOST_LINE: u64 = 4 << 10;
/// Each restore in a tenant's place begins a timeline.
const MOST_TIMELINES: u32 = 10_000;
/// Files that are named when they are missing.
const NAMED: usize = 5;
/// What is read of a file at once.
const PIECE: usize = 256 << 10;
/// Who is asked what is no tenant's, and where.
pub(in crate::backup) const POSTGRES: (&str, &str) = ("postgres", "postgres");
/// How long a question may take, seconds.
const ASK_S: &str = "60";
/// How long the list of all attachments may take, seconds.
const LIST_S: &str = "3600";

/// PostgreSQL begins the first timeline of which it finds no history in the log: it is to find one of each that there was, up to `newest`.
/// What is in it is never looked at, because none of these is followed. `base`: the backup's own.
pub(super) fn pass_over(log: &Root, owner: Owner, base: u32, newest: u32) -> Result<(), Problem> {
    let newest = newest.max(base);
    if newest - base > MOST_TIMELINES || newest == u32::MAX {
        let why = "its log is of a timeline that cannot be";
        return Err(Problem::for_good(Fault::Damaged, why));
    }
    for timeline in (base..newest).map(|before| before + 1) {
        let name = format!("{timeline:08X}.history");
        let made = RelPath::parse(name.as_bytes())
            .map_err(io::Error::other)
            .and_then(|name| log.writable(&name))
            .and_then(|file| own(file, owner, 0o600));
        made.map_err(|e| Problem::disk("the log cannot be written", &e))?;
    }
    Ok(())
}

/// Attachments' files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachments {
    pub named: u64,
    pub missing: u64,
    /// Some of them.
    pub examples: Vec<String>,
    /// That are there and are not what their names say; only where that was looked at.
    pub altered: u64,
    pub altered_examples: Vec<String>,
}

/// What was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last transaction that the log brought back; `None`: it brought none.
    pub last: Option<UnixMs>,
    /// `None`: the database is not an Odoo's.
    pub attachments: Option<Attachments>,
}

/// Recovers, asks, and stops.
pub(super) async fn recover(
    servers: &dyn Servers,
    launch: Launch,
    followed: Option<Followed>,
    (database, filestore): (&str, Option<Root>),
    stop: &Stop,
) -> Result<Reached, Problem> {
    let (server, extent) = become_ready(servers, launch, followed, stop).await?;
    let last = last(&*server, extent, stop).await?;
    let of = (database, filestore, Depth::Names);
    let attachments = attachments(&*server, of, stop).await?;
    server.stop().await?;
    Ok(Reached { last, attachments })
}

/// The commit of the last transaction that the log brought back.
pub(in crate::backup) async fn last(
    server: &dyn Server,
    extent: Extent,
    stop: &Stop,
) -> Result<Option<UnixMs>, Problem> {
    if extent == Extent::AsItIs {
        return Ok(None);
    }
    let said = ask(server, POSTGRES, recovery::REACHED, stop).await?;
    Ok(said.parse().ok())
}

/// Until it takes connections: then it is what was asked for.
pub(in crate::backup) async fn become_ready(
    servers: &dyn Servers,
    mut launch: Launch,
    followed: Option<Followed>,
    stop: &Stop,
) -> Result<(Box<dyn Server>, Extent), Problem> {
    let hole = followed.and_then(|followed| followed.hole);
    loop {
        let server = servers.start(&launch).await?;
        let Some(words) = until_ready(&*server, stop).await? else {
            return Ok((server, launch.extent));
        };
        let never = |why: String| Err(Problem::for_good(Fault::Damaged, why));
        match (recovery::ended(&words), launch.extent, hole) {
            // It is started again where it stopped, with the rest of the log before it.
            (Ended::BeforeTarget, Extent::Time(_), None) => launch.extent = Extent::End,
            (Ended::BeforeTarget, _, Some(hole)) => {
                return never(format!(
                    "segment {hole} of the log is missing: of what was committed after it nothing can be restored; ask for an \
                     earlier moment"
                ));
            }
            (Ended::BeforeConsistent, ..) => {
                return never("that moment lies before the end of the backup".to_owned());
            }
            (Ended::Incomplete, ..) => {
                return never("the log that the backup cannot do without is not whole".to_owned());
            }
            (Ended::BeforeTarget | Ended::Otherwise, ..) => {
                return never(
                    "PostgreSQL has ended while it recovered the backup: it is damaged, or made by another version".to_owned(),
                );
            }
        }
    }
}

/// Its last words where it has ended by itself.
async fn until_ready(server: &dyn Server, stop: &Stop) -> Result<Option<String>, Problem> {
    let (begun, mut wait) = (Instant::now(), LOOKS.0);
    loop {
        let asked = ask(server, POSTGRES, recovery::RECOVERING, stop).await;
        if asked.is_ok_and(|said| said == "0") {
            return Ok(None);
        }
        if let Some(words) = server.ended().await? {
            return Ok(Some(words));
        }
        if stop.is_stopped() {
            return Err(Problem::stopped());
        }
        if begun.elapsed() > LONGEST {
            let why = "PostgreSQL has not recovered the backup in hours";
            return Err(Problem::for_good(Fault::Other, why));
        }
        sleep(wait).await;
        wait = (wait * 3 / 2).min(LOOKS.1);
    }
}

fn psql((role, database): (&str, &str), statement: &str, limit_s: &str) -> Vec<String> {
    [
        "timeout",
        "-k",
        "5",
        limit_s,
        "psql",
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        role,
        "-d",
        database,
        "-c",
        statement,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The one value that a statement gives.
pub(in crate::backup) async fn ask(
    server: &dyn Server,
    who: (&str, &str),
    statement: &str,
    stop: &Stop,
) -> Result<String, Problem> {
    let client = server.run(psql(who, statement, ASK_S), stop).await?;
    let said = answer(client, MOST_ANSWER).await?;
    Ok(said.trim().to_owned())
}

/// The lines that a statement gives, which may take its time.
pub(in crate::backup) async fn list(
    server: &dyn Server,
    who: (&str, &str),
    statement: &str,
    stop: &Stop,
) -> Result<String, Problem> {
    let client = server.run(psql(who, statement, LIST_S), stop).await?;
    answer(client, MOST_LIST).await
}

async fn answer(mut client: Box<dyn Producer>, most: u64) -> Result<String, Problem> {
    let said = blocking(move || {
        let mut said = Vec::new();
        (&mut client).take(most).read_to_end(&mut said)?;
        client.finish()?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    });
    let failed = |_| Problem::new(Fault::Other, "the restored PostgreSQL does not answer");
    said.await.map_err(failed)
}

/// How attachments' files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) enum Depth {
    /// Whether they are there.
    Names,
    /// And whether they are what their names say.
    Contents,
}

/// Compares what the database names with what lies there.
pub(in crate::backup) async fn attachments(
    server: &dyn Server,
    (database, filestore, depth): (&str, Option<Root>, Depth),
    stop: &Stop,
) -> Result<Option<Attachments>, Problem> {
    let is_odoos =
        "SELECT (pg_catalog.to_regclass('public.ir_attachment') IS NOT NULL)::pg_catalog.int4";
    // Without the tenant's own database it is none of ours.
    match ask(server, ("odoo", database), is_odoos, stop).await {
        Ok(said) if said == "1" => {}
        Ok(_) => return Ok(None),
        Err(_) => {
            let why =
                format!("the restored PostgreSQL has no database {database} for the role odoo");
            return Err(Problem::for_good(Fault::Damaged, why));
        }
    }
    let words = psql(("odoo", database), recovery::ATTACHMENTS, LIST_S);
    let client = server.run(words, stop).await?;
    let compared = blocking(move || compare(client, filestore.as_ref(), depth)).await;
    let failed = |_| {
        Problem::new(
            Fault::Other,
            "the attachments of the restored database cannot be listed",
        )
    };
    compared.map(Some).map_err(failed)
}

fn compare(
    client: Box<dyn Producer>,
    filestore: Option<&Root>,
    depth: Depth,
) -> io::Result<Attachments> {
    let mut found = Attachments::default();
    let mut lines = BufReader::new(client);
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(MOST_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            lines.into_inner().finish()?;
            return Ok(found);
        }
        let name = line.strip_suffix(b"\n").unwrap_or(&line);
        found.named += 1;
        let path = RelPath::parse(name).ok().filter(|path| !path.is_root());
        let there = path.and_then(|path| filestore?.file(&path).ok());
        let (count, examples) = match there {
            None => (&mut found.missing, &mut found.examples),
            Some((file, _)) if depth == Depth::Contents && !is_as_named(&file, name)? => {
                (&mut found.altered, &mut found.altered_examples)
            }
            Some(_) => continue,
        };
        *count += 1;
        if examples.len() < NAMED {
            let name = String::from_utf8_lossy(name);
            examples.push(isyone_proto::echo::echo(&name));
        }
    }
}

/// Whether a file's content has the hash that it is called by. Odoo calls them so; what has another name is not judged.
fn is_as_named(file: &fs::File, name: &[u8]) -> io::Result<bool> {
    let last = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    let mut named = [0; 20];
    if hex::decode_to_slice(last, &mut named).is_err() {
        return Ok(true);
    }
    let mut hash = Sha1::new();
    io::copy(
        &mut BufReader::with_capacity(PIECE, file),
        &mut Hashing(&mut hash),
    )?;
    Ok(hash.finalize().as_slice() == named)
}

struct Hashing<'a>(&'a mut Sha1);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Said(io::Cursor<&'static [u8]>, i32);

    impl io::Read for Said {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Producer for Said {
        fn finish(&mut self) -> io::Result<()> {
            match self.1 {
                0 => Ok(()),
                code => Err(io::Error::other(format!("code {code}"))),
            }
        }
    }

    #[test]
    fn every_file_that_is_named_is_looked_for_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ab")).unwrap();
        std::fs::write(dir.path().join("ab/abcd"), "x").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let said = |code| {
            Said(
                io::Cursor::new(b"ab/abcd\ncd/cdef\n../../etc/passwd\n\n"),
                code,
            )
        };
        let found = compare(Box::new(said(0)), Some(&root), Depth::Names).unwrap();
        assert_eq!((found.named, found.missing), (4, 3));
        assert_eq!(found.examples[0], "cd/cdef");
        assert!(
            compare(Box::new(said(1)), Some(&root), Depth::Names).is_err(),
            "it did not end well"
        );
        let without = compare(Box::new(said(0)), None, Depth::Names).unwrap();
        assert_eq!(without.missing, 4);
    }

    #[test]
    fn a_file_that_is_not_what_its_name_says_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a9")).unwrap();
        let write =
            |name: &str, content: &str| std::fs::write(dir.path().join(name), content).unwrap();
        // SHA-1 of "abc", which the second one is not.
        let (good, bad) = (
            "a9/a9993e364706816aba3e25717850c26c9cd0d89d",
            "a9/a9993e364706816aba3e25717850c26c9cd0d89e",
        );
        write(good, "abc");
        write(bad, "abc");
        write("a9/other", "abc");
        let said = Said(
            io::Cursor::new(
                b"a9/a9993e364706816aba3e25717850c26c9cd0d89d\na9/a9993e364706816aba3e25717850c26c9cd0d89e\na9/other\n",
            ),
            0,
        );
        let root = Root::open(dir.path()).unwrap();
        let found = compare(Box::new(said), Some(&root), Depth::Contents).unwrap();
        assert_eq!((found.named, found.missing, found.altered), (3, 0, 1));
        assert_eq!(found.altered_examples, [bad]);
    }
}
