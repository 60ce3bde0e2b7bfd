//! What a customer asks for, and gets: the country's books, a search without accents, a door that is closed to strangers, and an error
//! where something was misspelt. With real Odoo 19 and PostgreSQL 17, and the main points with Odoo 18 where there is its image; what is
//! not there is skipped aloud.
//!
//! One country by default; `ISYONE_LONG=1` (`cargo xtask test --long`): all of them, a minute each.
//! Not here: the rest of a tenant's life (main_job).

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled, has_image,
    http::get,
    odoo::{self, User},
    wait_for,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

/// Countries with the chart of accounts that Odoo has for each, and the module that comes with it. The short form has the first
/// one, which the other parts go on with.
const BOOKS: [(&str, &str, &str, &str); 5] = [
    ("BR", "br", "l10n_br", "BRL"),
    ("ES", "es_pymes", "l10n_es", "EUR"),
    ("PT", "pt", "l10n_pt", "EUR"),
    ("MX", "mx", "l10n_mx", "MXN"),
    // Of Odoo 19; in 18 l10n_us has no chart of its own, and `generic_coa` comes.
    ("US", "us", "l10n_us", "USD"),
];
const SHORT: usize = 1;

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
    let cell = Cell::start(&Shape {
        edition: ("odoo:19.0", "postgres:17"),
        ..Shape::default()
    });
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
    a_list_is_sorted_as_was_asked_for(&cell, "books-br");
    a_closed_door(&cell, "books-br");
    odoo::print(&cell, "books-br");
    settings_that_reach_odoo(&cell, "books-br");
    an_app_that_comes_later(&cell);
    a_mail_that_nobody_takes(&cell, "later");
    a_dump_from_elsewhere(&cell, "later");
}

/// 18 is the default edition, and its image comes from a registry.
#[test]
fn odoo_18_has_its_books_prints_and_sends() {
    if !enabled("odoo_18_has_its_books_prints_and_sends") {
        return;
    }
    if !has_image("odoo:18.0") {
        println!("skipped: there is no image odoo:18.0 (`docker pull odoo:18.0`)");
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        edition: ("odoo:18.0", "postgres:15"),
        config: "---[mail]\nkind=\"catcher\"\n",
        ..Shape::default()
    });
    books_of(&cell, BOOKS[0]);
    a_search_without_accents(&cell, "books-br");
    a_list_is_sorted_as_was_asked_for(&cell, "books-br");
    odoo::print(&cell, "books-br");
    let test = [
        "tenant",
        "mail",
        "test",
        "books-br",
        "--to",
        "ana@example.com",
    ];
    cell.isyctl(&test).ok();
    let list = cell.json(&["tenant", "mail", "list", "books-br"]);
    let is_caught = |row: &serde_json::Value| row["state"] == "caught";
    assert!(
        list.as_array().expect("a list").iter().any(is_caught),
        "{list}"
    );
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
        ("--collation", "pt_BR", "did you mean `pt-BR`?"),
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
        "--collation",
        "pt-BR",
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

/// In the language's order, which is not that of bytes.
fn a_list_is_sorted_as_was_asked_for(cell: &Cell, tenant: &str) {
    let script = "for name in ('Zeca', 'Álvaro', 'abel'): env['res.partner'].create({'name': name, 'ref': 'sorted'})\nenv.cr.commit()\n\
                  print('sorted', env['res.partner'].search([('ref', '=', 'sorted')], order='name').mapped('name'))\n";
    let printed = odoo::shell(cell, tenant, script);
    assert!(
        printed.contains("sorted ['abel', 'Álvaro', 'Zeca']"),
        "{printed}"
    );
    let shown = cell.isyctl(&["tenant", "show", tenant]).ok();
    assert!(shown.contains("pt-BR"), "{shown}");
    another_icu_is_told(cell, tenant);
}

/// As after an upgrade to an image with another ICU: `tenant verify` says so, and what it says helps (the next one passes).
fn another_icu_is_told(cell: &Cell, tenant: &str) {
    let database = format!("odoo_{tenant}");
    let psql = |statements: [&str; 2]| {
        let words =
            format!("tenant exec {tenant} --container postgres -- psql -U postgres -d {database}");
        let mut words: Vec<&str> = words.split(' ').collect();
        words.extend(statements.iter().flat_map(|statement| ["-c", *statement]));
        cell.isyctl(&words).ok();
    };
    let of_before =
        format!("UPDATE pg_database SET datcollversion = '1' WHERE datname = '{database}'");
    psql([&of_before, "SELECT 1"]);
    let verified = cell.isyctl(&["tenant", "verify", tenant]);
    println!("{}", verified.stdout);
    let says = "by ICU 1, and this image has";
    assert!(
        verified.code == 1 && verified.stdout.contains(says),
        "{}",
        verified.stderr
    );
    let refresh = format!("ALTER DATABASE \"{database}\" REFRESH COLLATION VERSION");
    psql([&format!("REINDEX DATABASE \"{database}\""), &refresh]);
}

/// What an operator chooses: Odoo restarts, and has it. The search is one of the running Odoo.
fn settings_that_reach_odoo(cell: &Cell, tenant: &str) {
    let found = |name: &str| {
        let params = json!({"model": "res.partner", "method": "search_count", "kwargs": {}, "args": [[["name", "ilike", name]]]});
        User::admin(cell, tenant).json("/web/dataset/call_kw", &params)
    };
    assert_eq!(found("joao conceicao"), 1);
    let container = || {
        let name = format!("odoo_{tenant}");
        let words = ["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &name];
        cell.hosts[0].docker.run(&words).ok()
    };
    let before = container();
    let chosen = [
        "limit_time_real=301",
        "unaccent=false",
        "ODOO_MAX_HTTP_THREADS=21",
    ];
    let set = cell.isyctl(&[&["tenant", "settings", "set", tenant][..], &chosen].concat());
    assert_eq!(set.code, 0, "{}", set.stderr);
    assert_ne!(container(), before, "it has restarted");
    let script = "import os\nfrom odoo.tools import config\nprint('has', config['limit_time_real'], os.environ.get('ODOO_MAX_HTTP_THREADS'))\n";
    let printed = odoo::shell(cell, tenant, script);
    assert!(printed.contains("has 301 21"), "{printed}");
    assert_eq!([found("joao conceicao"), found("João Conceição")], [0, 1]);
    let shown = cell.isyctl(&["tenant", "show", tenant, "-o", "wide"]).ok();
    assert!(shown.contains("limit_time_real = 301"), "{shown}");
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
        "--collation",
        "pt-BR",
        "--signup",
    ]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    assert_eq!(registration(cell, "open"), 200);
}

/// A tenant without modules: an app that its administrator installs opens nothing.
fn an_app_that_comes_later(cell: &Cell) {
    let created = cell.isyctl(&["tenant", "create", "later", "--country", "BR"]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let domain = ["--no-server", "--alias-domain", "in.example.com"];
    cell.isyctl(&[&["tenant", "mail", "set", "later"][..], &domain].concat())
        .ok();
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
    // `mail` came with it, whose table the domain of aliases is in.
    cell.isyctl(&["tenant", "restart", "later"]).ok();
    let aliases = "select string_agg(name, ' ') from mail_alias_domain";
    assert_eq!(sql(cell, "later", aliases), "in.example.com");
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

/// As docs/operations.md says: what Odoo has made goes, the dump comes, and the search that needs no accents has its indexes.
fn a_dump_is_restored(cell: &Cell, tenant: &str) {
    let indexes = || -> BTreeSet<String> {
        let query = "select indexname from pg_indexes where indexdef ilike '%unaccent%'";
        sql(cell, tenant, query)
            .lines()
            .map(ToOwned::to_owned)
            .collect()
    };
    let fit = "select provolatile from pg_proc where oid = 'public.unaccent(text)'::regprocedure";
    let before = indexes();
    assert!(!before.is_empty(), "nothing to be shown by");
    let database = format!("odoo_{tenant}");
    let words = [
        "pg_dump",
        "-U",
        "postgres",
        "--no-owner",
        "--no-privileges",
        &database,
    ];
    let dump = ["tenant", "exec", tenant, "--container", "postgres", "--"];
    let dump = cell.isyctl(&[&dump[..], &words].concat()).ok();
    let drop = [
        "-c",
        "DROP OWNED BY odoo CASCADE",
        "-c",
        "CREATE SCHEMA IF NOT EXISTS public",
    ];
    cell.isyctl(&[&["tenant", "psql", tenant, "--"][..], &drop].concat())
        .ok();
    assert!(indexes().is_empty());
    let file = cell.dir.path().join("dump.sql");
    fs::write(&file, dump).expect("the dump");
    let mut restore = cell.isyctl_command("admin.toml");
    restore.args(["tenant", "psql", tenant]);
    restore.stdin(fs::File::open(&file).expect("the dump"));
    let restored = restore.output().expect("isyctl");
    let said = String::from_utf8_lossy(&restored.stderr);
    let errors = said.lines().filter(|line| line.contains("ERROR"));
    let strange: Vec<&str> = errors
        .filter(|line| !line.contains("must be owner of extension"))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert_eq!(
        (indexes(), sql(cell, tenant, fit)),
        (before, "i".to_owned())
    );
    // As a dump leaves it that has made the extension anew.
    let spoil = "ALTER FUNCTION public.unaccent(text) STABLE";
    let container = format!("postgres_{tenant}");
    let words = [
        "exec", &container, "psql", "-U", "postgres", "-d", &database, "-c", spoil,
    ];
    cell.hosts[0].docker.run(&words).ok();
    assert_eq!(sql(cell, tenant, fit), "s");
}

/// What a restored dump brings along is the other one's; settings are this one's again when that is asked for.
fn a_dump_from_elsewhere(cell: &Cell, tenant: &str) {
    a_dump_is_restored(cell, tenant);
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
    let fit = "select provolatile from pg_proc where oid = 'public.unaccent(text)'::regprocedure";
    assert_eq!(sql(cell, tenant, fit), "i", "indexes may use it again");
}
