//! In which fields two specs differ, and which of those can be set only at creation.
//!
//! Not here: what a changed field leads to (tenants/create).

use std::fmt;

use isyone_types::spec::TenantSpec;

/// A field of a tenant's spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecField {
    Plan,
    Domains,
    Language,
    Country,
    TimeZone,
    Modules,
    Edition,
    OdooImage,
    PostgresImage,
    Host,
    HostLabels,
    AdminLogin,
    Signup,
    Collation,
}

impl SpecField {
    /// The field's name in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Domains => "domains",
            Self::Language => "language",
            Self::Country => "country",
            Self::TimeZone => "time_zone",
            Self::Modules => "modules",
            Self::Edition => "edition",
            Self::OdooImage => "odoo_image",
            Self::PostgresImage => "postgres_image",
            Self::Host => "host",
            Self::HostLabels => "host_labels",
            Self::AdminLogin => "admin_login",
            Self::Signup => "signup",
            Self::Collation => "collation",
        }
    }

    /// The option of `isyctl tenant create` that sets it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Plan => "--plan",
            Self::Domains => "--domain",
            Self::Language => "--lang",
            Self::Country => "--country",
            Self::TimeZone => "--tz",
            Self::Modules => "--modules",
            Self::Edition => "--edition",
            Self::OdooImage => "--odoo-image",
            Self::PostgresImage => "--postgres-image",
            Self::Host => "--host",
            Self::HostLabels => "--label",
            Self::AdminLogin => "--login",
            Self::Signup => "--signup",
            Self::Collation => "--collation",
        }
    }

    /// The fields that take effect only at the first start, in the order in which a refusal names them. Another image is an
    /// upgrade, an operation of its own, which its host can refuse (PostgreSQL's files, Odoo's version).
    pub const FIXED: [Self; 11] = [
        Self::Language,
        Self::Country,
        Self::TimeZone,
        Self::Modules,
        Self::AdminLogin,
        Self::Signup,
        Self::Collation,
        Self::Host,
        Self::Edition,
        Self::OdooImage,
        Self::PostgresImage,
    ];
}

impl fmt::Display for SpecField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecChange {
    pub field: SpecField,
    pub from: String,
    pub to: String,
}

impl fmt::Display for SpecChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.field, self.from, self.to)
    }
}

/// The changes as text, with `separator` between them.
pub fn listed(changes: &[SpecChange], separator: &str) -> String {
    let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
    texts.join(separator)
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(" ")
    }
}

fn shown(field: SpecField, spec: &TenantSpec) -> String {
    use SpecField as F;
    match field {
        F::Plan => spec.plan.to_string(),
        F::Domains => list(&spec.domains),
        F::Language => spec.language.to_string(),
        F::Country => spec.country.to_string(),
        F::TimeZone => spec.time_zone.to_string(),
        F::Modules => list(&spec.modules),
        F::Edition => spec.edition.to_string(),
        F::OdooImage => spec.odoo_image.to_string(),
        F::PostgresImage => spec.postgres_image.to_string(),
        F::Host => spec
            .host
            .as_ref()
            .map_or_else(|| "any".to_owned(), ToString::to_string),
        F::HostLabels => list(spec.host_labels.iter().map(|(k, v)| format!("{k}={v}"))),
        F::AdminLogin => spec.admin_login.to_string(),
        F::Signup => if spec.signup { "open" } else { "closed" }.to_owned(),
        F::Collation => spec
            .collation
            .as_ref()
            .map_or_else(|| "C".to_owned(), ToString::to_string),
    }
}

/// The fields in which two specs differ.
pub(super) fn between(old: &TenantSpec, new: &TenantSpec) -> Vec<SpecChange> {
    use SpecField as F;
    let fields = [
        F::Plan,
        F::Domains,
        F::Language,
        F::Country,
        F::TimeZone,
        F::Modules,
        F::Edition,
        F::OdooImage,
        F::PostgresImage,
        F::Host,
        F::HostLabels,
        F::AdminLogin,
        F::Signup,
        F::Collation,
    ];
    let change = |field| {
        let (from, to) = (shown(field, old), shown(field, new));
        (from != to).then_some(SpecChange { field, from, to })
    };
    fields.into_iter().filter_map(change).collect()
}
