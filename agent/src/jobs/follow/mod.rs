//! Keeps a copy up with a tenant that runs on another host: a base backup first, then PostgreSQL follows by streaming, and files come in
//! passes. How long the tenant would pause if its copy took over is told after each of these. When the tenant is stopped, what is missing
//! comes, both ends are compared, and the copy is complete; or it is said that it never can be.
//!
//! The tunnel to the other host's PostgreSQL is a socket in the directory of settings that the container sees anyway, so that the
//! standby is the tenant's own container from the beginning. An attempt that is dropped leaves what the next goes on from. Not here: the
//! container that follows and its promotion (tenant), files (fetch), when the tenant is stopped (the coordinator).

mod bring;
mod lag;
mod line;

use std::{sync::Arc, time::Duration};

use isyone_proto::{
    plan::{JobOrder, JobWork, TenantPlan},
    report::Behind,
};
use tokio::time::{Instant, sleep};
use tonic::async_trait;

use self::{
    lag::Lag,
    line::{Line, Lines},
};
use super::{
    JobError, Progress, Work,
    fetch::{Fetch, Way},
};
use crate::{
    base::{beneath::RelPath, fsutil::blocking},
    host::Host,
    peer::{
        Databases, Of,
        cluster::{self as sql, Cluster},
    },
    plan::standby::{self, CONTROL_FILE, Control, Lsn, PAGE_BYTES, Sequence},
    tenant::{
        copies::{self, Copy},
        takeover,
    },
};

type Attempt<T> = Result<T, JobError>;

/// How long a standby may take to answer once its container may start.
const START: Duration = Duration::from_secs(120);
/// How long one that has everything may take to apply it, after the other one was stopped.
const APPLY: Duration = Duration::from_secs(20);
/// First and longest pause between looks at a standby.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Shortest pause between passes over the files, and how many times as long as a pass it is: a tenant with many files is not read all the
/// time.
const BETWEEN: (Duration, u32) = (Duration::from_secs(3), 5);
/// Shortest pause between passes for a copy that is kept up for good: so much is lost of files with a host.
const STANDING: Duration = Duration::from_secs(60);
/// How often it is looked how far a copy is behind.
const MEASURED: Duration = Duration::from_secs(5);
/// A failure that only a new copy mends.
const LOST: &str = "the other host's database has thrown away log that the copy here lacks: begin the move again, or move it stopped";
/// The same for a standby, which is made anew by itself.
const LOST_STANDBY: &str =
    "the other host has thrown away what this copy lacks of its log: it was away for too long";
/// What a pause takes whatever there is to copy, milliseconds: two containers stop, messages go to and fro, one starts. By hand it was
/// 1.8 to 2.5 s with everything.
const LEAST_PAUSE_MS: u64 = 2_000;
/// Bytes of log that a standby applies in a millisecond, at least.
const APPLIED_PER_MS: u64 = 16 << 10;

/// Keeps copies of this host up with tenants of others.
pub struct Follow {
    fetch: Arc<Fetch>,
    host: Arc<Host>,
    databases: Arc<dyn Databases>,
    rate_bytes_per_s: u64,
    lines: Lines,
}

fn again(why: impl ToString) -> JobError {
    JobError::Again(why.to_string())
}

fn disk(e: std::io::Error) -> JobError {
    again(format!("this host's disk: {e}"))
}

#[async_trait]
impl Work for Follow {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Attempt<()> {
        let (is_last, stands) = match order.work {
            JobWork::Follow { last, standing, .. } => (last, standing),
            _ => (false, false),
        };
        let tenant = self.fetch.tenant(order)?;
        // Also while the other host is not reached: then it counts most.
        let filled = copies::is_filled(&self.host, &tenant).await;
        progress.filled(filled.map_err(disk)?);
        let way = Way::open(&self.fetch, order, progress).await?;
        let of = Of {
            tenant: order.tenant.clone(),
            uid: order.uid,
        };
        let directory = self.host.directory(&tenant);
        let line = Line::open(
            &self.lines,
            &directory,
            (way.channel.clone(), progress.meter()),
            of.clone(),
        );
        let line = line.await?;
        match copies::find(&self.host, &tenant).await.map_err(disk)? {
            Copy::Incoming if is_last => {
                let why = "the tenant was stopped before its copy was here";
                return Err(JobError::Never(why.to_owned()));
            }
            Copy::Incoming => {
                progress.behind(None);
                self.bring(&way, &tenant, &line, progress).await?;
            }
            Copy::Following => {}
            Copy::Complete(Some(job)) | Copy::Followed(Some(job)) if job == order.id => {
                return Ok(());
            }
            // It was complete, and nobody has taken over: the tenant went on where it was.
            Copy::Followed(_) if !is_last => self.reopen(order, &tenant).await?,
            Copy::Complete(_) | Copy::Followed(_) => {
                let why = "the copy here is complete, and is never written again";
                return Err(JobError::Never(why.to_owned()));
            }
            Copy::Closed | Copy::Unrecorded => {
                return Err(again("the volumes for it are not made yet"));
            }
        }
        let copy = Standby {
            work: self,
            tenant: &tenant,
            of: &of,
            way: &way,
            line: &line,
            at: bring::cluster_at(&self.image(&tenant).await?),
        };
        copy.await_start().await?;
        match is_last {
            true => copy.complete(order, progress).await,
            false => tokio::select! {
                kept = copy.keep_up(order, progress, stands) => kept,
                // Its log is applied and goes; what it has written may only leave room enough.
                full = way.is_out_of_room(|| 0) => Err(full),
            },
        }
    }
}

impl Follow {
    /// `rate_bytes_per_s`: how fast a base backup may come; 0: as fast as it does.
    pub fn new(
        fetch: Arc<Fetch>,
        host: Arc<Host>,
        databases: Arc<dyn Databases>,
        rate_bytes_per_s: u64,
    ) -> Self {
        Self {
            fetch,
            host,
            databases,
            rate_bytes_per_s,
            lines: Lines::default(),
        }
    }

    /// A copy that was complete for an operation which went back follows again, for this job.
    async fn reopen(&self, order: &JobOrder, tenant: &TenantPlan) -> Attempt<()> {
        let (host, tenant, id) = (self.host.clone(), tenant.clone(), order.id);
        let recorded = blocking(move || copies::reopen_following(&host, &tenant, id)).await;
        match recorded.map_err(disk)? {
            true => Ok(()),
            false => Err(JobError::Never("the copy here was let go".to_owned())),
        }
    }
}

/// Sessions with both ends, begun anew after a question that failed.
#[derive(Default)]
struct Sessions {
    there: Option<Cluster>,
    here: Option<Cluster>,
    /// With the other end's own database of the tenant.
    own: Option<Cluster>,
    /// Its tables that would be empty here, and whether that was asked since the last pass.
    unlogged: (u32, bool),
    /// The last question failed, and that is told.
    has_failed: bool,
}

/// A copy whose PostgreSQL follows.
struct Standby<'a> {
    work: &'a Follow,
    tenant: &'a TenantPlan,
    of: &'a Of,
    way: &'a Way<'a>,
    line: &'a Line,
    /// Where the cluster lies in its volume: empty, or with a slash at its end.
    at: String,
}

impl Standby<'_> {
    /// Our own end's PostgreSQL.
    async fn here(&self, database: &str) -> Attempt<Cluster> {
        let socket = self.work.databases.connect(self.of).await;
        let socket = socket.map_err(|e| again(format!("the standby here: {e}")))?;
        Cluster::open(socket, database).await.map_err(again)
    }

    /// Waits until the standby answers: the tenant's loop starts it.
    async fn await_start(&self) -> Attempt<()> {
        let begin = Instant::now();
        let (mut pause, longest) = LOOKS;
        loop {
            let asked = async {
                let cluster = self.here("postgres").await?;
                cluster.number(sql::IS_STANDBY).await.map_err(again)
            };
            match asked.await {
                Ok(1) => return Ok(()),
                Ok(_) => {
                    let why = "what runs here is no standby: its own writes would be lost";
                    return Err(JobError::Never(why.to_owned()));
                }
                Err(why) if begin.elapsed() >= START => return Err(why),
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Brings what changes, and tells how long the tenant would pause and how far the copy is behind; until the order is another one.
    async fn keep_up(&self, order: &JobOrder, progress: &Progress, stands: bool) -> Attempt<()> {
        let (mut sessions, mut lag) = (Sessions::default(), Lag::default());
        loop {
            let (begun, passed) = (Instant::now(), self.way.pass().await?);
            if stands {
                // From now on it takes next to nothing.
                progress.let_others_begin();
            }
            sessions.unlogged.1 = false;
            let rest = Instant::now() + BETWEEN.0.max(passed.took * BETWEEN.1);
            let until = if stands {
                rest.max(begun + STANDING)
            } else {
                rest
            };
            loop {
                match self.behind(&mut sessions, stands).await {
                    Ok((written, applied)) => {
                        lag.note(Instant::now(), written, applied);
                        self.fill(order, progress).await?;
                        let missing = written.saturating_sub(applied);
                        progress.pause(Some(estimate_ms(passed.took, missing)));
                        if sessions.has_failed {
                            progress.tell("");
                        }
                        sessions.has_failed = false;
                    }
                    Err(JobError::Never(why)) => return Err(JobError::Never(why)),
                    // The standby follows on through the line, so that stays; only nobody is stopped by what is not known.
                    Err(JobError::Again(why)) => {
                        progress.pause(None);
                        progress.tell(&why);
                        sessions = Sessions {
                            has_failed: true,
                            unlogged: sessions.unlogged,
                            ..Sessions::default()
                        };
                    }
                }
                let now = Instant::now();
                let unlogged = sessions.unlogged.0;
                let behind = lag.behind(now, begun, sessions.has_failed);
                if let Some(behind) = behind {
                    progress.behind(Some(Behind { unlogged, ..behind }));
                }
                if now >= until {
                    break;
                }
                sleep((until - now).min(MEASURED)).await;
            }
        }
    }

    /// Where the other one's log ends, and how much of it the standby has applied.
    async fn behind(&self, sessions: &mut Sessions, stands: bool) -> Attempt<(u64, u64)> {
        let there = match sessions.there.take() {
            Some(there) => there,
            None => self.line.cluster("postgres").await.map_err(again)?,
        };
        if there.number(sql::KEPT).await.map_err(again)? == 0 {
            let why = if stands { LOST_STANDBY } else { LOST };
            return Err(JobError::Never(why.to_owned()));
        }
        self.ask_unlogged(sessions, stands).await?;
        let here = match sessions.here.take() {
            Some(here) => here,
            None => self.here("postgres").await?,
        };
        if here.number(sql::STREAMING).await.map_err(again)? == 0 {
            return Err(again(
                "the standby here does not receive the other host's log now",
            ));
        }
        let written = there.number(sql::WRITTEN).await.map_err(again)?;
        let applied = here.number(sql::APPLIED).await.map_err(again)?;
        (sessions.there, sessions.here) = (Some(there), Some(here));
        Ok((written, applied))
    }

    /// What would be empty here once this takes over. Before a tenant is stopped to come over it is asked each time, and then such a table
    /// keeps it where it is; of what is kept up for good it is only told, as that is better than no copy.
    async fn ask_unlogged(&self, sessions: &mut Sessions, stands: bool) -> Attempt<()> {
        if stands && sessions.unlogged.1 {
            return Ok(());
        }
        let own = match sessions.own.take() {
            Some(own) => own,
            None => {
                let database = self.tenant.name.database();
                self.line.cluster(&database).await.map_err(again)?
            }
        };
        let count = own.number(sql::UNLOGGED).await.map_err(again)?;
        if count > 0 && !stands {
            return Err(unlogged(count));
        }
        sessions.unlogged = (u32::try_from(count).unwrap_or(u32::MAX), true);
        // Nobody asks again for a while.
        sessions.own = Some(own).filter(|_| !stands);
        Ok(())
    }

    /// All of it was here, and it follows: once that is recorded, it may take over from a host that is lost.
    async fn fill(&self, order: &JobOrder, progress: &Progress) -> Attempt<()> {
        if progress.is_filled() {
            return Ok(());
        }
        let (host, tenant, id) = (self.work.host.clone(), self.tenant.clone(), order.id);
        let recorded = blocking(move || copies::fill(&host, &tenant, id)).await;
        if !recorded.map_err(disk)? {
            return Err(again("the copy is not wanted any more"));
        }
        progress.filled(true);
        Ok(())
    }

    /// The tenant has stopped: brings the rest, compares, and records that the copy is complete.
    async fn complete(&self, order: &JobOrder, progress: &Progress) -> Attempt<()> {
        let (passed, compared) = tokio::join!(self.way.pass(), self.compare());
        let (passed, sequences) = (passed?, compared?);
        if passed.gone > 0 {
            return Err(again(format!(
                "{} files changed although the tenant is stopped",
                passed.gone
            )));
        }
        progress.note(passed.skipped);
        let (host, tenant, id) = (self.work.host.clone(), self.tenant.clone(), order.id);
        let recorded = blocking(move || {
            takeover::keep(&host.directory(&tenant), &sequences)?;
            copies::complete_following(&host, &tenant, id)
        });
        match recorded.await.map_err(disk)? {
            true => Ok(()),
            false => Err(again("the copy is not wanted any more")),
        }
    }

    /// Whether the standby has all of the log, to the very end that the other one wrote when it was stopped; then what sequences stood
    /// at. A standby that lacks any of it never gets it: who was to send it has stopped.
    async fn compare(&self) -> Attempt<Vec<Sequence>> {
        let control = [path(&self.place(CONTROL_FILE))?];
        let read = self.way.database_files(&control, PAGE_BYTES as u64);
        let files = read.await?;
        let ended = files.first().and_then(|file| standby::control(file));
        let ended = ended.ok_or_else(|| again("the other host's pg_control is too short"))?;
        if !ended.is_shut_down {
            let why = "PostgreSQL on the other host was not shut down cleanly";
            return Err(JobError::Never(why.to_owned()));
        }
        let here = self.here("postgres").await?;
        let system = here.number(sql::SYSTEM).await.map_err(again)?;
        if system != ended.system {
            let why = "the standby here is of another database cluster";
            return Err(JobError::Never(why.to_owned()));
        }
        await_end(&here, &ended).await?;
        self.sequences().await
    }

    async fn sequences(&self) -> Attempt<Vec<Sequence>> {
        let database = self.tenant.name.database();
        let here = self.here(&database).await?;
        // It has the other one's catalogue to the very end: also a table that was made since it was last asked.
        let count = here.number(sql::UNLOGGED).await.map_err(again)?;
        if count > 0 {
            return Err(unlogged(count));
        }
        let found = here.sequences().await.map_err(again)?;
        let paths = found.iter().map(|(_, file)| path(&self.place(file)));
        let paths = paths.collect::<Attempt<Vec<_>>>()?;
        let pages = self.way.database_files(&paths, PAGE_BYTES as u64).await?;
        let read = found.iter().zip(&pages);
        let read = read.map(|((oid, file), page)| {
            let why = || JobError::Never(format!("{file} on the other host is no sequence's"));
            standby::sequence(*oid, page).ok_or_else(why)
        });
        read.collect()
    }

    /// Where a file of the cluster lies in its volume.
    fn place(&self, file: &str) -> String {
        format!("{}{file}", self.at)
    }
}

/// A tenant whose copy would lack some of its tables.
fn unlogged(count: u64) -> JobError {
    JobError::Never(format!(
        "{count} of its tables are UNLOGGED, and would be empty in a copy that follows: move it without `--max-pause`"
    ))
}

fn path(text: &str) -> Attempt<RelPath> {
    RelPath::parse(text.as_bytes()).map_err(|e| JobError::Never(format!("{text}: {e}")))
}

/// Waits until a standby has applied the checkpoint with which its source ended.
async fn await_end(here: &Cluster, ended: &Control) -> Attempt<()> {
    let begin = Instant::now();
    let (mut pause, longest) = LOOKS;
    loop {
        let applied = Lsn(here.number(sql::APPLIED).await.map_err(again)?);
        if applied > ended.checkpoint {
            return Ok(());
        }
        let received = Lsn(here.number(sql::RECEIVED).await.map_err(again)?);
        let lacks = received <= ended.checkpoint && begin.elapsed() >= longest;
        if lacks || begin.elapsed() >= APPLY {
            return Err(JobError::Never(format!(
                "the standby has {received} of the other host's log and has applied {applied}, which ends after {}",
                ended.checkpoint
            )));
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// How long a tenant would pause.
fn estimate_ms(pass: Duration, behind_bytes: u64) -> u32 {
    let pass = u64::try_from(pass.as_millis()).unwrap_or(u64::MAX);
    let whole = LEAST_PAUSE_MS
        .saturating_add(pass)
        .saturating_add(behind_bytes / APPLIED_PER_MS);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_what_is_missing() {
        let none = Duration::ZERO;
        assert_eq!(estimate_ms(none, 0), 2_000);
        assert_eq!(estimate_ms(Duration::from_millis(300), 0), 2_300);
        assert_eq!(estimate_ms(none, 160 << 20), 12_240);
        assert_eq!(estimate_ms(Duration::MAX, u64::MAX), u32::MAX);
    }
}
