//! Recovering a database from a base backup and its log: the settings of the PostgreSQL that does so, and what its last words mean. Pure.
//!
//! Everything is said on its command line, so nothing of it stays in the data directory. Not here: running it
//! (backup::restore::server), what it is given (backup::restore).

use isyone_proto::{
    backup::RestoreTo,
    ids::{HostName, TenantName},
    plan::UnixMs,
};
use uuid::Uuid;

use crate::plan::{
    container::{ContainerSpec, LABEL_ROLE, LABEL_TENANT, LABEL_UID, Limits, Mount, MountSource},
    facts::ImageFacts,
    stack::{MAX_CONNECTIONS, POSTGRES_GRACE_S, split_memory},
};

/// Where the container has the segments.
pub const LOG_TARGET: &str = "/var/lib/isyone/log";
/// The network of a container that has none.
const NO_NETWORK: &str = "none";
/// What any host can give.
const ONE_CPU: u64 = 1_000_000_000;
/// How long a look at all files may take, seconds: some 100 GB are read in that time from a slow disk.
const LONGEST_LOOK_S: &str = "7200";
/// With less a base backup recovers slowly.
const LEAST_MEMORY_BYTES: u64 = 256 << 20;

/// How far a database is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// It was stopped, or has its log with it: it only starts.
    AsItIs,
    /// To the point at which the backup had ended.
    Consistent,
    /// To this moment.
    Time(UnixMs),
    /// To the end of the log.
    End,
}

impl Extent {
    /// How far one goes whose log follows it, or does not.
    pub fn of(to: RestoreTo, has_log: bool) -> Self {
        match (to, has_log) {
            (_, false) => Self::AsItIs,
            (RestoreTo::Backup, true) => Self::Consistent,
            (RestoreTo::Time(at), true) => Self::Time(at),
            (RestoreTo::Latest, true) => Self::End,
        }
    }
}

/// A moment as PostgreSQL reads it.
fn moment(at: UnixMs) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S.%3f+00").to_string()
}

/// The settings, each as `name=value`. `log`: the directory of the segments, as that PostgreSQL sees it.
pub fn settings(extent: Extent, log: &str) -> Vec<String> {
    let mut settings = vec![
        // Nobody but us speaks with it, and nothing that it writes goes anywhere.
        "listen_addresses=".to_owned(),
        "archive_mode=off".to_owned(),
        "logging_collector=off".to_owned(),
        "log_destination=stderr".to_owned(),
        "lc_messages=C".to_owned(),
        // Brought to disk as a whole when it has ended; until then nothing of it counts.
        "fsync=off".to_owned(),
        "max_wal_size=1GB".to_owned(),
        // What our own questions sort is less; what else may be run is a tenant's.
        "temp_file_limit=1GB".to_owned(),
        format!("max_connections={MAX_CONNECTIONS}"),
        "autovacuum=off".to_owned(),
    ];
    let target = match extent {
        Extent::AsItIs => return settings,
        Extent::Consistent => Some("recovery_target=immediate".to_owned()),
        Extent::Time(at) => Some(format!("recovery_target_time={}", moment(at))),
        Extent::End => None,
    };
    settings.extend(target);
    settings.extend([
        format!("restore_command=cp '{log}/%f' \"%p\""),
        // The history that the backup is of: what came of another restore is none of its.
        "recovery_target_timeline=current".to_owned(),
        "recovery_target_action=promote".to_owned(),
        // Nobody sees it before it is what was asked for; then it takes connections.
        "hot_standby=off".to_owned(),
    ]);
    settings
}

/// What it means that it has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Nothing that was committed after the moment is in the log: all of it is what was asked for, if the log reaches so far.
    BeforeTarget,
    /// The moment lies before the end of the backup.
    BeforeConsistent,
    /// A segment, or something else that the backup cannot do without, is missing.
    Incomplete,
    /// Anything else.
    Otherwise,
}

/// Reads its last words. They are PostgreSQL's own; a line that a tenant's data has got into is not looked for.
pub fn ended(log: &str) -> Ended {
    for (words, meaning) in [
        (
            "recovery ended before configured recovery target was reached",
            Ended::BeforeTarget,
        ),
        (
            "requested recovery stop point is before consistent recovery point",
            Ended::BeforeConsistent,
        ),
        ("WAL ends before end of online backup", Ended::Incomplete),
        (
            "WAL ends before consistent recovery point",
            Ended::Incomplete,
        ),
        (
            "could not locate required checkpoint record",
            Ended::Incomplete,
        ),
        (
            "could not locate a valid checkpoint record",
            Ended::Incomplete,
        ),
    ] {
        if log.contains(words) {
            return meaning;
        }
    }
    Ended::Otherwise
}

/// What a PostgreSQL recovers a database for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// It becomes this tenant's.
    Restore { name: TenantName, uid: Uuid },
    /// It is looked at on this host, and thrown away. There is one at a time, and it bears no tenant's name: the tenant need not be here.
    Proof { host: HostName },
}

impl Purpose {
    /// To be this tenant's.
    pub fn restore(name: &TenantName, uid: Uuid) -> Self {
        Self::Restore {
            name: name.clone(),
            uid,
        }
    }

    /// The container of the PostgreSQL that recovers: it is nobody's stack, and reaches nobody.
    pub fn server(&self) -> String {
        match self {
            Self::Restore { name, .. } => format!("{}_restore", name.postgres_container()),
            Self::Proof { host } => format!("isyone_proof_{host}"),
        }
    }

    /// The container of a program that looks at what no PostgreSQL uses.
    pub fn program(&self) -> String {
        format!("{}_program", self.server())
    }

    /// The role is what an agent that died has left is told by.
    fn labels(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Restore { name, uid } => vec![
                (LABEL_TENANT, name.to_string()),
                (LABEL_UID, uid.to_string()),
                (LABEL_ROLE, "restore".to_owned()),
            ],
            Self::Proof { .. } => vec![(LABEL_ROLE, "proof".to_owned())],
        }
    }
}

/// A container with a volume and the segments, and what runs in it.
#[derive(Debug, Clone)]
pub struct Cell<'a> {
    pub purpose: &'a Purpose,
    pub image: &'a ImageFacts,
    /// Of the tenant.
    pub memory_bytes: u64,
    pub volume: String,
    pub log: String,
}

impl Cell<'_> {
    /// The PostgreSQL.
    pub fn server(&self, extent: Extent) -> ContainerSpec {
        let options = settings(extent, LOG_TARGET).into_iter();
        let options = options.flat_map(|setting| ["-c".to_owned(), setting]);
        let command = std::iter::once("postgres".to_owned()).chain(options);
        self.container(self.purpose.server(), command.collect())
    }

    /// A program of PostgreSQL's that looks at the cluster's files.
    pub fn program(&self, look: Look) -> ContainerSpec {
        let within = super::design::cluster_in_volume(self.image).unwrap_or_default();
        let volume = super::design::postgres_target(self.image);
        let cluster = match within.as_str() {
            "" => volume.to_owned(),
            within => format!("{volume}/{within}"),
        };
        let spec = self.container(self.purpose.program(), look.words(&cluster));
        let (user, group) = (self.image.uid, self.image.gid);
        if user == 0 {
            return spec; // the image names no user of PostgreSQL's
        }
        // It reads what was a tenant's: it can do no more than the owner of these files.
        ContainerSpec {
            user: format!("{user}:{group}"),
            cap_add: Vec::new(),
            ..spec
        }
    }

    fn container(&self, name: String, command: Vec<String>) -> ContainerSpec {
        let (_, memory_bytes) = split_memory(self.memory_bytes);
        let memory_bytes = memory_bytes.max(LEAST_MEMORY_BYTES);
        ContainerSpec {
            name,
            image: self.image.id.clone(),
            command,
            user: String::new(),
            env: Default::default(),
            labels: { self.purpose.labels().into_iter() }
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            mounts: vec![
                Mount {
                    source: MountSource::Directory(self.volume.clone()),
                    target: super::design::postgres_target(self.image).to_owned(),
                },
                Mount {
                    source: MountSource::File(self.log.clone()),
                    target: LOG_TARGET.to_owned(),
                },
            ],
            network: NO_NETWORK.to_owned(),
            aliases: Vec::new(),
            ports: Vec::new(),
            limits: Limits {
                memory_bytes,
                nano_cpus: ONE_CPU,
                pids: MAX_CONNECTIONS,
            },
            shm_bytes: Some((memory_bytes / 2).max(64 << 20)),
            // As the tenant's own: the entrypoint changes the owner and drops from root.
            cap_add: ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]
                .map(str::to_owned)
                .to_vec(),
            init: false,
            stop_grace_s: POSTGRES_GRACE_S,
            restart: false,
            nofile: None,
            device: None,
        }
    }
}

/// How a cluster's files are looked at while no PostgreSQL uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Every file against the manifest that PostgreSQL has made with the base backup, before anything is recovered.
    Manifest,
    /// Every page against its checksum, once it has ended as it should.
    Checksums,
}

impl Look {
    /// The program and its arguments. It changes nothing, and has an end.
    pub fn words(self, cluster: &str) -> Vec<String> {
        let words: &[&str] = match self {
            // The log is not in the backup: it is followed by whoever recovers.
            Self::Manifest => &["pg_verifybackup", "-n", cluster],
            Self::Checksums => &["pg_checksums", "--check", "-D", cluster],
        };
        let bounded = ["timeout", "-k", "5", LONGEST_LOOK_S];
        let all = bounded.iter().chain(words);
        all.map(|word| (*word).to_owned()).collect()
    }
}

/// What a session is for. A role's or a database's own settings, which a tenant may have made, do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// One value.
    Value,
    /// Many lines, as fast as they are read.
    List,
    /// It looks into everything, and writes what it finds.
    Look,
}

impl Session {
    /// As libpq has them.
    pub fn options(self) -> String {
        let (timeout_ms, is_read_only) = match self {
            Self::Value => (50_000, "on"),
            Self::List => (0, "on"),
            Self::Look => (0, "off"),
        };
        // Without row security: a tenant's policy is a function of the tenant's, and what it applies to is not listed.
        format!(
            "-c statement_timeout={timeout_ms} -c lock_timeout=10000 -c default_transaction_read_only={is_read_only} \
             -c search_path=pg_catalog -c row_security=off -c role=none -c jit=off -c standard_conforming_strings=on"
        )
    }
}

/// Whether PostgreSQL has ended, or has stopped following the log, for a reason that is the host's: no room, no memory, or somebody's
/// signal. Then nothing is said of the backup. Looked at before anything else that it has said: a segment that cannot be brought where it
/// is read, because the disk is full, looks to PostgreSQL like the end of the log.
pub fn is_of_host(log: &str) -> bool {
    [
        "No space left on device",
        "Disk quota exceeded",
        "Cannot allocate memory",
        "terminated by signal 9",
        "shutdown request",
    ]
    .into_iter()
    .any(|words| log.contains(words))
}

/// Whether there is a table of attachments: a view of that name would be a tenant's program.
pub const HAS_ATTACHMENTS: &str = "SELECT (EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('public.ir_attachment') \
    AND relkind IN ('r', 'p')))::pg_catalog.int4";

/// Whether there is a tenant's database, and its role. `database`: made of a tenant's name, so there is nothing to quote in it.
pub fn has_database(database: &str) -> String {
    format!(
        "SELECT (EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = '{database}') \
         AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'odoo' AND rolcanlogin))::pg_catalog.int4"
    )
}

/// Files of attachments, as their table names them. Asked as the tenant's own role: what looks like a table there may be anything.
pub const ATTACHMENTS: &str = "COPY (SELECT DISTINCT store_fname FROM public.ir_attachment WHERE store_fname IS NOT NULL) TO STDOUT";
/// The commit time of the last transaction that was brought back, milliseconds; nothing where none was.
pub const REACHED: &str = "SELECT pg_catalog.floor(extract(epoch from pg_catalog.pg_last_xact_replay_timestamp()) * 1000)::pg_catalog.int8";
/// The position that the log was followed to.
pub const FOLLOWED: &str = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.int8";
/// Whether it may be written to: it has become what was asked for.
pub const RECOVERING: &str = "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.int4";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_said_to_the_millisecond_and_what_needs_no_log_gets_none() {
        let said = settings(Extent::Time(1_795_799_002_250), "/log").join("\n");
        assert!(
            said.contains("recovery_target_time=2026-11-27 17:03:22.250+00"),
            "{said}"
        );
        assert!(said.contains("recovery_target_action=promote"));
        let as_it_is = settings(Extent::AsItIs, "/log").join("\n");
        assert!(!as_it_is.contains("recovery") && !as_it_is.contains("restore_command"));
        let end = settings(Extent::End, "/log").join("\n");
        assert!(end.contains("restore_command") && !end.contains("recovery_target_time="));
        assert_eq!(Extent::of(RestoreTo::Time(7), false), Extent::AsItIs);
        assert_eq!(Extent::of(RestoreTo::Backup, true), Extent::Consistent);
    }

    #[test]
    fn last_words_are_understood() {
        let said = "LOG:  redo done\nFATAL:  recovery ended before configured recovery target was reached\n";
        assert_eq!(ended(said), Ended::BeforeTarget);
        assert_eq!(
            ended("FATAL:  requested recovery stop point is before consistent recovery point"),
            Ended::BeforeConsistent
        );
        assert_eq!(
            ended("FATAL:  WAL ends before end of online backup"),
            Ended::Incomplete
        );
        assert_eq!(ended("FATAL:  out of memory"), Ended::Otherwise);
    }

    /// Fails if a disk that is full, or somebody who ends what proves, makes a backup a damaged one.
    #[test]
    fn the_hosts_trouble_is_told_from_a_damage() {
        for said in [
            "PANIC:  could not write to file \"pg_wal/xlogtemp.31\": No space left on device",
            "cp: error writing 'pg_wal/RECOVERYXLOG': No space left on device\nFATAL:  WAL ends before end of online backup",
            "LOG:  startup process (PID 31) was terminated by signal 9: Killed",
            "LOG:  received fast shutdown request",
            "LOG:  received smart shutdown request",
        ] {
            assert!(is_of_host(said), "{said}");
        }
        assert!(!is_of_host("FATAL:  WAL ends before end of online backup"));
        assert!(!is_of_host(
            "LOG:  startup process (PID 31) was terminated by signal 11"
        ));
    }

    #[test]
    fn nothing_of_a_tenants_is_run_by_our_questions() {
        assert!(HAS_ATTACHMENTS.contains("relkind IN ('r', 'p')"));
        for session in [Session::Value, Session::List, Session::Look] {
            let options = session.options();
            assert!(
                options.contains("search_path=pg_catalog") && options.contains("row_security=off")
            );
        }
        assert!(settings(Extent::AsItIs, "/log").contains(&"temp_file_limit=1GB".to_owned()));
    }

    #[test]
    fn who_recovers_reaches_nobody_and_is_found_again() {
        let image = ImageFacts {
            pgdata: Some("/var/lib/postgresql/data".to_owned()),
            ..ImageFacts::default()
        };
        let of = |purpose| Cell {
            purpose,
            image: &image,
            memory_bytes: 1 << 30,
            volume: "/srv/pgdata".to_owned(),
            log: "/srv/log".to_owned(),
        };
        let restore = Purpose::Restore {
            name: "alfa".parse().unwrap(),
            uid: Uuid::nil(),
        };
        let spec = of(&restore).server(Extent::End);
        assert_eq!((spec.network.as_str(), spec.restart), ("none", false));
        assert_eq!(spec.name, "postgres_alfa_restore");
        assert!(spec.ports.is_empty() && spec.env.is_empty());
        assert_eq!(spec.labels[LABEL_ROLE], "restore");
        assert_eq!(
            spec.mounts[1].source,
            MountSource::File("/srv/log".to_owned())
        );
        // What proves bears no tenant's label: on a host without the tenant it would be stopped as a stray.
        let proof = Purpose::Proof {
            host: "h1".parse().unwrap(),
        };
        let spec = of(&proof).program(Look::Checksums);
        assert_eq!(spec.name, "isyone_proof_h1_program");
        assert!(spec.user.is_empty() && !spec.cap_add.is_empty());
        let named = ImageFacts {
            uid: 999,
            gid: 998,
            ..image.clone()
        };
        let cell = Cell {
            image: &named,
            ..of(&proof)
        };
        let program = cell.program(Look::Manifest);
        assert_eq!(program.user, "999:998");
        assert!(program.cap_add.is_empty(), "no root over hostile files");
        // The image's own program begins as root, and drops to its user.
        assert!(cell.server(Extent::AsItIs).user.is_empty());
        assert_eq!(spec.network, "none");
        assert!(!spec.labels.contains_key(LABEL_TENANT));
        assert_eq!(
            spec.command[4..],
            ["pg_checksums", "--check", "-D", "/var/lib/postgresql/data"]
        );
    }
}
