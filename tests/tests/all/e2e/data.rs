//! Where tenants' data lies: a prune takes Docker's records and no data, and data of volumes that earlier versions made
//! moves into the tenant's home.

use std::{path::Path, time::Duration};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    docker::Docker,
    enabled,
    http::{get, odoo_login},
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

/// The tenants, and what is done to each before the prune.
const STOPPED: [(&str, &[&str], &str); 2] = [
    ("alfa", &["tenant", "suspend", "alfa"], "suspended"),
    (
        "beta",
        &["tenant", "delete", "beta", "--yes"],
        "quarantined",
    ),
];

fn volumes(tenant: &str) -> [String; 2] {
    [format!("pgdata_{tenant}"), format!("odoo_data_{tenant}")]
}

/// What `docker system prune --all --volumes` takes of a tenant that does not run. Volumes by name: on newer engines a
/// prune of volumes spares named ones unless told otherwise.
fn prune(docker: &Docker, tenant: &str) {
    docker.run(&["system", "prune", "--force"]).ok();
    let [postgres, odoo] = volumes(tenant);
    docker.run(&["volume", "rm", &postgres, &odoo]).ok();
}

fn device(docker: &Docker, volume: &str) -> String {
    docker.inspect(volume, "{{.Options.device}}")
}

/// Both volumes are records of directories in the tenant's home.
fn lies_at_home(docker: &Docker, tenant: &str) -> bool {
    let home = docker.homes().join(tenant);
    volumes(tenant)
        .iter()
        .zip(["pgdata", "odoo"])
        .all(|(volume, name)| {
            Path::new(&device(docker, volume)) == home.join(name) && home.join(name).is_dir()
        })
}

fn told(cell: &Cell, tenant: &str) -> usize {
    let events = cell.json(&["events"]);
    let events = events.as_array().expect("a list");
    let ours =
        |e: &&serde_json::Value| e["kind"] == "tenant.volumes_put_back" && e["tenant"] == tenant;
    events.iter().filter(ours).count()
}

/// Its own database answers, with its own administrator.
fn is_whole(cell: &Cell, tenant: &str, password: &str) {
    let (host, database) = (format!("{tenant}.isy.one"), format!("odoo_{tenant}"));
    wait_for("an answer through the edge", MINUTE, || {
        (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
    });
    assert_eq!(
        odoo_login(cell.edge(), &host, &database, "admin", password),
        Some(2)
    );
}

fn password(cell: &Cell, tenant: &str) -> String {
    let credentials = cell.json(&["tenant", "credentials", tenant]);
    credentials["password"]
        .as_str()
        .expect("a password")
        .to_owned()
}

#[test]
fn a_prune_takes_records_and_old_volumes_move_home() {
    if !enabled("a_prune_takes_records_and_old_volumes_move_home") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
        ..Shape::default()
    });
    let docker = cell.hosts[0].docker.clone();
    let mut passwords = Vec::new();
    for (tenant, stop, phase) in STOPPED {
        cell.isyctl(&["tenant", "create", tenant]).ok();
        assert!(
            lies_at_home(&docker, tenant),
            "{}",
            device(&docker, "pgdata_alfa")
        );
        passwords.push(password(&cell, tenant));
        cell.isyctl(stop).ok();
        cell.wait_phase(tenant, phase, MINUTE);
    }
    for (tenant, _, _) in STOPPED {
        prune(&docker, tenant);
        put_back(&cell, &docker, tenant, 1);
    }
    cell.hosts[0].agent = None;
    prune(&docker, "alfa"); // while nobody looks
    cell.start_agent(0, &[]);
    put_back(&cell, &docker, "alfa", 2);
    old_volumes_move(&mut cell, &docker);
    // Both had lost containers and network too.
    cell.isyctl(&["tenant", "resume", "alfa"]).ok();
    cell.isyctl(&["tenant", "undelete", "beta"]).ok();
    for ((tenant, _, _), password) in STOPPED.iter().zip(&passwords) {
        is_whole(&cell, tenant, password);
        cell.isyctl(&["tenant", "delete", tenant, "--yes"]).ok();
        cell.isyctl(&["tenant", "delete", tenant, "--purge", "--yes"])
            .ok();
        let home = docker.homes().join(tenant);
        wait_for("its data to be gone", MINUTE, || {
            (!home.exists()).then_some(())
        });
    }
    assert_eq!((told(&cell, "alfa"), told(&cell, "beta")), (2, 1));
}

/// Both records are there again, and operators have been told of so many prunes.
fn put_back(cell: &Cell, docker: &Docker, tenant: &str, prunes: usize) {
    wait_for("the volumes to be put back", MINUTE, || {
        (lies_at_home(docker, tenant) && told(cell, tenant) == prunes).then_some(())
    });
}

/// Makes a tenant's volumes what earlier versions made, while no agent runs.
fn as_before(docker: &Docker, tenant: &str, uid: &str) {
    let home = docker.homes().join(tenant);
    for (volume, name) in volumes(tenant).iter().zip(["pgdata", "odoo"]) {
        docker.run(&["volume", "rm", volume]).ok();
        let labels = [
            format!("one.isy.tenant={tenant}"),
            format!("one.isy.uid={uid}"),
        ];
        docker
            .run(&[
                "volume", "create", "--label", &labels[0], "--label", &labels[1], volume,
            ])
            .ok();
        let own = docker.inspect(volume, "{{.Mountpoint}}");
        std::fs::remove_dir(&own).expect("an empty directory");
        std::fs::rename(home.join(name), &own).expect("one file system");
    }
    std::fs::remove_dir_all(home).expect("nothing but the mark is left");
}

fn old_volumes_move(cell: &mut Cell, docker: &Docker) {
    cell.hosts[0].agent = None;
    for (tenant, _, _) in STOPPED {
        let uid = "{{index .Labels \"one.isy.uid\"}}";
        let uid = docker.inspect(&format!("pgdata_{tenant}"), uid);
        as_before(docker, tenant, &uid);
    }
    cell.start_agent(0, &[]);
    for (tenant, _, _) in STOPPED {
        wait_for("the data to be at home", MINUTE, || {
            lies_at_home(docker, tenant).then_some(())
        });
    }
}
