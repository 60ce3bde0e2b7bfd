//! Carries out what `diff` decided, wave by wave, recording each step. Makes no choices.
//!
//! Not here: what an operation on the database consists of (database).

use futures_util::future::join_all;
use isyone_proto::plan::{Callers, Role};
use isyone_telemetry::{
    child_span,
    tracing::{Instrument as _, Span, field},
};

use crate::{
    base::{
        clock::now_ms,
        failpoints,
        fsutil::{self, blocking},
        tree,
    },
    docker::DockerError,
    host::links,
    plan::{
        diff::{Action, Blocked, PlannedAction},
        lease::Hold,
        postgres,
        stack::{self, Stack},
        state::Database,
        steps,
    },
    tenant::{
        Result, Tenant, TenantError, TenantView, aside,
        containers::{create, no_stack},
        data, database, images, installs, ready, takeover, turn, visitors,
    },
};

/// Runs all steps; a failure ends the run after its wave.
pub(super) async fn run(
    tenant: &Tenant,
    view: &TenantView,
    mut todo: Vec<PlannedAction>,
) -> Result<()> {
    todo.sort_by_key(|s| (s.wave, s.lane)); // stable sort: keeps the order within a lane
    if todo.iter().any(|s| s.action == Action::AwaitOdoo) {
        visitors::expect(tenant, view.observed.odoo.as_ref()).await;
    }
    let (starts, mut first) = (turn::starts(&todo), true);
    while !todo.is_empty() {
        let wave = todo[0].wave;
        let rest = todo.split_off(
            todo.iter()
                .position(|s| s.wave != wave)
                .unwrap_or(todo.len()),
        );
        tenant.turn_for(&todo, starts, first).await;
        first = false;
        let mut lanes: Vec<Vec<PlannedAction>> = Vec::new();
        for step in std::mem::replace(&mut todo, rest) {
            match lanes.last_mut() {
                Some(lane) if lane[0].lane == step.lane => lane.push(step),
                _ => lanes.push(vec![step]),
            }
        }
        // Wait for all lanes, even after a failure: an abandoned copy would go on writing into the volumes, alongside
        // that of the next attempt.
        let lanes = join_all(lanes.into_iter().map(|lane| run_lane(tenant, view, lane)));
        let done = tenant.turn.at_most(tenant.host.pace.turn, lanes).await;
        done.into_iter().collect::<Result<()>>()?;
        if tenant.is_interrupted() {
            return Err(TenantError::Interrupted);
        }
    }
    Ok(())
}

async fn run_lane(tenant: &Tenant, view: &TenantView, lane: Vec<PlannedAction>) -> Result<()> {
    for (at, step) in lane.iter().enumerate() {
        let name = step.action.step();
        failpoints::reached(&format!("before-{}", name.text()));
        tenant.show_progress(|s| steps::begin(s, name, now_ms()));
        tracing::info!(tenant = %tenant.name(), action = ?step.action, reason = %step.reason);
        let span = child_span!(
            &Span::current(),
            "step",
            otel.name = name.text(),
            otel.status_code = field::Empty,
            action = ?step.action
        );
        match act(tenant, view, step.action)
            .instrument(span.clone())
            .await
        {
            Ok(detail) => {
                let last = lane
                    .get(at + 1)
                    .is_none_or(|next| next.action.step() != name);
                if last {
                    tenant.show_progress(|s| steps::succeed(s, name, &detail, now_ms()));
                } else if !detail.is_empty() {
                    tenant.show_progress(|s| steps::progress(s, name, 0, &detail));
                }
            }
            Err(error) => {
                // The error may quote a log: it goes into the operation, not into a trace.
                span.record("otel.status_code", "ERROR");
                tenant.show_progress(|s| steps::fail(s, name, &error.to_string()));
                return Err(error);
            }
        }
        failpoints::reached(&format!("after-{}", name.text()));
    }
    Ok(())
}

/// Carries out one action; returns the step's detail.
async fn act(tenant: &Tenant, view: &TenantView, action: Action) -> Result<String> {
    let docker = &tenant.host.docker;
    let plan = &tenant.plan;
    match action {
        Action::PullImage(role) => images::get(tenant, view, role).await,
        Action::StopContainer(role) => stop(tenant, view, role).await,
        Action::StopOdooSoon => {
            visitors::send_away(tenant).await;
            let name = tenant.container_name(Role::Odoo);
            quiet(docker.stop(&name, stack::FULL_STOP_S).await)
        }
        Action::StopNow(role) => {
            let name = tenant.container_name(role);
            let stopped = docker.stop(&name, stack::LAPSED_STOP_S).await;
            visitors::follow_lapse(tenant).await;
            quiet(stopped)
        }
        Action::EndSessions => database::end_sessions(tenant).await,
        Action::RemoveContainer(role) => remove(tenant, role).await,
        Action::RemoveInit => quiet(docker.remove(&stack::init_name(&plan.name)).await),
        Action::RemoveNetwork => quiet(docker.remove_network(&plan.name.project()).await),
        Action::CreateVolume(role) => create_volume(tenant, view, role).await,
        Action::RemoveVolume(role) => remove_volume(tenant, role).await,
        Action::RemoveHome => data::remove_home(tenant, view).await,
        Action::PutBackVolumes => data::put_back(tenant, view).await,
        Action::MoveData(role) => data::move_home(tenant, view, role).await,
        Action::SetAside(id) => aside::set_aside(tenant, view, id).await,
        Action::BringBack(id) => aside::bring_back(tenant, view, id).await,
        Action::RemoveAside(id) => aside::remove_aside(tenant, view, id).await,
        Action::RemoveDirectory => remove_directory(tenant).await,
        Action::RestartContainer(role) => restart(tenant, role).await,
        Action::StartContainer(role) => {
            if role == Role::Postgres {
                data::make_spool(tenant, view).await?;
            }
            start(tenant, role).await
        }
        _ => {
            act_on_stack(
                tenant,
                view,
                view.stack.as_ref().ok_or_else(no_stack)?,
                action,
            )
            .await
        }
    }
}

async fn act_on_stack(
    tenant: &Tenant,
    view: &TenantView,
    stack: &Stack,
    action: Action,
) -> Result<String> {
    let docker = &tenant.host.docker;
    match action {
        Action::WriteFiles => write_files(tenant, stack).await,
        Action::CreateNetwork => create_network(tenant, stack).await,
        Action::CreateContainer(role) => create(tenant, view, stack, role).await,
        Action::UpdateLimits(role) => {
            let spec = stack.container(role);
            docker.update(&spec.name, &spec.limits).await?;
            Ok(format!(
                "now {} MiB, {} CPU",
                spec.limits.memory_bytes >> 20,
                spec.limits.nano_cpus as f64 / 1e9
            ))
        }
        Action::UpdateRestarts => update_restarts(tenant).await,
        Action::CopyGolden => database::copy_golden(tenant, view, stack).await,
        Action::InitDatabase => database::initialise(tenant, view, stack).await,
        Action::Rekey => database::rekey(tenant, view, stack).await,
        Action::UpdateSettings => database::update_settings(tenant).await,
        Action::FinishInstall => installs::finish(tenant, view, stack).await,
        Action::SkipDatabase => database::skip(tenant),
        Action::Promote => {
            tenant.may_go_on(None)?;
            takeover::promote(tenant, stack).await
        }
        Action::AwaitPostgres => {
            let detail = ready::await_postgres(tenant).await?;
            database::begin_switching(tenant).await;
            Ok(detail)
        }
        Action::AwaitOdoo => {
            let detail = ready::await_odoo(tenant).await?;
            // Ends the boost; without one this changes nothing.
            let (odoo, postgres) = (&stack.odoo, &stack.postgres);
            tokio::try_join!(
                docker.update(&odoo.name, &odoo.limits),
                docker.update(&postgres.name, &postgres.limits)
            )?;
            Ok(detail)
        }
        _ => Ok(String::new()), // handled by `act`
    }
}

fn quiet(done: std::result::Result<(), DockerError>) -> Result<String> {
    Ok(done.map(|()| String::new())?)
}

fn grace(role: Role) -> u32 {
    match role {
        Role::Odoo => stack::ODOO_STOP_S,
        Role::Postgres => stack::POSTGRES_GRACE_S,
    }
}

async fn create_network(tenant: &Tenant, stack: &Stack) -> Result<String> {
    let host = &tenant.host;
    let network = tenant.plan.subnet.trunc();
    if let Some(interface) = links::make_room(host, network).await? {
        return Err(Blocked::NetworkTaken { network, interface }.into());
    }
    let (name, subnet) = (&stack.network, &stack.subnet);
    host.docker.create_network(name, subnet, stack.mtu).await?;
    Ok(match stack.mtu {
        Some(mtu) => format!("{subnet}, packets of {mtu} bytes"),
        None => subnet.clone(),
    })
}

async fn update_restarts(tenant: &Tenant) -> Result<String> {
    let down = stack::stays_down(&tenant.plan);
    let docker = &tenant.host.docker;
    let [postgres, odoo] = [Role::Postgres, Role::Odoo].map(|role| tenant.container_name(role));
    tokio::try_join!(
        docker.update_restart(&postgres, !down),
        docker.update_restart(&odoo, !down)
    )?;
    tenant.remember(true, |s| s.stays_down = down)?;
    Ok(match down {
        true => "only the agent starts it when the machine starts".to_owned(),
        false => String::new(),
    })
}

async fn create_volume(tenant: &Tenant, view: &TenantView, role: Role) -> Result<String> {
    // Before the first volume or directory exists, record durably that nothing is in it: after a power loss, a volume without that
    // record would count as a tenant's data. (PostgreSQL's volume is always the first.)
    if role == Role::Postgres {
        tenant.remember(true, |s| {
            // Recorded now, so that the copy need not wait for the disk again.
            if view.observed.golden && s.database == Database::Empty {
                s.database = Database::Filling;
            }
            s.home = view.observed.home.as_ref().map(|h| h.path.clone());
        })?;
    }
    data::create_volume(tenant, view, role).await
}

async fn remove_volume(tenant: &Tenant, role: Role) -> Result<String> {
    let name = match role {
        Role::Odoo => tenant.name().odoo_volume(),
        Role::Postgres => tenant.name().postgres_volume(),
    };
    tracing::warn!(tenant = %tenant.name(), volume = name, "removing a purged tenant's volume");
    tenant.host.docker.remove_volume(&name).await?;
    Ok(format!("{name} removed"))
}

async fn remove_directory(tenant: &Tenant) -> Result<String> {
    let directory = tenant.directory();
    let removed = blocking(move || tree::remove_all(&directory)).await;
    removed.map_err(TenantError::disk(
        "the tenant's directory cannot be removed",
    ))?;
    Ok(String::new())
}

async fn write_files(tenant: &Tenant, stack: &Stack) -> Result<String> {
    let (directory, files) = (tenant.directory(), stack.files.clone());
    let written = blocking(move || {
        fsutil::private_dir(&directory)?;
        // Its container's user goes through it; on the host, nobody gets this far.
        let settings = directory.join(postgres::DIRECTORY);
        fsutil::make_directories(&settings)?;
        fsutil::set_mode(&settings, 0o755)?;
        files.iter().try_for_each(|f| {
            fsutil::write_if_changed(
                &directory.join(&f.name),
                f.content.as_bytes(),
                0o600,
                f.owner,
            )
            .map(drop)
        })
    });
    written
        .await
        .map_err(TenantError::disk("the tenant's files cannot be written"))?;
    tenant.remember(false, |_| ())?; // saves the hash that rendering has made
    Ok(String::new())
}

async fn start(tenant: &Tenant, role: Role) -> Result<String> {
    let detail = begin(tenant, &tenant.container_name(role)).await?;
    // A start also fulfils any restart requested before it.
    mark_restarted(tenant, role)?;
    Ok(detail.unwrap_or_default())
}

/// Starts a container, and counts where that is refused. Returns what to say of it, if it was made anew for that.
async fn begin(tenant: &Tenant, name: &str) -> Result<Option<String>> {
    let host = &tenant.host;
    // A standby is started while it waits; whoever starts Odoo has looked by then whether it still does.
    tenant.may_go_on(Some(Hold::Waits))?;
    let done = host.docker.start(name).await;
    if let Err(DockerError::Refused(why) | DockerError::Conflict(why)) = &done {
        host.starts().failed(name, why);
    }
    done?;
    let anew = host.starts().started(name);
    if let Some(why) = &anew {
        tracing::warn!(container = name, "it runs: {why}");
        let text = format!("{name}: {why}");
        host.board.set_mended("container", &text, now_ms());
    }
    Ok(anew)
}

/// Removes a container; its data stays in its volumes.
async fn remove(tenant: &Tenant, role: Role) -> Result<String> {
    let name = tenant.container_name(role);
    tenant.host.docker.remove(&name).await?;
    tenant.host.starts().removed(&name);
    Ok(String::new())
}

async fn stop(tenant: &Tenant, view: &TenantView, role: Role) -> Result<String> {
    if let (Role::Odoo, Callers::Held { most_ms }) = (role, &tenant.plan.callers) {
        let has_database = view.stack.as_ref().is_some_and(|stack| !stack.standin);
        return stop_quietly(tenant, *most_ms, has_database).await;
    }
    let grace_s = visitors::wait_for(tenant, role, grace(role)).await;
    let name = tenant.container_name(role);
    let stopped = tenant.host.docker.stop(&name, grace_s).await;
    if role == Role::Odoo && !visitors::is_to_run(tenant) {
        visitors::send_away(tenant).await;
    }
    quiet(stopped)
}

/// Stops Odoo for a move, with its callers held: where none of its requests is under way, it ends within a second.
async fn stop_quietly(tenant: &Tenant, most_ms: u32, has_database: bool) -> Result<String> {
    let quiet_as = visitors::await_quiet(tenant, most_ms, has_database).await;
    let grace_s = quiet_as.grace_s().ok_or(TenantError::Interrupted)?;
    let name = tenant.container_name(Role::Odoo);
    quiet(tenant.host.docker.stop(&name, grace_s).await)
}

async fn restart(tenant: &Tenant, role: Role) -> Result<String> {
    let name = tenant.container_name(role);
    let grace_s = visitors::wait_for(tenant, role, grace(role)).await;
    tenant.host.docker.stop(&name, grace_s).await?;
    let anew = begin(tenant, &name).await?;
    mark_restarted(tenant, role)?;
    Ok(anew.unwrap_or_else(|| "restarted".to_owned()))
}

fn mark_restarted(tenant: &Tenant, role: Role) -> Result<()> {
    let (done, wanted) = match role {
        Role::Odoo => (tenant.state().odoo_restarts, tenant.plan.odoo_restarts),
        Role::Postgres => (
            tenant.state().postgres_restarts,
            tenant.plan.postgres_restarts,
        ),
    };
    if done == wanted {
        return Ok(());
    }
    tenant.remember(false, |s| match role {
        Role::Odoo => s.odoo_restarts = wanted,
        Role::Postgres => s.postgres_restarts = wanted,
    })
}
