//! The tunnel to a real PostgreSQL in a real container, when end-to-end tests are on (`ISYONE_E2E=1`) and this machine's
//! own Docker Engine has the image. Not here: what needs no engine (tunnels).

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_agent::{
    base::config::DataDir,
    docker::engine::Engine,
    host::{Host, Pace, probe::NetProbe},
    peer::{ContainerDatabases, Of, tunnel},
    testing::tenant_plan,
};
use isyone_proto::{plan::TenantPlan, tls};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::node::{Ca, FAR_FUTURE, Node, Site, client_of, grant, plan_with};

const ENGINE: &str = "/var/run/docker.sock";
const IMAGE: &str = "postgres:15";

fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(["-H", &format!("unix://{ENGINE}")])
        .args(arguments)
        .output()
        .map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(text(&output.stderr))
}

/// Removed with everything of it, however the test ends.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", "-v", &self.0]);
    }
}

/// A session of PostgreSQL's own protocol over a socket.
async fn login(socket: &Path) -> Result<Client, String> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|e| e.to_string())?;
    let mut config = tokio_postgres::Config::new();
    config.user("postgres").dbname("postgres");
    let session = config.connect_raw(stream, NoTls).await;
    let (client, connection) = session.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

/// A container of the tenant on this machine's engine, and an agent that leads to it.
async fn start(site: &Site, alfa: &TenantPlan) -> (Container, Node) {
    let name = alfa.name.postgres_container();
    let container = Container(name.clone());
    let uid = format!("one.isy.uid={}", alfa.uid);
    let run = ["run", "-d", "--network", "none", "--name", &name];
    let with = ["--label", &uid, "-e", "POSTGRES_PASSWORD=x"];
    let trust = ["-e", "POSTGRES_HOST_AUTH_METHOD=trust", IMAGE];
    docker(&[&run[..], &with, &trust].concat()).unwrap();
    let data = DataDir::new(site.path().join("real"));
    data.create().unwrap();
    let engine = Arc::new(Engine::new(&format!("unix://{ENGINE}")));
    let advertise = [127, 0, 0, 1].into();
    let host = Host::new(engine, Arc::new(NetProbe), data, advertise, Pace::default());
    let databases = Arc::new(ContainerDatabases(Arc::new(host.unwrap())));
    let grants = [grant(alfa, "h2", FAR_FUTURE)];
    let plan = plan_with(std::slice::from_ref(alfa), &[], &grants);
    (container, site.start_with(plan, databases).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_postgresql_is_reached_from_afar_and_not_through_a_link_in_its_container() {
    let on = std::env::var("ISYONE_E2E").is_ok_and(|value| value == "1");
    if !on || docker(&["image", "inspect", IMAGE]).is_err() {
        println!("not run: ISYONE_E2E is not 1, or this machine's engine has no {IMAGE}");
        return;
    }
    let ca = Ca::new();
    let site = Site::new("h1", &ca);
    let alfa = tenant_plan(&format!("peer{}", std::process::id()));
    let name = alfa.name.postgres_container();
    let (container, node) = start(&site, &alfa).await;
    let config = Arc::new(ArcSwap::from(client_of(&ca, &ca.leaf("agent/h2"))));
    let channel = tls::peer_channel(node.address, &"h1".parse().unwrap(), config).unwrap();
    let of = Of {
        tenant: alfa.name.clone(),
        uid: alfa.uid,
    };
    let near = site.path().join("near");
    std::fs::create_dir(&near).unwrap();
    let stop = CancellationToken::new();
    let (place, ends) = (near.clone(), stop.clone());
    let entrance = tokio::spawn(async move {
        tunnel::serve(&place, (channel, Default::default()), of, ends).await
    });
    let socket = near.join(tunnel::SOCKET_NAME);

    let begin = Instant::now();
    let client = loop {
        match login(&socket).await {
            Ok(client) => break client,
            Err(e) => assert!(begin.elapsed() < Duration::from_secs(60), "{e}"),
        }
        sleep(Duration::from_millis(200)).await;
    };
    // Answered by the container's own server, over its unix socket, and as much as one likes.
    let row = client
        .query_one("SELECT inet_client_addr()::text, version()", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), None);
    assert!(row.get::<_, String>(1).starts_with("PostgreSQL 15"));
    let rows = client
        .query(
            "SELECT repeat('x', 1000) FROM generate_series(1, 30000)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 30_000);

    // Whoever is root in the container puts a link where the socket was.
    let own = format!("/run/postgresql/{}", tunnel::SOCKET_NAME);
    docker(&["exec", &name, "mv", &own, "/run/postgresql/moved"]).unwrap();
    docker(&["exec", &name, "ln", "-s", "moved", &own]).unwrap();
    assert!(login(&socket).await.is_err(), "not through a link");
    docker(&["exec", &name, "mv", "/run/postgresql/moved", &own]).unwrap();
    login(&socket).await.unwrap();
    // Another tenant of this name is another tenant.
    let mut reborn = alfa.clone();
    reborn.uid = uuid::Uuid::from_u128(1);
    let grants = [grant(&reborn, "h2", FAR_FUTURE)];
    node.plan(plan_with(&[reborn], &[], &grants));
    assert!(login(&socket).await.is_err());
    stop.cancel();
    entrance.await.unwrap().unwrap();
    node.end().await;
    drop(container);
}
