//! `TenantSpec` from the wire: validates it and fills in the configuration's defaults. The result is complete.
//!
//! Not here: what a change of it means (isyone_fleet::change).

use isyone_fleet::settings::Settings;
use isyone_proto::{
    convert::{parse, parse_labels, parse_optional},
    echo::echo,
    error::FieldError,
    ids::ShortName,
    pb::v1,
    spec::{Domain, ImageRef, MAX_DOMAINS, MAX_MODULES, Module, Size, TenantSpec},
};

use crate::base::config::Images;

/// The module that every database has; requesting it changes nothing.
const BASE_MODULE: &str = "base";

/// Parses the requested spec and looks up its plan.
pub(super) fn tenant_spec(
    settings: &Settings,
    wire: v1::TenantSpec,
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
        language: parse_optional("language", &wire.language)?
            .unwrap_or_else(|| defaults.language.clone()),
        country: parse_optional("country", &wire.country)?
            .unwrap_or_else(|| defaults.country.clone()),
        time_zone: parse_optional("time_zone", &wire.time_zone)?
            .unwrap_or_else(|| defaults.time_zone.clone()),
        modules: modules(&wire.modules)?,
        odoo_image: parse_optional("odoo_image", &wire.odoo_image)?
            .unwrap_or_else(|| images.odoo.clone()),
        postgres_image: parse_optional("postgres_image", &wire.postgres_image)?
            .unwrap_or_else(|| images.postgres.clone()),
        host: parse_optional("host", &wire.host)?,
        host_labels: parse_labels("host_labels", &wire.host_labels)?,
        admin_login: parse_optional("admin_login", &wire.admin_login)?
            .unwrap_or_else(|| defaults.admin_login.clone()),
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

#[cfg(test)]
mod tests {
    use isyone_fleet::testing;

    use super::*;

    fn parse_spec(wire: v1::TenantSpec) -> Result<TenantSpec, FieldError> {
        tenant_spec(&testing::settings(), wire).map(|(spec, _)| spec)
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
