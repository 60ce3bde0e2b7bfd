//! A tenant's copy that a job fills: where it is, whether it may be written, and the record that it is complete.
//!
//! `state.json` has two writers while a copy is incoming, the tenant's loop and the job; they take turns
//! ([`crate::host::Host::copies`]). Not here: filling it (jobs).

use std::{io, path::PathBuf, sync::PoisonError};

use isyone_proto::{ids::TenantName, plan::TenantPlan};
use uuid::Uuid;

use super::state_file;
use crate::{
    base::fsutil::{self, blocking},
    docker::DockerError,
    host::Host,
    plan::{
        container::{Container, LABEL_UID, Volume},
        state::{Database, TenantState},
    },
};

/// Both volumes of a tenant as directories of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub postgres: PathBuf,
    pub odoo: PathBuf,
}

/// What is known of a copy here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Its volumes wait for data, and may be written.
    Incoming,
    /// Its PostgreSQL runs on what has come, and follows the copy that runs elsewhere; its files may be written.
    Following,
    /// It is complete, by this job where one is known; it is never written again.
    Complete(Option<Uuid>),
    /// Likewise, but it followed another one and was never promoted: its tenant may start on it here, and nobody else has use for it.
    Followed(Option<Uuid>),
    /// It is not for a job to write, and not complete: not filled yet, or nobody knows what it holds.
    Closed,
    /// No record of it can be read: it is not made yet, or its record is lost.
    Unrecorded,
}

/// Why a tenant's volumes are no directories to read or write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlaces {
    #[error("volume {0} is missing")]
    Missing(String),
    #[error("volume {0} belongs to another tenant, or to nobody")]
    Foreign(String),
    #[error("volume {0} is no directory of this machine")]
    Elsewhere(String),
}

impl NoPlaces {
    /// Whether it stays so unless a person acts.
    pub fn is_for_good(&self) -> bool {
        !matches!(self, Self::Missing(_))
    }
}

/// Where a tenant's volumes are, if both are there, its own, and directories of this machine. The only place that knows.
pub async fn places(
    host: &Host,
    tenant: &TenantName,
    uid: Uuid,
) -> Result<Result<Places, NoPlaces>, DockerError> {
    let names = (tenant.postgres_volume(), tenant.odoo_volume());
    let (postgres, odoo) =
        tokio::try_join!(host.docker.volume(&names.0), host.docker.volume(&names.1))?;
    let places = match (
        place(names.0, postgres, uid),
        place(names.1.clone(), odoo, uid),
    ) {
        (Ok(postgres), Ok(odoo)) => Places { postgres, odoo },
        (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
    };
    let are_local = host.volumes_are_local().await?;
    Ok(are_local
        .then_some(places)
        .ok_or(NoPlaces::Elsewhere(names.1)))
}

fn place(name: String, volume: Option<Volume>, uid: Uuid) -> Result<PathBuf, NoPlaces> {
    match volume {
        None => Err(NoPlaces::Missing(name)),
        Some(volume) if volume.labels.get(LABEL_UID) != Some(&uid.to_string()) => {
            Err(NoPlaces::Foreign(name))
        }
        // What another driver keeps is at no path of ours.
        Some(volume) if volume.opaque => Err(NoPlaces::Elsewhere(name)),
        Some(volume) => Ok(volume.path().into()),
    }
}

/// Whether a container of the tenant runs, so that its files may change.
pub async fn is_up(host: &Host, tenant: &TenantName) -> Result<bool, DockerError> {
    for name in [
        tenant.postgres_container(),
        tenant.odoo_container(),
        crate::plan::stack::init_name(tenant),
    ] {
        let container = host.docker.container(&name).await?;
        if container.as_ref().is_some_and(Container::is_up) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a job has taken a copy further than a loop may know.
fn is_further(recorded: &TenantState) -> bool {
    recorded.is_whole() || recorded.follows()
}

/// What the record on disk says of a copy.
pub async fn find(host: &Host, plan: &TenantPlan) -> io::Result<Copy> {
    let (directory, plan) = (host.directory(plan), plan.clone());
    blocking(move || {
        Ok(match state_file::load(&directory, &plan) {
            Some(state) if state.database == Database::Incoming => Copy::Incoming,
            Some(state) if state.database == (Database::Following { complete: false }) => {
                Copy::Following
            }
            Some(state) if state.follows() => Copy::Followed(state.copied_by),
            Some(state) if state.is_whole() => Copy::Complete(state.copied_by),
            Some(_) => Copy::Closed,
            None => Copy::Unrecorded,
        })
    })
    .await
}

/// The highest timeline that a restore in its place, or a promotion, has begun. Blocking.
pub fn newest_timeline(host: &Host, plan: &TenantPlan) -> u32 {
    let state = state_file::load(&host.directory(plan), plan);
    state.map_or(0, |state| state.timeline)
}

/// Whether a copy waits for data now. Blocking.
pub fn is_incoming(host: &Host, plan: &TenantPlan) -> bool {
    let _turn = host.copies.lock().unwrap_or_else(PoisonError::into_inner);
    let state = state_file::load(&host.directory(plan), plan);
    state.is_some_and(|state| state.database == Database::Incoming)
}

/// Records durably that `job` has completed a copy; `false` when it is not incoming any more.
pub fn complete(host: &Host, plan: &TenantPlan, job: Uuid) -> io::Result<bool> {
    let whole = Database::Ready { synced: true };
    complete_as(host, plan, job, (whole, None))
}

/// Likewise, and what it has made of it: with which timeline its log goes on, where it is another than before.
pub fn complete_as(
    host: &Host,
    plan: &TenantPlan,
    job: Uuid,
    (whole, timeline): (Database, Option<u32>),
) -> io::Result<bool> {
    record(host, plan, &Database::Incoming, |state| {
        state.database = whole;
        state.copied_by = Some(job);
        state.timeline = state.timeline.max(timeline.unwrap_or_default());
    })
}

/// Records durably that what a job has brought so far is a database that follows; `false` when it is not incoming any more.
pub fn begin_following(host: &Host, plan: &TenantPlan) -> io::Result<bool> {
    record(host, plan, &Database::Incoming, |state| {
        state.database = Database::Following { complete: false };
        state.copied_by = None;
    })
}

/// Whether a copy follows and is a whole one.
pub async fn is_filled(host: &Host, plan: &TenantPlan) -> io::Result<bool> {
    let (directory, plan) = (host.directory(plan), plan.clone());
    let filled = move || state_file::load(&directory, &plan).is_some_and(|s| s.is_filled());
    blocking(move || Ok(filled())).await
}

/// Records durably that a copy which follows is a whole one, by this job; `false` when it does not follow any more.
pub fn fill(host: &Host, plan: &TenantPlan, job: Uuid) -> io::Result<bool> {
    let follows = Database::Following { complete: false };
    record(host, plan, &follows, |state| state.copied_by = Some(job))
}

/// Records durably that a copy which follows has all that the other one had; `false` when it does not follow any more.
pub fn complete_following(host: &Host, plan: &TenantPlan, job: Uuid) -> io::Result<bool> {
    let from = Database::Following { complete: false };
    record(host, plan, &from, |state| {
        state.database = Database::Following { complete: true };
        state.copied_by = Some(job);
    })
}

/// Records durably that a copy which had all that the other one had follows it again, by this job: what it was to take over from has
/// gone on. `false` when it does not follow, or was fenced meanwhile.
pub fn reopen_following(host: &Host, plan: &TenantPlan, job: Uuid) -> io::Result<bool> {
    let from = Database::Following { complete: true };
    let mut is_fenced = false;
    let recorded = record(host, plan, &from, |state| {
        is_fenced = state.fenced_at.is_some();
        if !is_fenced {
            state.database = Database::Following { complete: false };
            state.copied_by = Some(job);
        }
    })?;
    Ok(recorded && !is_fenced)
}

fn record(
    host: &Host,
    plan: &TenantPlan,
    from: &Database,
    change: impl FnOnce(&mut TenantState),
) -> io::Result<bool> {
    let _turn = host.copies.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = host.directory(plan);
    let Some(mut state) = state_file::load(&directory, plan).filter(|s| s.database == *from) else {
        return Ok(false);
    };
    change(&mut state);
    state_file::save(&state, &directory, true)?;
    Ok(true)
}

/// Changes a state in the loop's memory and writes it. While a copy is incoming that takes turns with a job, whose record
/// of the end wins over whatever the loop still believed.
pub(super) fn save(
    host: &Host,
    state: &mut TenantState,
    plan: &TenantPlan,
    durable: bool,
    change: impl FnOnce(&mut TenantState),
) -> io::Result<()> {
    let directory = host.directory(plan);
    let turn = (state.database == Database::Incoming || state.follows())
        .then(|| host.copies.lock().unwrap_or_else(PoisonError::into_inner));
    let recorded = turn
        .as_ref()
        .and_then(|_turn| state_file::load(&directory, plan));
    let believed = state.database.clone();
    change(state);
    if let Some(recorded) = recorded.filter(is_further) {
        // It only ever rises.
        state.timeline = state.timeline.max(recorded.timeline);
        // What the change itself decides, such as a promotion, is newer than any record.
        if state.database == believed {
            state.database = recorded.database;
            state.copied_by = recorded.copied_by;
        }
    }
    fsutil::private_dir(&directory)?;
    state_file::save(state, &directory, durable)
}

#[cfg(test)]
mod tests {
    use isyone_proto::plan::{DesiredState, Seed};

    use super::*;
    use crate::{
        base::config::DataDir,
        host::Pace,
        testing::{fake_docker::FakeDocker, tenant_plan},
    };

    fn host_in(dir: &std::path::Path) -> (Host, std::sync::Arc<FakeDocker>) {
        let data = DataDir::new(dir.join("agent"));
        data.create().unwrap();
        let docker = FakeDocker::new(dir, 1);
        let advertise = [127, 0, 0, 1].into();
        let host = Host::new(
            docker.clone(),
            docker.clone(),
            data,
            advertise,
            Pace::hasty(),
        );
        (host.unwrap(), docker)
    }

    /// A copy for which a job may bring data.
    fn incoming(host: &Host) -> (TenantPlan, TenantState) {
        let mut plan = tenant_plan("alfa");
        plan.desired = DesiredState::Standby;
        plan.seed = Seed::Peer("h1".parse().unwrap());
        let mut state = TenantState::new(&plan);
        save(host, &mut state, &plan, true, |s| {
            s.database = Database::Incoming;
        })
        .unwrap();
        (plan, state)
    }

    #[tokio::test]
    async fn what_a_loop_decides_is_newer_than_what_a_job_has_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let (host, _docker) = host_in(dir.path());
        let (plan, mut state) = incoming(&host);
        let job = Uuid::from_u128(7);
        assert!(!complete_following(&host, &plan, job).unwrap());
        assert!(begin_following(&host, &plan).unwrap());
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Following);
        save(&host, &mut state, &plan, false, |s| s.epoch = 7).unwrap();
        assert_eq!(state.database, Database::Following { complete: false });
        // A whole one, which its loop does not know of yet.
        assert!(!is_filled(&host, &plan).await.unwrap());
        let first = Uuid::from_u128(6);
        assert!(fill(&host, &plan, first).unwrap());
        save(&host, &mut state, &plan, false, |s| s.epoch = 7).unwrap();
        assert!(state.is_filled() && is_filled(&host, &plan).await.unwrap());
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Following);
        assert!(complete_following(&host, &plan, job).unwrap());
        assert!(!fill(&host, &plan, first).unwrap(), "it is complete");
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Followed(Some(job)));
        save(&host, &mut state, &plan, false, |s| s.epoch = 8).unwrap();
        assert_eq!(state.database, Database::Following { complete: true });
        // The tenant went on where it was: its copy follows again, and is complete in the end.
        assert!(reopen_following(&host, &plan, first).unwrap());
        assert!(
            !reopen_following(&host, &plan, first).unwrap(),
            "it follows"
        );
        save(&host, &mut state, &plan, false, |s| s.epoch = 8).unwrap();
        assert_eq!(state.database, Database::Following { complete: false });
        assert!(state.is_filled(), "it was whole, and is");
        assert!(complete_following(&host, &plan, job).unwrap());
        save(&host, &mut state, &plan, false, |s| s.fenced_at = Some(1)).unwrap();
        assert!(
            !reopen_following(&host, &plan, first).unwrap(),
            "it was let go"
        );
        save(&host, &mut state, &plan, false, |s| s.fenced_at = None).unwrap();
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Followed(Some(job)));
        save(&host, &mut state, &plan, true, |s| {
            s.database = Database::Ready { synced: true };
            s.timeline = 2;
        })
        .unwrap();
        assert!(state.is_ready() && state.epoch == 8 && state.copied_by == Some(job));
        assert_eq!(newest_timeline(&host, &plan), 2);

        // A restore is complete, and is given up at the same moment.
        let (plan, mut state) = incoming(&host);
        let whole = Database::Ready { synced: true };
        assert!(complete_as(&host, &plan, job, (whole, Some(3))).unwrap());
        save(&host, &mut state, &plan, true, |s| {
            s.database = Database::Doubtful;
        })
        .unwrap();
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Closed);
        assert_eq!(state.timeline, 3, "its segments may be somewhere");
    }

    #[tokio::test]
    async fn the_end_of_a_copy_survives_a_loop_that_does_not_know_of_it_yet() {
        let dir = tempfile::tempdir().unwrap();
        let (host, docker) = host_in(dir.path());
        let mut plan = tenant_plan("alfa");
        plan.desired = DesiredState::Standby;
        plan.seed = Seed::Peer("h1".parse().unwrap());
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Unrecorded);
        let job = Uuid::from_u128(7);
        assert!(!complete(&host, &plan, job).unwrap(), "there is none");
        let mut state = TenantState::new(&plan);
        save(&host, &mut state, &plan, true, |s| {
            s.database = Database::Incoming;
        })
        .unwrap();
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Incoming);
        let stale = state.clone();
        assert!(complete(&host, &plan, job).unwrap());
        assert!(!complete(&host, &plan, Uuid::nil()).unwrap(), "once");
        save(&host, &mut state, &plan, false, |s| *s = stale).unwrap();
        assert_eq!(state.database, Database::Ready { synced: true });
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Complete(Some(job)));
        // The volumes count only where they are this very tenant's.
        let volumes = [plan.name.postgres_volume(), plan.name.odoo_volume()];
        for (labels, ours) in [
            ([plan.uid, plan.uid], true),
            ([plan.uid, Uuid::nil()], false),
            ([Uuid::nil(), plan.uid], false),
        ] {
            for (volume, uid) in volumes.iter().zip(labels) {
                let labels = [(LABEL_UID.to_owned(), uid.to_string())].into();
                docker.find_volume(volume, labels);
            }
            let found = places(&host, &plan.name, plan.uid).await.unwrap();
            assert_eq!(found.is_ok(), ours, "{labels:?}");
        }
        plan.uid = Uuid::nil();
        assert_eq!(find(&host, &plan).await.unwrap(), Copy::Unrecorded);
    }
}
