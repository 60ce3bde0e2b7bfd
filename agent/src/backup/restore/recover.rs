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
    ask::{POSTGRES, ask, lines},
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
/// Longest line of a list of files: a name has 43 bytes.
const MOST_LINE: u64 = 4 << 10;
/// Each restore in a tenant's place begins a timeline.
const MOST_TIMELINES: u32 = 10_000;
/// Files that are named when they are missing.
const NAMED: usize = 5;
/// What is said of what is no fault of the backup.
pub(in crate::backup) const OF_HOST: &str = "the PostgreSQL that recovers it had no room or no memory on this host, or somebody has ended it";
/// What is read of a file at once.
const PIECE: usize = 256 << 10;

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
        if recovery::is_of_host(&words) {
            return Err(Problem::new(Fault::NotNow, OF_HOST));
        }
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
    let who = ("odoo", database);
    match ask(server, who, recovery::HAS_ATTACHMENTS, stop).await {
        Ok(said) if said == "1" => {}
        Ok(_) => return Ok(None),
        // Without the tenant's own database it is none of ours; anything else may be the host's trouble.
        Err(problem) => {
            let there = ask(server, POSTGRES, &recovery::has_database(database), stop).await;
            if !there.is_ok_and(|there| there == "0") {
                return Err(problem);
            }
            let why =
                format!("the restored PostgreSQL has no database {database} for the role odoo");
            return Err(Problem::for_good(Fault::Damaged, why));
        }
    }
    let client = lines(server, who, recovery::ATTACHMENTS, stop).await?;
    let stopped = stop.clone();
    let compared = blocking(move || compare(client, filestore.as_ref(), depth, &stopped)).await;
    let failed = |_| {
        Problem::new(
            Fault::Other,
            "the attachments of the restored database cannot be listed, or not be read",
        )
    };
    compared.map(Some).map_err(failed)
}

fn compare(
    client: Box<dyn Producer>,
    filestore: Option<&Root>,
    depth: Depth,
    stop: &Stop,
) -> io::Result<Attachments> {
    let mut found = Attachments::default();
    let mut lines = BufReader::new(client);
    loop {
        goes_on(stop)?;
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
            Some((file, _)) if depth == Depth::Contents && !is_as_named(&file, name, stop)? => {
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
fn is_as_named(file: &fs::File, name: &[u8], stop: &Stop) -> io::Result<bool> {
    let last = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    let mut named = [0; 20];
    if hex::decode_to_slice(last, &mut named).is_err() {
        return Ok(true);
    }
    let mut hash = Sha1::new();
    io::copy(
        &mut BufReader::with_capacity(PIECE, file),
        &mut Hashing(&mut hash, stop),
    )?;
    Ok(hash.finalize().as_slice() == named)
}

fn goes_on(stop: &Stop) -> io::Result<()> {
    match stop.is_stopped() {
        true => Err(io::Error::other("stopped")),
        false => Ok(()),
    }
}

struct Hashing<'a>(&'a mut Sha1, &'a Stop);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        goes_on(self.1)?;
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic::async_trait;

    use super::*;
    use crate::plan::{
        facts::ImageFacts,
        recovery::{Look, Purpose},
    };

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

    /// A PostgreSQL that has ended with these words, or that nothing reaches.
    struct Ended(&'static str);

    #[async_trait]
    impl Servers for Ended {
        async fn start(&self, _: &Launch) -> Result<Box<dyn Server>, Problem> {
            Ok(Box::new(Ended(self.0)))
        }
        async fn look(&self, _: &Launch, _: Look, _: &Stop) -> Result<(i32, String), Problem> {
            Err(Problem::stopped())
        }
        async fn clear(&self, _: &Purpose) -> Result<(), Problem> {
            Ok(())
        }
    }

    #[async_trait]
    impl Server for Ended {
        async fn ended(&self) -> Result<Option<String>, Problem> {
            Ok(Some(self.0.to_owned()))
        }
        async fn words(&self) -> Result<String, Problem> {
            Ok(self.0.to_owned())
        }
        async fn run(
            &self,
            _: Vec<String>,
            _: Duration,
            _: &Stop,
        ) -> Result<Box<dyn Producer>, Problem> {
            Err(Problem::new(Fault::Source, "Docker does not answer"))
        }
        async fn stop(&self) -> Result<(), Problem> {
            Ok(())
        }
    }

    /// Fails if a disk that is full, a process that was killed, or Docker that is away makes a backup a damaged one.
    #[tokio::test]
    async fn the_hosts_trouble_is_no_damage() {
        let stop = Stop::default();
        let ends = async |words| {
            let launch = Launch {
                purpose: Purpose::Proof {
                    host: "h1".parse().unwrap(),
                },
                memory_bytes: 1 << 30,
                image: ImageFacts::default(),
                volume: "/none".into(),
                log: "/none".into(),
                extent: Extent::End,
            };
            let ready = become_ready(&Ended(words), launch, None, &stop).await;
            ready.err().map(|problem| problem.fault)
        };
        let lost = "FATAL:  WAL ends before end of online backup";
        assert_eq!(ends(lost).await, Some(Fault::Damaged));
        let full = "cp: error writing 'pg_wal/RECOVERYXLOG': No space left on device\n\
                    FATAL:  WAL ends before end of online backup";
        assert_eq!(ends(full).await, Some(Fault::NotNow));
        let killed = "LOG:  startup process (PID 9) was terminated by signal 9: Killed";
        assert_eq!(ends(killed).await, Some(Fault::NotNow));
        let of = ("odoo_alfa", None, Depth::Contents);
        let listed = attachments(&Ended(""), of, &stop).await;
        assert_eq!(listed.unwrap_err().fault, Fault::Source);
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
        let found = compare(
            Box::new(said(0)),
            Some(&root),
            Depth::Names,
            &Stop::default(),
        )
        .unwrap();
        assert_eq!((found.named, found.missing), (4, 3));
        assert_eq!(found.examples[0], "cd/cdef");
        assert!(
            compare(
                Box::new(said(1)),
                Some(&root),
                Depth::Names,
                &Stop::default()
            )
            .is_err(),
            "it did not end well"
        );
        let without = compare(Box::new(said(0)), None, Depth::Names, &Stop::default()).unwrap();
        assert_eq!(without.missing, 4);
    }

    /// Fails if a proof that was cancelled reads all files to their end.
    #[test]
    fn nothing_is_read_for_who_has_stopped() {
        let stop = Stop::default();
        let said = || Box::new(Said(io::Cursor::new(b"ab/abcd\n"), 0));
        assert!(compare(said(), None, Depth::Names, &stop).is_ok());
        let mut hash = Sha1::new();
        assert!(io::Write::write(&mut Hashing(&mut hash, &stop), b"x").is_ok());
        stop.stop();
        assert!(compare(said(), None, Depth::Names, &stop).is_err());
        assert!(io::Write::write(&mut Hashing(&mut hash, &stop), b"x").is_err());
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
        let found = compare(
            Box::new(said),
            Some(&root),
            Depth::Contents,
            &Stop::default(),
        )
        .unwrap();
        assert_eq!((found.named, found.missing, found.altered), (3, 0, 1));
        assert_eq!(found.altered_examples, [bad]);
    }
}
