//! What edges get when the coordinator restarts, dies, or is down while they start; and what operators see of edges.
//! The fleet is in this process, over a fake Docker; Traefik, where used, is real.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use isyone_proto::pb::v1::{self, EdgeState, edge_service_client::EdgeServiceClient};
use isyone_tests::{
    e2e::{alone, enabled, http::get, process::Daemon, root, tool},
    fleet::{Fleet, wait_for},
};

/// Timeout, far above any normal wait.
const SOON: Duration = Duration::from_secs(20);
/// Host name for which Traefik answers with the version that it runs.
const VERSION_HOST: &str = "edge.isyone.invalid";

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// A fleet with one running tenant, and these settings of the coordinator.
fn fleet(settings: &str) -> Fleet {
    let mut fleet = Fleet::start(settings);
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    fleet
}

/// The version in the current configuration.
fn published(fleet: &Fleet) -> String {
    let text = fleet.http("/traefik/config");
    let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let headers =
        &config["http"]["middlewares"]["isyone-version"]["headers"]["customResponseHeaders"];
    headers["X-Isyone-Version"]
        .as_str()
        .expect("a version")
        .to_owned()
}

#[test]
fn trap_a_restarted_coordinator_publishes_the_same_bytes_before_any_host_has_reported() {
    // Otherwise the pages' address contains the port that the system chose, which is not known at the first start.
    let mut fleet = fleet("[edge]\npages_url = \"http://127.0.0.1:1\"\n");
    let before = get(fleet.coordinator.http(), "coordinator", "/traefik/config");
    let etag = |head: &str| {
        head.lines()
            .find(|line| line.to_lowercase().starts_with("etag"))
            .map(str::to_owned)
    };
    assert!(before.body.contains("alfa.isy.one") && etag(&before.head).is_some());
    // No agent is left to report.
    fleet.agents[0].kill();
    fleet.coordinator.kill();
    fleet.coordinator.run();
    let after = get(fleet.coordinator.http(), "coordinator", "/traefik/config");
    assert_eq!(
        (after.body, etag(&after.head)),
        (before.body, etag(&before.head))
    );
}

/// The edges as the API lists them.
fn listed(fleet: &Fleet) -> v1::ListEdgesResponse {
    let edges = fleet.admin.connection();
    let asked = fleet.client.block_on(async {
        EdgeServiceClient::new(edges)
            .list_edges(v1::ListEdgesRequest::default())
            .await
    });
    asked.expect("an answer").into_inner()
}

/// Answers like Traefik, with the version stored in the returned mutex.
fn stand_in(port: SocketAddr) -> Arc<Mutex<String>> {
    let version = Arc::new(Mutex::new(String::new()));
    let (listener, said) = (
        TcpListener::bind(port).expect("a free port"),
        version.clone(),
    );
    thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            let _ = tcp.read(&mut [0; 1024]);
            let version = said.lock().expect("nobody panics").clone();
            let _ = write!(
                tcp,
                "HTTP/1.1 418 x\r\nX-Isyone-Version: {version}\r\nContent-Length: 0\r\n\r\n"
            );
        }
    });
    version
}

#[test]
fn operators_see_who_asks_for_routes_and_what_it_runs() {
    let port = free();
    let fleet = fleet(&format!(
        "[edge]\nports = [{}]\ntraefik_file = \"edge/isyone.yml\"\n",
        port.port()
    ));
    let runs = stand_in(port);
    let none = listed(&fleet);
    assert!(
        none.edges.is_empty() && none.files[0].ends_with("edge/isyone.yml"),
        "{none:?}"
    );
    let until = |what: &str, state: EdgeState| {
        wait_for(what, SOON, || {
            fleet.http("/traefik/config");
            listed(&fleet)
                .edges
                .into_iter()
                .find(|edge| edge.state() == state)
        })
    };
    *runs.lock().unwrap() = published(&fleet);
    let current = until("an edge that is up to date", EdgeState::Current);
    assert_eq!((current.name.as_str(), current.tenants), ("127.0.0.1", 1));
    assert_eq!(
        (&current.running_version, &current.given_version),
        (&published(&fleet), &published(&fleet))
    );
    assert!(current.behind_time.is_none() && current.poll_time.is_some());
    // Something changes, and the edge does not apply it.
    fleet.create("beta");
    let behind = until("an edge that is late", EdgeState::Behind);
    assert_eq!(
        (&behind.running_version, &behind.newest_version),
        (&current.running_version, &published(&fleet))
    );
    assert!(behind.behind_time.is_some());
    *runs.lock().unwrap() = published(&fleet);
    until("the edge to have caught up", EdgeState::Current);
}

/// How Traefik gets its configuration.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// It polls the coordinator.
    Http,
    /// The coordinator writes a file.
    File,
    /// A script polls the coordinator and keeps the answer in a file (keep-configuration.sh).
    Kept,
}

/// A Traefik with the deployed static configuration and its files in `dir`. It serves at `web`, and its own API at
/// `api`.
fn traefik(form: Form, coordinator: SocketAddr, dir: &Path, [web, api]: [SocketAddr; 2]) -> Daemon {
    let name = if matches!(form, Form::Http) {
        "traefik.yml"
    } else {
        "traefik-file.yml"
    };
    let deployed = fs::read_to_string(root().join("traefik/deploy").join(name)).expect(name);
    let config = deployed
        .replace("\":80\"", &format!("\"{web}\""))
        .replace("\":443\"", "\"127.0.0.1:0\"")
        .replace(
            "/var/log/isyone-edge/access.log",
            &dir.join("access.log").display().to_string(),
        )
        .replace("127.0.0.1:8080", &api.to_string())
        .replace("127.0.0.1:8082", &free().to_string())
        .replace("127.0.0.1:7480", &coordinator.to_string())
        .replace(
            "/var/lib/isyone-edge",
            &dir.join("watched").display().to_string(),
        );
    let file = dir.join(name);
    fs::write(&file, config).expect("written");
    let mut command = Command::new(tool("traefik"));
    command.arg(format!("--configFile={}", file.display()));
    Daemon::start("traefik", &mut command, &dir.join("traefik.log"))
}

/// The version that Traefik runs; `None` while it has no configuration.
fn runs(web: SocketAddr) -> Option<String> {
    let head = get(web, VERSION_HOST, "/").head;
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("X-Isyone-Version: "));
    line.map(|version| version.trim().to_owned())
}

#[test]
fn traefik_serves_on_without_the_coordinator_and_comes_back_without_it_from_a_file() {
    if !enabled("traefik_serves_on_without_the_coordinator_and_comes_back_without_it_from_a_file") {
        return;
    }
    let _alone = alone();
    for form in [Form::Http, Form::File, Form::Kept] {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("watched/isyone.yml");
        fs::create_dir(dir.path().join("watched")).expect("a folder");
        let written = match form {
            Form::File => format!("[edge]\ntraefik_file = \"{}\"\n", file.display()),
            Form::Http | Form::Kept => String::new(),
        };
        let mut fleet = fleet(&written);
        let (coordinator, web) = (fleet.coordinator.http(), free());
        let _keeper = matches!(form, Form::Kept).then(|| {
            let mut keep = Command::new(root().join("traefik/deploy/keep-configuration.sh"));
            keep.arg(format!("http://{coordinator}/traefik/config"))
                .arg(&file);
            Daemon::start(
                "keep-configuration.sh",
                &mut keep,
                &dir.path().join("keep.log"),
            )
        });
        let mut edge = traefik(form, coordinator, dir.path(), [web, free()]);
        let newest = |what: &str, fleet: &Fleet| {
            wait_for(what, SOON, || {
                (runs(web)? == published(fleet)).then_some(())
            });
        };
        newest("Traefik's routes", &fleet);
        fleet.create("beta");
        newest("Traefik's new routes", &fleet);
        let last = published(&fleet);
        fleet.coordinator.kill();
        // Long enough for several polls of Traefik and of the script.
        thread::sleep(Duration::from_secs(3));
        assert_eq!(runs(web), Some(last.clone()), "{form:?}: it serves on");
        edge.kill();
        edge = traefik(form, coordinator, dir.path(), [web, free()]);
        match form {
            // It answers 404 to everybody until the coordinator is back; docs/operations.md says so, and what to do
            // about it.
            Form::Http => {
                wait_for("Traefik", SOON, || {
                    get(web, "alfa.isy.one", "/").status == 404
                });
                assert_eq!(runs(web), None);
            }
            Form::File | Form::Kept => {
                wait_for("its routes", SOON, || (runs(web)? == last).then_some(()));
            }
        }
        fleet.coordinator.run();
        newest("the routes again", &fleet);
        drop(edge);
    }
}

/// Pure code decides what Traefik would refuse; this test asks Traefik. One value that it refuses costs every tenant
/// its route.
#[test]
fn traefik_takes_every_form_of_the_configuration_that_there_is_a_golden_file_of() {
    if !enabled("traefik_takes_every_form_of_the_configuration_that_there_is_a_golden_file_of") {
        return;
    }
    let _alone = alone();
    let files = fs::read_dir(root().join("traefik/golden")).expect("the folder");
    let mut golden: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    golden.sort();
    assert!(golden.len() >= 8, "{golden:?}");
    for golden in golden {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("watched")).expect("a folder");
        fs::copy(&golden, dir.path().join("watched/isyone.yml")).expect("copied");
        let api = free();
        let _traefik = traefik(Form::File, free(), dir.path(), [free(), api]);
        // Check by a middleware: which entry points have routers differs between the files.
        let taken = || {
            (get(api, "traefik", "/api/http/middlewares/isyone-version@file").status == 200)
                .then_some(())
        };
        wait_for(
            &format!("Traefik to take {}", golden.display()),
            SOON,
            taken,
        );
    }
}
