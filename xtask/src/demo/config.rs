//! Renders the configuration files of the demo's programs from its settings. Pure.
//!
//! Traefik's and Prometheus' files are those of `traefik/deploy` and `monitoring/deploy` with the demo's ports, so the
//! demo runs what a real installation runs.

use super::settings::{Edition, Settings};
use anyhow::{Context as _, Result, bail};
use std::path::Path;

/// The folder below the coordinator's where it writes Prometheus' certificate.
pub(super) const CERTIFICATES: &str = "prometheus";

const EDITIONS: &str = r#"
# The default one has its images here; the other takes what a registry has.
[editions."18.0"]
odoo = "odoo:18.0"
postgres = "postgres:15"
[editions."19.0"]
odoo = "odoo:19.0"
postgres = "postgres:17"
"#;

/// The coordinator's file. Its data lies in the same folder.
pub(super) fn coordinator(settings: &Settings) -> String {
    let Settings {
        web,
        grpc,
        enroll,
        http,
        prometheus,
        agent_metrics,
        edge_metrics,
        ..
    } = settings;
    let ip = settings.address();
    let url_port = if *web == 80 {
        String::new()
    } else {
        format!("url_port = {web}\n")
    };
    // With one host, the edge runs on it. With several, it reaches them from this machine's address on the bridge.
    let (advertise, edges) = if settings.is_single() {
        (r#""127.0.0.1", "localhost""#.to_owned(), String::new())
    } else {
        (
            format!(r#""{ip}", "127.0.0.1", "localhost""#),
            format!("{ip:?}", ip = ip.to_string()),
        )
    };
    let edition = settings.edition.unwrap_or(Edition::V18).name();
    format!(
        r#"# Written by `cargo xtask demo`. All keys and their defaults: docs/configuration.md.
base_domain = "isy.one"
{url_port}default_edition = "{edition}"

[listen]
grpc = "{ip}:{grpc}"
enroll = "{ip}:{enroll}"
http = "127.0.0.1:{http}"

[advertise]
hosts = [{advertise}]

[edge]
addresses = [{edges}]
ports = [{web}]
# DNS does not lead here: this is where `isyctl tenant verify` asks.
url = "http://127.0.0.1:{web}"

[monitoring]
prometheus_url = "http://127.0.0.1:{prometheus}"
agent_port = {agent_metrics}
edges = ["127.0.0.1:{edge_metrics}"]
certificate_dir = "{CERTIFICATES}"

# A demo machine may be small: less disk is counted on than by default.
[placement]
disk_reserve = "1GiB"

[plans.small]
memory = "1GiB"
cpu = 0.5
disk = "2GiB"
workers = 0
[plans.standard]
memory = "2GiB"
cpu = 1.0
disk = "4GiB"
workers = 2
[plans.large]
memory = "4GiB"
cpu = 2.0
disk = "8GiB"
workers = 4
{EDITIONS}"#
    )
}

/// Traefik's static file, derived from the deployable one, with its access log at `access_log`.
pub(super) fn traefik(deployable: &str, settings: &Settings, access_log: &Path) -> Result<String> {
    replace_all(
        "traefik/deploy/traefik.yml",
        deployable,
        &[
            (
                r#"address: ":80""#,
                format!(r#"address: ":{}""#, settings.web),
            ),
            // A demo has no HTTPS, so any free port will do.
            (r#"address: ":443""#, r#"address: "127.0.0.1:0""#.to_owned()),
            (
                r#"address: "127.0.0.1:8080""#,
                format!(r#"address: "127.0.0.1:{}""#, settings.dashboard),
            ),
            (
                r#"address: "127.0.0.1:8082""#,
                format!(r#"address: "127.0.0.1:{}""#, settings.edge_metrics),
            ),
            (
                "http://127.0.0.1:7480/",
                format!("http://127.0.0.1:{}/", settings.http),
            ),
            (
                "/var/log/isyone-edge/access.log",
                access_log.display().to_string(),
            ),
        ],
    )
}

/// Prometheus' file, derived from the deployable one. It scrapes more often, so that nobody has to wait for the demo.
/// Its certificate is in `certificates`.
pub(super) fn prometheus(
    deployable: &str,
    settings: &Settings,
    certificates: &Path,
) -> Result<String> {
    replace_all(
        "monitoring/deploy/prometheus.yml",
        deployable,
        &[
            ("scrape_interval: 15s", "scrape_interval: 2s".to_owned()),
            (
                "http://127.0.0.1:7480/",
                format!("http://127.0.0.1:{}/", settings.http),
            ),
            ("refresh_interval: 5s", "refresh_interval: 1s".to_owned()),
            (
                "127.0.0.1:9093",
                format!("127.0.0.1:{}", settings.alertmanager),
            ),
            (
                "_file: isyone/",
                format!("_file: {}/", certificates.display()),
            ),
        ],
    )
}

/// Alertmanager's file, derived from the deployable one: the same grouping and silencing, but receivers that notify
/// nobody, because a demo has nobody to notify and no secrets.
pub(super) fn alertmanager(deployable: &str) -> Result<String> {
    let part = |from: &str, to: &str| {
        let begin = deployable
            .find(from)
            .with_context(|| format!("alertmanager.yml has no `{}`", from.trim()))?;
        let length = deployable[begin..]
            .find(to)
            .unwrap_or(deployable.len() - begin);
        anyhow::Ok(&deployable[begin..begin + length])
    };
    let (route, inhibit) = (
        part("\nroute:", "\nreceivers:")?,
        part("\ninhibit_rules:", "\0")?,
    );
    let names = part("\nreceivers:", "\ninhibit_rules:")?
        .lines()
        .filter(|line| line.starts_with("  - name: "));
    let receivers: String = names.map(|line| format!("{line}\n")).collect();
    Ok(format!(
        "# Written by `cargo xtask demo`.{route}\nreceivers:\n{receivers}{inhibit}"
    ))
}

/// Grafana's data source, derived from the deployable one.
pub(super) fn grafana_source(deployable: &str, settings: &Settings) -> Result<String> {
    let file = "monitoring/deploy/grafana/provisioning/datasources/prometheus.yml";
    let address = format!("http://127.0.0.1:{}", settings.prometheus);
    replace_all(file, deployable, &[("http://127.0.0.1:9090", address)])
}

fn replace_all(file: &str, text: &str, changes: &[(&str, String)]) -> Result<String> {
    let mut text = text.to_owned();
    for (old, new) in changes {
        if !text.contains(old) {
            bail!("{file} does not contain `{old}` any more: the demo must learn its new form");
        }
        text = text.replace(old, new);
    }
    Ok(text)
}

/// `init` writes the context for the default port; the demo may use another.
pub(super) fn context_with_endpoint(context: &str, settings: &Settings) -> String {
    let endpoint = format!("endpoint = \"{}:{}\"", settings.address(), settings.grpc);
    let line = |line: &str| {
        if line.starts_with("endpoint") {
            endpoint.clone()
        } else {
            line.to_owned()
        }
    };
    context.lines().map(|text| line(text) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::super::Ports;
    use super::*;
    use crate::paths;

    fn settings(hosts: u8, web: u16) -> Settings {
        let ports = Ports {
            web_port: Some(web),
            dashboard_port: Some(8099),
            http_port: Some(7999),
            ..Ports::default()
        };
        Settings {
            edition: Some(Edition::V19),
            ..Settings::choose(hosts, &ports).unwrap()
        }
    }

    #[test]
    fn the_coordinator_listens_where_only_this_machine_reaches() {
        let one = coordinator(&settings(1, 80));
        assert!(
            one.contains("grpc = \"127.0.0.1:7443\"") && one.contains("addresses = []"),
            "{one}"
        );
        assert!(!one.contains("url_port"));
        let three = coordinator(&settings(3, 8080));
        assert!(three.contains("grpc = \"172.30.77.1:7443\""), "{three}");
        assert!(
            three.contains("addresses = [\"172.30.77.1\"]") && three.contains("url_port = 8080"),
            "{three}"
        );
        assert!(
            three.contains("hosts = [\"172.30.77.1\", "),
            "agents dial the first: {three}"
        );
        // The product's own pairs.
        assert!(three.contains("odoo = \"odoo:18.0\"\npostgres = \"postgres:15\""));
        assert!(three.contains("odoo = \"odoo:19.0\"\npostgres = \"postgres:17\""));
        assert_eq!(
            [Edition::V18, Edition::V19].map(Edition::postgres),
            ["postgres:15", "postgres:17"]
        );
    }

    #[test]
    fn the_deployable_files_carry_the_demo_ports() {
        let read = |file: &str| std::fs::read_to_string(paths::root().join(file)).unwrap();
        let edge = traefik(
            &read("traefik/deploy/traefik.yml"),
            &settings(1, 8080),
            Path::new("/demo/access.log"),
        );
        let edge = edge.unwrap();
        assert!(edge.contains("filePath: /demo/access.log"), "{edge}");
        assert!(
            edge.contains("address: \":8080\"") && edge.contains("\"127.0.0.1:8099\""),
            "{edge}"
        );
        assert!(
            edge.contains("http://127.0.0.1:7999/traefik/config"),
            "{edge}"
        );
        let watch = read("monitoring/deploy/prometheus.yml");
        let watch = prometheus(&watch, &settings(1, 80), Path::new("/demo/prometheus")).unwrap();
        assert!(
            watch.contains("http://127.0.0.1:7999/sd/odoo")
                && watch.contains("scrape_interval: 2s"),
            "{watch}"
        );
        assert!(
            watch.contains("ca_file: /demo/prometheus/ca.pem") && !watch.contains(" isyone/"),
            "{watch}"
        );
        let alerts = alertmanager(&read("monitoring/deploy/alertmanager.yml")).unwrap();
        assert!(
            alerts.contains("\n  - name: on-call\n") && alerts.contains("\ninhibit_rules:\n"),
            "{alerts}"
        );
        assert!(
            !alerts.contains("slack") && !alerts.contains("http"),
            "{alerts}"
        );
        grafana_source(
            &read("monitoring/deploy/grafana/provisioning/datasources/prometheus.yml"),
            &settings(1, 80),
        )
        .unwrap();
        assert!(
            traefik("nothing", &settings(1, 80), Path::new("/x"))
                .unwrap_err()
                .to_string()
                .contains("new form")
        );
    }

    #[test]
    fn a_context_gets_the_endpoint() {
        let context =
            "name = \"admin\"\nendpoint = \"localhost:7443\"\nca_pem = \"\"\"\nx\n\"\"\"\n";
        let changed = context_with_endpoint(context, &settings(1, 80));
        assert_eq!(changed, context.replace("localhost", "127.0.0.1"));
    }
}
