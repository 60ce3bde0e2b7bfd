//! Debian's `pebble` as the certificate authority of a test, with its DNS, all on loopback: every name is this machine, and a web
//! server at `http_port` answers for it.
//!
//! It forgets everything with each start, its root as well: an outage here is as bad as one can be.

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

/// Above what a loaded machine needs.
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
    /// Starts both. Certificates live so many seconds.
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

    /// Starts it (again) and waits for it.
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

    /// Who signed its own TLS certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The root that its certificates hang from, since the last start.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    /// The name server for which every name is this machine.
    pub fn dns(&self) -> SocketAddr {
        self.ports[2]
    }

    /// From now on a name leads to this address.
    pub fn lead(&self, host: &str, address: &str) {
        let body = serde_json::json!({"host": host, "addresses": [address]});
        self.manage("clear-a", &serde_json::json!({"host": host}));
        self.manage("add-a", &body);
    }

    /// From now on a name stands for another one.
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
