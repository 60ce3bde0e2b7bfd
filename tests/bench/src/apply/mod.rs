//! `bench apply`: a stack of two small real containers from plan to healthy, compared with docker compose and Swarm on
//! the same daemon; and a reconcile pass that changes nothing.
//!
//! isyone's side is the agent's own library with its real engine, in this process: it measures the agent from a plan's
//! arrival to "converged", without the coordinator. Not here: a real Odoo (create).

mod ours;
mod peers;

use std::time::Duration;

use anyhow::{Result, ensure};
use isyone_tests::e2e::{bare::Bare, cell::STANDIN};

use self::{
    ours::{Ours, TenantFiles},
    peers::{Compose, Swarm},
};
use crate::{
    Run,
    figures::{Report, Target, Unit},
    samples::{Samples, alternate, timed},
};

/// The stand-ins for Odoo and PostgreSQL.
pub(super) const IMAGES: [&str; 2] = [STANDIN.0, STANDIN.1];

pub(crate) fn run(run: &Run) -> Result<Report> {
    let bare = Bare::start(&IMAGES);
    let dir = tempfile::Builder::new().prefix("isyone-bench-").tempdir()?;
    let mut report = Report::default();
    apply(run, &bare, dir.path(), &mut report)?;
    no_op(run, &bare, dir.path(), &mut report)?;
    notes(&mut report);
    Ok(report)
}

fn apply(run: &Run, bare: &Bare, dir: &std::path::Path, report: &mut Report) -> Result<()> {
    let ours = std::cell::RefCell::new(Ours::start(bare, &dir.join("apply"))?);
    // The peers' stack comes from the files that the agent writes for one of its tenants.
    let files = ours.borrow_mut().files_of("sample", &dir.join("files"))?;
    let compose = Compose::new(bare, &files);
    let swarm = Swarm::new(bare, &files)?;
    let mut number = 0;
    let taken = alternate(
        run.pick(8, 1),
        &mut [
            (
                "isyone",
                Box::new(|| {
                    number += 1;
                    let name = format!("r{number}");
                    let took = ours.borrow_mut().apply(&name)?;
                    ours.borrow_mut().purge(&name)?;
                    Ok(took)
                }),
            ),
            (
                "docker compose up -d --wait",
                Box::new(|| compose.round(true)),
            ),
            ("docker compose up -d", Box::new(|| compose.round(false))),
            ("docker service create x 2", Box::new(|| swarm.round())),
        ],
    )?;
    of_applies(&taken, report)?;
    drop(taken);
    ours.into_inner().end();
    Ok(())
}

fn of_applies(taken: &[Samples], report: &mut Report) -> Result<()> {
    let [ours_s, wait, plain, swarm_s] = taken else {
        anyhow::bail!("a side is missing")
    };
    report.add(
        "apply: isyone, plan to converged",
        Unit::Seconds,
        ours_s,
        None,
    );
    report.add(
        "apply: docker compose up -d --wait",
        Unit::Seconds,
        wait,
        None,
    );
    report.add(
        "apply: docker compose up -d, not waiting for health",
        Unit::Seconds,
        plain,
        None,
    );
    report.add(
        "apply: docker service create x 2",
        Unit::Seconds,
        swarm_s,
        None,
    );
    report.add(
        "apply: isyone / compose --wait",
        Unit::Ratio,
        &ours_s.ratios(wait),
        Some(Target::AtMost(0.8)),
    );
    report.add(
        "apply: isyone / compose without health",
        Unit::Ratio,
        &ours_s.ratios(plain),
        None,
    );
    report.add(
        "apply: isyone / Swarm",
        Unit::Ratio,
        &ours_s.ratios(swarm_s),
        Some(Target::AtMost(0.6)),
    );
    Ok(())
}

/// A pass that finds every stack as it should be, compared with compose's `up -d` on its own stacks.
fn no_op(run: &Run, bare: &Bare, dir: &std::path::Path, report: &mut Report) -> Result<()> {
    let (stacks, sampled) = run.pick((100, 5), (3, 1));
    let mut ours = Ours::start(bare, &dir.join("pass"))?;
    let names: Vec<String> = (0..stacks).map(|n| format!("p{n}")).collect();
    ours.apply_all(&names)?;
    let files: Vec<TenantFiles> = (0..sampled)
        .map(|n| ours.files_of(&format!("c{n}"), &dir.join(format!("files-{n}"))))
        .collect::<Result<_>>()?;
    let composes: Vec<Compose> = files
        .iter()
        .map(|files| Compose::new(bare, files))
        .collect();
    composes.iter().try_for_each(Compose::up_to_stay)?;
    let before = bare.docker.run(&["ps", "-q"]).ok();
    let taken = alternate(
        run.pick(7, 1),
        &mut [
            ("isyone, all stacks", Box::new(|| ours.start_over())),
            (
                "docker compose up -d, some stacks",
                Box::new(|| {
                    let all = || composes.iter().try_for_each(Compose::up_again);
                    Ok(timed(all)?.1)
                }),
            ),
        ],
    )?;
    ensure!(
        bare.docker.run(&["ps", "-q"]).ok() == before,
        "a pass that should change nothing made containers anew"
    );
    let per = |samples: &Samples, count: usize| samples.each(|s| s / count as f64);
    let [pass, compose] = &taken[..] else {
        anyhow::bail!("a side is missing")
    };
    let (pass, compose) = (per(pass, stacks), per(compose, sampled));
    report.add(
        &format!("no-op: isyone, a pass over {stacks} stacks, each"),
        Unit::Seconds,
        &pass,
        None,
    );
    report.add(
        "no-op: docker compose up -d, each",
        Unit::Seconds,
        &compose,
        None,
    );
    let target = Some(Target::AtMost(1.0 / 50.0));
    report.add(
        "no-op: isyone / compose",
        Unit::Ratio,
        &pass.ratios(&compose),
        target,
    );
    composes.iter().try_for_each(Compose::down)?;
    ours.end();
    Ok(())
}

fn notes(report: &mut Report) {
    report.note(
        "isyone's span: the plan is stored durably (ledger), the stack is looked at, files, two volumes, network and two containers are \
         made and started, PostgreSQL's protocol and /web/health answer, the stack is looked at again and called converged. Two worker \
         threads, as the agent's program has.",
    );
    report.note(
        "isyone's side runs in the bench's own process: no coordinator, no network to one, no isyctl and no start of a program is in its time. \
         The peers' times contain the start of a command line each (compose: one, Swarm: two), as for whoever uses them. With `--wait`, \
         compose's time includes compose's own polling, and that Docker makes the first health check an interval after the start.",
    );
    report.note(
        "compose runs the file that the agent wrote for such a tenant; its volumes are external and made before the clock starts, and an \
         override gives both services a health check every 100 ms (PostgreSQL's: is the port open; Odoo's: /web/health is 200).",
    );
    report.note(
        "Swarm: two services one after the other with the same image, command, mounts and limits, ports published in host mode, on an \
         overlay network (dnsrr) made before the clock starts as are the volumes, no health check, and `--update-monitor 1ms`, without which \
         the command watches each service for another 5 s.",
    );
    report.note(
        "No-op: isyone's pass is that of an agent that has just started: it connects to Docker, reads its plan and what it remembers of \
         each tenant, looks at all containers, networks, volumes and files, asks both programs of each stack for their health, and finds \
         nothing to do. Compose: `up -d` once more for some stacks of its own on the same daemon.",
    );
    report.note("Removal is outside the clock on all sides.");
}

/// For every wait of this bench: nothing on this machine takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
