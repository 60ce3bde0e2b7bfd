//! `isyctl tenant list`, `show`, `explain`, `credentials`: nothing here changes anything.

use clap::{Args, builder::PossibleValuesParser};
use isyone_proto::pb::v1::{ExplainTenantRequest, ListTenantsRequest, Reach, Tenant, TenantPhase};

use super::{create, domain};
use crate::{
    app::App,
    clock,
    exit::{Exit, Outcome},
    output::{
        format, placement,
        table::{Cell, Paint, Table},
        wire::Wire,
    },
};

const PHASES: [&str; 9] = [
    "pending",
    "creating",
    "running",
    "failing",
    "suspended",
    "deleting",
    "quarantined",
    "unknown",
    "updating",
];

/// `isyctl tenant list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant list
  isyctl tenant list --host h2 -o wide
  isyctl tenant list --phase failing
  isyctl tenant list -o name | xargs -n1 isyctl tenant verify")]
pub struct List {
    /// Only tenants on this host
    #[arg(long)]
    host: Option<String>,
    /// Only tenants in this phase
    #[arg(long, value_parser = PossibleValuesParser::new(PHASES))]
    phase: Option<String>,
    /// Also deleted tenants that can still be restored
    #[arg(long)]
    deleted: bool,
    /// At most this many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl List {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let phase = self.phase.and_then(|word| {
            TenantPhase::from_str_name(&format!("TENANT_PHASE_{}", word.to_uppercase()))
        });
        let tenants = client
            .pages(self.limit, |page_size, page_token| {
                let request = ListTenantsRequest {
                    page_size,
                    page_token,
                    host: self.host.clone().unwrap_or_default(),
                    show_deleted: self.deleted,
                    phase: phase.unwrap_or_default().into(),
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list tenants", request, |c, r| async move {
                            c.tenants().list_tenants(r).await
                        })
                        .await?;
                    Ok((page.tenants, page.next_page_token))
                }
            })
            .await?;
        let names = || tenants.iter().map(|t| t.name.clone()).collect();
        app.ui.emit(&Wire::all(&tenants), names, |wide| {
            list(&tenants, wide, clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
}

fn list(tenants: &[Tenant], wide: bool, now_ms: i64) -> String {
    if tenants.is_empty() {
        return String::new();
    }
    let mut header = vec!["NAME", "PHASE", "HOST", "PLAN", "URL", "AGE"];
    if wide {
        header.extend(["CPU", "MEMORY", "DISK", "ODOO IMAGE", "MESSAGE"]);
    }
    let mut table = Table::new(header);
    for tenant in tenants {
        let spec = tenant.spec.clone().unwrap_or_default();
        let mut row: Vec<Cell> = vec![
            tenant.name.as_str().into(),
            Paint::word(&format::tenant_phase(tenant)),
            format::or_dash(&tenant.host).into(),
            format::or_dash(&spec.plan).into(),
            tenant.url.as_str().into(),
            format::age(now_ms, tenant.create_time.as_ref()).into(),
        ];
        if wide {
            let usage = tenant.usage.as_ref();
            let used = |show: &dyn Fn(&isyone_proto::pb::v1::Usage) -> String| {
                usage.map_or("-".to_owned(), show)
            };
            row.extend([
                used(&|u| format::cpus(u.cpu_millis)).into(),
                used(&|u| format::bytes(u.memory_bytes)).into(),
                format::measured_disk(usage)
                    .map_or("-".to_owned(), format::bytes)
                    .into(),
                format::or_dash(&spec.odoo_image).into(),
                tenant.message.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

/// `isyctl tenant show`.
pub async fn show(app: &App, name: &str) -> Outcome {
    let tenant = super::get(&app.client()?, name).await?;
    app.ui.emit(
        &Wire::of(&tenant),
        || vec![tenant.name.clone()],
        |_| details(&tenant, clock::now_ms()),
    )?;
    Ok(Exit::Done)
}

/// All that is known of a tenant.
pub(crate) fn details(tenant: &Tenant, now_ms: i64) -> String {
    let mut pairs: Vec<(&str, Cell)> = vec![
        ("Name", tenant.name.as_str().into()),
        ("Phase", Paint::word(&format::tenant_phase(tenant))),
        ("Wanted", format::desired(tenant.desired_state).into()),
    ];
    if !tenant.message.is_empty() {
        pairs.push(("Message", tenant.message.as_str().into()));
    }
    pairs.push(("URL", format::or_dash(&tenant.url).into()));
    pairs.extend(domain::pairs(&tenant.domains));
    pairs.push(("Edge", reached(tenant, now_ms)));
    if !tenant.edge_shard.is_empty() {
        pairs.push(("Edge shard", tenant.edge_shard.as_str().into()));
    }
    pairs.extend(
        tenant
            .access
            .as_ref()
            .map(super::access::pairs)
            .unwrap_or_default(),
    );
    pairs.push(("Host", placed(tenant).into()));
    pairs.extend(asked(tenant));
    pairs.push(("Uses", used(tenant).into()));
    pairs.extend(visitors(tenant));
    if tenant.last_active_time.is_some() {
        let ago = format!(
            "{} ago",
            format::age(now_ms, tenant.last_active_time.as_ref())
        );
        pairs.push(("Last used", ago.into()));
    }
    pairs.push(("Created", format::local(tenant.create_time.as_ref()).into()));
    let reported = match &tenant.report_time {
        Some(time) => format!("{} ago", format::age(now_ms, Some(time))),
        None => "not since the coordinator started".to_owned(),
    };
    pairs.push(("Last report", reported.into()));
    if tenant.quarantine_expire_time.is_some() {
        pairs.push((
            "Restorable until",
            format::local(tenant.quarantine_expire_time.as_ref()).into(),
        ));
    }
    pairs.push(("Operation", format::or_dash(&tenant.operation_id).into()));
    let mut text = Table::pairs(pairs);
    if !tenant.containers.is_empty() {
        text.push('\n');
        text.push_str(&containers(tenant, now_ms));
    }
    text
}

/// How visitors get in.
fn reached(tenant: &Tenant, now_ms: i64) -> Cell {
    let Some(probe) = &tenant.probe else {
        return "not known".into();
    };
    let mut text = match (probe.http_status, probe.error.as_str()) {
        (0, error) => format::or_dash(error).to_owned(),
        (status, error) => {
            let more = if error.is_empty() || error == format!("answered {status}") {
                String::new()
            } else {
                format!(" ({error})")
            };
            format!("{status} in {} ms{more}", probe.duration_ms)
        }
    };
    if probe.certificate_expire_time.is_some() {
        text.push_str(&format!(
            ", certificate until {}",
            format::local(probe.certificate_expire_time.as_ref())
        ));
    }
    text.push_str(&format!(
        " ({} ago, through {})",
        format::age(now_ms, probe.time.as_ref()),
        format::or_dash(&probe.edge)
    ));
    match probe.reach() {
        Reach::Ok => Paint::Good.on(&text),
        Reach::HostDown => Paint::Bad.on(&format!("its host is down: {text}")),
        Reach::EdgeDown => Paint::Bad.on(&format!("the edge is down: {text}")),
        Reach::TenantDown | Reach::Unspecified => Paint::Bad.on(&text),
    }
}

fn used(tenant: &Tenant) -> String {
    let Some(usage) = &tenant.usage else {
        return "not known".to_owned();
    };
    let disk = format::measured_disk(Some(usage)).map_or("-".to_owned(), format::bytes);
    format!(
        "{} CPU, {} memory, {disk} disk",
        format::cpus(usage.cpu_millis),
        format::bytes(usage.memory_bytes)
    )
}

/// What visitors do, over about the last minute.
fn visitors(tenant: &Tenant) -> Vec<(&'static str, Cell)> {
    let Some(traffic) = &tenant.traffic else {
        return vec![("Visitors", "not known".into())];
    };
    let rates = format!(
        "{} requests/s, {} errors/s, 95% within {}",
        format::per_second(traffic.requests_per_minute),
        format::per_second(traffic.errors_per_minute),
        format::p95(Some(traffic)).unwrap_or("-".to_owned()),
    );
    let connected = format!(
        "{}, {}",
        format::plural(traffic.active_users as usize, "active user"),
        format::plural(traffic.websockets as usize, "websocket")
    );
    vec![("Visitors", rates.into()), ("Connected", connected.into())]
}

fn placed(tenant: &Tenant) -> String {
    if tenant.host.is_empty() {
        return "-".to_owned();
    }
    let websocket = if tenant.websocket_port == 0 {
        String::new()
    } else {
        format!(", {}", tenant.websocket_port)
    };
    format!(
        "{} (ports {}{websocket}; network {})",
        tenant.host,
        tenant.http_port,
        format::or_dash(&tenant.subnet)
    )
}

fn asked(tenant: &Tenant) -> Vec<(&'static str, Cell)> {
    let spec = tenant.spec.clone().unwrap_or_default();
    let size = tenant.size.map_or(String::new(), |size| {
        format!(
            " ({}, {} CPU, {} disk, {})",
            format::bytes(size.memory_bytes),
            format::cpus(size.cpu_millis),
            format::bytes(size.disk_bytes),
            format::plural(size.workers as usize, "worker")
        )
    });
    let modules = if spec.modules.is_empty() {
        "base".to_owned()
    } else {
        spec.modules.join(", ")
    };
    let mut pairs: Vec<(&str, Cell)> = vec![
        (
            "Plan",
            format!("{}{size}", format::or_dash(&spec.plan)).into(),
        ),
        ("Edition", format::or_dash(&spec.edition).into()),
        ("Odoo image", format::or_dash(&spec.odoo_image).into()),
        (
            "PostgreSQL image",
            format::or_dash(&spec.postgres_image).into(),
        ),
        (
            "Locale",
            [spec.language.as_str(), &spec.country, &spec.time_zone]
                .map(format::or_dash)
                .join(", ")
                .into(),
        ),
        ("Modules", modules.into()),
        ("Login", format::or_dash(&spec.admin_login).into()),
    ];
    if !spec.host.is_empty() {
        pairs.push(("Only on host", spec.host.as_str().into()));
    }
    if !spec.host_labels.is_empty() {
        pairs.push((
            "Only on hosts with",
            format::labels(&spec.host_labels).into(),
        ));
    }
    pairs
}

fn containers(tenant: &Tenant, now_ms: i64) -> String {
    let mut table = Table::new([
        "CONTAINER",
        "STATE",
        "HEALTH",
        "RESTARTS",
        "OOM KILLS",
        "UP",
        "IMAGE",
    ]);
    for container in &tenant.containers {
        let running = container.state == "running";
        let health = match (running, container.healthy) {
            (true, true) => Paint::word("healthy"),
            (true, false) => Paint::Warn.on("not yet"),
            (false, _) => format!("exit {}", container.exit_code).into(),
        };
        let up = if running {
            format::age(now_ms, container.start_time.as_ref())
        } else {
            "-".to_owned()
        };
        table.row([
            container.name.as_str().into(),
            Paint::word(&container.state),
            health,
            container.restarts.to_string().into(),
            container.oom_kills.to_string().into(),
            up.into(),
            // As docker shows it: the algorithm and twelve digits.
            container
                .image_digest
                .chars()
                .take(19)
                .collect::<String>()
                .into(),
        ]);
    }
    table.render()
}

/// `isyctl tenant explain`.
pub async fn explain(app: &App, name: &str) -> Outcome {
    let client = app.client()?;
    let request = ExplainTenantRequest {
        name: name.to_owned(),
    };
    let found = client
        .read(
            &format!("explain tenant `{name}`"),
            request,
            |c, r| async move { c.tenants().explain_tenant(r).await },
        )
        .await?;
    app.ui.emit(
        &Wire::of(&found),
        || vec![found.host.clone()],
        |wide| placement::explained(&found, wide),
    )?;
    Ok(Exit::Done)
}

/// `isyctl tenant credentials`.
pub async fn credentials(app: &App, name: &str) -> Outcome {
    let found = create::get_credentials(&app.client()?, name).await?;
    let text = |wide| {
        let mut pairs = create::login(&found).to_vec();
        if wide {
            pairs.extend([
                ("Master password", found.master_password.as_str().into()),
                ("Database", found.database.as_str().into()),
                ("Database user", found.database_user.as_str().into()),
                ("Database password", found.database_password.as_str().into()),
            ]);
        }
        Table::pairs(pairs)
    };
    app.ui
        .emit(&Wire::of(&found), || vec![name.to_owned()], text)?;
    Ok(Exit::Done)
}
