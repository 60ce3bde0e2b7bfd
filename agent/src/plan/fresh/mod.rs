//! What a new database gets beside Odoo's own initialisation, in the order in which it must: extensions, then Odoo's base, then the
//! company, then the modules that were asked for; and whether all that was asked for is there. Pure.
//!
//! The company comes before the modules, because they are set up for its country: `account` chooses its chart of accounts when it
//! is installed. Not here: running any of it (tenant::database), a tenant's own keys (sql).

use std::{collections::BTreeMap, fmt};

use isyone_proto::{
    known::near::{self, apart, listed},
    plan::TenantPlan,
    spec::Collation,
};

use crate::plan::sql::{ODOOS_TABLES, QUIET, literal, parameter};

/// Searching without accents, and indexes for that. Where an image's PostgreSQL has none, Odoo goes without.
const EXTENSIONS: [&str; 2] = ["pg_trgm", "unaccent"];

/// After the role that owns it: the tenant's database, as Odoo itself would make it, with the extensions. Odoo could not make
/// `unaccent` fit for indexes: it is no superuser.
pub fn create(tenant: &TenantPlan) -> String {
    let database = tenant.name.database();
    let (extensions, fit) = (extensions(), fit_for_indexes());
    let icu = |order: &Collation| {
        let order = literal(order.as_str());
        format!(" LOCALE_PROVIDER icu ICU_LOCALE {order}")
    };
    let order = tenant.collation.as_ref().map_or_else(String::new, icu);
    format!(
        "CREATE DATABASE \"{database}\" OWNER odoo ENCODING 'unicode' LC_COLLATE 'C'{order} TEMPLATE template0;\n\
         \\connect \"{database}\"\n{QUIET}{extensions}{fit}"
    )
}

/// The extension's function may stand in an index, which only a superuser can say of it: whoever else has made the extension, such as a
/// dump, has left it unfit. Nothing is done to a function of that name which is no part of the extension. May be repeated.
pub(super) fn fit_for_indexes() -> &'static str {
    "SELECT 'ALTER FUNCTION public.unaccent(text) IMMUTABLE' FROM pg_extension e\n  \
     JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'\n  \
     JOIN pg_proc p ON p.oid = d.objid\n  \
     WHERE e.extname = 'unaccent' AND p.oid = to_regprocedure('public.unaccent(text)') AND p.provolatile <> 'i' \\gexec\n"
}

/// Those that the image has. They are trusted, so the database's owner may do it, too.
pub(super) fn extensions() -> String {
    let one = |name| {
        format!(
            "SELECT 'CREATE EXTENSION IF NOT EXISTS {name} SCHEMA public' FROM pg_available_extensions WHERE name = '{name}' \\gexec\n"
        )
    };
    EXTENSIONS.map(one).concat()
}

/// Before the database is made, where it is to sort in a way of ICU's: prints whether PostgreSQL can (since 15, and built with ICU) and
/// knows this one, and which ones of its language it knows. [`collation_trouble`] reads that.
pub fn ask_collation(tenant: &TenantPlan) -> Option<String> {
    let order = tenant.collation.as_ref()?.as_str();
    // What follows `-u-` is how an order is varied; it has no name of its own.
    let base = order.split("-u-").next().unwrap_or(order);
    let language = base.split('-').next().unwrap_or(base);
    let (name, like) = (
        literal(&format!("{base}-x-icu")),
        literal(&format!("^{language}(-[A-Za-z]+)*-x-icu$")),
    );
    Some(format!(
        "{QUIET}\\pset tuples_only on\n\\pset format unaligned\n\\pset fieldsep ' '\n\
         SELECT 'collation', (current_setting('server_version_num')::int >= 150000 AND EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i' AND collname = {name}))::int;\n\
         SELECT 'near', replace(collname, '-x-icu', '') FROM pg_collation WHERE collprovider = 'i' AND collname ~ {like} ORDER BY collname LIMIT {};\n",
        near::MOST
    ))
}

/// Compares how a database is to sort with what [`ask_collation`] has printed; `None`: it said neither.
pub fn collation_trouble(tenant: &TenantPlan, printed: &str) -> Option<Vec<Trouble>> {
    let wanted = tenant.collation.as_ref()?;
    let of = |kind: &str| {
        let rows = printed.lines().filter_map(|line| line.split_once(' '));
        let rows = rows.filter(|(word, _)| *word == kind);
        rows.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    match of("collation").first()?.as_str() {
        "1" => Some(Vec::new()),
        _ => Some(vec![Trouble::NoCollation {
            name: wanted.to_string(),
            near: of("near"),
        }]),
    }
}

fn record(name: &str) -> String {
    format!("(SELECT res_id FROM ir_model_data WHERE module = 'base' AND name = '{name}')")
}

/// Country, currency, language and zone of the company, and of its administrator. May be repeated.
pub fn company(tenant: &TenantPlan) -> String {
    let (user, company) = (record("user_admin"), record("main_company"));
    let country = format!(
        "(SELECT id FROM res_country WHERE code = {})",
        literal(tenant.country.as_str())
    );
    let (language, zone) = (
        literal(tenant.language.as_str()),
        literal(tenant.time_zone.as_str()),
    );
    format!(
        "UPDATE res_partner SET lang = {language}, tz = {zone} WHERE id = (SELECT partner_id FROM res_users WHERE id = {user});\n\
         UPDATE res_partner SET lang = {language}, tz = {zone}, country_id = {country} WHERE id = (SELECT partner_id FROM res_company WHERE id = {company});\n\
         UPDATE res_company SET currency_id = c.currency_id FROM res_country c WHERE c.id = {country} AND c.currency_id IS NOT NULL AND res_company.id = {company};\n\
         UPDATE res_currency SET active = true WHERE id IN (SELECT currency_id FROM res_company);\n\
         SELECT format('UPDATE res_company SET account_fiscal_country_id = %s WHERE id = %s', {country}, {company})\n  \
         WHERE {country} IS NOT NULL AND EXISTS (SELECT FROM information_schema.columns WHERE table_name = 'res_company' AND column_name = 'account_fiscal_country_id') \\gexec\n"
    )
}

/// Who may make an account: everybody, as Odoo ships it, or those who are invited. A website has its own setting.
pub fn registration(tenant: &TenantPlan) -> String {
    let scope = if tenant.signup { "b2c" } else { "b2b" };
    format!(
        "{}SELECT 'UPDATE website SET auth_signup_uninvited = ''{scope}''' WHERE EXISTS (SELECT FROM information_schema.columns\n  \
         WHERE table_schema = 'public' AND table_name = 'website' AND column_name = 'auth_signup_uninvited') \\gexec\n",
        parameter("auth_signup.invitation_scope", scope)
    )
}

fn within(tenant: &TenantPlan) -> String {
    let database = tenant.name.database();
    format!("{QUIET}\\connect \"{database}\"\n{QUIET}{ODOOS_TABLES}")
}

/// Between Odoo's base and the modules: the company, and [`ask`]. Where no modules follow, the company comes with the tenant's keys: a
/// copy of this database becomes tenants of other countries, which would keep this one's currency.
pub fn settle(tenant: &TenantPlan) -> String {
    let company = match tenant.modules.is_empty() {
        true => String::new(),
        false => company(tenant),
    };
    format!(
        "{}BEGIN;\n{company}COMMIT;\n{}",
        within(tenant),
        listing(tenant)
    )
}

/// Prints what [`troubles`] reads.
pub fn ask(tenant: &TenantPlan) -> String {
    within(tenant) + &listing(tenant)
}

/// Most modules that are listed: all that Odoo has, in less than a program's output may hold.
const MOST_LISTED: u32 = 750;

/// Lines of fields: what the image's Odoo has. Those that were asked for come first, so that none is missed where an image has
/// thousands; the others are only suggested. A module's title is last, and holds whatever its author wrote, on one line.
fn listing(tenant: &TenantPlan) -> String {
    let [language, country] = [tenant.language.as_str(), tenant.country.as_str()].map(literal);
    let wanted: Vec<String> = tenant.modules.iter().map(|m| literal(m.as_str())).collect();
    let wanted = format!("name = ANY (ARRAY[{}]::varchar[])", wanted.join(", "));
    format!(
        "\\pset tuples_only on\n\\pset format unaligned\n\\pset fieldsep ' '\n\
         SELECT 'language', count(*) FROM res_lang WHERE active AND code = {language};\n\
         SELECT 'country', count(*) FROM res_country WHERE code = {country};\n\
         SELECT 'module', name, replace(state, ' ', '-'), left(regexp_replace(coalesce(shortdesc->>'en_US', ''), '\\s+', ' ', 'g'), 40)\n  \
         FROM ir_module_module ORDER BY {wanted} DESC, application DESC NULLS LAST, name LIMIT {MOST_LISTED};\n"
    )
}

/// When the modules are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before they are installed: they must be there.
    Before,
    /// They must be installed.
    After,
}

/// What of a request an image does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    NoLanguage(String),
    NoCountry(String),
    NoCollation {
        name: String,
        /// Those of its language.
        near: Vec<String>,
    },
    NoModule {
        name: String,
        /// Those that may have been meant, the likeliest first.
        near: Vec<String>,
    },
    /// Its manifest says so, or it is a title of Odoo Enterprise without a module.
    NotInstallable(String),
    /// Odoo ended well, and has not installed it.
    NotInstalled {
        name: String,
        state: String,
    },
    /// Odoo's own words: a program or library is missing that a module needs.
    Unmet(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLanguage(code) => write!(f, "there is no language `{code}`"),
            Self::NoCountry(code) => write!(f, "there is no country `{code}`"),
            Self::NoCollation { name, near } if near.is_empty() => write!(
                f,
                "this PostgreSQL has no order `{name}`: that takes version 15 and ICU with the language"
            ),
            Self::NoCollation { name, near } => {
                write!(f, "this PostgreSQL has no order `{name}`")?;
                meant(f, near)
            }
            Self::NoModule { name, near } => {
                write!(f, "there is no module `{name}`")?;
                meant(f, near)
            }
            Self::NotInstallable(name) => write!(
                f,
                "module `{name}` cannot be installed: its manifest says `installable: False`, or it is one of Odoo Enterprise"
            ),
            Self::NotInstalled { name, state } => write!(
                f,
                "module `{name}` was not installed, it is `{state}`: something that it depends on is missing"
            ),
            Self::Unmet(words) => f.write_str(words),
        }
    }
}

fn meant(f: &mut fmt::Formatter<'_>, near: &[String]) -> fmt::Result {
    let near: Vec<&str> = near.iter().map(String::as_str).collect();
    match near[..] {
        [] => Ok(()),
        _ => write!(f, " (did you mean {}?)", listed(&near)),
    }
}

/// All of them, for people.
pub fn words(troubles: &[Trouble]) -> String {
    let words: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    words.join("; ")
}

struct Found<'a> {
    state: &'a str,
    title: &'a str,
}

/// Compares what was asked for with what [`ask`] has printed.
pub fn troubles(tenant: &TenantPlan, printed: &str, when: When) -> Vec<Trouble> {
    let mut modules = BTreeMap::new();
    let mut troubles = Vec::new();
    for line in printed.lines() {
        let mut fields = line.splitn(4, ' ');
        let (kind, value) = (fields.next(), fields.next());
        match (kind, value) {
            (Some("language"), Some("0")) => {
                troubles.push(Trouble::NoLanguage(tenant.language.to_string()));
            }
            (Some("country"), Some("0")) => {
                troubles.push(Trouble::NoCountry(tenant.country.to_string()));
            }
            (Some("module"), Some(name)) => {
                let state = fields.next().unwrap_or_default();
                let title = fields.next().unwrap_or_default();
                modules.insert(name, Found { state, title });
            }
            _ => {}
        }
    }
    let wanted = tenant.modules.iter().map(|module| module.as_str());
    troubles.extend(wanted.filter_map(|name| trouble(name, &modules, when)));
    troubles
}

fn trouble(name: &str, modules: &BTreeMap<&str, Found<'_>>, when: When) -> Option<Trouble> {
    let Some(found) = modules.get(name) else {
        let near = near_modules(name, modules);
        let name = name.to_owned();
        return Some(Trouble::NoModule { name, near });
    };
    match (found.state, when) {
        ("uninstallable", _) => Some(Trouble::NotInstallable(name.to_owned())),
        ("installed", _) | (_, When::Before) => None,
        (state, When::After) => Some(Trouble::NotInstalled {
            name: name.to_owned(),
            state: state.replace('-', " "),
        }),
    }
}

/// Modules whose title or name is nearly what was written, then those whose name begins with it: `sales` is the title of
/// `sale_management`.
fn near_modules(written: &str, modules: &BTreeMap<&str, Found<'_>>) -> Vec<String> {
    let stem = written.trim_end_matches('s');
    let rank = |name: &&str, found: &Found<'_>| {
        let far = [
            apart(written, found.title),
            apart(written, name).map(|far| far + 1),
        ];
        let begins = stem.len() >= 3 && name.starts_with(stem);
        let least = far.into_iter().flatten().min();
        least.or_else(|| begins.then(|| written.len() + name.len()))
    };
    let installable = modules
        .iter()
        .filter(|(_, found)| found.state != "uninstallable");
    let mut ranked: Vec<(usize, &str)> = installable
        .filter_map(|(name, found)| Some((rank(name, found)?, *name)))
        .collect();
    ranked.sort_unstable();
    let nearest = ranked.into_iter().take(near::MOST);
    nearest.map(|(_, name)| name.to_owned()).collect()
}

/// How Odoo (18 and 19) says that a module cannot be installed where it is.
const UNMET: [&str; 2] = [
    "external dependency is not met",
    "module is not available in your system",
];

/// What the log of a failed initialisation says of a missing requirement. No further try can mend that.
pub fn unmet(log: &str) -> Option<Trouble> {
    let lines: Vec<&str> = log.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| UNMET.iter().any(|words| line.contains(words)))?;
    let text = match lines[at].strip_prefix("But the latter") {
        // The second line of its message names nothing by itself.
        Some(_) => [lines[..at].last().copied().unwrap_or_default(), lines[at]].join(" "),
        None => lines[at].to_owned(),
    };
    let text = text.rsplit("UserError: ").next().unwrap_or_default();
    Some(Trouble::Unmet(text.trim_end_matches('.').to_owned()))
}

#[cfg(test)]
mod tests;
