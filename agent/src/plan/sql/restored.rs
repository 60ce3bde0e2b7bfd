//! SQL that makes a restored database another tenant's, and looks whether it is neutralised. Pure.
//!
//! Not here: neutralising, which is Odoo's own program (tenant::database).

use isyone_proto::plan::TenantPlan;

use super::{
    ADMINISTRATOR, DatabaseIdentity, ODOOS_TABLES, QUIET, alter_role, cluster_settings, doors,
    itself, literal, monitor_role, password_hash, renaming,
};

/// Makes a database that was another tenant's this tenant's: name, role, identity, address, and the administrator's login and password.
/// Whatever else its users had chosen stays. May be repeated, and must run before Odoo connects. In the database it acts as the
/// tenant's own role, as [`super::update`] does: who has used it until now may have left anything there.
pub fn rekey_restored(tenant: &TenantPlan, source: &str, identity: DatabaseIdentity) -> String {
    let database = tenant.name.database();
    let admin_hash = password_hash(tenant.secrets.admin_password.expose(), tenant.uid, "admin");
    let mut sql = format!(
        "{QUIET}{}{}{}{}{}\\connect \"{database}\" odoo\n{ODOOS_TABLES}BEGIN;\n",
        alter_role(tenant),
        monitor_role(tenant),
        doors(),
        cluster_settings(tenant),
        renaming(source, &database),
    );
    sql += &itself(tenant, identity);
    sql += &format!(
        "UPDATE res_users SET login = {login}, password = {hash}, active = true WHERE id = {ADMINISTRATOR};\nCOMMIT;\n",
        login = literal(tenant.admin_login.as_str()),
        hash = literal(&admin_hash),
    );
    sql
}

/// What a neutralised database must not have, the table that would hold it and may not be there, and the statement that counts it.
const NEUTRAL: [(&str, &str, &str); 5] = [
    (
        "it does not say that it is neutralised",
        "ir_config_parameter",
        "SELECT (count(*) = 0)::int FROM public.ir_config_parameter WHERE key = 'database.is_neutralized' AND lower(value) = 'true'",
    ),
    (
        "mail servers that send",
        "ir_mail_server",
        "SELECT count(*) FROM public.ir_mail_server WHERE active AND smtp_host IS DISTINCT FROM 'invalid'",
    ),
    (
        "mail servers that fetch",
        "fetchmail_server",
        "SELECT count(*) FROM public.fetchmail_server WHERE active",
    ),
    (
        "scheduled jobs",
        "ir_cron",
        "SELECT count(*) FROM public.ir_cron WHERE active AND id NOT IN (SELECT res_id FROM public.ir_model_data WHERE model = 'ir.cron' AND name = 'autovacuum_job')",
    ),
    (
        NO_DUMMY,
        "ir_mail_server",
        "SELECT (count(*) = 0)::int FROM public.ir_mail_server WHERE active AND smtp_host = 'invalid'",
    ),
];

/// Counts only where its odoo.conf names a server that sends: that takes the place of one in the database.
const NO_DUMMY: &str = "it has no server that keeps it from the one in odoo.conf";

/// Looks whether a database is neutralised, as the tenant's own role: prints one number for each of what it must not have.
pub fn count_lively(tenant: &TenantPlan) -> String {
    let mut sql = format!(
        "\\connect \"{}\" odoo\n{ODOOS_TABLES}\\pset tuples_only on\n\\pset format unaligned\n",
        tenant.name.database()
    );
    let sends = tenant.mail.as_ref().is_some_and(|m| m.relay().is_some());
    for (what, table, count) in NEUTRAL {
        let count = if what == NO_DUMMY && !sends {
            "SELECT 0"
        } else {
            count
        };
        sql += &format!(
            "SELECT CASE WHEN to_regclass('public.{table}') IS NULL THEN 'SELECT 0' ELSE {} END \\gexec\n",
            literal(count)
        );
    }
    sql
}

/// What keeps a database from being neutralised, by what [`count_lively`] printed; `None`: nothing does.
pub fn lively(printed: &str) -> Option<String> {
    let numbers: Option<Vec<u64>> = printed
        .split_whitespace()
        .map(|number| number.parse().ok())
        .collect();
    let numbers = numbers.filter(|numbers| numbers.len() == NEUTRAL.len());
    let Some(numbers) = numbers else {
        return Some("what it has cannot be counted".to_owned());
    };
    let left = NEUTRAL.iter().zip(numbers).filter(|(_, count)| *count > 0);
    let left: Vec<String> = left
        .map(|((what, ..), count)| match count {
            1 if what.starts_with("it ") => (*what).to_owned(),
            count => format!("{count} {what}"),
        })
        .collect();
    (!left.is_empty()).then(|| left.join(", "))
}

#[cfg(test)]
mod tests {
    use isyone_proto::mail::{Mail, MailTls, Relay, Via};
    use uuid::Uuid;

    use super::*;
    use crate::testing::tenant_plan;

    #[test]
    fn what_was_restored_gets_keys_and_keeps_what_its_users_chose() {
        let plan = tenant_plan("alfa");
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::nil(),
        };
        let sql = rekey_restored(&plan, "odoo_beta", identity);
        assert!(sql.contains("\\connect \"odoo_alfa\" odoo\n"), "{sql}");
        assert!(sql.contains("E'odoo_beta'") && sql.contains("database.secret"));
        for chosen in ["res_company", "res_partner", "res_currency"] {
            assert!(!sql.contains(chosen), "{chosen}");
        }
        assert!(!sql.contains(plan.secrets.admin_password.expose()));
    }

    #[test]
    fn what_is_not_neutralised_is_named_and_what_cannot_be_told_is_not() {
        assert_eq!(lively("0\n0\n0\n0\n0\n"), None);
        let left = lively("1\n2\n0\n3\n0\n").unwrap();
        assert_eq!(
            left,
            "it does not say that it is neutralised, 2 mail servers that send, 3 scheduled jobs"
        );
        for odd in ["", "0 0 0 0", "0 0 0 0 x", "0 0 0 0 0 0"] {
            assert!(lively(odd).unwrap().contains("cannot be counted"), "{odd}");
        }
        let mut plan = tenant_plan("alfa");
        let sql = count_lively(&plan);
        assert_eq!(sql.matches("\\gexec").count(), 5);
        assert!(sql.contains("\\connect \"odoo_alfa\" odoo\n"));
        // A server in odoo.conf is kept from it by a dummy only.
        let demands = |plan: &TenantPlan| count_lively(plan).contains("AND smtp_host = ");
        let relay = Relay {
            host: "smtp.example.com".parse().unwrap(),
            port: 587,
            tls: MailTls::Starttls,
            unverified: false,
            user: None,
        };
        for (via, demanded) in [(Via::Catcher, false), (Via::Relay(relay), true)] {
            plan.mail = Some(Mail::by(via));
            assert_eq!(demands(&plan), demanded);
        }
        assert!(lively("0 0 0 0 1").unwrap().starts_with("it has no server"));
    }
}
