//! The checks: each answers one question from outside with ok, fail or skip, and a reason.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::http::{Base, Reply, connect, get, upgrade};

/// The tenant, and where to send requests.
#[derive(Debug)]
pub struct Site {
    pub tenant: String,
    /// All host names that should lead to the tenant, the primary first.
    pub names: Vec<String>,
    /// The tenant's URL, as customers type it.
    pub url: Base,
    /// Where to send requests: the edge, or the URL itself.
    pub base: Base,
    /// The edge, when DNS is bypassed.
    pub edge: Option<String>,
    /// Prometheus, if known.
    pub prometheus: Option<Base>,
    /// `isyctl tenant access` restricts who gets in; we may be shut out.
    pub closed: bool,
    /// Odoo modules that wait since an installation was cut off, as the coordinator says.
    pub modules_cut_off: u32,
    pub timeout: Duration,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// As it should be.
    Ok(String),
    /// Not as it should be.
    Fail(String),
    /// The check could not be made, and why.
    Skip(String),
}

impl Found {
    /// Whether the check failed. Skipped is not failed.
    pub fn failed(&self) -> bool {
        matches!(self, Self::Fail(_))
    }

    /// The result as a table shows it, with failures emphasised.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Ok(detail) => ("ok", detail),
            Self::Fail(detail) => ("FAIL", detail),
            Self::Skip(detail) => ("skip", detail),
        }
    }

    fn of(good: bool, detail: impl Into<String>) -> Self {
        if good {
            Self::Ok(detail.into())
        } else {
            Self::Fail(detail.into())
        }
    }
}

impl Serialize for Found {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (word, detail) = self.words();
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("result", &word.to_ascii_lowercase())?;
        map.serialize_entry("detail", detail)?;
        map.end()
    }
}

impl Site {
    fn host(&self) -> String {
        self.url.authority()
    }

    async fn get(&self, path: &str) -> Result<Reply, String> {
        get(&self.base, &self.url.host, &self.host(), path, self.timeout).await
    }
}

/// Do the host names resolve?
pub async fn dns(site: &Site) -> Found {
    if let Some(edge) = &site.edge {
        return Found::Skip(format!("the edge is given: {edge}"));
    }
    let mut resolved = Vec::new();
    for name in &site.names {
        let looked_up = tokio::time::timeout(
            site.timeout,
            tokio::net::lookup_host((name.as_str(), site.url.port)),
        )
        .await;
        let mut addresses: Vec<String> = match looked_up {
            Ok(Ok(addresses)) => addresses.map(|address| address.ip().to_string()).collect(),
            Ok(Err(e)) => return Found::Fail(format!("{name}: {e}")),
            Err(_) => return Found::Fail(format!("{name}: no answer")),
        };
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return Found::Fail(format!("{name} has no address"));
        }
        resolved.push(format!("{name} is {}", addresses.join(", ")));
    }
    Found::Ok(resolved.join("; "))
}

/// Does the edge know every name?
pub async fn route(site: &Site) -> Found {
    let mut answers = Vec::new();
    for name in &site.names {
        let host = Base {
            host: name.clone(),
            ..site.url.clone()
        }
        .authority();
        let reply = match get(&site.base, name, &host, "/web/login", site.timeout).await {
            Ok(reply) => reply,
            Err(why) => return Found::Fail(format!("{name}: {why}")),
        };
        let words = format!("{name}: {}", reply.words());
        // An edge answers 404 for a name without a router, and 5xx when no server is behind it.
        if reply.status == StatusCode::NOT_FOUND || reply.status.is_server_error() {
            return Found::Fail(words);
        }
        answers.push(words);
    }
    Found::Ok(answers.join("; "))
}

/// Is the certificate valid for the name, according to this machine's trust store?
pub async fn tls(site: &Site) -> Found {
    if !site.url.tls {
        return Found::Skip("the tenant's URL is http".to_owned());
    }
    if !site.base.tls {
        return Found::Skip("the given edge is http".to_owned());
    }
    match connect(&site.base, &site.url.host, site.timeout).await {
        Ok(_) => Found::Ok(format!("valid for {}", site.url.host)),
        Err(why) => Found::Fail(why),
    }
}

/// Does Odoo report itself healthy?
pub async fn health(site: &Site) -> Found {
    match site.get("/web/health").await {
        Err(why) => Found::Fail(why),
        Ok(reply) => {
            let json: Option<serde_json::Value> = serde_json::from_str(&reply.body).ok();
            let pass = json.is_some_and(|json| json["status"] == "pass");
            match (reply.status, pass) {
                (StatusCode::OK, true) => Found::Ok("200, status pass".to_owned()),
                (StatusCode::OK, false) => {
                    Found::Fail("200, but not Odoo's health answer".to_owned())
                }
                _ => Found::Fail(reply.words()),
            }
        }
    }
}

/// Is the login form there?
pub async fn login_page(site: &Site) -> Found {
    match site.get("/web/login").await {
        Err(why) => Found::Fail(why),
        Ok(reply)
            if site.closed
                && matches!(
                    reply.status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                ) =>
        {
            Found::Skip(format!(
                "{}, as `isyctl tenant access` has it",
                reply.status.as_u16()
            ))
        }
        Ok(reply) if reply.status != StatusCode::OK => Found::Fail(reply.words()),
        Ok(reply) => {
            let form = ["name=\"login\"", "name=\"password\""]
                .iter()
                .all(|field| reply.body.contains(field));
            Found::of(
                form,
                if form {
                    "200, with the login form"
                } else {
                    "200, but no login form in it"
                },
            )
        }
    }
}

/// Odoo's own text when `list_db` is off and no edge is in front of it.
const MANAGER_DISABLED: &str = "has been disabled by the administrator";

/// Can a stranger manage databases?
pub async fn database_manager(site: &Site) -> Found {
    match site.get("/web/database/manager").await {
        Err(why) => Found::Fail(why),
        Ok(reply) if reply.status.is_server_error() => Found::Fail(reply.words()),
        Ok(reply) if reply.status.is_success() => {
            let disabled = reply.body.contains(MANAGER_DISABLED);
            Found::of(
                disabled,
                if disabled {
                    "disabled by Odoo"
                } else {
                    "it is open to everybody"
                },
            )
        }
        Ok(reply) => Found::Ok(reply.words()),
    }
}

/// Are the metrics hidden from outside?
pub async fn metrics(site: &Site) -> Found {
    match site.get("/metrics").await {
        Err(why) => Found::Fail(why),
        Ok(reply) if reply.status.is_success() => Found::Fail("it is open to everybody".to_owned()),
        Ok(reply) => Found::of(!reply.status.is_server_error(), reply.words()),
    }
}

/// Does the websocket route lead to a websocket?
pub async fn websocket(site: &Site) -> Found {
    match upgrade(
        &site.base,
        &site.url.host,
        &site.host(),
        &site.url.origin(),
        site.timeout,
    )
    .await
    {
        Err(why) => Found::Fail(why),
        // Odoo may refuse an anonymous visitor; what counts is that the route leads to it.
        Ok(reply) => Found::of(
            reply.status != StatusCode::NOT_FOUND && !reply.status.is_server_error(),
            reply.words(),
        ),
    }
}

/// Is an app half installed? The one thing that cannot be seen from outside: its host says.
pub async fn apps(site: &Site) -> Found {
    match site.modules_cut_off {
        0 => Found::Ok("no app is half installed".to_owned()),
        modules => Found::Fail(format!(
            "the installation of an app was cut off, {modules} modules wait: scheduled actions do not run (`isyctl tenant show {}`)",
            site.tenant
        )),
    }
}

/// How long Prometheus may take until it has looked at a tenant that has just come up: it asks for its targets every 5 s and looks at each every
/// 15 s as it is shipped (`monitoring/deploy/prometheus.yml`).
pub const LOOKED_AT: Duration = Duration::from_secs(25);

/// Does Prometheus scrape the tenant successfully? `wait` is called once, where that is not known at once.
pub async fn prometheus(site: &Site, most: Duration, wait: impl FnOnce()) -> Found {
    let Some(base) = &site.prometheus else {
        return Found::Skip(
            "no Prometheus is known: configure it at the coordinator or give --prometheus"
                .to_owned(),
        );
    };
    let end = Instant::now() + most;
    let mut wait = Some(wait);
    loop {
        match scraped(site, base).await {
            Ok(Found::Fail(_)) if Instant::now() < end => {
                if let Some(wait) = wait.take() {
                    wait();
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(found) | Err(found) => return found,
        }
    }
}

/// What Prometheus says of the tenant; `Err`: it says nothing.
async fn scraped(site: &Site, base: &Base) -> Result<Found, Found> {
    let instance = format!("odoo_{}:8069", site.tenant);
    // Tenant names are DNS labels and need no escaping, but we do not trust the coordinator's value in a query.
    let query: String = format!("up{{instance=\"{instance}\"}}")
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    let reply = match get(
        base,
        &base.host,
        &base.authority(),
        &format!("/api/v1/query?query={query}"),
        site.timeout,
    )
    .await
    {
        Ok(reply) if reply.status == StatusCode::OK => reply,
        Ok(reply) => return Err(Found::Fail(format!("Prometheus: {}", reply.words()))),
        Err(why) => return Err(Found::Fail(format!("Prometheus: {why}"))),
    };
    Ok(judge_up(&instance, &reply.body))
}

/// Interprets the answer to an instant query for `up`.
fn judge_up(instance: &str, body: &str) -> Found {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let Some(results) = json["data"]["result"].as_array() else {
        return Found::Fail("Prometheus' answer cannot be read".to_owned());
    };
    if results.is_empty() {
        return Found::Fail(format!("Prometheus has no target {instance}"));
    }
    let up = results
        .iter()
        .filter(|result| result["value"][1] == "1")
        .count();
    Found::of(
        up == results.len(),
        format!(
            "{instance} is {}",
            if up == results.len() { "up" } else { "down" }
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_answers_are_judged() {
        let answer =
            |value: &str| format!(r#"{{"data":{{"result":[{{"value":[1,"{value}"]}}]}}}}"#);
        assert_eq!(
            judge_up("odoo_a:8069", &answer("1")),
            Found::Ok("odoo_a:8069 is up".into())
        );
        assert_eq!(
            judge_up("odoo_a:8069", &answer("0")),
            Found::Fail("odoo_a:8069 is down".into())
        );
        assert!(judge_up("i", r#"{"data":{"result":[]}}"#).failed());
        assert!(judge_up("i", "<html>").failed());
    }

    #[test]
    fn results_are_words_for_programs() {
        assert_eq!(
            serde_json::to_string(&Found::Fail("x".into())).unwrap(),
            r#"{"result":"fail","detail":"x"}"#
        );
    }
}
