//! The cost of a change to the coordinator, by fleet size; the size of the documents, and the cost of a poll.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::fleet::{Fleet, others};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    samples::Samples,
};

/// Tenants per edge: the number for which the target for its speed is defined.
const PER_EDGE: usize = 1_000;
/// Time for work after an answer: threads going to sleep.
pub(crate) const TAIL: Duration = Duration::from_millis(20);
/// Pause between two changes of one fleet: longer than the minimum between two versions for an edge of this size.
const PAUSE: Duration = Duration::from_millis(900);

#[derive(Debug, Default)]
struct Series {
    cpu: Samples,
    wall: Samples,
    poll_cpu: Samples,
}

pub(super) fn measure(run: &Run, report: &mut Report) -> Result<()> {
    let sizes: &[usize] = run.pick(&[100, 10_000, 100_000], &[100, 1_000]);
    let mut fleets = Vec::new();
    for size in sizes {
        eprintln!("  starting with {size} tenants");
        fleets.push(Fleet::start(*size, size.div_ceil(PER_EDGE))?);
    }
    let mut all: Vec<Series> = sizes.iter().map(|_| Series::default()).collect();
    let mut rest = Samples::default();
    let rounds = run.pick(20, 2);
    for round in 0..=rounds {
        for (fleet, series) in fleets.iter().zip(&mut all) {
            let (cpu, wall) = change(fleet, round)?;
            let poll = poll(fleet)?;
            if round > 0 {
                series.cpu.push(cpu.as_secs_f64());
                series.wall.push(wall.as_secs_f64());
                series.poll_cpu.push(poll.as_secs_f64());
            }
        }
        let (cpu, begin) = (others(), Instant::now());
        std::thread::sleep(PAUSE);
        rest.push(others().saturating_sub(cpu).as_secs_f64() / begin.elapsed().as_secs_f64());
    }
    say(report, sizes, &fleets, &all)?;
    report.add(
        "the coordinators of all these fleets, between changes",
        Unit::Core,
        &rest,
        None,
    );
    fleets.into_iter().for_each(Fleet::stop);
    Ok(())
}

fn say(report: &mut Report, sizes: &[usize], fleets: &[Fleet], all: &[Series]) -> Result<()> {
    for (size, series) in sizes.iter().zip(all) {
        let target = (*size == 100_000).then_some(Target::AtMost(0.1));
        report.add(
            &format!("a change, {size} tenants: CPU of the coordinator"),
            Unit::Seconds,
            &series.cpu,
            target,
        );
        report.add(
            &format!("a change, {size} tenants: until all is published"),
            Unit::Seconds,
            &series.wall,
            None,
        );
    }
    if let ([smallest, ..], [first, .., last], Some(largest)) = (sizes, all, sizes.last()) {
        let name = format!("CPU of a change, {largest} tenants / {smallest}");
        report.add(&name, Unit::Ratio, &last.cpu.ratios(&first.cpu), None);
    }
    for ((size, fleet), series) in sizes.iter().zip(fleets).zip(all) {
        let shard = fleet.shard(&fleet.tenants[0]).context("there are shards")?;
        let http = fleet.running.http;
        let [whole, own] = [
            "/traefik/config".to_owned(),
            format!("/traefik/config/{shard}"),
        ]
        .map(|path| length(http, &path));
        let targets = length(http, "/sd/odoo")? + length(http, "/sd/postgres")?;
        let bytes = [
            ("Traefik, everything", whole?),
            ("Traefik, one edge", own?),
            ("Prometheus", targets),
        ];
        for (what, bytes) in bytes {
            let name = format!("published at {size} tenants: {what}");
            report.add_one(&name, Unit::Bytes, bytes as f64, None);
        }
        report.add(
            &format!("serving one edge's poll, {size} tenants: CPU"),
            Unit::Seconds,
            &series.poll_cpu,
            None,
        );
    }
    report.note(format!(
        "A change is the suspension or resumption of one tenant, which changes its routes and its targets; the CPU time is that of \
         the coordinator from the command to the publication (writer included, its store in memory), the time until published ends \
         when the documents of Traefik and Prometheus show it. There is one edge for each {PER_EDGE} tenants; the fleets take turns."
    ));
    report.note(format!(
        "A tenant's edge follows from a hash of its name, so edges have about {PER_EDGE} tenants each, some more and some fewer. \"One edge\" is \
         that of the first tenant, whose share differs from fleet to fleet; its document is as large as its share."
    ));
    report.note(
        "All these fleets live in one process for the whole measurement, so the CPU time of a change of one contains what the others use \
         meanwhile: their work of each second, which the figure between changes shows as a share of a core, for all of them together.",
    );
    Ok(())
}

/// One change: CPU, and time until it is published.
fn change(fleet: &Fleet, round: usize) -> Result<(Duration, Duration)> {
    // A tenant of another edge each time: the edge of the last change may have to wait for its turn.
    let step = fleet.tenants.len() / 2 + 1;
    let tenant = &fleet.tenants[round * step % fleet.tenants.len()];
    let shard = fleet.shard(tenant).context("there are shards")?;
    let path = format!("/traefik/config/{shard}");
    let before = tag(fleet.running.http, &path)?;
    let (cpu, begin) = (others(), Instant::now());
    fleet.toggle(tenant)?;
    fleet.published(tenant)?;
    let wall = begin.elapsed();
    std::thread::sleep(TAIL);
    let cpu = others().saturating_sub(cpu);
    ensure!(
        tag(fleet.running.http, &path)? != before,
        "{tenant}: the document is the same"
    );
    Ok((cpu, wall))
}

/// CPU time to serve an edge its document.
fn poll(fleet: &Fleet) -> Result<Duration> {
    let shard = fleet.shard(&fleet.tenants[0]).context("there are shards")?;
    let cpu = others();
    let bytes = ask(
        fleet.running.http,
        "GET",
        &format!("/traefik/config/{shard}"),
    )?;
    let cpu = others().saturating_sub(cpu);
    ensure!(
        String::from_utf8_lossy(&bytes).contains("odoo-tenant-0\""),
        "the tenant is not in its edge's document"
    );
    Ok(cpu)
}

/// A whole answer; fails unless the status is good.
pub(crate) fn ask(http: SocketAddr, method: &str, path: &str) -> Result<Vec<u8>> {
    let mut tcp = TcpStream::connect(http)?;
    tcp.write_all(
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{path}: {}",
        String::from_utf8_lossy(&answer[..40])
    );
    Ok(answer)
}

fn head(http: SocketAddr, path: &str, name: &str) -> Result<String> {
    let answer = String::from_utf8(ask(http, "HEAD", path)?)?;
    let value = answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Ok(value
        .with_context(|| format!("{path}: no {name}"))?
        .to_owned())
}

fn length(http: SocketAddr, path: &str) -> Result<u64> {
    Ok(head(http, path, "content-length")?.parse()?)
}

fn tag(http: SocketAddr, path: &str) -> Result<String> {
    head(http, path, "etag")
}
