//! A database that was brought from elsewhere into a tenant's own, such as a dump: what makes it this tenant's. Pure.
//!
//! Beside what a changed address writes (sql): an identity of its own, so that no session and no signed link of the other one's is good here,
//! and its administrator as the coordinator knows him. Company, language, users and modules are the customer's and stay. As the
//! tenant's own role, which may have any trigger. Not here: running it (tenant::database).

use isyone_proto::plan::TenantPlan;

use crate::plan::{
    fresh,
    sql::{self, DatabaseIdentity, literal, parameter, password_hash},
};

/// Odoo's own administrator, whatever he is called.
const ADMINISTRATOR: &str = "(SELECT res_id FROM public.ir_model_data WHERE module = 'base' AND name = 'user_admin' AND model = 'res.users')";

/// May be repeated. Fails, and changes nothing, where the database has no such administrator or another user has his login.
pub fn apply(tenant: &TenantPlan, identity: DatabaseIdentity) -> String {
    let hash = password_hash(tenant.secrets.admin_password.expose(), tenant.uid, "admin");
    let administrator = format!(
        "DO $$ BEGIN\n  IF NOT EXISTS (SELECT FROM public.res_users WHERE id = {ADMINISTRATOR}) THEN\n    \
         RAISE EXCEPTION 'the database has no administrator of Odoo''s own (base.user_admin): is it whole?';\n  END IF;\nEND $$;\n\
         UPDATE res_users SET login = {}, password = {}, active = true WHERE id = {ADMINISTRATOR};\n",
        literal(tenant.admin_login.as_str()),
        literal(&hash),
    );
    let more = fresh::extensions()
        + &administrator
        + &parameter("database.uuid", &identity.uuid.to_string())
        + &parameter("database.secret", &identity.secret.to_string());
    sql::update_and(tenant, &more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tenant_plan;
    use uuid::Uuid;

    #[test]
    fn all_of_it_is_written_by_the_tenants_own_role_at_once() {
        let plan = tenant_plan("alfa");
        let identity = DatabaseIdentity {
            uuid: Uuid::nil(),
            secret: Uuid::max(),
        };
        let script = apply(&plan, identity);
        let (before, after) = script.split_once("\\connect \"odoo_alfa\" odoo\n").unwrap();
        let [uuid, secret] = [Uuid::nil(), Uuid::max()].map(|u| u.to_string());
        for written in [
            "'database.uuid'",
            &uuid,
            &secret,
            "'web.base.url'",
            "UPDATE res_users SET login = E'admin'",
            "unaccent",
        ] {
            assert!(
                after.contains(written) && !before.contains(written),
                "{written}"
            );
        }
        let transaction = after.split_once("BEGIN;\n").unwrap().1;
        let (transaction, superusers) = transaction.split_once("COMMIT;\n").unwrap();
        assert!(transaction.contains("res_users") && transaction.contains("CREATE EXTENSION"));
        assert!(
            superusers.ends_with(fresh::fit_for_indexes()),
            "what has just been made, too"
        );
        let secrets = &plan.secrets;
        assert!(
            !script.contains(secrets.admin_password.expose()),
            "only its hash"
        );
        assert!(
            !sql::update(&plan).contains("res_users"),
            "a changed address leaves it alone"
        );
    }

    #[test]
    fn each_request_is_carried_out_once() {
        let mut plan = tenant_plan("alfa");
        let before = sql::settings_digest(&plan);
        plan.settings_asked = 1;
        assert_ne!(sql::settings_digest(&plan), before);
    }
}
