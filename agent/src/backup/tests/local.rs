//! What recovers and looks, as processes of this machine.
//!
//! Not here: the cluster that was backed up (real).

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_backup::{
    Stop,
    source::{Producer, Program},
};
use tonic::async_trait;

use super::{
    super::{
        restore::{Launch, Server, Servers},
        words::Problem,
    },
    real::Cluster,
};
use crate::plan::recovery::{self, Look, Purpose};

/// Of the one that recovers: the tenant's own may run beside it.
const PORT: &str = "5433";

/// Runs what recovers as a process of this machine.
pub(super) struct Local(pub(super) Arc<Cluster>);

struct Process {
    cluster: Arc<Cluster>,
    child: Mutex<Child>,
    log: PathBuf,
}

#[async_trait]
impl Servers for Local {
    async fn look(&self, launch: &Launch, look: Look, _: &Stop) -> Result<(i32, String), Problem> {
        self.let_in(launch);
        let words = look.words(&launch.volume.display().to_string());
        // Without `timeout` and its arguments.
        let output = self
            .0
            .command(&words[4])
            .args(&words[5..])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        Ok((output.status.code().unwrap(), said))
    }

    async fn clear(&self, _: &Purpose) -> Result<(), Problem> {
        Ok(())
    }

    async fn start(&self, launch: &Launch) -> Result<Box<dyn Server>, Problem> {
        if matches!(launch.purpose, Purpose::Proof { .. }) {
            self.let_in(launch);
        }
        let log = self.0.dir.join("recovering.log");
        let file = fs::File::create(&log).unwrap();
        let mut command = self.0.command("postgres");
        command
            .arg("-D")
            .arg(&launch.volume)
            .arg("-k")
            .arg(&self.0.dir)
            .args(["-p", PORT]);
        for setting in recovery::settings(launch.extent, &launch.log.display().to_string()) {
            command.arg("-c").arg(setting);
        }
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Ok(Box::new(Process {
            cluster: self.0.clone(),
            child: Mutex::new(command.spawn().unwrap()),
            log,
        }))
    }
}

impl Local {
    /// As the image's own program does, and Docker: it is PostgreSQL's, wherever it lies.
    fn let_in(&self, launch: &Launch) {
        for place in [&launch.volume, &launch.log] {
            if !place.exists() {
                continue;
            }
            for above in place.ancestors().skip(1).take(6) {
                let _ = Command::new("chmod").arg("a+x").arg(above).status();
            }
            let owned = Command::new("chown")
                .args(["-R", "postgres:postgres"])
                .arg(place)
                .status();
            assert!(owned.unwrap().success());
        }
        let _ = Command::new("chmod")
            .arg("700")
            .arg(&launch.volume)
            .status();
    }
}

#[async_trait]
impl Server for Process {
    async fn ended(&self) -> Result<Option<String>, Problem> {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        Ok(ended.map(|_| fs::read_to_string(&self.log).unwrap()))
    }

    async fn words(&self) -> Result<String, Problem> {
        Ok(fs::read_to_string(&self.log).unwrap())
    }

    async fn run(
        &self,
        words: Vec<String>,
        _: Duration,
        _: &Stop,
    ) -> Result<Box<dyn Producer>, Problem> {
        // Without `env` and `timeout` and their arguments.
        let place = words.iter().position(|word| word == "psql").unwrap();
        let options = words[1].strip_prefix("PGOPTIONS=").unwrap();
        let mut command = self.cluster.command(&words[place]);
        command
            .args(&words[place + 1..])
            .env("PGOPTIONS", options)
            .env("PGPORT", PORT)
            .stderr(Stdio::null());
        Ok(Box::new(Program::start(&mut command).unwrap()))
    }

    async fn stop(&self) -> Result<(), Problem> {
        let mut child = self.child.lock().unwrap();
        let interrupted = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(interrupted.unwrap().success());
        assert!(child.wait().unwrap().success());
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}
