//! What a customer asks for, and gets: the country's books, a search without accents, a door that is closed to strangers, and an error
//! where something was misspelt. With real Odoo; what its image does not have is skipped aloud.
//!
//! Two countries by default; `ISYONE_LONG=1` (`cargo xtask test --long`): all of them, a minute each.
//! Not here: the rest of a tenant's life (main_job).

use std::{
    fs,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    http::get,
    odoo::{self, User},
    wait_for,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

/// Countries with the chart of accounts that Odoo has for each, and the module that comes with it. The short form has the first
/// ones: Brazil, which the other parts go on with, and one whose chart is not named after it.
const BOOKS: [(&str, &str, &str, &str); 5] = [
    ("BR", "br", "l10n_br", "BRL"),
    ("ES", "es_pymes", "l10n_es", "EUR"),
    ("PT", "pt", "l10n_pt", "EUR"),
    ("MX", "mx", "l10n_mx", "MXN"),
    ("US", "generic_coa", "l10n_us", "USD"),
];
const SHORT: usize = 2;

fn sql(cell: &Cell, tenant: &str, query: &str) -> String {
    let answer = cell.isyctl(&["tenant", "psql", tenant, "--", "-tAc", query]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    answer.stdout.trim().to_owned()
}

#[test]
fn what_was_asked_for_is_there_or_the_create_says_what_is_not() {
    if !enabled("what_was_asked_for_is_there_or_the_create_says_what_is_not") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape::default());
    values_that_only_look_right(&cell);
    a_misspelt_module(&cell);
    books_of(&cell, BOOKS[0]);
    let is_long = std::env::var_os("ISYONE_LONG").is_some();
    let last = if is_long { BOOKS.len() } else { SHORT };
    for books in &BOOKS[1..last] {
        if has_module(&cell, books.2) {
            books_of(&cell, *books);
        } else {
            println!("skipped: the image has no {}", books.2);
        }
    }
    a_search_without_accents(&cell, "books-br");
    a_closed_door(&cell, "books-br");
    a_printed_page(&cell, "books-br");
    an_app_that_comes_later(&cell);
    a_mail_that_nobody_takes(&cell, "later");
    a_dump_from_elsewhere(&cell, "later");
}

/// Refused before anything is placed.
fn values_that_only_look_right(cell: &Cell) {
    for (option, value, said) in [
        ("--country", "UK", "did you mean `GB`?"),
        ("--country", "XX", "no country's code"),
        (
            "--tz",
            "America/Sao_paulo",
            "did you mean `America/Sao_Paulo`?",
        ),
        ("--tz", "Alfa", "no zone"),
        ("--lang", "pt", "did you mean `pt_BR`"),
        ("--login", "__system__", "one of Odoo's own users"),
        ("--odoo-image", "alfa/../../etc", "not an image reference"),
    ] {
        let refused = cell.isyctl(&["tenant", "create", "alfa", option, value]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        let (names, says) = (
            refused.stderr.contains(option),
            refused.stderr.contains(said),
        );
        assert!(names && says, "{}", refused.stderr);
    }
    for name in ["null", "true", "xn--lfa-hoa"] {
        assert_eq!(cell.isyctl(&["tenant", "create", name]).code, 2);
    }
    assert_eq!(cell.json(&["tenant", "list"]), json!([]));
}

fn snapshots(cell: &Cell) -> usize {
    fs::read_dir(cell.hosts[0].data.join("golden")).map_or(0, |entries| entries.count())
}

fn a_misspelt_module(cell: &Cell) {
    let failed = cell.isyctl(&[
        "tenant",
        "create",
        "books-br",
        "--country",
        "BR",
        "--modules",
        "account,sales,nonsuch",
    ]);
    println!("{}", failed.stderr);
    assert_ne!(failed.code, 0);
    for part in ["nonsuch", "`sales`", "`sale_management`"] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
    let database = failed
        .stderr
        .lines()
        .rfind(|line| line.contains(" database "));
    let shown = database.unwrap_or_default().trim_start();
    assert!(!shown.starts_with('✓'), "nobody made it: {shown}");
    assert_eq!(snapshots(cell), 0, "no copy of it is kept");
    // Its name is free as soon as the command is back.
    assert_eq!(cell.isyctl(&["tenant", "show", "books-br"]).code, 3);
}

/// Whether the image has it, by the first tenant's list.
fn has_module(cell: &Cell, module: &str) -> bool {
    let query = format!("select count(*) from ir_module_module where name = '{module}'");
    sql(cell, "books-br", &query) == "1"
}

fn books_of(cell: &Cell, books: (&str, &str, &str, &str)) {
    let (country, chart, module, currency) = books;
    let tenant = &format!("books-{}", country.to_lowercase());
    let begin = Instant::now();
    let options = [
        "tenant",
        "create",
        tenant,
        "--country",
        country,
        "--modules",
        "account",
        "--tz",
        "America/Sao_Paulo",
        "--lang",
        "pt_BR",
    ];
    let created = cell.isyctl(&options);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let company = "select coalesce(o.chart_template, '-') || ' ' || y.name from res_company o join res_currency y on y.id = o.currency_id";
    assert_eq!(sql(cell, tenant, company), format!("{chart} {currency}"));
    let state = format!("select state from ir_module_module where name = '{module}'");
    assert_eq!(sql(cell, tenant, &state), "installed");
    let report = "select value from ir_config_parameter where key = 'report.url'";
    assert_eq!(sql(cell, tenant, report), "http://127.0.0.1:8069");
    println!("{tenant}: {chart} {currency} after {:?}", begin.elapsed());
}

fn a_search_without_accents(cell: &Cell, tenant: &str) {
    let extensions = "select string_agg(extname, ' ' order by extname) from pg_extension where extname in ('pg_trgm', 'unaccent')";
    assert_eq!(sql(cell, tenant, extensions), "pg_trgm unaccent");
    let script = "env['res.partner'].create({'name': 'João Conceição'})\nenv.cr.commit()\n\
                  print('found', env['res.partner'].search_count([('name', 'ilike', 'joao conceicao')]))\n";
    let printed = odoo::shell(cell, tenant, script);
    assert!(printed.contains("found 1"), "{printed}");
}

fn registration(cell: &Cell, tenant: &str) -> u16 {
    let host = format!("{tenant}.isy.one");
    wait_for("an answer through the edge", MINUTE, || {
        (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
    });
    User::visitor(cell, tenant).get("/web/signup").status
}

fn a_closed_door(cell: &Cell, tenant: &str) {
    assert_eq!(registration(cell, tenant), 404, "nobody registers himself");
    let scope = "select value from ir_config_parameter where key = 'auth_signup.invitation_scope'";
    assert_eq!(sql(cell, tenant, scope), "b2b");
    let created = cell.isyctl(&[
        "tenant",
        "create",
        "open",
        "--country",
        "BR",
        "--modules",
        "account",
        "--tz",
        "America/Sao_Paulo",
        "--lang",
        "pt_BR",
        "--signup",
    ]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    assert_eq!(registration(cell, "open"), 200);
}

/// A tenant without modules: an app that its administrator installs opens nothing.
fn an_app_that_comes_later(cell: &Cell) {
    let created = cell.isyctl(&["tenant", "create", "later", "--country", "BR"]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let chart = "select count(*) from information_schema.columns where table_name = 'res_company' and column_name = 'chart_template'";
    assert_eq!(
        sql(cell, "later", chart),
        "0",
        "no chart of accounts without `account`"
    );
    odoo::shell(
        cell,
        "later",
        "env['ir.module.module'].search([('name', '=', 'crm')]).button_immediate_install()\n",
    );
    let scope = "select value from ir_config_parameter where key = 'auth_signup.invitation_scope'";
    assert_eq!(sql(cell, "later", scope), "b2b");
}

/// Text, style and number of pages, through Odoo's own way to PDF.
fn a_printed_page(cell: &Cell, tenant: &str) {
    let verified = cell.isyctl(&["tenant", "verify", tenant, "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let print = checks.iter().find(|check| check["check"] == "print");
    let print = print.expect("the check");
    println!("print: {print}");
    match print["result"].as_str() {
        Some("skip") => println!("skipped: {}", print["detail"]),
        result => assert_eq!(result, Some("ok"), "{print}"),
    }
}

/// No server is set: the command says so, and the mail is counted as failed.
fn a_mail_that_nobody_takes(cell: &Cell, tenant: &str) {
    let test = ["tenant", "mail", "test", tenant, "--to", "ana@example.com"];
    let failed = cell.isyctl(&test);
    println!("{}", failed.stderr);
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("cannot send"), "{}", failed.stderr);
    let script = "m = env['mail.mail'].create({'subject': 'Hello', 'email_to': 'ana@example.com', 'body_html': 'x', 'email_from': 'b@example.com'})\n\
                  m.send()\nenv.cr.commit()\nprint('state', m.state)\n";
    let printed = odoo::shell(cell, tenant, script);
    assert!(printed.contains("state exception"), "{printed}");
    let mails = cell.json(&["tenant", "mail", "list", tenant]);
    assert_eq!(mails[0]["to"], "ana@example.com", "{mails}");
    assert_eq!(mails[0]["state"], "exception", "{mails}");
}

/// What a restored dump brings along is the other one's; settings are this one's again when that is asked for.
fn a_dump_from_elsewhere(cell: &Cell, tenant: &str) {
    let value = |key: &str| {
        let query = format!("select value from ir_config_parameter where key = '{key}'");
        sql(cell, tenant, &query)
    };
    let (address, uuid) = (value("web.base.url"), value("database.uuid"));
    let administrator = "select login from res_users where id = (select res_id from ir_model_data where module = 'base' and name = 'user_admin')";
    sql(
        cell,
        tenant,
        "update ir_config_parameter set value = 'https://old.example.com' where key = 'web.base.url'; \
         update res_users set login = 'boss', active = false where login = 'admin'",
    );
    let applied = cell.isyctl(&["tenant", "settings", "apply", tenant]);
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    assert_eq!(value("web.base.url"), address);
    assert_ne!(value("database.uuid"), uuid, "an identity of its own");
    assert_eq!(sql(cell, tenant, administrator), "admin");
}
