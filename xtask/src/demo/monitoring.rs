//! The demo's Prometheus, Alertmanager and (where its image is available) Grafana, configured from the deployable
//! files; and a check of what Prometheus knows about the first tenant.
//!
//! Not here: rendering those files for the demo (config), the other programs (up).

use super::http;
use super::up::{Up, deployable, local};
use super::{DOMAIN, TENANT, config, write_changed};
use crate::cmd::{cmd, took, wait_until};
use crate::{images, paths};
use anyhow::{Context as _, Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

/// The program's name in the demo; its container is `isyone-demo-` plus this name.
pub(super) const GRAFANA: &str = "grafana";
/// The same as in monitoring/deploy's compose file.
const GRAFANA_IMAGE: &str = "grafana/grafana:12.1.0";
/// The coordinator writes the certificate as soon as it runs.
const CERTIFICATE_LIMIT: Duration = Duration::from_secs(20);
/// Visits that the demo makes itself, so that there is something to see.
const VISITS: u32 = 20;
/// From a visit to its rate: the agent caches its page for 4 s, Prometheus scrapes every 2 s, and a rate needs two
/// different values.
const FIGURES_LIMIT: Duration = Duration::from_secs(45);
/// Pause between two queries.
const FIGURES_PAUSE: Duration = Duration::from_secs(1);

/// What operators of Odoo ask first; `alfa` is the demo's tenant.
const QUERIES: [&str; 6] = [
    r#"up{job="odoo"}"#,
    "rate(odoo_http_requests_total[5m])",
    "histogram_quantile(0.95, rate(odoo_sql_query_duration_seconds_bucket[5m]))",
    r#"container_cpu_usage_seconds_total{container=~"odoo_.*"}"#,
    r#"pg_stat_database_numbackends{datname="odoo_alfa"}"#,
    "odoo_database_size",
];

impl Up {
    /// Starts Prometheus, Alertmanager and Grafana.
    pub(super) fn monitoring(&mut self) -> Result<()> {
        self.alertmanager()?;
        self.prometheus()?;
        self.grafana()
    }

    fn alertmanager(&mut self) -> Result<()> {
        let file = self.demo.path("alertmanager/alertmanager.yml");
        let text = config::alertmanager(&deployable("monitoring/deploy/alertmanager.yml")?)?;
        let changed = write_changed(&file, &text)?;
        let address = local(self.demo.settings.alertmanager);
        let mut command = Command::new(images::binary("alertmanager"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!(
            "--storage.path={}",
            self.demo.path("alertmanager/data").display()
        ));
        // A single one needs no cluster, and so no port for it.
        command
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=");
        let ready = || http::status(address, "localhost", "/-/ready") == Some(200);
        self.keep(&self.demo.process("alertmanager"), &command, changed, ready)
    }

    fn prometheus(&mut self) -> Result<()> {
        let settings = &self.demo.settings;
        let certificates = self.demo.path("coordinator").join(config::CERTIFICATES);
        if !wait_until(CERTIFICATE_LIMIT, || {
            certificates.join("prometheus.pem").exists()
        }) {
            bail!(
                "the coordinator has not put Prometheus' certificate into {}",
                certificates.display()
            );
        }
        let file = self.demo.path("prometheus/prometheus.yml");
        let text = config::prometheus(
            &deployable("monitoring/deploy/prometheus.yml")?,
            settings,
            &certificates,
        )?;
        let rules = deployable("monitoring/deploy/alerts.yml")?;
        let changed = write_changed(&file, &text)?
            | write_changed(&self.demo.path("prometheus/alerts.yml"), &rules)?;
        let address = local(settings.prometheus);
        let mut command = Command::new(images::binary("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!(
            "--storage.tsdb.path={}",
            self.demo.path("prometheus/data").display()
        ));
        command.arg(format!("--web.listen-address={address}"));
        let ready = || http::status(address, "localhost", "/-/ready") == Some(200);
        self.keep(&self.demo.process("prometheus"), &command, changed, ready)
    }

    /// Runs Grafana from its image, because no distribution packages it. The container lives as long as the `docker
    /// run` in the foreground.
    fn grafana(&mut self) -> Result<()> {
        if !images::pull(&[GRAFANA_IMAGE])? {
            self.demo.say(&format!(
                "grafana: LEFT OUT, because {GRAFANA_IMAGE} cannot be pulled here; its dashboards are in monitoring/deploy/grafana"
            ));
            return Ok(());
        }
        let port = self.demo.settings.grafana;
        let source = "monitoring/deploy/grafana/provisioning/datasources/prometheus.yml";
        let file = self.demo.path("grafana/datasources/prometheus.yml");
        let changed = write_changed(
            &file,
            &config::grafana_source(&deployable(source)?, &self.demo.settings)?,
        )?;
        let shipped = paths::root().join("monitoring/deploy/grafana");
        let mounts = [
            (
                self.demo.path("grafana/datasources"),
                "/etc/grafana/provisioning/datasources",
            ),
            (
                shipped.join("provisioning/dashboards"),
                "/etc/grafana/provisioning/dashboards",
            ),
            (shipped.join("dashboards"), "/var/lib/grafana/dashboards"),
        ];
        let mut command = cmd(
            "docker",
            [
                "run",
                "--rm",
                "--network",
                "host",
                "--name",
                "isyone-demo-grafana",
            ],
        );
        for (from, to) in mounts {
            command
                .arg("--volume")
                .arg(format!("{}:{to}:ro", from.display()));
        }
        // Anyone who can reach this machine's loopback may read, but change nothing.
        for variable in [
            "GF_SERVER_HTTP_ADDR=127.0.0.1".to_owned(),
            format!("GF_SERVER_HTTP_PORT={port}"),
            "GF_AUTH_ANONYMOUS_ENABLED=true".to_owned(),
            "GF_ANALYTICS_REPORTING_ENABLED=false".to_owned(),
            "GF_ANALYTICS_CHECK_FOR_UPDATES=false".to_owned(),
        ] {
            command.arg("--env").arg(variable);
        }
        command.arg(GRAFANA_IMAGE);
        let ready = || http::status(local(port), "localhost", "/api/health") == Some(200);
        self.keep(&self.demo.process(GRAFANA), &command, changed, ready)
    }

    /// Makes a few visits, and waits until Prometheus answers each of the usual queries with a value above 0.
    pub(super) fn figures(&mut self) -> Result<()> {
        let (start, prometheus) = (Instant::now(), local(self.demo.settings.prometheus));
        let edge = local(self.demo.settings.web);
        for visit in 0..VISITS {
            http::status(edge, DOMAIN, "/web/login")
                .with_context(|| format!("visit {visit} has no answer"))?;
        }
        let mut found = Vec::new();
        for query in QUERIES {
            let mut value = None;
            wait_until(FIGURES_LIMIT, || {
                value = largest(
                    &http::get(prometheus, "localhost", &question(query))
                        .unwrap_or_default()
                        .1,
                );
                value.is_some() || {
                    std::thread::sleep(FIGURES_PAUSE);
                    false
                }
            });
            let value = value.with_context(|| {
                format!(
                    "Prometheus has nothing above 0 for {query} after {}: see its page /targets",
                    took(start)
                )
            })?;
            found.push(format!("\n               {value:>12}  {query}"));
        }
        self.demo.say(&format!(
            "Prometheus knows tenant {TENANT} ({}):{}",
            took(start),
            found.concat()
        ));
        Ok(())
    }
}

/// The URL path that queries the largest value if it is above 0.
fn question(query: &str) -> String {
    let expression = format!("max({query}) > 0");
    let encoded: String = expression
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    format!("/api/v1/query?query={encoded}")
}

/// The value in Prometheus' answer: `…"value":[1763989000.1,"0.25"]…`.
fn largest(answer: &str) -> Option<String> {
    let (_, value) = answer.split_once("\"value\":[")?;
    value
        .split('"')
        .nth(1)
        .map(|number| number.chars().take(12).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers() {
        assert_eq!(
            question("up"),
            "/api/v1/query?query=%6D%61%78%28%75%70%29%20%3E%20%30"
        );
        let answer = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1763989000.1,"0.25"]}]}}"#;
        assert_eq!(largest(answer).as_deref(), Some("0.25"));
        assert_eq!(
            largest(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
            None
        );
    }

    #[test]
    fn the_image_is_the_deployed_one() {
        let compose = std::fs::read_to_string(
            paths::root().join("monitoring/deploy/docker-compose-monitoring.yml"),
        )
        .unwrap();
        assert!(compose.contains(GRAFANA_IMAGE));
    }
}
