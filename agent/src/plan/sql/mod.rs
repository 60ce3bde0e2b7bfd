//! SQL that makes a freshly filled database the tenant's own. Pure.
//!
//! The SQL goes to `psql` through standard input, so no value is ever an argument. Not here: running it
//! (tenant::database).

mod passwords;
mod restored;

use isyone_proto::plan::TenantPlan;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub use self::{
    passwords::{metrics_token, monitor_password, password_hash, superuser_password},
    restored::{count_lively, lively, rekey_restored},
};
use crate::plan::{fresh, mail, postgres, stack::split_memory};

/// Quotes a text as a PostgreSQL literal, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The role that may see PostgreSQL's statistics and no customer's data.
pub const MONITOR_ROLE: &str = "isyone_monitor";

/// Digest of what [`update`] sets: when it changes, `update` must run again.
pub fn settings_digest(tenant: &TenantPlan) -> String {
    let secret = tenant.secrets.database_password.expose();
    // The monitor's password is derived from values that never change; `monitor 2` stands for the role's own settings and
    // for who may connect to the cluster's own databases.
    let upload = upload_limit(tenant);
    // What temporary files may take follows the plan's disk; the cluster's other settings are the same for all.
    let temporary = temporary_kib(tenant).unwrap_or(0);
    let archives = postgres::spoken(tenant) + &mail::spoken(tenant);
    hex::encode(Sha256::digest(format!(
        "monitor 2 {} {} {secret} upload {upload} temporary {temporary}{archives} report {REPORT_URL} unaccent asked {}",
        tenant.uid, tenant.base_url, tenant.settings_asked
    )))
}

/// For the superuser: none of the following may reach PostgreSQL's log, not even on an error, and no name means anything but
/// PostgreSQL's own, whatever functions and operators somebody has laid out in `public`.
pub(super) const QUIET: &str = "SET search_path = pg_catalog, pg_temp;\nSET log_statement = 'none';\nSET log_min_error_statement = 'panic';\nSET log_min_duration_statement = -1;\n";

/// For statements about Odoo's own tables, which are in `public`: PostgreSQL's names still come first.
pub(super) const ODOOS_TABLES: &str = "SET search_path = pg_catalog, public, pg_temp;\n";

/// Who may enter the cluster's own databases: Odoo, whose workers signal each other in `postgres`, and the monitor, and
/// nobody lays out anything there. May be repeated.
fn doors() -> String {
    format!(
        "GRANT CONNECT ON DATABASE postgres TO odoo, {MONITOR_ROLE};\n\
         REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC;\n\
         REVOKE CREATE ON SCHEMA public FROM PUBLIC;\n"
    )
}

fn alter_role(tenant: &TenantPlan) -> String {
    let password = literal(tenant.secrets.database_password.expose());
    format!("ALTER ROLE odoo WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {password};\n")
}

/// Part of the plan's disk that one connection may fill with temporary files: a sort or a join of a tenant that has room
/// needs less, and what it leaves is gone with it.
const TEMPORARY_SHARE: u64 = 4;
/// With less an index of a small tenant could not be built.
const LEAST_TEMPORARY_BYTES: u64 = 256 << 20;

/// What one connection may fill with temporary files, KiB; `None`: the plan has no limit.
fn temporary_kib(tenant: &TenantPlan) -> Option<u64> {
    let disk = Some(tenant.size.disk_bytes).filter(|bytes| *bytes > 0)?;
    let bytes = (disk / TEMPORARY_SHARE).max(LEAST_TEMPORARY_BYTES);
    Some((bytes >> 10).min(i32::MAX as u64))
}

/// The cluster's own settings, which no role but the superuser changes for temporary files, and which count at once, also for
/// connections that are open. A statement whose client is gone ends within seconds, where the version can (since 14). Each
/// is a statement of its own: `ALTER SYSTEM` stands in no transaction.
fn cluster_settings(tenant: &TenantPlan) -> String {
    let temporary = temporary_kib(tenant).map_or_else(
        || "ALTER SYSTEM RESET temp_file_limit;\n".to_owned(),
        |kib| format!("ALTER SYSTEM SET temp_file_limit = '{kib}kB';\n"),
    );
    format!(
        "{temporary}SELECT 'ALTER SYSTEM SET client_connection_check_interval = ''5s''' FROM pg_settings\n  \
         WHERE name = 'client_connection_check_interval' \\gexec\n\
         SELECT FROM pg_reload_conf();\n"
    )
}

/// Connections that came over the network, but for the monitor's, whose password nobody else has. An operator's `psql` comes
/// over the Unix socket inside the container, where no tenant's program runs; what a client calls itself does not count.
const STRANGERS: &str = "FROM pg_stat_activity WHERE client_addr IS NOT NULL AND pid <> pg_backend_pid() AND usename IS DISTINCT FROM";

fn strangers(what: &str) -> String {
    format!(
        "{QUIET}\\pset tuples_only on\n\\pset format unaligned\nSELECT {what} {STRANGERS} '{MONITOR_ROLE}';\n"
    )
}

/// Counts the connections that [`end_sessions`] would end, as one number.
pub fn count_sessions() -> String {
    strangers("count(*)")
}

/// Ends all connections over the network but the monitor's, and prints how many. Their transactions are undone.
pub fn end_sessions() -> String {
    strangers("count(pg_terminate_backend(pid))")
}

/// Statistics only, two connections, and nothing that could block anybody.
fn monitor_role(tenant: &TenantPlan) -> String {
    format!(
        "SELECT 'CREATE ROLE {MONITOR_ROLE}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{MONITOR_ROLE}') \\gexec\n\
         ALTER ROLE {MONITOR_ROLE} WITH LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 2 PASSWORD {};\n\
         ALTER ROLE {MONITOR_ROLE} SET statement_timeout = '5s';\n\
         ALTER ROLE {MONITOR_ROLE} SET default_transaction_read_only = on;\n\
         SELECT 'GRANT pg_monitor TO {MONITOR_ROLE}' WHERE NOT pg_has_role('{MONITOR_ROLE}', 'pg_monitor', 'MEMBER') \\gexec\n",
        literal(&monitor_password(tenant))
    )
}

pub(super) fn parameter(key: &str, value: &str) -> String {
    format!(
        "INSERT INTO ir_config_parameter (key, value, create_uid, write_uid, create_date, write_date)\n  \
         VALUES ({}, {}, 1, 1, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')\n  \
         ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, write_date = EXCLUDED.write_date;\n",
        literal(key),
        literal(value)
    )
}

/// Where the program that prints a report fetches its styles and pictures: from Odoo itself, beside it in its container. The public
/// address may not lead there from inside, and may ask for a password.
const REPORT_URL: &str = "http://127.0.0.1:8069";

fn address(tenant: &TenantPlan) -> String {
    // Frozen, because otherwise the first login of the administrator would overwrite it.
    parameter("web.base.url", &tenant.base_url)
        + &parameter("web.base.url.freeze", "True")
        + &parameter("report.url", REPORT_URL)
        + &mail::aliases(tenant)
}

/// Memory that Odoo needs in its container besides an uploaded file.
const OWN_MEMORY_BYTES: u64 = 512 << 20;
/// Odoo's default limit. No tenant gets a lower one, however small it is.
const LEAST_UPLOAD_BYTES: u64 = 128 << 20;
/// Room for the form around an uploaded file.
const FORM_BYTES: u64 = 1 << 20;

/// Largest file that a tenant's Odoo accepts: the limit configured for all tenants, but no more than fits its memory,
/// because Odoo holds an uploaded file in memory as a whole. 0 if the coordinator sends no limit.
fn upload_limit(plan: &TenantPlan) -> u64 {
    let (odoo, _) = split_memory(plan.size.memory_bytes);
    plan.upload_limit_bytes.min(
        odoo.saturating_sub(OWN_MEMORY_BYTES)
            .max(LEAST_UPLOAD_BYTES),
    )
}

/// [`upload_limit`] as Odoo's parameter.
fn upload_parameter(tenant: &TenantPlan) -> String {
    match upload_limit(tenant) {
        0 => String::new(),
        bytes => parameter(
            "web.max_file_upload_size",
            &bytes.saturating_add(FORM_BYTES).to_string(),
        ),
    }
}

/// Tells every process of a running Odoo that parameters have changed: processes cache them until a counter in the
/// database rises, which they check before each request. In Odoo 19 the counter is a table (`stable` covers
/// parameters), up to 18 a sequence. Bumps whichever exists: a fresh database has neither until Odoo has run.
fn signal() -> String {
    "SELECT format('INSERT INTO public.%I DEFAULT VALUES', table_name) FROM information_schema.tables\n  \
     WHERE table_schema = 'public' AND table_name IN ('orm_signaling_default', 'orm_signaling_stable') \\gexec\n\
     SELECT format('SELECT nextval(%L)', format('public.%I', sequencename)) FROM pg_sequences\n  \
     WHERE schemaname = 'public' AND sequencename IN ('base_cache_signaling', 'base_cache_signaling_default', 'base_cache_signaling_stable') \\gexec\n"
        .to_owned()
}

/// Before `-i`: the role that Odoo connects as, allowed to create its database. Drops a half-made database.
pub fn prepare(tenant: &TenantPlan) -> String {
    let password = literal(tenant.secrets.database_password.expose());
    format!(
        "{QUIET}SELECT 'CREATE ROLE odoo' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'odoo') \\gexec\n\
         ALTER ROLE odoo WITH LOGIN CREATEDB PASSWORD {password};\n\
         DROP DATABASE IF EXISTS \"{}\" WITH (FORCE);\n",
        tenant.name.database()
    )
}

/// Before the golden copy is taken: the copy keeps no password of the tenant that it came from, and nobody can log in
/// to it as Odoo before [`open`] allows that: Odoo may already be starting while the copy gets its keys.
pub const SCRUB: &str = "SET search_path = pg_catalog, pg_temp;\nALTER ROLE odoo NOLOGIN PASSWORD NULL;\nALTER ROLE postgres PASSWORD NULL;\nCHECKPOINT;\n";

/// Fresh random identity of a database.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseIdentity {
    /// `database.uuid`.
    pub uuid: Uuid,
    /// `database.secret`.
    pub secret: Uuid,
}

/// Lets Odoo in: sets its role's password and allows it to log in. The last change to a new database.
pub fn open(tenant: &TenantPlan) -> String {
    format!("{QUIET}{}", alter_role(tenant))
}

/// Odoo's own administrator, whatever he is called.
const ADMINISTRATOR: &str =
    "(SELECT res_id FROM ir_model_data WHERE module = 'base' AND name = 'user_admin')";

/// Nobody enters as superuser with a password any more, and the database gets its name, unless it has it.
fn renaming(source: &str, database: &str) -> String {
    format!(
        "ALTER ROLE postgres PASSWORD NULL;\n\
         SELECT format('ALTER DATABASE %I RENAME TO %I', {source}, {target}) WHERE EXISTS (SELECT FROM pg_database WHERE datname = {source})\n  \
         AND NOT EXISTS (SELECT FROM pg_database WHERE datname = {target}) \\gexec\n",
        source = literal(source),
        target = literal(database),
    )
}

/// What tells Odoo who it is, and where.
fn itself(tenant: &TenantPlan, identity: DatabaseIdentity) -> String {
    parameter("database.uuid", &identity.uuid.to_string())
        + &parameter("database.secret", &identity.secret.to_string())
        + &address(tenant)
        + &upload_parameter(tenant)
}

/// Makes the database in the cluster (named `source`) this tenant's: name, identity, administrator, company, address.
/// May be repeated. Must run before Odoo connects, because Odoo caches the secret.
pub fn rekey(tenant: &TenantPlan, source: &str, identity: DatabaseIdentity) -> String {
    let database = tenant.name.database();
    let admin_hash = password_hash(tenant.secrets.admin_password.expose(), tenant.uid, "admin");
    let mut sql = format!(
        "{QUIET}{}{}{}{}\\connect \"{database}\"\n{QUIET}{ODOOS_TABLES}BEGIN;\n",
        monitor_role(tenant),
        doors(),
        cluster_settings(tenant),
        renaming(source, &database),
    );
    sql += &itself(tenant, identity);
    sql += &format!(
        "UPDATE res_users SET login = {login}, password = {hash} WHERE id = {ADMINISTRATOR};\n",
        login = literal(tenant.admin_login.as_str()),
        hash = literal(&admin_hash),
    );
    sql + &fresh::company(tenant) + &fresh::registration(tenant) + "COMMIT;\n"
}

/// Sets what may change in a tenant's life: its address and upload limit, which a running Odoo picks up, and the role's
/// password. Leaves alone what its administrator may have changed (login, language, company). In the tenant's database
/// it acts only as the tenant's own role: a trigger there, left by an attacker who has taken Odoo over, would otherwise
/// run as superuser. But for its last statement, which touches no table of the tenant's and runs nothing of his. Fails with an error
/// that says so when it cannot get a lock.
pub fn update(tenant: &TenantPlan) -> String {
    update_and(tenant, "")
}

/// [`update`], and `more` in the same transaction, as the tenant's own role.
pub(super) fn update_and(tenant: &TenantPlan, more: &str) -> String {
    let database = tenant.name.database();
    format!(
        "{QUIET}{}{}{}{}\\connect \"{database}\" odoo\n{ODOOS_TABLES}SET lock_timeout = '20s';\nBEGIN;\n{more}{}{}{}COMMIT;\n\
         \\connect \"{database}\" postgres\n{QUIET}SET lock_timeout = '20s';\n{}",
        alter_role(tenant),
        monitor_role(tenant),
        doors(),
        cluster_settings(tenant),
        address(tenant),
        upload_parameter(tenant),
        signal(),
        fresh::fit_for_indexes()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tenant_plan;
    use proptest::prelude::*;

    #[test]
    fn the_master_password_does_not_enter_the_database() {
        let plan = tenant_plan("alfa");
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::nil(),
        };
        let sql = rekey(&plan, "odoo_beta", identity);
        assert!(!sql.contains(plan.secrets.master_password.expose()));
        assert!(
            !sql.contains(plan.secrets.admin_password.expose()),
            "only its hash"
        );
        assert!(
            !sql.contains("ALTER ROLE odoo"),
            "nobody is let in before the keys are there"
        );
        assert!(open(&plan).contains(plan.secrets.database_password.expose()));
    }

    #[test]
    fn a_file_of_the_largest_size_passes_with_its_form_and_another_limit_is_written() {
        let mut plan = tenant_plan("alfa");
        plan.size.memory_bytes = 2 << 30;
        let before = settings_digest(&plan);
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::nil(),
        };
        for sql in [update(&plan), rekey(&plan, "x", identity)] {
            assert!(
                sql.contains("(E'web.max_file_upload_size', E'1074790400', "),
                "{sql}"
            );
        }
        plan.upload_limit_bytes *= 2;
        assert_eq!(
            settings_digest(&plan),
            before,
            "there is no memory for more"
        );
        plan.size.memory_bytes *= 2;
        assert_ne!(settings_digest(&plan), before);
        plan.size.memory_bytes = 1 << 30;
        assert!(
            update(&plan).contains(&format!("E'{}'", (256 << 20) + FORM_BYTES)),
            "nor in a small one for that"
        );
        let before = settings_digest(&plan);
        plan.wal_spool = Some(Default::default());
        assert_ne!(settings_digest(&plan), before, "PostgreSQL is told");
        plan.upload_limit_bytes = 0;
        assert!(
            !update(&plan).contains("max_file"),
            "of a coordinator that says nothing of it"
        );
    }

    /// Fails where a PDF has no style because the public address does not lead back into the container.
    #[test]
    fn reports_fetch_their_styles_from_inside_also_in_tenants_of_before() {
        let plan = tenant_plan("alfa");
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::nil(),
        };
        for sql in [update(&plan), rekey(&plan, "x", identity)] {
            assert!(
                sql.contains("(E'report.url', E'http://127.0.0.1:8069', "),
                "{sql}"
            );
        }
    }

    #[test]
    fn a_living_database_is_written_to_as_its_own_role_only() {
        let sql = update(&tenant_plan("alfa"));
        let (before, after) = sql.split_once("\\connect \"odoo_alfa\" odoo\n").unwrap();
        assert!(!before.contains("odoo_alfa"));
        let (_, superusers) = after
            .split_once("COMMIT;\n\\connect \"odoo_alfa\" postgres\n")
            .unwrap();
        let statements = superusers.trim_start_matches(QUIET);
        let (limit, statement) = statements.split_once('\n').unwrap();
        assert_eq!(limit, "SET lock_timeout = '20s';");
        assert_eq!(statement, fresh::fit_for_indexes());
    }

    #[test]
    fn no_name_is_looked_for_where_a_tenant_lays_out_its_own() {
        let plan = tenant_plan("alfa");
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::nil(),
        };
        let scripts = [
            prepare(&plan),
            SCRUB.to_owned(),
            rekey(&plan, "odoo_beta", identity),
            open(&plan),
            update(&plan),
            rekey_restored(&plan, "odoo_beta", identity),
        ];
        for script in scripts {
            // Each session of a script begins with it, before any other name is used.
            for session in script.split("\\connect ") {
                let begins = session.strip_prefix("\"odoo_alfa\"");
                let begins = begins.unwrap_or(session).trim_start_matches(" odoo");
                let begins = begins.trim_start_matches(" postgres").trim_start();
                assert!(
                    begins.starts_with("SET search_path = pg_catalog, "),
                    "{script}"
                );
            }
            assert!(!script.contains("current_schema"), "{script}");
        }
        for script in [
            rekey(&plan, "odoo_beta", identity),
            update(&plan),
            rekey_restored(&plan, "odoo_beta", identity),
        ] {
            let (before, after) = script
                .split_once("GRANT CONNECT ON DATABASE postgres TO odoo, isyone_monitor;\nREVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC;\nREVOKE CREATE ON SCHEMA public FROM PUBLIC;\n")
                .unwrap();
            assert!(!before.contains("\\connect") && after.contains("\\connect"));
        }
    }

    /// Fails where a tenant that exists, or another plan's disk, never gets the cluster's settings.
    #[test]
    fn temporary_files_are_held_to_a_part_of_the_plans_disk() {
        let mut plan = tenant_plan("alfa");
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::nil(),
        };
        let mut digests = std::collections::BTreeSet::new();
        for (disk, said) in [
            (0, "RESET temp_file_limit;"),
            (1 << 20, "SET temp_file_limit = '262144kB';"),
            (20 << 30, "SET temp_file_limit = '5242880kB';"),
            (u64::MAX, "SET temp_file_limit = '2147483647kB';"),
        ] {
            plan.size.disk_bytes = disk;
            for sql in [update(&plan), rekey(&plan, "x", identity)] {
                let (first, _) = sql.split_once("\\connect").unwrap();
                assert!(first.contains(&format!("ALTER SYSTEM {said}\n")), "{sql}");
                assert!(!first.contains("BEGIN"), "it stands in no transaction");
                let asked = first.find("client_connection_check_interval").unwrap();
                let loaded = first.find("pg_reload_conf()").unwrap();
                assert!(asked < loaded, "{sql}");
            }
            digests.insert(settings_digest(&plan));
        }
        assert_eq!(digests.len(), 4);
    }

    #[test]
    fn who_is_cut_off_is_told_by_the_way_he_came_not_by_what_he_says() {
        for sql in [count_sessions(), end_sessions()] {
            assert!(sql.starts_with("SET search_path = pg_catalog, "), "{sql}");
            assert!(sql.contains("client_addr IS NOT NULL"), "{sql}");
            assert!(!sql.contains("application_name"), "{sql}");
        }
        assert!(!count_sessions().contains("terminate"));
    }

    #[test]
    fn a_running_odoo_is_told_of_its_new_address_in_the_same_transaction() {
        let sql = update(&tenant_plan("alfa"));
        let (before, after) = sql.split_once("web.base.url").unwrap();
        assert!(
            before.ends_with("VALUES (E'") && before.contains("BEGIN;"),
            "{sql}"
        );
        for signal in ["'orm_signaling_stable'", "'base_cache_signaling_default'"] {
            let at = after.find(signal).unwrap();
            assert!(at < after.find("COMMIT;").unwrap(), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn a_literal_never_ends_early(text in "\\PC{0,40}|['\\\\]{0,8}") {
            let quoted = literal(&text);
            let mut inner = quoted[2..quoted.len() - 1].chars();
            let mut back = String::new();
            while let Some(c) = inner.next() {
                if c == '\\' || c == '\'' {
                    prop_assert_eq!(inner.next(), Some(c), "doubled");
                }
                back.push(c);
            }
            prop_assert_eq!(back, text);
        }
    }
}
