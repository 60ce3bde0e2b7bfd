//! The Docker Engine of one host, through its command line: tests must not inspect it through the agent's own code.

use std::{path::PathBuf, process::Command};

use super::process::{Output, run};

#[derive(Debug, Clone)]
pub struct Docker {
    pub socket: PathBuf,
}

impl Docker {
    /// Runs `docker ARGS`.
    pub fn run(&self, args: &[&str]) -> Output {
        run(Command::new("docker")
            .env("DOCKER_HOST", self.host())
            .args(args))
    }

    /// The engine's address as the agent's `--docker` and `DOCKER_HOST` take it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// One field of `docker inspect`; empty if there is no such object.
    pub fn inspect(&self, name: &str, format: &str) -> String {
        let out = self.run(&["inspect", "-f", format, name]);
        if out.code == 0 {
            out.stdout.trim().to_owned()
        } else {
            String::new()
        }
    }

    /// When a container was last started.
    pub fn started_at(&self, container: &str) -> String {
        self.inspect(container, "{{.State.StartedAt}}")
    }

    /// Names of all our containers, sorted.
    pub fn tenants_containers(&self) -> Vec<String> {
        let out = self
            .run(&[
                "ps",
                "-a",
                "--filter",
                "label=one.isy.tenant",
                "--format",
                "{{.Names}}",
            ])
            .ok();
        let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Where tenants' data lies on this host.
    pub fn homes(&self) -> PathBuf {
        self.find_homes().expect("the engine answers")
    }

    fn find_homes(&self) -> Option<PathBuf> {
        let info = self.run(&["info", "--format", "{{.DockerRootDir}}"]);
        let root = PathBuf::from(info.stdout.trim());
        root.is_absolute().then(|| root.join("isyone/tenants"))
    }

    /// Removes all containers, networks, volumes and data of tenants on this host.
    pub fn clean(&self) {
        let listed = |args: &[&str]| -> Vec<String> {
            self.run(args).stdout.lines().map(str::to_owned).collect()
        };
        let filter = "label=one.isy.tenant";
        for (list, remove) in [
            (&["ps", "-aq", "--filter", filter][..], &["rm", "-fv"][..]),
            (
                &["volume", "ls", "-q", "--filter", filter][..],
                &["volume", "rm"][..],
            ),
            (
                &["network", "ls", "-q", "--filter", filter][..],
                &["network", "rm"][..],
            ),
        ] {
            let ids = listed(list);
            if !ids.is_empty() {
                let mut args: Vec<&str> = remove.to_vec();
                args.extend(ids.iter().map(String::as_str));
                self.run(&args);
            }
        }
        if let Some(homes) = self.find_homes() {
            let _ = std::fs::remove_dir_all(homes); // made by the first tenant
        }
    }
}
