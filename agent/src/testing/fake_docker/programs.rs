//! The programs in the fake's containers: PostgreSQL's databases are files, Odoo looks whether it is let in, SQL is what
//! our own scripts contain.
//!
//! Not here: the engine around them (the parent).

use std::path::{Path, PathBuf};

use super::{DEFAULT_KEYS, FakeDocker};
use crate::{
    docker::{DockerError, Result},
    plan::container::{ContainerSpec, LABEL_ROLE, LABEL_STANDIN, LABEL_TENANT, MountSource},
};

impl FakeDocker {
    /// Starts a container: its program does at once what it does at its start.
    pub(super) fn begin(&self, name: &str) -> Result<()> {
        let (role, spec) = {
            let mut world = self.world();
            let container = world.find(name)?;
            if container.state == "running" {
                return Ok(());
            }
            (
                container
                    .spec
                    .labels
                    .get(LABEL_ROLE)
                    .cloned()
                    .unwrap_or_default(),
                container.spec.clone(),
            )
        };
        self.mount(&spec)?;
        let standin = self
            .world()
            .images
            .get(&spec.image)
            .is_some_and(|i| i.labels.contains_key(LABEL_STANDIN));
        let tenant = spec.labels.get(LABEL_TENANT).cloned().unwrap_or_default();
        let data = self.place(&format!("pgdata_{tenant}"));
        let mut code = None;
        match role.as_str() {
            "postgres" if !data.join("PG_VERSION").exists() => {
                put(&data.join("PG_VERSION"), "15")?;
                put(&data.join("global/pg_control"), "x")?;
                put(&data.join("databases/postgres"), "")?;
            }
            "init" => code = Some(self.initialise(&tenant, &data)?),
            "install" => code = Some(self.install_modules(&tenant, &spec)),
            "finish" if self.world().slow.contains(&tenant) => {}
            "finish" => code = Some(self.finish_install(&tenant)),
            "odoo" if !standin && !self.lets_odoo_in(&data) => {} // it exits and is restarted until it is let in
            "odoo" if !standin && self.has_default_keys(&tenant) => {
                let text =
                    format!("{name} could enter its database before that had keys of its own");
                self.world().violations.push(text);
            }
            _ => {}
        }
        let mut world = self.world();
        world.next_id += 1;
        let container = world.find(name)?;
        (container.state, container.code) = match code {
            Some(code) => ("exited", code),
            None => ("running", 0),
        };
        Ok(())
    }

    /// Docker starts no container whose volume has no directory.
    fn mount(&self, spec: &ContainerSpec) -> Result<()> {
        for mount in &spec.mounts {
            let place = match &mount.source {
                MountSource::Volume(name) => Some(self.place(name)),
                MountSource::Directory(path) => Some(PathBuf::from(path)),
                MountSource::File(_) | MountSource::Image => None,
            };
            if let Some(place) = place.filter(|place| !place.is_dir()) {
                let text = format!("failed to mount local volume: {}", place.display());
                return Err(DockerError::Refused(text));
            }
        }
        Ok(())
    }

    fn has_default_keys(&self, tenant: &str) -> bool {
        self.database_keys(tenant)
            .is_none_or(|keys| keys == DEFAULT_KEYS)
    }

    /// Whether the role `odoo` may log in to the cluster in `data`.
    fn lets_odoo_in(&self, data: &Path) -> bool {
        !data.join("NOLOGIN").exists()
    }

    fn initialise(&self, tenant: &str, data: &Path) -> Result<i32> {
        put(
            &data.join("databases").join(format!("odoo_{tenant}")),
            DEFAULT_KEYS,
        )?;
        put(
            &self
                .place(&format!("odoo_data_{tenant}"))
                .join(format!("filestore/odoo_{tenant}/00/file")),
            "x",
        )?;
        let mut world = self.world();
        let permille = world.faults.init_fails;
        Ok(i32::from(world.chance(permille)))
    }

    /// Loading a tenant's modules anew takes for ever, or no more.
    pub fn load_slowly(&self, tenant: &str, slowly: bool) {
        match slowly {
            true => self.world().slow.insert(tenant.to_owned()),
            false => self.world().slow.remove(tenant),
        };
    }

    /// Loads a tenant's modules anew, if that is of any use.
    fn finish_install(&self, tenant: &str) -> i32 {
        let mut world = self.world();
        match world.pending.get_mut(tenant) {
            Some((_, fails)) if *fails > 0 => {
                *fails -= 1;
                1
            }
            _ => {
                world.pending.remove(tenant);
                0
            }
        }
    }

    /// What a script about connections prints; one that ends them does.
    pub(super) fn strangers(&self, tenant: &str, script: &str) -> Vec<u8> {
        if script.contains("SELECT 'module', name") {
            return self.list_modules(tenant).into_bytes();
        }
        if script.contains("FROM ir_module_module") {
            let left = self
                .world()
                .pending
                .get(tenant)
                .map_or(0, |(left, _)| *left);
            return format!("{left}\n").into_bytes();
        }
        if !script.contains("FROM pg_stat_activity") {
            return Vec::new();
        }
        let mut world = self.world();
        let count = world.strangers.get(tenant).copied().unwrap_or(0);
        if script.contains("pg_terminate_backend") {
            world.strangers.remove(tenant);
        }
        format!("{count}\n").into_bytes()
    }

    /// Understands only what our own scripts contain.
    pub(super) fn psql(&self, tenant: &str, script: &str) -> Result<i32> {
        let data = self.place(&format!("pgdata_{tenant}"));
        let databases = data.join("databases");
        let mut at = databases.join("postgres");
        for line in script.lines() {
            let quoted: Vec<&str> = line
                .split("E'")
                .skip(1)
                .filter_map(|part| part.split('\'').next())
                .collect();
            if line.starts_with("ALTER ROLE odoo NOLOGIN") {
                put(&data.join("NOLOGIN"), "")?;
            } else if line.starts_with("ALTER ROLE odoo WITH LOGIN") {
                let _ = std::fs::remove_file(data.join("NOLOGIN")); // it may have been let in before
                let name = format!("odoo_{tenant}");
                let mut world = self.world();
                let runs = world
                    .containers
                    .get(&name)
                    .is_some_and(|c| c.state == "running");
                if runs
                    && std::fs::read_to_string(databases.join(&name))
                        .is_ok_and(|keys| keys == DEFAULT_KEYS)
                {
                    world.violations.push(format!(
                        "{name} was let in before its database had keys of its own"
                    ));
                }
            } else if let Some(name) = line
                .strip_prefix("DROP DATABASE IF EXISTS \"")
                .and_then(|rest| rest.split('"').next())
            {
                let _ = std::fs::remove_file(databases.join(name)); // "if exists"
                self.world().modules.forget(tenant);
            } else if let Some(name) = line
                .strip_prefix("CREATE DATABASE \"")
                .and_then(|rest| rest.split('"').next())
            {
                put(&databases.join(name), DEFAULT_KEYS)?;
            } else if line.starts_with("UPDATE res_company SET currency_id") {
                self.world().modules.settle(tenant);
            } else if line.contains("ALTER DATABASE %I RENAME") && quoted.len() >= 2 {
                let (from, to) = (databases.join(quoted[0]), databases.join(quoted[1]));
                if from.exists() && !to.exists() {
                    std::fs::rename(from, to).map_err(|e| DockerError::Refused(e.to_string()))?;
                }
            } else if let Some(name) = line
                .strip_prefix("\\connect \"")
                .and_then(|rest| rest.split('"').next())
            {
                at = databases.join(name);
                if !at.exists() {
                    return Ok(3);
                }
            } else if let [key, value, ..] = quoted[..]
                && key == "database.uuid"
            {
                put(&at, value)?;
            }
        }
        Ok(0)
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)
    };
    write().map_err(|e: std::io::Error| DockerError::Refused(e.to_string()))
}
