//! `[tls]`: what terminates TLS, and where certificates come from, with the section's defaults and checks.
//!
//! Not here: ordering certificates (edges/acme) and publishing them (edges/publish).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Span, UrlScheme, check::ensure};

/// `[tls]`: what terminates TLS for tenants, and where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub mode: TlsMode,
    /// Traefik's entry point with TLS; `edge.entry_points` are then the ones without.
    pub entry_point: String,
    /// How long browsers remember to use HTTPS only; `0s`: the header is not sent.
    pub hsts: Span,
    /// Name of Traefik's certificate resolver, for the mode `traefik`.
    pub resolver: String,
    /// One certificate for `*.<base_domain>` instead of one for each tenant.
    pub wildcard: bool,
    /// The coordinator as an ACME client, in the mode `coordinator`.
    pub acme: Acme,
}

/// Where certificates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Not our concern: plain HTTP, or something in front of Traefik terminates TLS.
    Off,
    /// Traefik gets them itself; works with a single edge only.
    Traefik,
    /// The coordinator gets them and distributes them to every edge.
    Coordinator,
}

/// `[tls.acme]`: the CA that we order from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// `false`: only uploaded certificates are used.
    pub enabled: bool,
    /// URL of the CA's directory.
    pub directory: String,
    /// Contact address for the CA.
    pub email: Option<String>,
    /// External account binding, for CAs that require it: the key's id.
    pub eab_key_id: Option<String>,
    /// External account binding: a file with the key's secret, base64url as the CA hands it out.
    pub eab_hmac_file: Option<PathBuf>,
    /// PEM file of a CA to trust for the directory instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Program that creates and removes DNS records: `PROGRAM present|cleanup NAME VALUE`. Required for a wildcard.
    pub dns_hook: Option<PathBuf>,
    /// Wait between creating a record and asking the CA to look at it.
    pub dns_wait: Span,
    /// Most orders at the same time.
    pub orders_at_once: usize,
    /// New certificates a week per registered domain.
    pub weekly_per_domain: u32,
    /// New certificates a week for exactly the same name.
    pub weekly_same: u32,
    /// Time from a domain's first failure to the next try; doubles with each further one.
    pub retry_first: Span,
    /// Longest time between two tries.
    pub retry_most: Span,
}

/// Orders at a time. More are no faster, because the time goes into waiting for the CA.
const MAX_ORDERS: usize = 32;
/// Ten years: far from overflow.
const MAX_SPAN: Span = Span::days(3660);

impl Config {
    /// The wildcard name above all platform names, if one certificate serves them all.
    pub fn wildcard(&self) -> Option<String> {
        (self.tls.mode != TlsMode::Off && self.tls.wildcard)
            .then(|| format!("*.{}", self.base_domain))
    }

    /// Whether Traefik's configuration contains private keys.
    pub fn publishes_keys(&self) -> bool {
        self.tls.mode == TlsMode::Coordinator
    }

    /// Whether the coordinator orders certificates.
    pub fn orders_certificates(&self) -> bool {
        self.tls.mode == TlsMode::Coordinator && self.tls.acme.enabled
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (tls, acme) = (&config.tls, &config.tls.acme);
    ensure(tls.hsts <= MAX_SPAN, "tls.hsts", || {
        "must be at most 10 years".to_owned()
    })?;
    for (key, value) in [
        ("tls.entry_point", &tls.entry_point),
        ("tls.resolver", &tls.resolver),
    ] {
        let fits = !value.is_empty()
            && value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        ensure(fits, key, || {
            format!("{value:?} is no name of Traefik's static configuration")
        })?;
    }
    if tls.mode == TlsMode::Off {
        return Ok(());
    }
    ensure(config.url_scheme == UrlScheme::Https, "url_scheme", || {
        "must be \"https\" when tls.mode is not \"off\"".to_owned()
    })?;
    ensure(
        !config.edge.entry_points.contains(&tls.entry_point),
        "edge.entry_points",
        || {
            format!(
                "are those without TLS; `{}` is tls.entry_point",
                tls.entry_point
            )
        },
    )?;
    if tls.mode == TlsMode::Coordinator {
        ensure(config.listen.http.ip().is_loopback(), "listen.http", || {
            "must be a loopback address when tls.mode is \"coordinator\": Traefik's configuration then carries private keys. \
             For edges on other machines, set listen.edges"
                .to_owned()
        })?;
    }
    if config.orders_certificates() {
        check_acme(config, acme)
    } else {
        Ok(())
    }
}

fn check_acme(config: &Config, acme: &Acme) -> Result<(), ConfigError> {
    let directory = acme.directory.parse::<http::Uri>().ok();
    let fits = directory.is_some_and(|u| u.scheme_str() == Some("https") && u.host().is_some());
    ensure(fits, "tls.acme.directory", || {
        format!("{:?} is no https:// URL", acme.directory)
    })?;
    if let Some(email) = &acme.email {
        let fits = email.contains('@') && !email.contains([' ', ':']);
        ensure(fits, "tls.acme.email", || {
            format!("{email:?} is no e-mail address (no mailto:)")
        })?;
    }
    ensure(
        acme.eab_key_id.is_some() == acme.eab_hmac_file.is_some(),
        "tls.acme.eab_key_id",
        || "and eab_hmac_file belong together: give both or none".to_owned(),
    )?;
    ensure(
        !config.tls.wildcard || acme.dns_hook.is_some(),
        "tls.wildcard",
        || "needs tls.acme.dns_hook: authorities give wildcards for DNS records only".to_owned(),
    )?;
    ensure(
        (1..=MAX_ORDERS).contains(&acme.orders_at_once),
        "tls.acme.orders_at_once",
        || format!("must be 1 to {MAX_ORDERS}"),
    )?;
    ensure(
        acme.weekly_per_domain > 0,
        "tls.acme.weekly_per_domain",
        || "must be at least 1".to_owned(),
    )?;
    ensure(acme.weekly_same > 0, "tls.acme.weekly_same", || {
        "must be at least 1".to_owned()
    })?;
    ensure(
        acme.dns_wait <= Span::seconds(3600),
        "tls.acme.dns_wait",
        || "must be at most 1h".to_owned(),
    )?;
    ensure(
        acme.retry_first >= Span::seconds(1),
        "tls.acme.retry_first",
        || "must be at least 1s".to_owned(),
    )?;
    ensure(
        (acme.retry_first..=MAX_SPAN).contains(&acme.retry_most),
        "tls.acme.retry_most",
        || "must be at least retry_first".to_owned(),
    )
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            mode: TlsMode::Off,
            entry_point: "websecure".to_owned(),
            // Half a year: enough for web site checkers, and not for ever.
            hsts: Span::days(180),
            resolver: "isyone".to_owned(),
            wildcard: false,
            acme: Acme::default(),
        }
    }
}

/// The limits are those that Let's Encrypt publishes: 50 new certificates a week per registered domain, 5 per identical
/// set of names, 5 failed validations an hour per name (the first hour of failures has four tries).
impl Default for Acme {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            email: None,
            eab_key_id: None,
            eab_hmac_file: None,
            ca_file: None,
            dns_hook: None,
            dns_wait: Span::seconds(30),
            orders_at_once: 4,
            weekly_per_domain: 50,
            weekly_same: 5,
            retry_first: Span::seconds(300),
            retry_most: Span::seconds(6 * 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: &str = "url_scheme = \"https\"\n";

    fn check(text: &str) -> Result<(), ConfigError> {
        Config::parse("f", text).unwrap().check()
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let coordinator = "[tls]\nmode = \"coordinator\"\n";
        check(&format!("{ON}{coordinator}")).unwrap();
        check(&format!("{ON}[tls]\nmode = \"traefik\"\nwildcard = true")).unwrap();
        let hooked = "wildcard = true\n[tls.acme]\ndns_hook = \"hook\"";
        check(&format!("{ON}{coordinator}{hooked}")).unwrap();
        for (text, key) in [
            (
                format!("{ON}[listen]\nhttp = \"0.0.0.0:7480\"\n{coordinator}"),
                "listen.http",
            ),
            (format!("{ON}{coordinator}wildcard = true"), "tls.wildcard"),
            (
                format!("{ON}{coordinator}[tls.acme]\ndirectory = \"http://x\""),
                "tls.acme.directory",
            ),
            (
                format!("{ON}{coordinator}[tls.acme]\nemail = \"mailto:a@b\""),
                "tls.acme.email",
            ),
            (
                format!("{ON}{coordinator}[tls.acme]\neab_key_id = \"x\""),
                "tls.acme.eab_key_id",
            ),
            (
                format!("{ON}{coordinator}[tls.acme]\norders_at_once = 0"),
                "tls.acme.orders_at_once",
            ),
            (
                format!("{ON}{coordinator}[tls.acme]\nretry_first = \"7h\""),
                "tls.acme.retry_most",
            ),
            (format!("{ON}[tls]\nhsts = \"20years\""), "tls.hsts"),
        ] {
            let error = check(&text).unwrap_err().to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
        // Without orders, the settings they need are not checked; keys stay on loopback.
        check(&format!(
            "{ON}{coordinator}[tls.acme]\nenabled = false\ndirectory = \"x\""
        ))
        .unwrap();
    }
}
