//! Faults of a run: each is made on real daemons, lasts, and is made good in the way that an operator would.
//!
//! One at a time on a host, and one of the coordinator's: what is made good is then the same thing. A name of an image that means
//! another (line 2 of issue 16's table) is not among them: who is created meanwhile has the other, as was said, and nobody can make that
//! good (e2e::hosts::odoo has it). Not here: what is done (isyone_tests::e2e::faults), which, where and when (isyone_tests::chaos::draw).

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Instant};

use isyone_tests::{
    chaos::{
        draw::{Blow, Fault},
        truth::Spell,
    },
    e2e::{
        cell::{STANDIN, hosts},
        disks,
        faketime::{BACK, Clock, FORWARD},
        faults::{self, signal},
        process::run,
    },
};

use super::Run;

/// What packets a host's Docker is told to make.
const PACKET: u32 = 1400;

/// How a fault is made good.
enum Undo {
    /// By the product alone.
    Nothing,
    StartDocker,
    /// As the product asks for it: Docker's rules come back with it.
    RestartDocker,
    Continue(String),
    Remove(PathBuf),
    LoadImages,
    MapNoMore,
    MakeRoom,
    GiveAddress,
    InstallAgent,
    Heal,
    StartAgent,
    StartCoordinator,
    SetRight(Clock),
}

/// A fault that lasts.
pub(super) struct Active {
    blow: Blow,
    until: Instant,
    undo: Undo,
    /// Its place among the spells.
    spell: usize,
}

impl Active {
    /// Whether it can be made good: a host joins only with a coordinator that is well.
    fn can_end(&self, is_coordinator_well: bool) -> bool {
        is_coordinator_well || !matches!(self.undo, Undo::InstallAgent)
    }
}

impl Run {
    pub(super) fn is_without_coordinator(&self) -> bool {
        let of = |active: &Active| active.blow.fault == Fault::CoordinatorKilled;
        self.active.iter().any(of)
    }

    /// Makes this fault and those that could not be made before, if nothing is wrong with the same already.
    pub(super) fn strike(&mut self, blow: Option<Blow>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        // A kind waits once: the next round has it again.
        let is_new = |blow: &Blow| waiting.iter().all(|other| other.fault != blow.fault);
        let new = blow.filter(is_new);
        waiting.extend(new);
        waiting.retain(|blow| !self.try_to_strike(*blow));
        self.waiting = waiting;
    }

    /// Whether it was made.
    fn try_to_strike(&mut self, blow: Blow) -> bool {
        let taken = |active: &Active| match active.blow.fault.is_of_all() {
            true => blow.fault.is_of_all(),
            false => !blow.fault.is_of_all() && active.blow.host == blow.host,
        };
        if self.active.iter().any(taken) {
            return false;
        }
        let name = self.cell.hosts[blow.host].name.clone();
        let from = self.begin.elapsed();
        let Some(undo) = self.make(blow) else {
            return false;
        };
        self.say(&format!("{:?} on {name} for {:?}", blow.fault, blow.lasts));
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
        true
    }

    /// `None`: it cannot be made now.
    fn make(&mut self, blow: Blow) -> Option<Undo> {
        let index = blow.host;
        let host = &self.cell.hosts[index];
        match blow.fault {
            Fault::DockerKilled => {
                signal("-KILL", &faults::docker_pid(host)?);
                Some(Undo::StartDocker)
            }
            Fault::DockerHangs => {
                let pid = faults::docker_pid(host)?;
                signal("-STOP", &pid);
                Some(Undo::Continue(pid))
            }
            Fault::HalfStart => {
                let container = format!("odoo_{}", self.tenant_on(index, blow.choice)?);
                faults::half_start(&mut self.cell, index, &container).map(Undo::Remove)
            }
            Fault::StrayBridge => self.stray_bridge(blow),
            Fault::Flush => {
                let flushed = run(host.command("nft").args(["flush", "ruleset"]));
                (flushed.code == 0).then_some(Undo::RestartDocker)
            }
            Fault::Prune => self.prune(index),
            Fault::ImageLost => {
                faults::lose_images(&mut self.cell, index, STANDIN);
                Some(Undo::LoadImages)
            }
            Fault::Packets => {
                faults::limit_packets(&self.cell, index, PACKET);
                Some(Undo::RestartDocker)
            }
            Fault::UsersMapped => {
                faults::map_users(&self.cell, index);
                Some(Undo::MapNoMore)
            }
            Fault::DiskFull => {
                disks::fill(&host.docker_data());
                Some(Undo::MakeRoom)
            }
            Fault::AddressLate => {
                faults::start_without_address(&mut self.cell, index);
                Some(Undo::GiveAddress)
            }
            Fault::Reinstalled => {
                faults::lose_agent(&mut self.cell, index);
                Some(Undo::InstallAgent)
            }
            Fault::Cut => {
                hosts(&["cut", &host.name]).ok();
                Some(Undo::Heal)
            }
            Fault::AgentKilled => {
                self.cell.hosts[index].agent.as_mut()?.kill();
                Some(Undo::StartAgent)
            }
            Fault::AgentClock | Fault::CoordinatorClock => self.set_wrong(blow),
            Fault::CoordinatorKilled => {
                self.cell.coordinator.as_mut()?.kill();
                Some(Undo::StartCoordinator)
            }
        }
    }

    /// Newer engines spare named volumes: these go one by one. Those in use stay.
    fn prune(&self, index: usize) -> Option<Undo> {
        let docker = &self.cell.hosts[index].docker;
        let pruned = docker.run(&["system", "prune", "--force", "--volumes"]);
        let listed = docker.run(&["volume", "ls", "-q", "--filter", "label=one.isy.tenant"]);
        for volume in listed.stdout.lines() {
            docker.run(&["volume", "rm", volume]);
        }
        (pruned.code == 0).then_some(Undo::Nothing)
    }

    /// An agent begins like that; the coordinator has begun before, and has sessions.
    fn set_wrong(&mut self, blow: Blow) -> Option<Undo> {
        let off = [FORWARD, BACK][usize::from(blow.choice % 2 == 1)];
        let whose = match blow.fault {
            Fault::AgentClock => self.cell.hosts[blow.host].name.as_str(),
            _ => "coordinator",
        };
        let clock = Clock::new(&self.cell.dir.path().join(format!("clock-{whose}")))?;
        if blow.fault == Fault::AgentClock {
            clock.set(off);
            self.cell.hosts[blow.host].agent = None;
            faults::start_agent_by(&mut self.cell, blow.host, &clock);
        } else {
            self.cell.coordinator = None;
            faults::start_coordinator_by(&mut self.cell, &clock);
            clock.set(off);
        }
        Some(Undo::SetRight(clock))
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

    /// In the place of one of the next tenants.
    fn stray_bridge(&self, blow: Blow) -> Option<Undo> {
        let listed = self.list(&["tenant", "list", "--deleted"])?;
        let subnets = listed.iter().filter_map(|tenant| tenant["subnet"].as_str());
        let last: Option<Ipv4Addr> = subnets
            .filter_map(|subnet| subnet.split('/').next()?.parse().ok())
            .max();
        let gateway = Ipv4Addr::from(u32::from(last?) + 16 * (1 + blow.choice % 3) + 1);
        let bridge = format!("br-{:012x}", blow.choice);
        let made = faults::add_bridge(&self.cell.hosts[blow.host], &bridge, gateway);
        made.then_some(Undo::Nothing)
    }

    pub(super) fn mend_due(&mut self) {
        let now = Instant::now();
        self.mend(|active| active.until <= now);
    }

    /// Twice: what waits for the coordinator comes after it.
    pub(super) fn mend_all(&mut self) {
        self.waiting.clear();
        self.mend(|_| true);
        self.mend(|_| true);
    }

    fn mend(&mut self, is_over: impl Fn(&Active) -> bool) {
        let is_well = !self.active.iter().any(|a| a.blow.fault.is_of_all());
        let (over, active) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| is_over(active) && active.can_end(is_well));
        self.active = active;
        for active in over {
            self.undo(active.blow.host, active.undo);
            self.spells[active.spell].to = Some(self.begin.elapsed());
            let name = &self.cell.hosts[active.blow.host].name;
            self.say(&format!("{:?} on {name}: made good", active.blow.fault));
        }
    }

    fn undo(&mut self, index: usize, undo: Undo) {
        let name = self.cell.hosts[index].name.clone();
        match undo {
            Undo::Nothing => {}
            Undo::StartDocker => drop(hosts(&["start", &name]).ok()),
            Undo::RestartDocker => faults::restart_docker(&self.cell, index, &[]),
            Undo::Continue(pid) => signal("-CONT", &pid),
            Undo::Remove(folder) => drop(fs::remove_dir(folder)),
            Undo::LoadImages => drop(hosts(&["load", &name, STANDIN.0, STANDIN.1]).ok()),
            Undo::MapNoMore => faults::map_users_no_more(&self.cell, index),
            Undo::MakeRoom => disks::make_room(&self.cell.hosts[index].docker_data()),
            Undo::GiveAddress => faults::give_address(&self.cell, index),
            Undo::InstallAgent => faults::install_agent(&mut self.cell, index),
            Undo::Heal => drop(hosts(&["heal", &name]).ok()),
            Undo::StartAgent => self.cell.start_agent(index, &[]),
            Undo::StartCoordinator => self.cell.start_coordinator(),
            Undo::SetRight(clock) => clock.set("+0d"),
        }
    }
}

/// A daemon that hangs would keep the clean-up from its end.
impl Drop for Run {
    fn drop(&mut self) {
        for active in &self.active {
            if let Undo::Continue(pid) = &active.undo {
                signal("-CONT", pid);
            }
        }
    }
}
