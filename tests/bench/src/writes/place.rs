//! The time of a placement, and of a whole create in the core, in fleets of several sizes.
//!
//! No network and no disk: the pure part alone, in this process, with snapshots taken as often as the writer takes
//! them. Times are CPU time of the thread.

use std::{collections::BTreeMap, hint::black_box, net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use isyone_fleet::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    desired::{Certificate, Host},
    placement::{self, Request},
    testing::{Bench, GIB, resources},
};
use isyone_proto::ids::{HostName, ShortName};
use isyone_proto::report::HostResources;
use uuid::Uuid;

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::thread_cpu,
    samples::Samples,
};

/// Fleet sizes to compare.
const HOSTS: [usize; 3] = [100, 1_000, 10_000];
/// Commands between two snapshots of the writer under load.
const GROUP: usize = 64;
/// Placements per sample.
const BATCH: usize = 500;

#[derive(Debug, Default)]
struct Series {
    place: Samples,
    create: Samples,
    refuse: Samples,
    tick: Samples,
}

pub(crate) fn measure(run: &Run, report: &mut Report) -> Result<()> {
    let tenants = run.pick(100_000, 1_000);
    let mut fleets = HOSTS
        .iter()
        .map(|hosts| fleet(*hosts / run.pick(1, 10), tenants))
        .collect::<Result<Vec<_>>>()?;
    let mut all: Vec<Series> = HOSTS.iter().map(|_| Series::default()).collect();
    let rounds = run.pick(20, 1);
    for round in 0..=rounds {
        for (bench, series) in fleets.iter_mut().zip(&mut all) {
            let (place, create) = (placements(bench)?, creates(bench, round)?);
            let (refuse, tick) = refusal_and_tick(bench)?;
            if round > 0 {
                series.place.push(place);
                series.create.push(create);
                series.refuse.push(refuse);
                series.tick.push(tick);
            }
        }
    }
    for (series, hosts) in all.iter().zip(HOSTS) {
        let target = (hosts == 10_000).then_some(Target::AtMost(20e-6));
        report.add(
            &format!("placement, {hosts} hosts"),
            Unit::Seconds,
            &series.place,
            target,
        );
    }
    for (series, hosts) in all.iter().zip(HOSTS) {
        report.add(
            &format!("create in the core, {hosts} hosts"),
            Unit::Seconds,
            &series.create,
            None,
        );
    }
    let (large, small) = (&all[2], &all[1]);
    let grows = Some(Target::AtMost(2.0));
    report.add(
        "placement, 10,000 hosts / 1,000",
        Unit::Ratio,
        &large.place.ratios(&small.place),
        grows,
    );
    report.add(
        "create in the core, 10,000 hosts / 1,000",
        Unit::Ratio,
        &large.create.ratios(&small.create),
        grows,
    );
    let name = "a create that no host can take, 10,000 hosts";
    report.add(name, Unit::Seconds, &large.refuse, None);
    report.add(
        "the core's work each second, 10,000 hosts",
        Unit::Seconds,
        &large.tick,
        None,
    );
    report.note(format!(
        "Placements: {tenants} tenants are placed and running in each fleet; a placement is the choice of a host, its network and its \
         ports; a create in the core is the whole change of the Fleet, without storing it."
    ));
    Ok(())
}

/// Hosts of different size and load, with running tenants.
fn fleet(hosts: usize, tenants: usize) -> Result<Bench> {
    let mut bench = Bench::default();
    let size = u64::try_from(tenants / hosts)?.max(1);
    let mut names = Vec::with_capacity(hosts);
    for n in 0..hosts {
        let name: HostName = format!("h{n}").parse()?;
        let host = Host {
            name: name.clone(),
            uid: Uuid::from_u128(n as u128),
            advertise: Ipv4Addr::from_bits(0x0A00_0000 + u32::try_from(n)?).into(),
            labels: BTreeMap::new(),
            cordoned: false,
            maintenance: None,
            pending: false,
            plan_generation: 1.into(),
            joined_at: 0,
            makes_backups: false,
            proves_backups: false,
            unheard: false,
            certificates: vec![Certificate {
                serial: format!("{n:032x}"),
                not_after: 1 << 40,
                sha256: String::new(),
                follows: None,
            }],
        };
        bench.state.fleet.hosts.insert(name.clone(), Arc::new(host));
        // Room for three times the tenants; on some hosts, other programs use a fifth of the memory.
        let memory = 4 * GIB * size * (1 + n as u64 % 3);
        let busy = HostResources {
            memory_available_bytes: memory / 10 * (10 - n as u64 % 3),
            memory_total_bytes: memory,
            ..resources(64 * (1 + u32::try_from(size)?), 1, 64 * size + 100)
        };
        bench.report(&name, busy, Vec::new());
        names.push((name, busy));
    }
    for n in 0..tenants {
        bench.create(&format!("t{n}"), "small").context("no room")?;
    }
    for (name, busy) in names {
        let placed = bench
            .state
            .fleet
            .by_host
            .get(&name)
            .map(|i| i.tenants.clone())
            .unwrap_or_default();
        let running = placed
            .iter()
            .map(|tenant| bench.converged(tenant))
            .collect();
        bench.report(&name, busy, running);
    }
    // The first tick judges all hosts, so it is not a typical one.
    bench.apply(Command::Tick)?;
    bench.effects = Effects::default();
    Ok(bench)
}

/// Seconds per placement, including network and ports.
fn placements(bench: &Bench) -> Result<f64> {
    let small: ShortName = "small".parse()?;
    let labels = BTreeMap::new();
    let request = Request {
        size: bench.settings.plans[&small],
        host: None,
        labels: &labels,
    };
    let view = bench.state.placement_inputs(&bench.settings);
    let began = thread_cpu();
    for _ in 0..BATCH {
        let decision = black_box(placement::choose(view, black_box(request), bench.now));
        ensure!(
            decision.host.is_some() && decision.slot.is_some(),
            "no host fits"
        );
    }
    Ok((thread_cpu() - began).as_secs_f64() / BATCH as f64)
}

/// Seconds per create. The tenants are removed again, so that the fleet stays the same.
fn creates(bench: &mut Bench, round: usize) -> Result<f64> {
    let before = bench.state.clone();
    let mut commands = Vec::with_capacity(BATCH);
    for n in 0..BATCH {
        let creation = bench.creation(&format!("x{round}-{n}"), "small");
        commands.push((stamp(bench), Command::CreateTenant(Box::new(creation))));
    }
    let mut snapshot = before.clone();
    let began = thread_cpu();
    for (n, (stamp, command)) in commands.into_iter().enumerate() {
        apply(bench, &stamp, command).context("no room")?;
        if n % GROUP == GROUP - 1 {
            snapshot = bench.state.clone();
        }
    }
    let took = (thread_cpu() - began).as_secs_f64() / BATCH as f64;
    drop(snapshot);
    bench.state = before;
    bench.effects = Effects::default();
    Ok(took)
}

/// Seconds for a create that no host can take, and for a tick.
fn refusal_and_tick(bench: &mut Bench) -> Result<(f64, f64)> {
    let mut creation = bench.creation("huge", "small");
    creation.size.memory_bytes = u64::MAX;
    let (stamp, command) = (stamp(bench), Command::CreateTenant(Box::new(creation)));
    let began = thread_cpu();
    ensure!(apply(bench, &stamp, command).is_err(), "it was placed");
    let refused = (thread_cpu() - began).as_secs_f64();
    let began = thread_cpu();
    apply(bench, &stamp, Command::Tick)?;
    Ok((refused, (thread_cpu() - began).as_secs_f64()))
}

fn stamp(bench: &mut Bench) -> Stamp {
    Stamp {
        now: bench.now,
        steady: bench.now,
        id: bench.id(),
        actor: "bench".to_owned(),
    }
}

/// Applies a command as the writer does.
fn apply(bench: &mut Bench, stamp: &Stamp, command: Command) -> Result<Outcome, ChangeError> {
    change::apply(
        &mut bench.state,
        &bench.settings,
        stamp,
        &mut bench.effects,
        command,
    )
}
