//! Bombardment: a real Odoo behind a real edge and relay, attackers from 127.0.0.2 to 127.0.0.51, and an honest client at other
//! addresses that logs in, reads and writes all the time. What it sees is printed for each line and held against what it must be.
//!
//! Two tenants in one cell: `small` is threaded, `standard` has two workers. Short by default; `ISYONE_LONG=1`: the sizes and times of
//! the reports that the lines are from, one after the other. Not here: the attacks (`isyone_tests::e2e::bombard`), a GiB up and down
//! (visitors), numbers beside other ways to run Odoo (`bench visitors`).

mod crowds;
mod database;
mod requests;
mod restarts;

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    alone,
    bombard::{
        Client, Place, attacker,
        honest::{Honest, written},
        seen::Seen,
    },
    cell::{Cell, Shape},
    docker::Docker,
    enabled,
};

const MINUTE: Duration = Duration::from_secs(60);
/// The plans of the product, but for less disk; and others of each that a container has to be made anew for.
const CONFIG: &str = "---[plans.small]\nmemory = \"1GiB\"\ncpu = 1.0\ndisk = \"2GiB\"\nworkers = 0\n\
    [plans.small-other]\nmemory = \"1200MiB\"\ncpu = 1.0\ndisk = \"2GiB\"\nworkers = 0\nnofile = 10000\n\
    [plans.standard]\nmemory = \"2GiB\"\ncpu = 1.0\ndisk = \"3GiB\"\nworkers = 2\n\
    [plans.standard-other]\nmemory = \"2500MiB\"\ncpu = 1.0\ndisk = \"3GiB\"\nworkers = 3\nnofile = 10000\n";
/// Where the honest client is: eight people of one firm, so that those who wait through a long restart are no crowd of one address to
/// the edge. Each tenant has its own firm, from this last number of an address on.
const HONEST: [u8; 2] = [61, 71];
const PEOPLE: u8 = 8;
/// Between two of its requests: ten a second, and where stops and starts are looked at, twenty.
const STEADY: Duration = Duration::from_millis(100);
const BUSY: Duration = Duration::from_millis(50);

/// A tenant, and who comes there.
struct Tenant<'a> {
    cell: &'a Cell,
    docker: Docker,
    name: &'static str,
    place: Place,
    /// The administrator at the honest client's addresses.
    people: Vec<Client>,
    is_long: bool,
}

impl<'a> Tenant<'a> {
    fn create(cell: &'a Cell, name: &'static str, firm: u8) -> Self {
        cell.isyctl(&["tenant", "create", name, "--plan", name])
            .ok();
        let credentials = cell.json(&["tenant", "credentials", name]);
        let text = |key: &str| credentials[key].as_str().expect("a text").to_owned();
        let place = Place {
            edge: cell.edge(),
            host: format!("{name}.isy.one"),
            database: format!("odoo_{name}"),
            login: text("login"),
            password: text("password"),
        };
        let admin = Client::admin(&place, Ipv4Addr::LOCALHOST);
        let at = |last: u8| admin.at(Ipv4Addr::new(127, 0, 0, last));
        Self {
            cell,
            docker: cell.hosts[0].docker.clone(),
            name,
            people: (firm..firm + PEOPLE).map(at).collect(),
            place,
            is_long: std::env::var_os("ISYONE_LONG").is_some(),
        }
    }

    fn admin(&self) -> &Client {
        &self.people[0]
    }

    fn container(&self, program: &str) -> String {
        format!("{program}_{}", self.name)
    }

    /// `long` in the long form.
    fn pick<T>(&self, short: T, long: T) -> T {
        if self.is_long { long } else { short }
    }

    /// Runs an attack beside the honest client, prints what that has seen, and looks whether all that it wrote is there.
    fn beside<T>(&self, line: &str, every: Duration, attack: impl FnOnce() -> T) -> (Seen, T) {
        let name: String = line.chars().filter(char::is_ascii_alphanumeric).collect();
        let tag = format!("{name}-{}", self.name);
        let honest = Honest::go_on(self.people.clone(), every, &tag);
        let begin = Instant::now();
        let done = attack();
        let took = begin.elapsed();
        let seen = honest.end();
        println!(
            "{:<8} {line:<48} {:>5.1} s: {seen}",
            self.name,
            took.as_secs_f64()
        );
        let is_database_away = line.starts_with("6 ");
        let wrong = seen.wrong_writes(&written(self.admin(), &tag), is_database_away);
        assert!(wrong.is_empty(), "{line}: {wrong:#?}");
        (seen, done)
    }

    /// Odoo was neither killed nor started anew since.
    fn assert_not_restarted(&self, started: &str) {
        let odoo = self.container("odoo");
        assert_eq!(self.docker.started_at(&odoo), started);
        assert_eq!(self.docker.inspect(&odoo, "{{.State.OOMKilled}}"), "false");
    }

    fn started(&self) -> String {
        self.docker.started_at(&self.container("odoo"))
    }

    /// What a statement prints in a database of the tenant's PostgreSQL.
    fn sql(&self, database: &str, statement: &str) -> String {
        let postgres = self.container("postgres");
        let psql = ["exec", &postgres, "psql", "-U", "postgres", "-XAtc"];
        let out = self
            .docker
            .run(&[&psql[..], &[statement, database]].concat());
        out.stdout.trim().to_owned()
    }

    /// A figure of Odoo's own page of metrics: the sum of its series.
    fn metric(&self, name: &str) -> f64 {
        const FETCH: &str = "import urllib.request as u\n\
            token = open('/etc/odoo/isyone_metrics_token').read().strip()\n\
            page = u.Request('http://127.0.0.1:8069/metrics', headers={'Authorization': 'Bearer ' + token})\n\
            print(u.urlopen(page).read().decode())";
        let odoo = self.container("odoo");
        let page = self.docker.run(&["exec", &odoo, "python3", "-c", FETCH]);
        let value = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series.split('{').next() == Some(name);
            is_it.then(|| value.parse::<f64>().ok())?
        };
        page.ok().lines().filter_map(value).sum()
    }

    fn page(&self) -> u16 {
        Client::new(&self.place, Ipv4Addr::new(127, 0, 0, 80))
            .get("/web/login")
            .status
    }
}

/// What the honest client sees when nobody else comes.
struct Alone {
    p50: Duration,
    p99: Duration,
}

fn nobody_else(tenant: &Tenant<'_>) -> Alone {
    let time = tenant.pick(Duration::from_secs(5), MINUTE);
    let (seen, ()) = tenant.beside("0 nobody else", STEADY, || thread::sleep(time));
    seen.assert_all_served("alone");
    Alone {
        p50: seen.quantile(0.5),
        p99: seen.quantile(0.99),
    }
}

#[test]
fn a_tenant_keeps_answering_whatever_others_do() {
    if !enabled("a_tenant_keeps_answering_whatever_others_do") {
        return;
    }
    let _alone = alone();
    let begin = Instant::now();
    let mut cell = Cell::start(&Shape {
        config: CONFIG,
        ..Shape::default()
    });
    {
        let small = Tenant::create(&cell, "small", HONEST[0]);
        let standard = Tenant::create(&cell, "standard", HONEST[1]);
        println!("two tenants after {:?}", begin.elapsed());
        // By itself, because it is held to the closest figure.
        let alone = nobody_else(&standard);
        requests::slow_senders(&standard, &alone);
        let lines = [
            (&small as &Tenant<'_>, on_small as fn(&Tenant<'_>)),
            (&standard, on_standard),
        ];
        thread::scope(|scope| {
            let running = lines.map(|(tenant, lines)| {
                let running = scope.spawn(move || lines(tenant));
                if tenant.is_long {
                    while !running.is_finished() {
                        thread::sleep(STEADY);
                    }
                }
                running
            });
            for running in running {
                if let Err(why) = running.join() {
                    std::panic::resume_unwind(why);
                }
            }
        });
        never_happened(&small, &["tenant.unreachable", "tenant.oom_killed"]);
        // A worker may be: the bound of each is more than its half.
        never_happened(&standard, &["tenant.unreachable"]);
    }
    restarts::killed_parts(&mut cell);
    println!("all lines after {:?}", begin.elapsed());
}

fn on_small(small: &Tenant<'_>) {
    nobody_else(small);
    requests::costly_bodies(small);
    crowds::websockets(small);
    crowds::more_than_connections(small);
    crowds::sessions_of_nobody(small);
    database::goes_away(small);
    restarts::during_a_request(small);
}

fn on_standard(standard: &Tenant<'_>) {
    requests::costly_bodies(standard);
    requests::slow_readers_and_pauses(standard);
    requests::in_chunks(standard);
    let patient = standard.admin().at(attacker(49));
    let pausing = thread::spawn(move || requests::a_pause_that_is_too_long(&patient));
    crowds::long_requests(standard);
    restarts::under_load(standard);
    restarts::another_image(standard);
    restarts::an_installation_was_cut_off(standard);
    if let Err(why) = pausing.join() {
        std::panic::resume_unwind(why);
    }
}

/// No edge has taken a tenant's only server away, and the kernel has ended nothing.
fn never_happened(tenant: &Tenant<'_>, kinds: &[&str]) {
    let events = tenant.cell.json(&["events", "--tenant", tenant.name]);
    let events = events.as_array().expect("a list");
    let is_one = |e: &&serde_json::Value| kinds.iter().any(|kind| e["kind"] == *kind);
    let found: Vec<_> = events.iter().filter(is_one).collect();
    assert!(found.is_empty(), "{found:?}");
}
