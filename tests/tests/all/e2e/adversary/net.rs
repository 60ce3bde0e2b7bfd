//! What a tenant does from inside its network: floods of connections, private networks, other hosts, metadata services, mail servers,
//! what its plan does not list, its host by what is said to many. And what it must have: its host's name server.
//!
//! Stand-ins pose as Odoo; the attacks are Python in their network. "The internet" is addresses on the second host's loopback, to which
//! the first one has routes: hosts and their networks end with the test. Not here: tenants' ports and containers
//! (`e2e::isolation`).

use std::time::Duration;

use isyone_tests::e2e::{
    alone,
    cell::{Cell, STANDIN, Shape},
    enabled,
    process::{Daemon, run},
    wait_for,
};

/// Not private, and nobody's (RFC 5737).
const PUBLIC: &str = "203.0.113.7";
/// Likewise; a name leads there.
const NAMED: &str = "203.0.113.8";
/// Likewise: where the coordinator is said to be.
const COORDINATOR: &str = "203.0.113.9";
/// Nobody of the test hosts uses it.
const PRIVATE: &str = "10.77.0.7";
/// Azure's and Alibaba's metadata services.
const METADATA: [&str; 2] = ["168.63.129.16", "100.100.100.200"];
/// What the server listens on, everywhere.
const PORT: u16 = 8085;
/// Where a program of the host hears what is said to it.
const LISTENS: u16 = 8161;
const SOON: Duration = Duration::from_secs(40);

/// Small limits, so that a flood is small.
const CONFIG: &str = "---\
[plans.small]\nmemory=\"64MiB\"\ncpu=0.1\ndisk=\"1MiB\"\nconnections=200\nconnections_per_second=100\n\
[plans.listed]\nmemory=\"64MiB\"\ncpu=0.1\ndisk=\"1MiB\"\negress=\"listed\"\negress_allow=[\"api.example.test\"]\n";

/// Accepts on each port given, and keeps what it has accepted.
const SERVER: &str = "
import resource, socket, sys, threading
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
def serve(port):
    s = socket.create_server(('0.0.0.0', port), backlog=2048)
    kept = []
    while True: kept.append(s.accept()[0])
threads = [threading.Thread(target=serve, args=(int(p),)) for p in sys.argv[1:]]
[t.start() for t in threads]
";

/// Begins that many connections at once, says after some seconds how many are open, and keeps them.
const FLOOD: &str = "
import socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
flood = [socket.socket() for _ in range(count)]
for s in flood: s.setblocking(False); s.connect_ex((address, port))
time.sleep(4)
def is_open(s):
    try: s.getpeername()
    except OSError: return False
    return True
print('open', sum(map(is_open, flood)), flush=True)
time.sleep(600)
";

/// One datagram to each of many ports.
const DATAGRAMS: &str = "
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
for port in range(20000, 23000):
    try: s.sendto(b'x', (sys.argv[1], port + 10000))
    except OSError: pass
";

/// Says what it hears, on all addresses.
const LISTENER: &str = "
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0', int(sys.argv[1])))
while True: print('heard', s.recvfrom(512)[0].decode(), flush=True)
";

/// Says each address to whoever listens there: everybody in its own network, everybody anywhere, a group.
const SHOUT: &str = "
import socket, struct, sys
address = lambda number: socket.inet_ntoa(struct.pack('<I', number))
routes = [line.split() for line in open('/proc/net/route').readlines()[1:]]
nets = [(int(r[1], 16), int(r[7], 16)) for r in routes if int(r[7], 16)]
own = [address(net | ~mask & 0xffffffff) for net, mask in nets]
assert own
s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for to in own + ['255.255.255.255', '224.0.0.1']:
    try: s.sendto(to.encode(), (to, int(sys.argv[1])))
    except OSError: pass
";

/// Answers whatever it is asked.
const RESOLVER: &str = "
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM); s.bind((sys.argv[1], 53))
while True:
    question, asker = s.recvfrom(512)
    s.sendto(question, asker)
";

const ASK: &str = "
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1)
s.sendto(b'?', (sys.argv[1], 53)); s.recvfrom(512)
";

const OPEN: &str = "
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)
";

struct Net {
    cell: Cell,
    _daemons: Vec<Daemon>,
}

impl Net {
    fn start() -> Self {
        let cell = Cell::start(&Shape {
            hosts: 2,
            edition: STANDIN,
            config: CONFIG,
            ..Shape::default()
        });
        let (h1, h2) = (&cell.hosts[0], &cell.hosts[1]);
        for address in [PUBLIC, NAMED, COORDINATOR, PRIVATE]
            .iter()
            .chain(&METADATA)
        {
            let net = format!("{address}/32");
            run(h2.command("ip").args(["addr", "add", &net, "dev", "lo"])).ok();
            run(h1
                .command("ip")
                .args(["route", "add", &net, "via", &h2.address]))
            .ok();
        }
        let mut server = h2.command("python3");
        let ports = [PORT, 25, 80].map(|port| port.to_string());
        server.args(["-c", SERVER]).args(ports);
        let log = cell.dir.path().join("server.log");
        let daemons = vec![Daemon::start("server", &mut server, &log)];
        for (tenant, plan) in [("alfa", "small"), ("beta", "small"), ("gama", "listed")] {
            cell.isyctl(&["tenant", "create", tenant, "--host", "h1", "--plan", plan])
                .ok();
        }
        let net = Self {
            cell,
            _daemons: daemons,
        };
        let server = format!("import socket; socket.create_connection(('{PUBLIC}', {PORT}), 1)");
        wait_for("the server to listen", SOON, || {
            let mut here = net.cell.hosts[0].command("python3");
            (run(here.args(["-c", &server])).code == 0).then_some(())
        });
        net
    }

    fn python(&self, tenant: &str, script: &str, arguments: &[&str]) -> bool {
        let mut inside = self.cell.hosts[0].command_inside(&format!("odoo_{tenant}"), "python3");
        run(inside.args(["-c", script]).args(arguments)).code == 0
    }

    fn opens(&self, tenant: &str, address: &str, port: u16) -> bool {
        self.python(tenant, OPEN, &[address, &port.to_string()])
    }

    /// Connections that the first host tracks.
    fn tracked(&self) -> u64 {
        let file = "/proc/sys/net/netfilter/nf_conntrack_count";
        let count = run(self.cell.hosts[0].command("cat").arg(file)).ok();
        count.trim().parse().expect("a number")
    }

    /// Floods from inside a tenant; returns how many connections came through, and what keeps them.
    fn flood(&self, tenant: &str, count: u32) -> (u32, Daemon) {
        let mut inside = self.cell.hosts[0].command_inside(&format!("odoo_{tenant}"), "python3");
        inside.args(["-c", FLOOD, PUBLIC, &PORT.to_string(), &count.to_string()]);
        let log = tempfile::NamedTempFile::new_in(self.cell.dir.path()).expect("a log");
        let flood = Daemon::start("flood", &mut inside, log.path());
        let open = wait_for("the flood", SOON, || {
            flood.log().trim().strip_prefix("open ")?.parse().ok()
        });
        (open, flood)
    }
}

#[test]
fn a_tenants_network_stays_within_its_plan() {
    if !enabled("a_tenants_network_stays_within_its_plan") {
        return;
    }
    let _alone = alone();
    let mut net = Net::start();
    what_is_closed(&net);
    what_is_said_to_many_does_not_reach_the_host(&net);
    a_flood_stays_its_own(&net);
    names_and_name_servers(&mut net);
    a_coordinator_with_a_name_is_closed(&mut net);
}

fn what_is_closed(net: &Net) {
    assert!(net.opens("alfa", PUBLIC, PORT), "the test's own internet");
    let h2 = net.cell.hosts[1].address.clone();
    let [grpc, _] = net.cell.coordinator_ports();
    for (what, address, port) in [
        ("a private network", PRIVATE, PORT),
        ("another host", h2.as_str(), PORT),
        ("Azure's metadata service", METADATA[0], 80),
        ("Alibaba's metadata service", METADATA[1], 80),
        ("somebody's mail server", PUBLIC, 25),
        ("the coordinator's machine", &net.cell.gateway(), grpc),
    ] {
        assert!(!net.opens("alfa", address, port), "alfa reaches {what}");
    }
    assert!(
        !net.opens("gama", PUBLIC, PORT),
        "gama reaches what is not listed"
    );
}

/// A program of the host that listens on all of its addresses, such as a management agent's.
fn what_is_said_to_many_does_not_reach_the_host(net: &Net) {
    let (h1, port) = (&net.cell.hosts[0], LISTENS.to_string());
    let mut listener = h1.command("python3");
    listener.args(["-c", LISTENER, &port]);
    let log = net.cell.dir.path().join("listener.log");
    let listener = Daemon::start("listener", &mut listener, &log);
    let say = |what: &str| {
        let script = format!(
            "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'{what}', ('127.0.0.1', {port}))"
        );
        wait_for("the host's own words to be heard", SOON, || {
            run(h1.command("python3").args(["-c", &script])).ok();
            listener.log().contains(what).then_some(())
        });
    };
    say("before");
    assert!(net.python("alfa", SHOUT, &[&port]), "alfa cannot shout");
    say("after");
    let heard = listener.log();
    let foreign = |line: &&str| !line.ends_with("before") && !line.ends_with("after");
    let foreign: Vec<&str> = heard.lines().filter(foreign).collect();
    assert!(foreign.is_empty(), "alfa is heard: {foreign:?}");
}

fn a_flood_stays_its_own(net: &Net) {
    let before = net.tracked();
    let (open, flood) = net.flood("alfa", 900);
    assert!((100..=220).contains(&open), "{open} of 900 connections");
    assert!(
        net.opens("beta", PUBLIC, PORT),
        "alfa's flood shuts beta out"
    );
    // A new plan puts new rules in force, which must not forget what is open.
    net.cell
        .isyctl(&["tenant", "create", "delta", "--host", "h1"])
        .ok();
    let (more, _second) = net.flood("alfa", 900);
    assert!(more <= 40, "{more} more after a new plan");
    // Those of the first flood that were dropped try again meanwhile: they would take what is forgotten.
    let open = net.tracked() - before;
    assert!(open <= 300, "{open} places of alfa's 200");
    assert!(net.python("alfa", DATAGRAMS, &[PUBLIC]));
    let taken = net.tracked() - before;
    assert!(
        taken < 1_500,
        "{taken} places in the host's table are alfa's"
    );
    assert!(net.opens("beta", PUBLIC, PORT) && net.opens("delta", PUBLIC, PORT));
    drop(flood);
}

/// The agent's host has a name server of its own, and knows a name. (The kernel takes a while to forget alfa's flood.)
fn names_and_name_servers(net: &mut Net) {
    let h1 = net.cell.hosts[0].address.clone();
    let mut resolver = net.cell.hosts[0].command("python3");
    resolver.args(["-c", RESOLVER, &h1]);
    let log = net.cell.dir.path().join("resolver.log");
    let resolver = Daemon::start("resolver", &mut resolver, &log);
    let hosts = format!("127.0.0.1 localhost\n{NAMED} api.example.test\n");
    net.cell
        .start_agent_reading(0, &hosts, &format!("nameserver {h1}\n"));
    wait_for("the host's name server to answer", SOON, || {
        net.python("beta", ASK, &[&h1]).then_some(())
    });
    wait_for("a listed name to be open", SOON, || {
        net.opens("gama", NAMED, PORT).then_some(())
    });
    assert!(
        !net.opens("gama", PUBLIC, PORT),
        "gama reaches what is not listed"
    );
    assert!(
        !net.opens("beta", &h1, 16_481),
        "only the name server is open"
    );
    drop(resolver);
}

/// The agent calls the coordinator by a name: what that leads to is closed, also while nobody is there.
fn a_coordinator_with_a_name_is_closed(net: &mut Net) {
    assert!(net.opens("beta", COORDINATOR, PORT), "it is nobody's yet");
    let file = net.cell.hosts[0].data.join("agent.toml");
    let text = std::fs::read_to_string(&file).expect("agent.toml");
    let lines = text.lines().map(|line| match line.split_once('=') {
        Some(("endpoint ", _)) => "endpoint = \"coordinator.example.test:16443\"".to_owned(),
        _ => line.to_owned(),
    });
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("agent.toml");
    let hosts = format!("127.0.0.1 localhost\n{COORDINATOR} coordinator.example.test\n");
    net.cell.start_agent_reading(0, &hosts, "");
    wait_for("the coordinator to be closed by its name", SOON, || {
        (!net.opens("beta", COORDINATOR, PORT)).then_some(())
    });
    assert!(net.opens("beta", PUBLIC, PORT));
}
