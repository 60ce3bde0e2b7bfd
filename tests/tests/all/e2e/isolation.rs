//! What a tenant can reach: its own database and the edge, but nothing of other tenants, its host, or the control
//! plane.

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    process::run,
};

/// Whether a TCP connection opens from inside `odoo_alfa`, tried with Python, which every Odoo image has.
fn opens_from_alfa(cell: &Cell, host: usize, address: &str, port: &str) -> bool {
    let script = format!("import socket; socket.create_connection(('{address}', {port}), 2)");
    cell.hosts[host]
        .docker
        .run(&["exec", "odoo_alfa", "python3", "-c", &script])
        .code
        == 0
}

fn opens_from_here(address: &str, port: &str) -> bool {
    let target = format!("{address}:{port}").parse().expect("an address");
    std::net::TcpStream::connect_timeout(&target, std::time::Duration::from_secs(2)).is_ok()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story: mostly the table of what must stay closed"
)]
fn tenants_reach_nothing_of_each_other_or_of_the_platform() {
    if !enabled("tenants_reach_nothing_of_each_other_or_of_the_platform") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        hosts: 2,
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=2\n",
        ..Shape::default()
    });
    for (tenant, host) in [("alfa", "h1"), ("beta", "h1"), ("gama", "h2")] {
        cell.isyctl(&["tenant", "create", tenant, "--host", host])
            .ok();
    }
    let port = |tenant: &str, key: &str| cell.json(&["tenant", "show", tenant])[key].to_string();
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = |host: usize, container: &str| cell.hosts[host].docker.inspect(container, format);
    let (h1, h2) = (cell.hosts[0].address.clone(), cell.hosts[1].address.clone());

    // The check itself works: alfa reaches its own database.
    assert!(opens_from_alfa(
        &cell,
        0,
        &address(0, "postgres_alfa"),
        "5432"
    ));
    assert!(opens_from_alfa(&cell, 0, "postgres_alfa", "5432"));
    let gateway = cell.hosts[0].docker.inspect(
        "odoo_alfa",
        "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}",
    );
    let beta = (port("beta", "http_port"), port("beta", "websocket_port"));
    let gama = port("gama", "http_port");
    let [grpc, enroll] = cell.coordinator_ports();
    let closed = [
        (
            "postgres_beta by its address",
            address(0, "postgres_beta"),
            "5432".to_owned(),
        ),
        (
            "odoo_beta by its address",
            address(0, "odoo_beta"),
            "8069".to_owned(),
        ),
        ("odoo_beta's published port", h1.clone(), beta.0.clone()),
        ("odoo_beta's websocket port", h1.clone(), beta.1),
        (
            "odoo_beta's port by its own gateway",
            gateway.clone(),
            beta.0.clone(),
        ),
        (
            "its own published port",
            h1.clone(),
            port("alfa", "http_port"),
        ),
        ("odoo_gama on the other host", h2.clone(), gama.clone()),
        ("the agent", gateway.clone(), "16481".to_owned()),
        (
            "the agent by the host's address",
            h1.clone(),
            "16481".to_owned(),
        ),
        ("the coordinator's gRPC", cell.gateway(), grpc.to_string()),
        (
            "the coordinator's enrolment",
            cell.gateway(),
            enroll.to_string(),
        ),
        ("Docker over TCP", gateway, "2375".to_owned()),
        (
            "the cloud's metadata service",
            "169.254.169.254".to_owned(),
            "80".to_owned(),
        ),
    ];
    for (what, address, port) in &closed {
        assert!(!address.is_empty(), "{what}: no address");
        assert!(
            !opens_from_alfa(&cell, 0, address, port),
            "alfa reaches {what} at {address}:{port}"
        );
    }
    // The edge (this machine) reaches them; another machine (h2) does not.
    assert!(opens_from_here(&h1, &beta.0) && opens_from_here(&h2, &gama));
    let script = format!(
        "import socket; socket.create_connection(('{h1}', {}), 2)",
        beta.0
    );
    let from_h2 = run(cell.hosts[1].command("python3").args(["-c", &script]));
    assert_ne!(
        from_h2.code, 0,
        "a machine that is no edge reaches a tenant's port"
    );
    docker_socket_is_not_in_a_tenant(&cell);
}

fn docker_socket_is_not_in_a_tenant(cell: &Cell) {
    let mounts = cell.hosts[0]
        .docker
        .inspect("odoo_alfa", "{{range .Mounts}}{{.Source}} {{end}}");
    assert!(!mounts.contains("docker.sock"), "{mounts}");
    assert_eq!(
        cell.hosts[0]
            .docker
            .inspect("odoo_alfa", "{{.HostConfig.Privileged}}"),
        "false"
    );
}
