//! What a new database gets and in which order, and what is said of a request that an image cannot meet.
//!
//! Not here: that Odoo does as it is told (the workspace's tests with real containers).

use super::*;
use crate::testing::tenant_plan;

const PRINTED: &str = "language 1\ncountry 1\n\
    module base installed Base\n\
    module crm uninstalled CRM\n\
    module l10n_br uninstalled Brazil - Accounting\n\
    module old uninstallable Old times\n\
    module sale uninstalled Sales Orders\n\
    module sale_management uninstalled Sales\n\
    module sales_team uninstalled Sales Teams\n\
    module stock to-install Inventory\n";

fn asked(modules: &[&str], printed: &str, when: When) -> String {
    let mut plan = tenant_plan("alfa");
    plan.modules = modules.iter().map(|name| name.parse().unwrap()).collect();
    words(&troubles(&plan, printed, when))
}

#[test]
fn a_module_that_is_not_there_is_named_with_those_that_were_meant() {
    assert_eq!(asked(&["crm", "stock"], PRINTED, When::Before), "");
    assert_eq!(
        asked(&["crm", "nonsuch", "sales"], PRINTED, When::Before),
        "there is no module `nonsuch`; there is no module `sales` (did you mean `sale_management`, `sale` or `sales_team`?)"
    );
    assert_eq!(
        asked(&["inventory", "stok", "crn", "l10n"], PRINTED, When::Before),
        "there is no module `inventory` (did you mean `stock`?); there is no module `stok` (did you mean `stock`?); \
         there is no module `crn` (did you mean `crm`?); there is no module `l10n` (did you mean `l10n_br`?)"
    );
    assert_eq!(
        asked(&["old"], PRINTED, When::Before),
        "module `old` cannot be installed: its manifest says `installable: False`, or it is one of Odoo Enterprise"
    );
}

#[test]
fn what_odoo_left_out_without_a_word_is_found_afterwards() {
    let installed = PRINTED.replace("crm uninstalled", "crm installed");
    assert_eq!(asked(&["crm"], &installed, When::After), "");
    assert_eq!(
        asked(&["crm", "stock"], &installed, When::After),
        "module `stock` was not installed, it is `to install`: something that it depends on is missing"
    );
}

#[test]
fn a_language_or_a_country_of_another_version_is_named() {
    let printed = PRINTED.replace("language 1\ncountry 1", "language 0\ncountry 0");
    assert_eq!(
        asked(&[], &printed, When::Before),
        "there is no language `pt_BR`; there is no country `BR`"
    );
}

#[test]
fn a_missing_requirement_is_told_from_what_another_try_may_mend() {
    let log = "Traceback (most recent call last):\n  File \"/usr/lib/…\", line 1, in x\n\
        odoo.exceptions.UserError: Unable to install module \"alfa\" because an external dependency is not met: \
        External dependency 'zeep' not installed: No package metadata was found for zeep\n\
        It can be installed running: apt install python3-zeep\n";
    assert_eq!(
        unmet(log).unwrap().to_string(),
        "Unable to install module \"alfa\" because an external dependency is not met: External dependency 'zeep' not installed: \
         No package metadata was found for zeep"
    );
    let log = "odoo.exceptions.UserError: You try to install module \"a\" that depends on module \"b\".\n\
        But the latter module is not available in your system.\n";
    assert_eq!(
        unmet(log).unwrap().to_string(),
        "You try to install module \"a\" that depends on module \"b\". But the latter module is not available in your system"
    );
    assert_eq!(
        unmet("psycopg2.OperationalError: the database system is shutting down"),
        None
    );
}

#[test]
fn the_database_has_its_extensions_before_odoo_comes() {
    let sql = create(&tenant_plan("alfa"));
    let places = [
        "CREATE DATABASE \"odoo_alfa\" OWNER odoo",
        "\\connect \"odoo_alfa\"",
        "pg_trgm",
        "EXISTS unaccent",
        "IMMUTABLE",
    ]
    .map(|part| sql.find(part).unwrap());
    assert!(places.is_sorted(), "{sql}");
}

#[test]
fn the_company_is_settled_in_one_piece_and_then_looked_at() {
    let mut plan = tenant_plan("alfa");
    plan.modules = vec!["account".parse().unwrap()];
    let sql = settle(&plan);
    let places = [
        "BEGIN;",
        "country_id = (SELECT id FROM res_country WHERE code = E'BR')",
        "currency_id",
        "COMMIT;",
        "FROM ir_module_module",
    ]
    .map(|part| sql.find(part).unwrap());
    assert!(places.is_sorted(), "{sql}");
    let mut plan = tenant_plan("alfa");
    assert!(!ask(&plan).contains("UPDATE") && ask(&plan).contains("ANY (ARRAY[]::varchar[])"));
    plan.modules = vec!["crm".parse().unwrap(), "sale".parse().unwrap()];
    assert!(ask(&plan).contains("ORDER BY name = ANY (ARRAY[E'crm', E'sale']::varchar[]) DESC"));
}

#[test]
fn nobody_registers_himself_unless_that_was_asked_for() {
    let mut plan = tenant_plan("alfa");
    assert!(registration(&plan).contains("(E'auth_signup.invitation_scope', E'b2b', "));
    assert!(registration(&plan).contains("auth_signup_uninvited = ''b2b''"));
    plan.signup = true;
    assert!(registration(&plan).contains("(E'auth_signup.invitation_scope', E'b2c', "));
}

/// Fails if a database sorts by bytes though another order was asked for, or anything changes where none was.
#[test]
fn a_database_sorts_as_was_asked_for() {
    let mut plan = tenant_plan("alfa");
    let by_bytes = " LC_COLLATE 'C' TEMPLATE template0;\n";
    assert!(create(&plan).contains(by_bytes) && ask_collation(&plan).is_none());
    plan.collation = Some("de-u-co-phonebk".parse().unwrap());
    let icu =
        " LC_COLLATE 'C' LOCALE_PROVIDER icu ICU_LOCALE E'de-u-co-phonebk' TEMPLATE template0;\n";
    assert!(create(&plan).contains(icu), "{}", create(&plan));
    let asked = ask_collation(&plan).unwrap();
    assert!(asked.starts_with(QUIET) && asked.contains("collname = E'de-x-icu'"));
    let said = |printed: &str| collation_trouble(&plan, printed).map(|all| words(&all));
    assert_eq!(said("collation 1\nnear de\n").as_deref(), Some(""));
    assert_eq!(
        said("collation 0\nnear de\nnear de-AT\n").as_deref(),
        Some("this PostgreSQL has no order `de-u-co-phonebk` (did you mean `de` or `de-AT`?)")
    );
    assert_eq!(
        said("collation 0\n").as_deref(),
        Some(
            "this PostgreSQL has no order `de-u-co-phonebk`: that takes version 15 and ICU with the language"
        )
    );
    assert_eq!(said("psql: error"), None);
}

/// The company is another's where no module was set up for it: the currency of the first one would stay active in all.
#[test]
fn a_copy_without_modules_has_no_company_yet() {
    let mut plan = tenant_plan("alfa");
    assert!(!settle(&plan).contains("res_currency"));
    plan.modules = vec!["account".parse().unwrap()];
    assert!(settle(&plan).contains("res_currency"));
}
