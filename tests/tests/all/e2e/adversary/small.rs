//! What somebody inside a tenant lays out in its PostgreSQL for the agent, which comes by as superuser.
//!
//! Not here: the small borders that a fleet in one process shows (`adversary::small`).

use std::time::Duration;

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled, wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

/// psql's answer in alfa's cluster, as one of its roles.
fn sql(cell: &Cell, role: &str, database: &str, query: &str) -> String {
    let words = [
        "exec",
        "-u",
        "postgres",
        "postgres_alfa",
        "psql",
        "-X",
        "-U",
        role,
        "-d",
        database,
        "-Atc",
        query,
    ];
    cell.hosts[0].docker.run(&words).ok().trim().to_owned()
}

#[test]
fn the_superuser_runs_nothing_that_a_tenant_laid_out_and_nobody_else_enters_its_database() {
    if !enabled(
        "the_superuser_runs_nothing_that_a_tenant_laid_out_and_nobody_else_enters_its_database",
    ) {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    cell.isyctl(&["tenant", "create", "alfa"]).ok();
    // Those who must get in do: Odoo's bus and cron signal each other there, and the monitor reads statistics.
    let may = "select has_database_privilege('public', 'postgres', 'connect'), has_database_privilege('public', 'template1', 'connect'), \
               has_database_privilege('odoo', 'postgres', 'connect'), has_database_privilege('isyone_monitor', 'postgres', 'connect')";
    assert_eq!(sql(&cell, "postgres", "postgres", may), "f|f|t|t");

    // As it is by default before PostgreSQL 15: everybody may lay out functions in `public`.
    sql(
        &cell,
        "postgres",
        "postgres",
        "grant create on schema public to public",
    );
    let trap = "create table public.seen (who text); grant all on public.seen to public; \
                create function public.pg_has_role(text, text, text) returns boolean language plpgsql as \
                $$ begin insert into public.seen values (current_user); return true; end $$";
    sql(&cell, "odoo", "postgres", trap);
    let call = "select pg_has_role('odoo', 'pg_monitor', 'MEMBER')";
    sql(&cell, "odoo", "postgres", call);
    let seen = || {
        sql(
            &cell,
            "postgres",
            "postgres",
            "select string_agg(who, ',') from public.seen",
        )
    };
    assert_eq!(seen(), "odoo", "the trap works");
    // The agent comes by: the address changes.
    let words = [
        "tenant",
        "domain",
        "add",
        "alfa",
        "shop.example.com",
        "--primary",
        "--skip-dns-check",
    ];
    cell.isyctl(&words).ok();
    let address = "select value from ir_config_parameter where key = 'web.base.url'";
    wait_for("the new address in the database", MINUTE, || {
        sql(&cell, "odoo", "odoo_alfa", address)
            .contains("shop.example.com")
            .then_some(())
    });
    assert_eq!(seen(), "odoo", "the superuser was in it");
    let create = "select has_schema_privilege('public', 'public', 'create')";
    assert_eq!(
        sql(&cell, "postgres", "postgres", create),
        "f",
        "closed again"
    );
}
