//! Debian's `pebble` as a test's certificate authority, with its DNS server, all on loopback: every name resolves to
//! this machine, where a web server at `http_port` answers challenges.
//!
//! It forgets everything when it restarts, including its root: a worst-case outage.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    authority,
    process::{Daemon, run},
    tool, wait_for,
};

/// More than a loaded machine needs.
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Pebble {
    dir: PathBuf,
    /// `[pebble, its management, DNS, its management]`.
    ports: [SocketAddr; 4],
    authority: Option<Daemon>,
    _dns: Daemon,
}

impl Pebble {
    /// Starts both. Certificates are valid for `life_s` seconds.
    pub fn start(dir: &Path, ports: [SocketAddr; 4], http_port: u16, life_s: u32) -> Self {
        let [listen, manage, dns, dns_manage] = ports.map(|port| port.to_string());
        authority::make(dir, "IP:127.0.0.1");
        let config = serde_json::json!({"pebble": {
            "listenAddress": listen, "managementListenAddress": manage,
            "certificate": dir.join("server.pem"), "privateKey": dir.join("server.key"),
            "httpPort": http_port, "tlsPort": 1, "ocspResponderURL": "",
            "externalAccountBindingRequired": false, "certificateValidityPeriod": life_s,
        }});
        std::fs::write(dir.join("pebble.json"), config.to_string()).expect("pebble.json");
        let mut server = Command::new(tool("pebble-challtestsrv"));
        server.args([
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
            "-dns01",
            &dns,
        ]);
        server.args([
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-management",
            &dns_manage,
        ]);
        let dns = Daemon::start("pebble-challtestsrv", &mut server, &dir.join("dns.log"));
        let mut pebble = Self {
            dir: dir.to_owned(),
            ports,
            authority: None,
            _dns: dns,
        };
        pebble.resume();
        pebble
    }

    /// Starts pebble (again) and waits for it.
    pub fn resume(&mut self) {
        let mut command = Command::new(tool("pebble"));
        command.arg("-config").arg(self.dir.join("pebble.json"));
        command.args(["-dnsserver", &self.ports[2].to_string()]);
        command
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0");
        self.authority = Some(Daemon::start(
            "pebble",
            &mut command,
            &self.dir.join("pebble.log"),
        ));
        wait_for("pebble", SOON, || {
            (!self.fetch("roots/0").is_empty()).then_some(())
        });
        std::fs::write(self.root(), self.fetch("roots/0")).expect("root.pem");
    }

    pub fn stop(&mut self) {
        self.authority = None;
    }

    fn fetch(&self, path: &str) -> String {
        let url = format!("https://{}/{path}", self.ports[1]);
        run(Command::new("curl").args(["--silent", "--fail", "--insecure", &url])).stdout
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.ports[0])
    }

    /// The CA of pebble's own TLS certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The root of the certificates it issues; a new one after each start.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    /// The DNS server, for which every name is this machine.
    pub fn dns(&self) -> SocketAddr {
        self.ports[2]
    }

    /// Makes a name resolve to this address.
    pub fn lead(&self, host: &str, address: &str) {
        let body = serde_json::json!({"host": host, "addresses": [address]});
        self.manage("clear-a", &serde_json::json!({"host": host}));
        self.manage("add-a", &body);
    }

    /// Makes a name an alias (CNAME) of another.
    pub fn alias(&self, host: &str, target: &str) {
        self.manage(
            "set-cname",
            &serde_json::json!({"host": host, "target": target}),
        );
    }

    fn manage(&self, verb: &str, body: &serde_json::Value) {
        let url = format!("http://{}/{verb}", self.ports[3]);
        run(Command::new("curl").args(["--silent", "--fail", "-d", &body.to_string(), &url])).ok();
    }

    /// A DNS hook for the coordinator.
    pub fn dns_hook(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join("dns-hook");
        let script = format!(
            "#!/bin/sh\ncase $1 in present) verb=set-txt ;; *) verb=clear-txt ;; esac\n\
             exec curl --silent --fail -d \"{{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}}\" http://{}/$verb\n",
            self.ports[3]
        );
        std::fs::write(&path, script).expect("hook");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("hook");
        path
    }
}
