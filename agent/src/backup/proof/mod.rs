//! Proofs: a job that restores a backup where nobody uses it, looks whether all of it is as it was written, names what is not, and
//! throws it away. It runs on any host with room, which need not have the tenant.
//!
//! One at a time on a host. What it has restored is removed at every end, also when nobody waits for it any more, and by the next agent
//! where one dies in between. A damage is a result; only what keeps it from being found is a failure, and whether that is tried again, and
//! where, is the coordinator's to say. Not here: what is looked at (look), when a proof is due (the coordinator).

mod look;
mod room;

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc, Mutex as Held, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use isyone_backup::Stop;
use isyone_proto::{
    backup::Fault,
    ids::TenantName,
    plan::{JobOrder, JobWork, Role},
    proof::{MAX_DAMAGE_BYTES, MAX_DAMAGES, MAX_LEFT_OUT, Proof, VerifyOrder},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::async_trait;

use self::room::Watched;
use super::{
    put::StopWhenDropped,
    restore::{Ground, Restore},
    words::Problem,
};
use crate::{
    base::{
        clock::now_ms,
        fsutil::{self, blocking},
        tree,
    },
    jobs::{JobError, Progress, Work},
    plan::{design, facts::ImageFacts, recovery::Purpose},
};

/// How often progress is shown.
const SHOW: Duration = Duration::from_secs(1);
/// Between attempts to remove what an agent that died has left.
const SWEEP_AGAIN: Duration = Duration::from_secs(30);

/// Carries out orders to prove backups.
#[derive(Clone)]
pub struct Verify {
    restore: Restore,
    /// Held by the one that is under way.
    turn: Arc<Mutex<()>>,
}

#[async_trait]
impl Work for Verify {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError> {
        let JobWork::Verify(verify) = &order.work else {
            return Err(JobError::Never("no order to prove a backup".to_owned()));
        };
        match self.verify(&order.tenant, verify, progress).await {
            Ok(proof) => {
                progress.begin(proof.bytes, proof.bytes);
                progress.note(told(&proof));
                progress.proven(proof);
                Ok(())
            }
            // Another host may do better, or another hour.
            Err(problem) => {
                progress.failed(problem.fault);
                let of = &verify.restore.destination.name;
                Err(JobError::Never(format!("{of}: {}", problem.message)))
            }
        }
    }
}

impl Verify {
    pub fn new(restore: Restore) -> Self {
        Self {
            restore,
            turn: Arc::default(),
        }
    }

    async fn verify(
        &self,
        tenant: &TenantName,
        order: &VerifyOrder,
        progress: &Progress,
    ) -> Result<Proof, Problem> {
        let turn = self.turn.clone().lock_owned().await;
        let stop = Stop::default();
        let _stops = StopWhenDropped(stop.clone());
        let mut room = Watched::new(self.restore.scratch().await?, self.restore.reserve);
        let proving = Proving {
            restore: self.restore.clone(),
            order: order.clone(),
            tenant: tenant.clone(),
            stop: stop.clone(),
            shown: Arc::default(),
        };
        let shown = proving.shown.clone();
        // A task of its own: it cleans up also when nobody waits for it any more.
        let mut work = tokio::spawn(proving.run(turn));
        let mut over = None;
        loop {
            tokio::select! {
                // A panic is caught where it happens: what comes here is an answer.
                proven = &mut work => {
                    let proven = proven.map_err(|_| Problem::stopped())?;
                    return proven.map_err(|problem| over.unwrap_or(problem));
                }
                () = sleep(SHOW) => shown.tell(progress),
            }
            if over.is_none() {
                over = room.look(shown.total.load(Ordering::Relaxed)).await;
                if over.is_some() {
                    stop.stop();
                }
            }
        }
    }

    /// Removes what an agent that died in the middle of a proof has left, for as long as that takes. No proof begins meanwhile.
    pub async fn sweep(self, stop: CancellationToken) {
        let turn = self.turn.lock().await;
        loop {
            match self.restore.clear().await {
                Ok(()) => break,
                Err(problem) => {
                    let why = &problem.message;
                    tracing::warn!("what a proof may have left is not removed yet: {why}");
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(SWEEP_AGAIN) => {}
            }
        }
        drop(turn);
    }
}

/// What is asked of a restore by a proof alone.
impl Restore {
    fn purpose(&self) -> Purpose {
        Purpose::Proof {
            host: self.backups.name.clone(),
        }
    }

    /// Where a proof restores to: on the disk of tenants' data, and not among it.
    async fn scratch(&self) -> Result<PathBuf, Problem> {
        let homes = self.backups.host.homes().await?;
        let scratch = homes.proofs().join(self.backups.name.as_str());
        let there = blocking(move || homes.check()).await;
        there.map_err(|e| Problem::new(Fault::NotNow, e.to_string()))?;
        Ok(scratch)
    }

    /// Nothing of a proof runs any more, and nothing that it has restored is left.
    async fn clear(&self) -> Result<(), Problem> {
        self.servers.clear(&self.purpose()).await?;
        let scratch = self.scratch().await?;
        // Its files are a tenant's, nested as deep as that one has liked.
        let removed = blocking(move || match fsutil::exists(&scratch) {
            true => tree::remove_all(&scratch),
            false => Ok(()),
        });
        let failed = |e| Problem::disk("what a proof has restored cannot be removed", &e);
        removed.await.map_err(failed)
    }
}

/// How far it is.
#[derive(Default)]
struct Shown {
    done: AtomicU64,
    total: AtomicU64,
    doing: Held<&'static str>,
}

impl Shown {
    fn say(&self, doing: &'static str) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    fn tell(&self, progress: &Progress) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        progress.begin(read(&self.done), read(&self.total));
        progress.tell(*self.doing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A proof under way.
struct Proving {
    restore: Restore,
    order: VerifyOrder,
    tenant: TenantName,
    stop: Stop,
    shown: Arc<Shown>,
}

impl Proving {
    async fn run(self, turn: OwnedMutexGuard<()>) -> Result<Proof, Problem> {
        let proven = AssertUnwindSafe(self.prove()).catch_unwind().await;
        if let Err(problem) = self.restore.clear().await {
            // The next proof removes it before it begins, and so does the next agent.
            let why = &problem.message;
            tracing::error!(tenant = %self.tenant, "what a proof has restored is left: {why}");
        }
        drop(turn);
        let panicked = |_| Problem::new(Fault::Other, "the agent's own error; see its log");
        proven.map_err(panicked)?
    }

    async fn prove(&self) -> Result<Proof, Problem> {
        self.restore.clear().await?;
        let reference = self.order.postgres_image.as_str();
        let image = self.restore.image(reference, Role::Postgres).await?;
        let scratch = self.restore.scratch().await?;
        let ground = self.ground(scratch.clone(), &image).await?;
        let mut found = Found::default();
        let looked = self.look(&ground, image, scratch, &mut found).await;
        match looked {
            _ if self.stop.is_stopped() => return Err(Problem::stopped()),
            Ok(()) => found.judge(None)?,
            Err(problem) => found.judge(Some(problem))?,
        }
        Ok(found.proof(&self.order))
    }

    async fn ground(&self, scratch: PathBuf, image: &ImageFacts) -> Result<Ground, Problem> {
        let nowhere = || {
            let why = "this image of PostgreSQL keeps its data elsewhere than in its volume";
            Problem::new(Fault::Other, why)
        };
        let ground = Ground {
            cluster: design::cluster_in_volume(image).ok_or_else(nowhere)?,
            postgres: scratch.join("pgdata"),
            postgres_owner: (image.uid, image.gid),
            major: image.postgres_major.clone(),
            odoo: scratch.join("odoo"),
            // Nobody but the agent reads them.
            odoo_owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            log: scratch.join("log"),
            name: self.tenant.clone(),
            disk_bytes: self.order.disk_bytes,
            reserve: self.restore.reserve,
            newest_timeline: 0,
            still: Arc::new(|| true),
        };
        let folders = [ground.postgres.clone(), ground.odoo.clone()];
        let owner = ground.postgres_owner;
        let made = blocking(move || {
            for place in scratch.parent().into_iter().chain([scratch.as_path()]) {
                fsutil::make_directories(place)?;
                fsutil::set_mode(place, 0o700)?;
            }
            folders
                .iter()
                .try_for_each(|place| fsutil::private_dir(place))?;
            // As all in it is: what looks at it before PostgreSQL starts is no root.
            fsutil::give_directory(&folders[0], owner)
        });
        let failed = |e| Problem::disk("there is no place to restore it to", &e);
        made.await.map_err(failed)?;
        Ok(ground)
    }
}

/// Whether it is the backup's fault and not the host's or the way's.
fn is_damage(problem: &Problem) -> bool {
    matches!(problem.fault, Fault::Damaged | Fault::WrongKey)
}

/// What has been found so far.
#[derive(Debug, Default)]
struct Found {
    damages: Vec<String>,
    more: u32,
    left_out: Vec<String>,
    /// Something of the database is damaged, or of its log.
    is_broken: bool,
    base_at: i64,
    reached: Option<i64>,
    relations: u64,
    attachments: u64,
    bytes: u64,
    /// What has kept a part from being looked at: without a damage it is no proof then.
    kept_from: Option<Problem>,
}

impl Found {
    /// Whether it is a proof. What is known to be broken stays so whatever the host does; else the host's own trouble, or the way's, is no
    /// word on the backup.
    fn judge(&mut self, ended: Option<Problem>) -> Result<(), Problem> {
        match ended.or(self.kept_from.take()) {
            None => {}
            Some(problem) if is_damage(&problem) => self.damage(problem.message),
            Some(problem) if self.is_broken => {
                self.leave_out(&format!("the rest: {}", problem.message));
            }
            Some(problem) => return Err(problem),
        }
        Ok(())
    }

    /// Something without which what is restored is not what was backed up.
    fn damage(&mut self, name: impl Into<String>) {
        self.is_broken = true;
        self.name(name);
    }

    /// A file that the tenant itself may have lost, or a number that is odd: the rest is whole.
    fn flaw(&mut self, name: impl Into<String>) {
        self.name(name);
    }

    /// The same, found in two ways, is named once.
    fn name(&mut self, name: impl Into<String>) {
        let name = shortened(name.into());
        if self.damages.contains(&name) {
            return;
        }
        match self.damages.len() < MAX_DAMAGES {
            true => self.damages.push(name),
            false => self.more = self.more.saturating_add(1),
        }
    }

    fn all(&mut self, names: Vec<String>) {
        names.into_iter().for_each(|name| self.damage(name));
    }

    fn leave_out(&mut self, what: &str) {
        if self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.push(shortened(what.to_owned()));
        }
    }

    fn proof(self, order: &VerifyOrder) -> Proof {
        Proof {
            base: order.restore.base,
            base_at: self.base_at,
            reached: self.reached,
            ended_at: now_ms(),
            is_restorable: !self.is_broken,
            damages: self.damages,
            more: self.more,
            left_out: self.left_out,
            relations: self.relations,
            attachments: self.attachments,
            bytes: self.bytes,
        }
    }
}

fn shortened(mut text: String) -> String {
    let mut end = text.len().min(MAX_DAMAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// What was found, in words.
fn told(proof: &Proof) -> String {
    let mut said = match proof.is_good() {
        true => format!(
            "{}: {} tables and indexes, {} attachments' files",
            match proof.left_out.is_empty() {
                true => "proven",
                false => "proven in part",
            },
            proof.relations,
            proof.attachments
        ),
        false if proof.is_restorable => format!("incomplete: {}", proof.damages.join("; ")),
        false => format!("damaged: {}", proof.damages.join("; ")),
    };
    if proof.more > 0 {
        said += &format!("; and {} more", proof.more);
    }
    if !proof.left_out.is_empty() {
        said += &format!(" (not looked at: {})", proof.left_out.join("; "));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if Docker that is away, or our own disk, makes a backup a damaged one.
    #[test]
    fn the_hosts_trouble_is_no_word_on_a_backup() {
        let away = || Problem::new(Fault::Source, "Docker does not answer");
        let mut found = Found::default();
        found.flaw("file ab/abcd is missing");
        assert_eq!(found.judge(Some(away())), Err(away()));
        found.kept_from = Some(away());
        assert_eq!(found.judge(None), Err(away()));
        assert!(!found.is_broken && found.damages.len() == 1);
        found.damage("table public.rows, block 7");
        found.kept_from = Some(away());
        assert_eq!(found.judge(None), Ok(()));
        assert_eq!(found.damages.len(), 2, "it is no damage of its own");
        assert!(found.left_out[0].contains("Docker"), "{:?}", found.left_out);
        let mut found = Found::default();
        let damage = Problem::new(Fault::Damaged, "content cannot be read");
        assert_eq!(found.judge(Some(damage)), Ok(()));
        assert!(found.is_broken);
    }

    #[test]
    fn damages_are_named_once_bounded_and_counted() {
        let mut found = Found::default();
        for number in 0..MAX_DAMAGES + 3 {
            found.damage(format!("table public.x, block {number}"));
            found.damage(format!("table public.x, block {number}"));
        }
        assert_eq!(found.damages.len(), MAX_DAMAGES);
        assert_eq!(found.more, 6, "what is not remembered cannot be compared");
        let mut long = Found::default();
        long.damage("ä".repeat(MAX_DAMAGE_BYTES));
        assert!(long.damages[0].len() <= MAX_DAMAGE_BYTES);
    }
}
