//! The settings of a demo: number of hosts, images, ports. Chosen once and kept in `demo.conf`, so that a second run
//! continues the same demo and `--down` knows what there is.

use super::Ports;
use super::process::listener;
use crate::hosts::net;
use crate::images;
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// The file in the demo's folder. It also marks the folder as ours, so that it may be removed.
pub(super) const FILE: &str = "demo.conf";
/// Traefik's port unless one is given, in order of preference: ports above 1023 are reserved for no service.
const WEB_PORTS: [u16; 3] = [80, 8080, 8880];
/// Traefik's dashboard port, in order of preference; at least one of them differs from the one above.
const DASHBOARD_PORTS: [u16; 3] = [8080, 8081, 8083];

/// Images for the tenants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edition {
    /// The image `odoo:18.0`, pulled from a registry.
    V18,
    /// `odoo:19.0`, built from Debian packages.
    V19,
}

impl Edition {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V18 => "18.0",
            Self::V19 => "19.0",
        }
    }

    /// The edition's other image, as the product pairs them.
    pub(super) fn postgres(self) -> &'static str {
        match self {
            Self::V18 => images::POSTGRES,
            Self::V19 => images::POSTGRES_17,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::V18, Self::V19]
            .into_iter()
            .find(|edition| edition.name() == name)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    /// 1: this machine's own Docker. More: that many Docker daemons, each in its own network namespace.
    pub(super) hosts: u8,
    /// Set once the images are there.
    pub(super) edition: Option<Edition>,
    /// Traefik's port for visitors.
    pub(super) web: u16,
    /// Traefik's dashboard and ping, on loopback.
    pub(super) dashboard: u16,
    /// Traefik's own metrics, on loopback.
    pub(super) edge_metrics: u16,
    /// The coordinator's three ports.
    pub(super) grpc: u16,
    pub(super) enroll: u16,
    pub(super) http: u16,
    /// Each agent's own port, on its host's loopback.
    pub(super) agent_http: u16,
    /// Each agent's port for Prometheus, on its host's address.
    pub(super) agent_metrics: u16,
    pub(super) prometheus: u16,
    pub(super) alertmanager: u16,
    /// Used only if there is a Grafana.
    pub(super) grafana: u16,
}

impl Settings {
    /// Settings for a new demo; ports that were not asked for are chosen.
    pub(super) fn choose(hosts: u8, asked: &Ports) -> Result<Self> {
        let first_free = |candidates: &[u16], not: u16| {
            candidates
                .iter()
                .copied()
                .find(|port| *port != not && is_free(any(*port)))
        };
        let web = asked
            .web_port
            .or_else(|| first_free(&WEB_PORTS, 0))
            .with_context(|| {
                format!(
                    "port 80 is taken by {}, and so are 8080 and 8880: choose one with --web-port",
                    listener(80)
                )
            })?;
        let dashboard = asked
            .dashboard_port
            .or_else(|| first_free(&DASHBOARD_PORTS, web))
            .context("the ports 8080, 8081 and 8083 are taken: choose one with --dashboard-port")?;
        Ok(Self {
            hosts,
            edition: None,
            web,
            dashboard,
            edge_metrics: asked.edge_metrics_port.unwrap_or(8082),
            grpc: asked.grpc_port.unwrap_or(7443),
            enroll: asked.enroll_port.unwrap_or(7444),
            http: asked.http_port.unwrap_or(7480),
            agent_http: asked.agent_port.unwrap_or(7481),
            agent_metrics: asked.agent_metrics_port.unwrap_or(7482),
            prometheus: asked.prometheus_port.unwrap_or(9090),
            alertmanager: asked.alertmanager_port.unwrap_or(9093),
            grafana: asked.grafana_port.unwrap_or(3000),
        })
    }

    /// Refuses options that conflict with the existing demo.
    pub(super) fn check(&self, hosts: Option<u8>, asked: &Ports) -> Result<()> {
        let mut wrong = String::new();
        let mut differs = |what: &str, have: u16, want: Option<u16>| {
            if let Some(want) = want.filter(|want| *want != have) {
                write!(wrong, " {what} is {have}, not {want};").ok();
            }
        };
        differs("--hosts", u16::from(self.hosts), hosts.map(u16::from));
        differs("--web-port", self.web, asked.web_port);
        differs("--dashboard-port", self.dashboard, asked.dashboard_port);
        differs("--grpc-port", self.grpc, asked.grpc_port);
        differs("--enroll-port", self.enroll, asked.enroll_port);
        differs("--http-port", self.http, asked.http_port);
        differs("--agent-port", self.agent_http, asked.agent_port);
        differs(
            "--edge-metrics-port",
            self.edge_metrics,
            asked.edge_metrics_port,
        );
        differs(
            "--agent-metrics-port",
            self.agent_metrics,
            asked.agent_metrics_port,
        );
        differs("--prometheus-port", self.prometheus, asked.prometheus_port);
        differs(
            "--alertmanager-port",
            self.alertmanager,
            asked.alertmanager_port,
        );
        differs("--grafana-port", self.grafana, asked.grafana_port);
        if !wrong.is_empty() {
            bail!(
                "a demo with other settings is there:{wrong} remove it first with `cargo xtask demo --down`"
            );
        }
        Ok(())
    }

    /// Reads the settings; `None` if there is no demo in `folder`.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(FILE);
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(&text)
                .with_context(|| {
                    format!(
                        "{} is broken: `cargo xtask demo --down` starts over",
                        file.display()
                    )
                })
                .map(Some),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        super::write_changed(&folder.join(FILE), &self.render()).map(|_| ())
    }

    fn render(&self) -> String {
        let Self {
            hosts,
            edition,
            web,
            dashboard,
            edge_metrics,
            grpc,
            enroll,
            http,
            ..
        } = self;
        let Self {
            agent_http,
            agent_metrics,
            prometheus,
            alertmanager,
            grafana,
            ..
        } = self;
        let edition = edition.map_or("", Edition::name);
        format!(
            "# The demo of isyone. `cargo xtask demo --down` ends it and removes this folder.\nhosts = {hosts}\n\
             edition = {edition}\nweb = {web}\ndashboard = {dashboard}\n\
             edge_metrics = {edge_metrics}\ngrpc = {grpc}\nenroll = {enroll}\n\
             http = {http}\nagent_http = {agent_http}\nagent_metrics = {agent_metrics}\n\
             prometheus = {prometheus}\nalertmanager = {alertmanager}\ngrafana = {grafana}\n"
        )
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once(" ="));
            let found = pairs
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim());
            found.with_context(|| format!("it has no `{key}`"))
        };
        let port = |key: &str| {
            value(key)?
                .parse::<u16>()
                .with_context(|| format!("`{key}` is no port"))
        };
        Ok(Self {
            hosts: value("hosts")?.parse().context("`hosts` is no number")?,
            edition: Edition::from_name(value("edition")?),
            web: port("web")?,
            dashboard: port("dashboard")?,
            grpc: port("grpc")?,
            enroll: port("enroll")?,
            http: port("http")?,
            agent_http: port("agent_http")?,
            edge_metrics: port("edge_metrics")?,
            agent_metrics: port("agent_metrics")?,
            prometheus: port("prometheus")?,
            alertmanager: port("alertmanager")?,
            grafana: port("grafana")?,
        })
    }

    /// Whether the only host is this machine's own Docker.
    pub(super) fn is_single(&self) -> bool {
        self.hosts == 1
    }

    /// The coordinator's address for agents and operators; it is not reachable from outside this machine.
    pub(super) fn address(&self) -> IpAddr {
        if self.is_single() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            // This machine's address on the hosts' bridge.
            Ipv4Addr::new(172, 30, net::number(), 1).into()
        }
    }

    /// The addresses that a program of the demo listens on, each with the option that changes its port.
    pub(super) fn listens(&self, process: &str) -> Vec<(&'static str, SocketAddr)> {
        let (ip, local) = (self.address(), |port: u16| {
            (Ipv4Addr::LOCALHOST, port).into()
        });
        match process {
            "coordinator" => vec![
                ("--grpc-port", (ip, self.grpc).into()),
                ("--enroll-port", (ip, self.enroll).into()),
                ("--http-port", local(self.http)),
            ],
            "traefik" => vec![
                ("--web-port", any(self.web)),
                ("--dashboard-port", local(self.dashboard)),
                ("--edge-metrics-port", local(self.edge_metrics)),
            ],
            "prometheus" => vec![("--prometheus-port", local(self.prometheus))],
            "alertmanager" => vec![("--alertmanager-port", local(self.alertmanager))],
            "grafana" => vec![("--grafana-port", local(self.grafana))],
            // With several hosts, an agent's port is in another network.
            _ if self.is_single() => vec![
                ("--agent-port", local(self.agent_http)),
                ("--agent-metrics-port", local(self.agent_metrics)),
            ],
            _ => vec![],
        }
    }

    /// `h1`, `h2` and so on.
    pub(super) fn host_names(&self) -> Vec<String> {
        (1..=self.hosts)
            .map(|number| format!("h{number}"))
            .collect()
    }

    /// `:8080`, or nothing for port 80.
    pub(super) fn web_suffix(&self) -> String {
        if self.web == 80 {
            String::new()
        } else {
            format!(":{}", self.web)
        }
    }
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// Whether nobody listens on this address. (An address that this machine does not have yet counts as free.)
fn is_free(address: SocketAddr) -> bool {
    !matches!(TcpListener::bind(address), Err(err) if err.kind() == ErrorKind::AddrInUse)
}

/// Fails, naming the process, if one of the addresses of `what` is taken.
pub(super) fn need_free(what: &str, addresses: &[(&str, SocketAddr)]) -> Result<()> {
    for (option, address) in addresses {
        if !is_free(*address) {
            let owner = listener(address.port());
            bail!(
                "{what} cannot listen on {address}: {owner} does. End that, or take another port with {option} (if the \
                 demo has run before, after `cargo xtask demo --down`)"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            hosts: 3,
            edition: Some(Edition::V19),
            web: 8080,
            dashboard: 8081,
            edge_metrics: 8082,
            grpc: 1,
            enroll: 2,
            http: 3,
            agent_http: 4,
            agent_metrics: 5,
            prometheus: 6,
            alertmanager: 7,
            grafana: 8,
        }
    }

    #[test]
    fn settings_read_back() {
        for edition in [None, Some(Edition::V18), Some(Edition::V19)] {
            let settings = Settings {
                edition,
                ..settings()
            };
            assert_eq!(Settings::parse(&settings.render()).unwrap(), settings);
        }
        assert!(
            Settings::parse("hosts = 1\n")
                .unwrap_err()
                .to_string()
                .contains("`edition`")
        );
    }

    #[test]
    fn another_request_is_refused_with_the_differences() {
        assert!(settings().check(Some(3), &Ports::default()).is_ok());
        assert!(
            settings()
                .check(
                    None,
                    &Ports {
                        web_port: Some(8080),
                        ..Ports::default()
                    }
                )
                .is_ok()
        );
        let error = settings()
            .check(
                Some(2),
                &Ports {
                    grpc_port: Some(9),
                    ..Ports::default()
                },
            )
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--hosts is 3, not 2; --grpc-port is 1, not 9;"),
            "{error}"
        );
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = need_free("Traefik", &[("--web-port", address)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("--web-port"),
            "{error}"
        );
        let asked = Ports {
            web_port: Some(81),
            dashboard_port: Some(82),
            ..Ports::default()
        };
        assert_eq!(Settings::choose(1, &asked).unwrap().web_suffix(), ":81");
    }
}
