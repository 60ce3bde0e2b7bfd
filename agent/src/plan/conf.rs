//! `odoo.conf`. Pure: sorted, pinned by a golden file.
//!
//! Not here: writing it (tenant::execute), the other files (render), how mail is sent (mail).

use std::collections::BTreeMap;

use isyone_proto::{
    odoo::{self, Place},
    plan::TenantPlan,
};

use crate::plan::{
    facts::ImageFacts,
    mail,
    stack::{
        ADDON_NAME, ADDONS_TARGET, CRON_THREADS, GEVENT_PORT, POSTGRES_PORT, db_maxconn,
        process_memory, process_soft_memory,
    },
};

/// Odoo's own defaults, of an image that our module does not get into.
const LIMIT_MEMORY_BYTES: u64 = 2560 << 20;
const LIMIT_MEMORY_SOFT_BYTES: u64 = 2048 << 20;
/// As agents of before wrote it.
const LIMIT_TIME_CPU_S: u64 = 60;
/// Odoo's own default for how long a request may take.
const LIMIT_TIME_S: u64 = 120;
/// Upload rate of an office's line: 12 Mbit/s. Odoo reads an upload within its request, so a request must be allowed to
/// take as long: 1 GiB in 716 s, just within the 720 s that the edge waits (`readTimeout` in traefik.yml).
const UPLOAD_BYTES_PER_S: u64 = 1_500_000;

/// Escapes a name for a regular expression. Tenant names contain only letters, digits, `-` and `_`; they are escaped
/// all the same, so that a wider alphabet would not open other databases.
fn regex_escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            (!c.is_ascii_alphanumeric() && c != '_')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

/// How long a request may take: `limit_time_real`, as it was chosen. Else it follows the limit configured for all tenants, so that a
/// resize restarts nothing.
pub(crate) fn request_seconds(plan: &TenantPlan) -> u64 {
    let upload = plan.upload_limit_bytes.div_ceil(UPLOAD_BYTES_PER_S);
    let chosen = plan.odoo.number("limit_time_real");
    chosen.unwrap_or(upload.max(LIMIT_TIME_S))
}

/// Options and their values.
pub(super) type Lines = Vec<(&'static str, String)>;

/// Limits on a process. Without our module, which moves the limit on address space with what is mapped but not used, a
/// threaded server would end at it with a few dozen websockets: Odoo's defaults stay.
fn limits(plan: &TenantPlan, image: &ImageFacts) -> Lines {
    let (size, upload) = (&plan.size, plan.upload_limit_bytes);
    let (hard, soft) = match image.addons_path {
        Some(_) => (
            process_memory(size, upload),
            process_soft_memory(size, upload),
        ),
        None => (LIMIT_MEMORY_BYTES + upload, LIMIT_MEMORY_SOFT_BYTES),
    };
    // The installation of an app is one request, and half done is worse than slow.
    limit_lines(hard, soft, request_seconds(plan))
}

fn limit_lines(hard: u64, soft: u64, cpu_s: u64) -> Lines {
    vec![
        ("limit_memory_hard", hard.to_string()),
        ("limit_memory_soft", soft.to_string()),
        ("limit_time_cpu", cpu_s.to_string()),
    ]
}

/// `odoo.conf`. A container reads it at each start.
pub fn odoo_conf(plan: &TenantPlan, image: &ImageFacts, master_hash: &str) -> String {
    let mut lines = limits(plan, image);
    // `fixed_conf` has it not: no tenant stops for it, and databases of before have no such function.
    lines.push(("unaccent", "True".to_owned()));
    conf(plan, image, master_hash, lines)
}

/// What of `odoo.conf` decides whether a container is made anew. Not the limits on a process, which come with its next start: as
/// they were before, no tenant stops because an agent is upgraded or because memory is changed in flight.
pub fn fixed_conf(plan: &TenantPlan, image: &ImageFacts, master_hash: &str) -> String {
    let hard = LIMIT_MEMORY_BYTES + plan.upload_limit_bytes;
    let before = limit_lines(hard, LIMIT_MEMORY_SOFT_BYTES, LIMIT_TIME_CPU_S);
    conf(plan, image, master_hash, before)
}

/// Without `db_name` Odoo would run the crons of every database it can see.
fn conf(plan: &TenantPlan, image: &ImageFacts, master_hash: &str, limits: Lines) -> String {
    let database = plan.name.database();
    let filter = format!("^{}$", regex_escape(&database));
    let mut lines: Lines = vec![
        ("admin_passwd", master_hash.to_owned()),
        ("data_dir", "/var/lib/odoo".to_owned()),
        ("db_host", plan.name.postgres_container()),
        ("db_maxconn", db_maxconn(plan).to_string()),
        ("db_name", database),
        (
            "db_password",
            plan.secrets.database_password.expose().to_owned(),
        ),
        ("db_port", POSTGRES_PORT.to_string()),
        ("db_user", "odoo".to_owned()),
        ("dbfilter", filter),
        ("gevent_port", GEVENT_PORT.to_string()),
        ("http_interface", "0.0.0.0".to_owned()),
        ("limit_time_real", request_seconds(plan).to_string()),
        ("list_db", "False".to_owned()),
        ("logfile", "False".to_owned()),
        ("max_cron_threads", CRON_THREADS.to_string()),
        ("proxy_mode", "True".to_owned()),
        ("without_demo", "True".to_owned()),
        ("workers", plan.size.workers.to_string()),
    ];
    lines.extend(limits);
    if request_seconds(plan) > LIMIT_TIME_S {
        lines.push(("limit_time_real_cron", LIMIT_TIME_S.to_string()));
    }
    // The image's own path and ours, because our file replaces the image's. An image that sets no path keeps Odoo's
    // default, without metrics: naming a path would drop the one that Odoo finds by itself.
    if let Some(path) = &image.addons_path {
        lines.push(("addons_path", format!("{path},{}", ADDONS_TARGET)));
        lines.push((
            "server_wide_modules",
            format!("{},{}", image.server_wide_modules, ADDON_NAME),
        ));
    }
    lines.extend(mail::options(plan));
    choose(plan, &mut lines);
    lines.sort_unstable();
    let text = |lines: Lines| -> String {
        let line = |(key, value)| format!("{key} = {value}\n");
        lines.into_iter().map(line).collect()
    };
    // A section that Odoo leaves alone: there is none for whom nothing is to be said.
    let ours = match mail::told(plan) {
        lines if lines.is_empty() => String::new(),
        lines => format!("[isyone]\n{}", text(lines)),
    };
    let options = text(lines);
    format!("; Written by isy-agent, which writes it again on change.\n[options]\n{options}{ours}")
}

/// What somebody has chosen takes the place of ours; `db_maxconn` has been heeded already.
fn choose(plan: &TenantPlan, lines: &mut Lines) {
    let chosen = plan
        .odoo
        .iter()
        .filter(|(name, _)| name.as_str() != "db_maxconn");
    for (name, value) in chosen {
        let ours = lines.iter_mut().find(|(key, _)| *key == name.as_str());
        match (name.place(), ours) {
            (Place::Option, Some((_, line))) => value.clone_into(line),
            (Place::Option, None) => lines.push((name.as_str(), value.to_owned())),
            (Place::More, Some((_, line))) => *line = more(line, value),
            // Without a list of ours Odoo has its own, which a shorter one would replace.
            (Place::More, None) => lines.push((name.as_str(), format!("base,web,{value}"))),
            (Place::Environment | Place::Channels, _) => {}
        }
    }
}

/// A list with what is not in it yet.
fn more(list: &str, added: &str) -> String {
    let has = |one: &str| list.split(',').any(|other| other == one);
    let new = added.split(',').filter(|one| !has(one));
    std::iter::once(list)
        .chain(new)
        .collect::<Vec<_>>()
        .join(",")
}

/// How Odoo's module `queue_job` is told of its channels, in every version.
const CHANNELS: &str = "ODOO_QUEUE_JOB_CHANNELS";

/// Environment variables that somebody has chosen.
pub(super) fn environment(plan: &TenantPlan) -> BTreeMap<String, String> {
    let variable = |name: odoo::Name| match name.place() {
        Place::Environment => Some(name.as_str()),
        Place::Channels => Some(CHANNELS),
        Place::Option | Place::More => None,
    };
    let all = plan.odoo.iter();
    all.filter_map(|(name, value)| Some((variable(name)?.to_owned(), value.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tenant_plan;

    fn with(settings: &[(&str, &str)]) -> TenantPlan {
        let mut plan = tenant_plan("alfa");
        for (name, value) in settings {
            plan.odoo.set(name.parse().unwrap(), value).unwrap();
        }
        plan
    }

    fn image() -> ImageFacts {
        ImageFacts {
            addons_path: Some("/mnt/extra-addons".into()),
            server_wide_modules: "base,web".into(),
            ..ImageFacts::default()
        }
    }

    #[test]
    fn what_was_chosen_takes_the_place_of_ours_and_is_there_once() {
        let plan = with(&[
            ("limit_time_real", "300"),
            ("limit_memory_hard", "500000000"),
            ("log_level", "warn"),
            ("unaccent", "false"),
            ("server_wide_modules", "queue_job,web"),
            ("queue_job_channels", "root:2"),
            ("ODOO_MAX_HTTP_THREADS", "32"),
            ("db_maxconn", "190"),
        ]);
        let has = |text: &str, line: &str| text.lines().filter(|l| *l == line).count();
        for of in [odoo_conf, fixed_conf] {
            let text = of(&plan, &image(), "hash");
            for line in [
                "limit_time_real = 300",
                "limit_memory_hard = 500000000",
                "log_level = warn",
                "unaccent = False",
                "server_wide_modules = base,web,isyone_metrics,queue_job",
            ] {
                assert_eq!(has(&text, line), 1, "{line} in\n{text}");
            }
            let mut keys: Vec<&str> = text
                .lines()
                .filter_map(|l| l.split_once(" = "))
                .map(|(k, _)| k)
                .collect();
            let count = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), count, "{text}");
            assert!(
                !text.contains("ODOO_") && !text.contains("channels"),
                "{text}"
            );
        }
        let environment = environment(&plan);
        let of = |name: &str| environment.get(name).map(String::as_str);
        assert_eq!(
            (of(CHANNELS), of("ODOO_MAX_HTTP_THREADS")),
            (Some("root:2"), Some("32"))
        );
        assert_eq!(request_seconds(&plan), 300);
        // Its workers' connections fit PostgreSQL, whatever was asked for.
        assert!(db_maxconn(&plan) * (plan.size.workers + 2) <= 200);
        assert_eq!(db_maxconn(&with(&[("db_maxconn", "10")])), 10);
        let none = odoo_conf(
            &with(&[("server_wide_modules", "queue_job")]),
            &ImageFacts::default(),
            "h",
        );
        assert_eq!(has(&none, "server_wide_modules = base,web,queue_job"), 1);
    }

    /// Fails if a tenant stops because its agent or coordinator is upgraded.
    #[test]
    fn nothing_is_another_where_nothing_was_chosen() {
        let text = odoo_conf(&with(&[]), &image(), "hash");
        assert!(environment(&with(&[])).is_empty() && !text.contains("log_level"));
    }

    #[test]
    fn a_filter_matches_only_its_own_database() {
        assert_eq!(regex_escape("odoo_my-co.x"), "odoo_my\\-co\\.x");
    }
}
