//! Faults of a run: each is made on real daemons, lasts, and is made good in the way that an operator would.
//!
//! One at a time on a host: what is made good is then the same thing. Not here: which, where and when (isyone_tests::chaos::draw).

use std::{net::Ipv4Addr, path::PathBuf, process::Command, time::Instant};

use isyone_tests::{
    chaos::{
        draw::{Blow, Fault},
        truth::Spell,
    },
    e2e::{cell::hosts, process::run},
};

use super::Run;

/// How a fault is made good.
enum Undo {
    /// By the product alone.
    Nothing,
    StartDocker,
    /// As the product asks for it: Docker's rules come back with it.
    RestartDocker,
    Continue(String),
    Remove(PathBuf),
    Heal,
    StartAgent,
    StartCoordinator,
}

/// A fault that lasts.
pub(super) struct Active {
    blow: Blow,
    until: Instant,
    undo: Undo,
    /// Its place among the spells.
    spell: usize,
}

impl Run {
    pub(super) fn is_without_coordinator(&self) -> bool {
        let of = |active: &Active| active.blow.fault == Fault::CoordinatorKilled;
        self.active.iter().any(of)
    }

    /// Makes a fault, if nothing is wrong with the same already.
    pub(super) fn strike(&mut self, blow: Blow) {
        let of_all = blow.fault == Fault::CoordinatorKilled;
        let taken = |active: &Active| match active.blow.fault {
            Fault::CoordinatorKilled => of_all,
            _ => !of_all && active.blow.host == blow.host,
        };
        let name = self.cell.hosts[blow.host].name.clone();
        if self.active.iter().any(taken) {
            return self.say(&format!("{:?} on {name}: it has another", blow.fault));
        }
        let from = self.begin.elapsed();
        self.say(&format!("{:?} on {name} for {:?}", blow.fault, blow.lasts));
        let Some(undo) = self.make(blow) else {
            return self.say(&format!("{:?} on {name}: not now", blow.fault));
        };
        let spell = self.spells.len();
        self.spells.push(Spell {
            fault: blow.fault,
            host: blow.host,
            from,
            to: None,
        });
        self.active.push(Active {
            blow,
            until: Instant::now() + blow.lasts,
            undo,
            spell,
        });
    }

    /// `None`: it cannot be made now.
    fn make(&mut self, blow: Blow) -> Option<Undo> {
        let index = blow.host;
        let name = self.cell.hosts[index].name.clone();
        match blow.fault {
            Fault::DockerKilled => {
                signal("-KILL", &self.pid(index)?);
                Some(Undo::StartDocker)
            }
            Fault::DockerHangs => {
                let pid = self.pid(index)?;
                signal("-STOP", &pid);
                Some(Undo::Continue(pid))
            }
            Fault::HalfStart => self.half_start(blow),
            Fault::StrayBridge => self.stray_bridge(blow),
            Fault::Flush => {
                let mut nft = self.cell.hosts[index].command("nft");
                (run(nft.args(["flush", "ruleset"])).code == 0).then_some(Undo::RestartDocker)
            }
            Fault::Prune => {
                let words = ["system", "prune", "--force", "--volumes"];
                let pruned = self.cell.hosts[index].docker.run(&words);
                (pruned.code == 0).then_some(Undo::Nothing)
            }
            Fault::Cut => {
                hosts(&["cut", &name]).ok();
                Some(Undo::Heal)
            }
            Fault::AgentKilled => {
                self.cell.hosts[index].agent.as_mut()?.kill();
                Some(Undo::StartAgent)
            }
            Fault::CoordinatorKilled => {
                self.cell.coordinator.as_mut()?.kill();
                Some(Undo::StartCoordinator)
            }
        }
    }

    /// The daemon's process.
    fn pid(&self, index: usize) -> Option<String> {
        let socket = &self.cell.hosts[index].docker.socket;
        let pid = std::fs::read_to_string(socket.with_file_name("docker.pid")).ok()?;
        Some(pid.trim().to_owned())
    }

    /// One of the tenants that run there.
    fn tenant_on(&self, index: usize, choice: u32) -> Option<String> {
        let name = &self.cell.hosts[index].name;
        let tenants = self.tenants()?;
        let here = tenants
            .into_iter()
            .filter(|(_, tenant)| tenant.host == *name && tenant.phase == "running");
        let here: Vec<String> = here.map(|(tenant, _)| tenant).collect();
        let at = usize::try_from(choice).ok()?.checked_rem(here.len())?;
        here.get(at).cloned()
    }

    fn half_start(&mut self, blow: Blow) -> Option<Undo> {
        let container = format!("odoo_{}", self.tenant_on(blow.host, blow.choice)?);
        let docker = self.cell.hosts[blow.host].docker.clone();
        let id = docker.inspect(&container, "{{.Id}}");
        let mut find = Command::new("find");
        find.arg("/run").arg(docker.socket.parent()?).args([
            "-type",
            "d",
            "-path",
            &format!("*io.containerd.runtime.v2.task/*/{id}"),
            "-prune",
        ]);
        let folder = run(&mut find).stdout.lines().next().map(PathBuf::from)?;
        // While the agent looks away, or it would be quicker.
        self.cell.hosts[blow.host].agent = None;
        docker.run(&["stop", "-t", "1", &container]);
        let made = std::fs::create_dir(&folder);
        self.cell.start_agent(blow.host, &[]);
        made.is_ok().then_some(Undo::Remove(folder))
    }

    /// In the place of one of the next tenants.
    fn stray_bridge(&self, blow: Blow) -> Option<Undo> {
        let listed = self.list(&["tenant", "list", "--deleted"])?;
        let subnets = listed.iter().filter_map(|tenant| tenant["subnet"].as_str());
        let last: Option<Ipv4Addr> = subnets
            .filter_map(|subnet| subnet.split('/').next()?.parse().ok())
            .max();
        let gateway = Ipv4Addr::from(u32::from(last?) + 16 * (1 + blow.choice % 3) + 1);
        let bridge = format!("br-{:012x}", blow.choice);
        let ip = |words: &str| {
            let mut ip = self.cell.hosts[blow.host].command("ip");
            run(ip.args(words.split(' '))).code == 0
        };
        let made = ip(&format!("link add {bridge} type bridge"))
            && ip(&format!("address add {gateway}/28 dev {bridge}"))
            && ip(&format!("link set {bridge} up"));
        made.then_some(Undo::Nothing)
    }

    pub(super) fn mend_due(&mut self) {
        let now = Instant::now();
        self.mend(|active| active.until <= now);
    }

    pub(super) fn mend_all(&mut self) {
        self.mend(|_| true);
    }

    fn mend(&mut self, is_over: impl Fn(&Active) -> bool) {
        let (over, active) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| is_over(active));
        self.active = active;
        for active in over {
            let name = self.cell.hosts[active.blow.host].name.clone();
            match active.undo {
                Undo::Nothing => {}
                Undo::StartDocker => drop(hosts(&["start", &name]).ok()),
                Undo::RestartDocker => {
                    hosts(&["stop", &name]).ok();
                    hosts(&["start", &name]).ok();
                }
                Undo::Continue(pid) => signal("-CONT", &pid),
                Undo::Remove(folder) => drop(std::fs::remove_dir(folder)),
                Undo::Heal => drop(hosts(&["heal", &name]).ok()),
                Undo::StartAgent => self.cell.start_agent(active.blow.host, &[]),
                Undo::StartCoordinator => self.cell.start_coordinator(),
            }
            self.spells[active.spell].to = Some(self.begin.elapsed());
            self.say(&format!("{:?} on {name}: made good", active.blow.fault));
        }
    }
}

/// A daemon that hangs would keep the clean-up from its end.
impl Drop for Run {
    fn drop(&mut self) {
        for active in &self.active {
            if let Undo::Continue(pid) = &active.undo {
                run(Command::new("kill").args(["-CONT", pid]));
            }
        }
    }
}

fn signal(name: &str, pid: &str) {
    run(Command::new("kill").args([name, pid])).ok();
}
