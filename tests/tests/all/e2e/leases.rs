//! A host is cut off while it runs its tenants: from the coordinator alone nothing comes of it, nor of a coordinator that is away; from
//! everybody, and the tenant goes on where its standby is, by itself, while no visitor is ever answered by both. Whoever is back keeps aside what it has.
//!
//! With real Odoo and PostgreSQL. Not here: hosts that die, and fail-over on somebody's word (standbys), every order of events and clocks
//! that are set (the simulation), the keeping of leases (the agents' own tests).

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    cell::{Cell, hosts},
    host::Host,
    odoo::User,
    process::run,
    wait_for,
};

use super::live_moves::{Load, answers};

const MINUTE: Duration = Duration::from_secs(60);
/// As the plan of the cell has it (`takes_over_after`).
const AFTER: Duration = Duration::from_secs(20);
/// From the end of that to an answer, on a machine that does other things as well; by itself it takes 2 to 5 s.
const MOST_AWAY: Duration = Duration::from_secs(30);

/// Where alfa is when it begins, and where its standby is.
const WAY: (usize, usize) = (1, 0);

pub(super) fn who_is_cut_off(cell: &mut Cell, user: &User, for_how_long: Duration) {
    agree(cell);
    nobody_takes_over_who_need_not(cell, user, for_how_long);
    whoever_is_cut_off_stops_and_its_standby_goes_on(cell);
}

fn name(at: usize) -> String {
    format!("h{}", at + 1)
}

/// The plan gets its standbys, and the tenant has one whose terms its host heeds.
fn agree(cell: &mut Cell) {
    cell.coordinator = None;
    let path = cell.dir.path().join("coordinator/coordinator.toml");
    let text = std::fs::read_to_string(&path).expect("configuration");
    let rule = format!(
        "[plans.small]\nstandby = {{ takes_over_after = \"{}s\" }}",
        AFTER.as_secs()
    );
    std::fs::write(&path, text.replace("[plans.small]", &rule)).expect("configuration");
    cell.start_coordinator();
    wait_for("a lease", 3 * MINUTE, || {
        let tenant = cell.json(&["tenant", "show", "alfa"]);
        let copies = tenant["copies"].as_array()?.clone();
        copies
            .iter()
            .any(|copy| copy["leased"] == true)
            .then_some(())
    });
    println!("{}", cell.isyctl(&["tenant", "show", "alfa"]).ok());
}

fn nobody_takes_over_who_need_not(cell: &mut Cell, user: &User, for_how_long: Duration) {
    let (host, other) = (name(WAY.0), name(WAY.1));
    let started = started(&cell.hosts[WAY.0]);
    let load = Load::start(user);
    cell.coordinator = None;
    thread::sleep(for_how_long);
    cell.start_coordinator();
    cell.wait_host(&other, "ready");
    let away = load.end();
    println!(
        "the coordinator away for {for_how_long:?}: {} writes, failed {:?}, longest {:?}",
        away.acknowledged.len(),
        away.failed,
        away.longest
    );
    let load = Load::start(user);
    let way = Way::cut(cell);
    let cut = 2 * AFTER + Duration::from_secs(5);
    thread::sleep(cut);
    let lone = load.end();
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], host);
    drop(way);
    cell.wait_host(&host, "ready");
    println!(
        "{host} cut off from the coordinator for {cut:?}: {} writes, failed {:?}, longest {:?}",
        lone.acknowledged.len(),
        lone.failed,
        lone.longest
    );
    for seen in [away, lone] {
        assert_eq!(seen.failed, Vec::<u16>::new(), "no request fails");
        assert!(seen.acknowledged.len() > 50, "they did something");
    }
    assert_eq!(cell.json(&["tenant", "show", "alfa"])["host"], host);
    assert_eq!(
        self::started(&cell.hosts[WAY.0]),
        started,
        "nothing was stopped"
    );
}

/// When alfa's containers were started there.
fn started(host: &Host) -> Vec<String> {
    let of = |name| host.docker.inspect(name, "{{.State.StartedAt}}");
    ["odoo_alfa", "postgres_alfa"].map(of).to_vec()
}

/// The way from alfa's host to the coordinator's ports; there again when dropped.
struct Way<'a> {
    host: &'a Host,
    ports: [u16; 2],
}

impl<'a> Way<'a> {
    fn cut(cell: &'a Cell) -> Self {
        let way = Self {
            host: &cell.hosts[WAY.0],
            ports: cell.coordinator_ports(),
        };
        way.rules("-I");
        way
    }

    fn rules(&self, how: &str) {
        for port in self.ports {
            let rule = format!("-t mangle {how} POSTROUTING -o eth0 -p tcp --dport {port} -j DROP");
            run(self.host.command("iptables").args(rule.split(' '))).ok();
        }
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        self.rules("-D");
    }
}

/// Somebody who asks a host's relay for alfa's page every 20 ms, on the host itself.
struct Asking(Child);

impl Asking {
    fn start(host: &Host, address: &str, port: u64) -> Self {
        let script = format!(
            "while :; do printf '%s %s\\n' $(date +%s%3N) $(curl -s -o /dev/null -w '%{{http_code}}' --max-time 2 \
             -H 'Host: alfa.isy.one' http://{address}:{port}/web/health); sleep 0.02; done"
        );
        let mut command: Command = host.command("bash");
        let child = command.args(["-c", &script]).stdout(Stdio::piped());
        Self(child.spawn().expect("bash runs"))
    }

    /// When it was answered, milliseconds since 1970, by the moment of each question.
    fn end(mut self) -> Vec<u128> {
        let _ = self.0.kill();
        let output = self.0.stdout.take().expect("piped");
        let _ = self.0.wait();
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        let answered = lines.filter_map(|line| {
            let (at, status) = line.split_once(' ')?;
            (status == "200").then(|| at.parse().ok())?
        });
        answered.collect()
    }
}

/// As whoever asks has it.
fn now_ms() -> u128 {
    let now = run(Command::new("date").arg("+%s%3N"));
    now.ok().trim().parse().expect("a number")
}

/// alfa's host is cut off from everybody and goes on; alfa goes on from its standby.
fn whoever_is_cut_off_stops_and_its_standby_goes_on(cell: &Cell) {
    let before = cell.json(&["tenant", "show", "alfa"]);
    let port = before["http_port"].as_u64().expect("a port");
    let (lone, host) = (&cell.hosts[WAY.0], name(WAY.0));
    let there = Asking::start(lone, &lone.address, port);
    thread::sleep(Duration::from_secs(1));
    hosts(&["cut", &host]).ok();
    let (cut, begin) = (now_ms(), Instant::now());
    let gone = || (cell.json(&["tenant", "show", "alfa"])["host"] == name(WAY.1)).then_some(());
    wait_for("alfa to go over", 2 * MINUTE, gone);
    let decided = begin.elapsed();
    answers(cell);
    let away = begin.elapsed();
    let port = cell.json(&["tenant", "show", "alfa"])["http_port"].as_u64();
    let here = Asking::start(
        &cell.hosts[WAY.1],
        &cell.hosts[WAY.1].address,
        port.expect("a port"),
    );
    thread::sleep(Duration::from_secs(3));
    hosts(&["heal", &host]).ok();
    cell.wait_host(&host, "ready");
    wait_for("it to say that it keeps its copy", MINUTE, || {
        let orphans = cell.json(&["host", "orphans", &host]);
        (orphans[0]["confirmed"] == true && orphans[0]["tenant"] == "alfa").then_some(())
    });
    let (there, here) = (there.end(), here.end());
    let last = there.iter().max().copied().expect("it was answered before");
    let first = here.iter().min().copied().expect("it is answered there");
    println!(
        "{host} cut off: decided after {decided:?}, answers elsewhere after {away:?}; its own last answer was {} ms after the cut, the \
         first elsewhere seen {} ms after that; {} and {} answers",
        last.saturating_sub(cut),
        first.saturating_sub(last),
        there.len(),
        here.len()
    );
    assert!(last > cut, "it answered when it was cut off");
    assert!(last - cut < AFTER.as_millis(), "its lease was over by then");
    assert!(first > last, "both have answered");
    assert!(away < AFTER + MOST_AWAY, "{away:?}");
    let listed = lone.docker.run(&["ps", "--format", "{{.Names}}"]).stdout;
    assert!(!listed.contains("_alfa"), "{listed}");
}
