//! Looking at a tenant: what Docker, the disk and the programs inside say, and what the plan makes of it.
//!
//! Not here: comparing the two (diff).

use std::{io, path::Path, sync::Arc};

use isyone_proto::plan::{DesiredState, Role};
use sha2::{Digest as _, Sha256};

use super::{Result, Tenant, TenantError, TenantView, data, database, turn::ASK};
use crate::{
    base::{
        beneath::{RelPath, Root},
        fsutil::{self, blocking},
    },
    docker::{self, Survey},
    host::homes::Pointers,
    plan::{
        container::Container,
        design,
        diff::{self, Observed},
        facts::{HostFacts, ImageFacts, Images},
        home::{self, Home, Lies},
        pins::Wanted,
        sql,
        stack::{self, Stack},
        state::MasterHash,
    },
};

/// Enough for any version of PostgreSQL in `PG_VERSION`.
const MAJOR_BYTES: u64 = 16;
/// Why a plan's limits on the device do not hold.
const NO_DEVICE: &str =
    "tenants' data is on no device that the kernel limits: device_* of plans do not hold here";
/// Newest major version that a directory is looked for of; there is one a year, and 18 is of 2025.
const MAX_MAJOR: u32 = 40;

impl Tenant {
    /// Asks Docker, the disk and the programs inside for the current state. What the whole host has in common may come
    /// from a `survey`, which is newer than anything this tenant's loop has done.
    pub async fn look(&self, survey: Option<Arc<Survey>>) -> Result<TenantView> {
        let mut facts = self.host.facts().await?;
        if self.plan.size.limits_device() {
            let lacks = facts.data_device.is_none();
            let warning = if lacks { NO_DEVICE } else { "" };
            self.host.board.set_warning("device", warning);
        }
        let mut observed = self.find(survey).await?;
        observed.set_foreign_aside();
        observed.home = self.home(&observed).await?;
        facts.home = observed.home.as_ref().map(|home| home.path.clone());
        self.lock()
            .get_or_insert_with(|| diff::adopt(&self.plan, &observed));
        self.heed_history()?;
        (observed.data_major, observed.pgdata_empty) = self.postgres_data(&observed).await?;
        let mut stack = None;
        if let (Some(odoo), Some(postgres)) = (&observed.odoo_image, &observed.postgres_image) {
            let images = Images {
                odoo: odoo.clone(),
                postgres: postgres.clone(),
            };
            let rendered = self.render(&facts, images).await;
            observed.files_current = files_are_current(&self.directory(), &rendered);
            // Only needed to fill a database.
            observed.golden = !self.state().is_whole()
                && self.host.golden.find(&rendered.golden_key).is_some()
                && self.host.volumes_are_local().await?;
            stack = Some(rendered);
        }
        self.ask(&mut observed).await;
        observed.host_full = self.host.board.full();
        observed.cut_off = self.cut_off();
        observed.elsewhere = self.is_elsewhere();
        self.count_strangers(&mut observed, stack.as_ref()).await;
        Ok(TenantView { observed, stack })
    }

    /// Finds by name what exists: containers, network, volumes, images, directory.
    async fn find(&self, survey: Option<Arc<Survey>>) -> Result<Observed> {
        let (docker, plan) = (&self.host.docker, &self.plan);
        let names = (
            plan.name.project(),
            plan.name.postgres_container(),
            plan.name.odoo_container(),
            stack::init_name(&plan.name),
        );
        let volumes = (plan.name.postgres_volume(), plan.name.odoo_volume());
        let listed = survey.clone();
        let containers = async {
            tokio::try_join!(
                self.container(&names.1, listed.as_deref()),
                self.container(&names.2, listed.as_deref())
            )
        };
        let rest = async {
            match survey {
                // Somebody else's container of this name has no label, so no survey lists it; that matters only for
                // initialising.
                Some(s) if self.state().is_ready() && !s.containers.contains_key(&names.3) => Ok((
                    s.networks.get(&names.0).cloned(),
                    s.volumes.get(&volumes.0).cloned(),
                    s.volumes.get(&volumes.1).cloned(),
                    None,
                )),
                _ => tokio::try_join!(
                    docker.network(&names.0),
                    docker.volume(&volumes.0),
                    docker.volume(&volumes.1),
                    docker.container(&names.3),
                ),
            }
        };
        let stuck = {
            let starts = self.host.starts();
            let mut roles = vec![Role::Postgres, Role::Odoo];
            roles.retain(|role| starts.is_stuck(&self.container_name(*role)));
            roles
        };
        let ((postgres, odoo), (network, postgres_volume, odoo_volume, init)) =
            tokio::try_join!(containers, rest)?;
        let (postgres_image, odoo_image) =
            tokio::try_join!(self.image(Role::Postgres), self.image(Role::Odoo))?;
        Ok(Observed {
            network,
            postgres,
            odoo,
            init,
            postgres_volume,
            odoo_volume,
            postgres_image,
            odoo_image,
            stuck,
            directory: fsutil::is_directory(&self.directory()),
            ..Default::default()
        })
    }

    /// A container: recalled from the survey if there is enough proof, else requested from the engine. (So is one that
    /// the survey does not list: it may be somebody else's.)
    async fn container(
        &self,
        name: &str,
        survey: Option<&Survey>,
    ) -> docker::Result<Option<Container>> {
        let known = &self.host.known;
        let listed = survey.and_then(|s| s.containers.get(name));
        if let Some(container) = listed.and_then(|listed| known.recall(name, listed)) {
            return Ok(Some(container));
        }
        let found = self.host.docker.container(name).await?;
        known.learn(name, found.as_ref());
        Ok(found)
    }

    /// Where its data lies or is to lie; `None` if this machine does not see Docker's volumes. That is only found out, once,
    /// when something depends on it.
    async fn home(&self, observed: &Observed) -> Result<Option<Home>> {
        let homes = self.host.homes().await?;
        let (name, uid) = (self.name().clone(), self.plan.uid);
        let pointers = Pointers {
            postgres: observed.postgres_volume.clone(),
            odoo: observed.odoo_volume.clone(),
            remembered: self.state().home,
        };
        let found = blocking(move || homes.look(&name, uid, &pointers)).await;
        let mut home = found.map_err(TenantError::disk("the tenant's home cannot be looked at"))?;
        if home.has_stuck_data() {
            data::tell_left(self, "it is on another mount than the tenants' homes");
        }
        if self.host.leaves_data(uid) {
            (home.postgres.movable, home.odoo.movable) = (false, false);
        }
        let fills = self.plan.desired == DesiredState::Running && !self.state().is_ready();
        let depends = [Role::Postgres, Role::Odoo].into_iter().any(|role| {
            match home::lies(Some(&home), observed.volume(role), role) {
                Lies::Home | Lies::Apart => home.data(role).doubled,
                Lies::Nowhere => fills,
                Lies::Unrecorded | Lies::Misrecorded | Lies::InDocker | Lies::Gone => true,
            }
        });
        let seen = !depends || self.host.volumes_are_local().await?;
        Ok(seen.then_some(home))
    }

    /// The major version of the data, and whether there is none, if PostgreSQL's container is about to be created or started
    /// on it.
    async fn postgres_data(&self, observed: &Observed) -> Result<(Option<String>, bool)> {
        let image = observed.postgres_image.as_ref().map(|i| &i.id);
        let stays = observed
            .postgres
            .as_ref()
            .is_some_and(|c| c.is_up() && Some(&c.image_id) == image);
        let Some(volume) = observed
            .postgres_volume
            .as_ref()
            .filter(|_| !stays && self.state().is_ready())
        else {
            return Ok((None, false));
        };
        // A directory of ours is there or not; one of Docker's of this name may be another engine's.
        if volume.device.is_none() && !self.host.volumes_are_local().await? {
            return Ok((None, false));
        }
        let directory = Path::new(volume.path()).to_owned();
        let found = blocking(move || {
            let Ok(root) = Root::open(&directory) else {
                return Ok((None, false)); // what cannot be read is not known to be empty
            };
            let major = major_in(&root).ok().flatten();
            Ok((major, root.is_empty().unwrap_or(false)))
        });
        found
            .await
            .map_err(TenantError::disk("the tenant's data cannot be looked at"))
    }

    /// Heeds what the plan and our own memory know of the past, so that neither a lost `state.json` nor a coordinator
    /// whose database was set back costs data.
    fn heed_history(&self) -> Result<()> {
        let (plan, state) = (&self.plan, self.state());
        let mut heeded = state.clone();
        if diff::heed(plan, self.stale, &mut heeded) {
            self.remember(true, |s| *s = heeded)?;
        }
        let wanted = matches!(
            plan.desired,
            DesiredState::Running | DesiredState::Suspended
        );
        if wanted && plan.generation > state.wanted_generation {
            self.remember(true, |s| s.wanted_generation = plan.generation)?;
        }
        Ok(())
    }

    /// The image that this tenant is to run: the one that its reference meant when it was asked for, whatever it means by now. `None`
    /// also where that is to be found out anew.
    async fn image(&self, role: Role) -> Result<Option<ImageFacts>> {
        let wanted = Wanted::of(&self.plan, role);
        let images = &self.host.images;
        let known = self.lock().clone();
        if known.as_ref().is_some_and(|s| s.asks_anew(role, &wanted)) {
            return Ok(None);
        }
        let Some(pin) = known.as_ref().and_then(|s| s.pinned(role, &wanted)) else {
            return Ok(images.facts(wanted.reference, role).await?);
        };
        let found = images.facts(&pin.id, role).await?;
        if found.is_none() && known.as_ref().is_some_and(|s| !s.is_ready()) {
            // It has no data yet that another one would have to fit.
            return Ok(images.facts(wanted.reference, role).await?);
        }
        if let (None, Some(image)) = (&pin.left, &found) {
            self.remember(false, |s| s.learn(role, &wanted, image))?;
        }
        Ok(found)
    }

    async fn render(&self, facts: &HostFacts, images: Images) -> Stack {
        let secret = self.plan.secrets.master_password.expose();
        let of = hex::encode(Sha256::digest(format!("{} {secret}", self.plan.uid)));
        let known = self.state().master_hash.filter(|known| known.of == of);
        let hash = match known {
            Some(known) => known.hash,
            None => {
                let (secret, uid) = (secret.to_owned(), self.plan.uid);
                // Slow on purpose, so it does not run on the runtime's threads; only a panic can make it fail.
                let hash =
                    tokio::task::spawn_blocking(move || sql::password_hash(&secret, uid, "master"))
                        .await
                        .unwrap_or_default();
                if let Some(state) = self.lock().as_mut() {
                    state.master_hash = Some(MasterHash {
                        of,
                        hash: hash.clone(),
                    });
                }
                hash
            }
        };
        design::stack(&self.plan, facts, &images, &hash)
    }

    /// Probes the programs that are up.
    async fn ask(&self, observed: &mut Observed) {
        let probe = &self.host.probe;
        let postgres = async {
            match observed.postgres.as_ref().filter(|c| c.is_up()) {
                Some(container) => probe.postgres(container).await.is_ok(),
                None => false,
            }
        };
        let odoo = async {
            match observed.odoo.as_ref().filter(|c| c.is_up()) {
                Some(container) => Some(probe.odoo(container).await),
                None => None,
            }
        };
        let both = async { tokio::join!(postgres, odoo) };
        let (postgres_ready, odoo_health) = self.turn.at_most(ASK, both).await;
        observed.postgres_ready = postgres_ready;
        observed.odoo_health = odoo_health;
    }
}

impl Tenant {
    /// Who is connected to the PostgreSQL of a tenant whose disk is full and whose Odoo is stopped: that comes first. What cannot be counted is not ended either: the disk's
    /// next border still holds.
    async fn count_strangers(&self, observed: &mut Observed, stack: Option<&Stack>) {
        let disk = self.disk_state();
        let counts = disk.stops_odoo() && !disk.stops_postgres();
        let asks = counts
            && observed.postgres_ready
            && !observed.is_up(Role::Odoo)
            && self.plan.desired == DesiredState::Running
            && self.state().is_ready()
            && stack.is_some_and(|stack| !stack.standin);
        if !asks {
            return;
        }
        match database::count_sessions(self).await {
            Ok(count) => observed.strangers = count,
            Err(e) => {
                tracing::warn!(tenant = %self.name(), "who fills its disk cannot be found out: {e}");
            }
        }
    }
}

/// The major version of the cluster in PostgreSQL's volume: in its top directory, or since 18 in `<major>/docker`. Of two
/// clusters, no image opens both; which one is the tenant's nobody knows.
fn major_in(root: &Root) -> io::Result<Option<String>> {
    let path = |text: String| RelPath::parse(text.as_bytes()).map_err(io::Error::other);
    let majors = (18..=MAX_MAJOR).map(|major| format!("{major}/docker/PG_VERSION"));
    let mut found = None;
    for place in std::iter::once("PG_VERSION".to_owned()).chain(majors) {
        let text = match root.text(&path(place)?, MAJOR_BYTES) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            text => text?,
        };
        // A tenant may have written anything there, and what it says goes into messages.
        let major = text.trim().parse::<u32>().map(|major| major.to_string());
        let major = major.unwrap_or_else(|_| "unknown".to_owned());
        found = Some(match found {
            Some(_) => "several".to_owned(),
            None => major,
        });
    }
    Ok(found)
}

/// True when all rendered files on disk are up to date.
fn files_are_current(directory: &Path, stack: &Stack) -> bool {
    stack.files.iter().all(|f| {
        fsutil::is_current(
            &directory.join(&f.name),
            f.content.as_bytes(),
            0o600,
            f.owner,
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_cluster_is_found_in_both_layouts_and_two_are_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let put = |place: &str, text: &str| {
            let at = dir.path().join(place);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        };
        let found = || major_in(&Root::open(dir.path()).unwrap()).unwrap();
        assert_eq!(found(), None);
        put("18/docker/PG_VERSION", "18\n");
        assert_eq!(found().as_deref(), Some("18"));
        put("19/docker/PG_VERSION", "19\n");
        assert_eq!(found().as_deref(), Some("several"));
        fs::remove_dir_all(dir.path().join("18")).unwrap();
        fs::remove_dir_all(dir.path().join("19")).unwrap();
        put("PG_VERSION", "15\n");
        assert_eq!(found().as_deref(), Some("15"));
        put("PG_VERSION", "-----BEGIN PRIVATE");
        assert_eq!(found().as_deref(), Some("unknown"));
    }
}
