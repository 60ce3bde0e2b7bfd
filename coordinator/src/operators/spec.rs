//! `TenantSpec` from the wire: validates it and fills in the configuration's defaults. The result is complete.
//!
//! Not here: what a change of it means (isyone_fleet::change).

use isyone_fleet::{
    desired::Tenant,
    placement::{self, Decision, Request as PlacementRequest},
    settings::Settings,
    state::State,
};
use isyone_proto::{
    convert::{parse, parse_labels, parse_optional},
    echo::echo,
    error::FieldError,
    ids::ShortName,
    known,
    pb::v1,
    spec::{
        Collation, Domain, ImageRef, MAX_DOMAINS, MAX_MODULES, Module, Size, TenantSpec, ValueError,
    },
};

use crate::base::config::Images;

/// The module that every database has; requesting it changes nothing.
const BASE_MODULE: &str = "base";

/// A value that must be one of those that exist. Left out, it is the default; said again, it may be what the tenant has had
/// since before there was such a list.
fn known_value<T: Clone + ToString>(
    field: &str,
    text: &str,
    (default, has): (&T, Option<&T>),
    check: fn(&str) -> Result<T, ValueError>,
) -> Result<T, FieldError> {
    match has.filter(|has| has.to_string() == text) {
        _ if text.is_empty() => Ok(default.clone()),
        Some(has) => Ok(has.clone()),
        None => check(text).map_err(|e| FieldError::new(field, e.to_string())),
    }
}

/// By bytes, or an order of a language that there is; whether PostgreSQL has it, only a host knows.
fn collation(text: &str, has: Option<&TenantSpec>) -> Result<Option<Collation>, FieldError> {
    let has = has.and_then(|has| has.collation.clone());
    match has.filter(|has| has.as_str() == text) {
        _ if text.is_empty() || text.eq_ignore_ascii_case("c") => Ok(None),
        Some(has) => Ok(Some(has)),
        None => match known::collation(text) {
            Ok(collation) => Ok(Some(collation)),
            Err(e) => Err(FieldError::new("collation", e.to_string())),
        },
    }
}

/// Parses the requested spec and looks up its plan. `has`: what a tenant of this name is already.
pub(super) fn tenant_spec(
    settings: &Settings,
    wire: v1::TenantSpec,
    has: Option<&TenantSpec>,
) -> Result<(TenantSpec, Size), FieldError> {
    let defaults = &settings.defaults;
    let plan =
        parse_optional::<ShortName>("plan", &wire.plan)?.unwrap_or_else(|| defaults.plan.clone());
    let size = *settings
        .plans
        .get(&plan)
        .ok_or_else(|| unknown("plan", &plan, settings.plans.keys()))?;
    let edition =
        parse_optional("edition", &wire.edition)?.unwrap_or_else(|| defaults.edition.clone());
    let images = settings
        .editions
        .get(&edition)
        .ok_or_else(|| unknown("edition", &edition, settings.editions.keys()))?;
    let spec = TenantSpec {
        domains: domains(&wire.domains)?,
        language: known_value(
            "language",
            &wire.language,
            (&defaults.language, has.map(|has| &has.language)),
            known::language,
        )?,
        country: known_value(
            "country",
            &wire.country,
            (&defaults.country, has.map(|has| &has.country)),
            known::country,
        )?,
        time_zone: known_value(
            "time_zone",
            &wire.time_zone,
            (&defaults.time_zone, has.map(|has| &has.time_zone)),
            known::time_zone,
        )?,
        modules: modules(&wire.modules)?,
        odoo_image: known_value(
            "odoo_image",
            &wire.odoo_image,
            (&images.odoo, has.map(|has| &has.odoo_image)),
            known::image,
        )?,
        postgres_image: known_value(
            "postgres_image",
            &wire.postgres_image,
            (&images.postgres, has.map(|has| &has.postgres_image)),
            known::image,
        )?,
        host: parse_optional("host", &wire.host)?,
        host_labels: parse_labels("host_labels", &wire.host_labels)?,
        admin_login: known_value(
            "admin_login",
            &wire.admin_login,
            (&defaults.admin_login, has.map(|has| &has.admin_login)),
            known::login,
        )?,
        signup: wire.signup,
        collation: collation(&wire.collation, has)?,
        plan,
        edition,
    };
    Ok((spec, size))
}

/// The image among these that only admins may choose, by its field, and what others can do: those of the configured
/// editions and those that match `[images] allow` are everybody's. Whoever chooses an image chooses what runs on a host.
pub(super) fn admins_image(
    settings: &Settings,
    images: &Images,
    odoo: Option<&ImageRef>,
    postgres: Option<&ImageRef>,
) -> Option<(&'static str, String)> {
    let editions = || settings.editions.values();
    let odoo = odoo.filter(|image| !editions().any(|e| e.odoo == **image));
    let postgres = postgres.filter(|image| !editions().any(|e| e.postgres == **image));
    let (field, image) = [("odoo_image", odoo), ("postgres_image", postgres)]
        .into_iter()
        .find_map(|(field, image)| Some((field, image.filter(|i| !images.allow(i))?)))?;
    let image = echo(image.as_str());
    Some((
        field,
        format!(
            "`{image}` is no edition's image; take an edition's, or let an admin do this or add a pattern to [images] allow in coordinator.toml"
        ),
    ))
}

fn unknown<'a>(
    field: &str,
    name: &ShortName,
    known: impl Iterator<Item = &'a ShortName>,
) -> FieldError {
    let known = known.map(ShortName::as_str).collect::<Vec<_>>().join(", ");
    FieldError::new(
        field,
        format!("there is no {field} `{name}`; there are: {known}"),
    )
}

fn domains(wire: &[String]) -> Result<Vec<Domain>, FieldError> {
    if wire.len() > MAX_DOMAINS {
        return Err(FieldError::new(
            "domains",
            format!("more than {MAX_DOMAINS}"),
        ));
    }
    let mut domains: Vec<Domain> = Vec::with_capacity(wire.len());
    for (i, text) in wire.iter().enumerate() {
        let domain = isyone_fleet::domains::parse(text)
            .map_err(|e| FieldError::new(format!("domains[{i}]"), e.to_string()))?;
        if domains.contains(&domain) {
            return Err(FieldError::new(
                format!("domains[{i}]"),
                format!("`{domain}` is there twice"),
            ));
        }
        domains.push(domain);
    }
    Ok(domains)
}

/// Sorted, deduplicated, without `base`: the same set in another order gives the same spec.
fn modules(wire: &[String]) -> Result<Vec<Module>, FieldError> {
    if wire.len() > MAX_MODULES {
        return Err(FieldError::new(
            "modules",
            format!("more than {MAX_MODULES}"),
        ));
    }
    let parsed = wire
        .iter()
        .enumerate()
        .map(|(i, text)| parse(&format!("modules[{i}]"), text));
    let mut modules = parsed.collect::<Result<Vec<Module>, _>>()?;
    modules.retain(|m| m.as_str() != BASE_MODULE);
    modules.sort();
    modules.dedup();
    Ok(modules)
}

/// Every host's score for this tenant now, with its own place counted as taken.
pub(super) fn today(state: &State, settings: &Settings, tenant: &Tenant) -> Decision {
    let request = PlacementRequest {
        size: tenant.size,
        host: tenant.spec.host.as_ref(),
        labels: &tenant.spec.host_labels,
    };
    placement::explain(state.placement_inputs(settings), request, super::now())
}

#[cfg(test)]
mod tests {
    use isyone_fleet::testing;

    use super::*;

    fn parse_spec(wire: v1::TenantSpec) -> Result<TenantSpec, FieldError> {
        tenant_spec(&testing::settings(), wire, None).map(|(spec, _)| spec)
    }

    #[test]
    fn silence_takes_the_defaults_and_order_does_not_matter() {
        let spec = parse_spec(v1::TenantSpec::default()).unwrap();
        assert_eq!(spec, testing::spec(&testing::settings(), "small"));
        let modules = |list: &[&str]| v1::TenantSpec {
            modules: list.iter().map(|m| (*m).to_owned()).collect(),
            ..v1::TenantSpec::default()
        };
        assert_eq!(
            parse_spec(modules(&["stock", "crm", "base", "crm"])),
            parse_spec(modules(&["crm", "stock"]))
        );
    }

    #[test]
    fn only_the_editions_images_and_those_allowed_are_everybodys() {
        let settings = testing::settings();
        let judged = |odoo: &str, postgres: &str, allow: &[&str]| {
            let wire = v1::TenantSpec {
                odoo_image: odoo.to_owned(),
                postgres_image: postgres.to_owned(),
                ..v1::TenantSpec::default()
            };
            let images = Images {
                allow: allow.iter().map(|p| p.parse().unwrap()).collect(),
            };
            let spec = parse_spec(wire).unwrap();
            let (odoo, postgres) = (Some(&spec.odoo_image), Some(&spec.postgres_image));
            admins_image(&settings, &images, odoo, postgres).map(|(field, _)| field)
        };
        let postgres = settings.editions.values().next().unwrap().postgres.as_str();
        assert_eq!(judged("", "", &[]), None);
        assert_eq!(judged("", postgres, &[]), None, "named, but the edition's");
        let other = "registry.example.com/odoo:18.0";
        assert_eq!(judged(other, "", &[]), Some("odoo_image"));
        assert_eq!(judged("", other, &[]), Some("postgres_image"));
        assert_eq!(judged(postgres, "", &[]), Some("odoo_image"));
        let allow = ["registry.example.com/odoo:*"];
        assert_eq!(judged(other, "", &allow), None);
        assert_eq!(
            judged("registry.example.com/evil:18.0", "", &allow),
            Some("odoo_image")
        );
    }

    /// Fails where a value only looks right: Odoo would take none of these, or another than was meant.
    #[test]
    fn a_value_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
        let wire = |field: &str, value: &str| {
            let mut wire = v1::TenantSpec::default();
            let place = match field {
                "language" => &mut wire.language,
                "country" => &mut wire.country,
                "time_zone" => &mut wire.time_zone,
                "odoo_image" => &mut wire.odoo_image,
                "postgres_image" => &mut wire.postgres_image,
                _ => &mut wire.admin_login,
            };
            value.clone_into(place);
            wire
        };
        for (field, value, said) in [
            ("country", "UK", "did you mean `GB`?"),
            ("country", "XX", "such as `BR`"),
            (
                "time_zone",
                "America/Sao_paulo",
                "did you mean `America/Sao_Paulo`?",
            ),
            ("time_zone", "Mars/Phobos", "such as `America/Sao_Paulo`"),
            ("language", "pt", "did you mean `pt_BR`"),
            ("language", "xx_YY", "such as `pt_BR`"),
            ("admin_login", "public", "one of Odoo's own users"),
            ("admin_login", "__system__", "one of Odoo's own users"),
            ("odoo_image", "alfa/../../etc", "such as `odoo:18.0`"),
            ("postgres_image", "alfa/../../etc", "such as `odoo:18.0`"),
        ] {
            let refused = parse_spec(wire(field, value)).unwrap_err();
            assert_eq!(refused.field, field);
            assert!(refused.problem.contains(said), "{refused:?}");
        }
        // A tenant of before keeps what it has, and whoever repeats its create is told so.
        let settings = testing::settings();
        let mut has = testing::spec(&settings, "small");
        has.country = "UK".parse().unwrap();
        let again = tenant_spec(&settings, wire("country", "UK"), Some(&has));
        assert_eq!(again.unwrap().0, has);
        assert!(tenant_spec(&settings, wire("country", "XX"), Some(&has)).is_err());
    }

    #[test]
    fn a_bad_field_is_named() {
        let base = v1::TenantSpec::default;
        for (wire, field) in [
            (
                v1::TenantSpec {
                    plan: "huge".into(),
                    ..base()
                },
                "plan",
            ),
            (
                v1::TenantSpec {
                    edition: "7.0".into(),
                    ..base()
                },
                "edition",
            ),
            (
                v1::TenantSpec {
                    domains: vec!["a.example".into(), "nope".into()],
                    ..base()
                },
                "domains[1]",
            ),
            (
                v1::TenantSpec {
                    domains: vec!["a.example".into(), "a.example".into()],
                    ..base()
                },
                "domains[1]",
            ),
            (
                v1::TenantSpec {
                    modules: vec!["$(id)".into()],
                    ..base()
                },
                "modules[0]",
            ),
            (
                v1::TenantSpec {
                    language: "portuguese".into(),
                    ..base()
                },
                "language",
            ),
            (
                v1::TenantSpec {
                    odoo_image: "a b".into(),
                    ..base()
                },
                "odoo_image",
            ),
            (
                v1::TenantSpec {
                    admin_login: "a'b".into(),
                    ..base()
                },
                "admin_login",
            ),
            (
                v1::TenantSpec {
                    host: "H 1".into(),
                    ..base()
                },
                "host",
            ),
        ] {
            assert_eq!(parse_spec(wire).unwrap_err().field, field);
        }
    }
}
