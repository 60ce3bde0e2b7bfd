//! What is done to a host of a cell: by people, by other programs, and by a crash in the middle of something. Each with how it is undone,
//! where the product does not do that.
//!
//! Disks and clocks have files of their own (disks, faketime), and cut links are `cargo xtask hosts`'. Not here: what is expected.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command};

use super::{
    cell::Cell,
    faketime::Clock,
    host::Host,
    process::{Output, run},
};

/// What daemons whose users are mapped keep their data by: these users' first number.
const MAPPED_IDS: &str = "1000000";

/// The daemon's process, as its pid file has it.
pub fn docker_pid(host: &Host) -> Option<String> {
    let pid = fs::read_to_string(host.docker.socket.with_file_name("docker.pid")).ok()?;
    Some(pid.trim().to_owned())
}

/// Sends a signal (`-STOP`).
pub fn signal(name: &str, pid: &str) {
    run(Command::new("kill").args([name, pid])).ok();
}

/// `ip WORDS` in the host's network.
pub fn ip(host: &Host, words: &str) -> Output {
    run(host.command("ip").args(words.split(' ')))
}

/// A bridge with this address that belongs to no network of Docker's.
pub fn add_bridge(host: &Host, name: &str, gateway: Ipv4Addr) -> bool {
    [
        format!("link add {name} type bridge"),
        format!("address add {gateway}/28 dev {name}"),
        format!("link set {name} up"),
    ]
    .iter()
    .all(|words| ip(host, words).code == 0)
}

/// What a dockerd that was killed in mid-start leaves of a container; the folder, which keeps that container from starting. The agent is
/// away meanwhile, or it would be quicker.
pub fn half_start(cell: &mut Cell, index: usize, container: &str) -> Option<PathBuf> {
    let docker = cell.hosts[index].docker.clone();
    let id = docker.inspect(container, "{{.Id}}");
    let pattern = format!("*io.containerd.runtime.v2.task/*/{id}");
    let mut find = Command::new("find");
    find.arg("/run").arg(docker.socket.parent()?);
    let found = run(find.args(["-type", "d", "-path", &pattern, "-prune"])).stdout;
    let folder = found.lines().next().map(PathBuf::from)?;
    cell.hosts[index].agent = None;
    docker.run(&["stop", "-t", "1", container]);
    let made = fs::create_dir(&folder);
    cell.start_agent(index, &[]);
    made.is_ok().then_some(folder)
}

/// Docker's daemon, started anew with these options of its own.
pub fn restart_docker(cell: &Cell, index: usize, more: &[&str]) {
    let name = cell.hosts[index].name.as_str();
    cell.on_hosts(&["stop", name]).ok();
    cell.on_hosts(&[&["start", name], more].concat()).ok();
}

/// A file of the cell's.
fn file(cell: &Cell, name: &str, text: &str) -> String {
    let path = cell.dir.path().join(name);
    fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// daemon.json has `userns-remap`: the daemon sees nothing of what it had.
pub fn map_users(cell: &Cell, index: usize) {
    let config = "{\"userns-remap\": \"nobody:nogroup\"}";
    let config = file(cell, "mapped.json", config);
    let ids = file(cell, "subids", &format!("nobody:{MAPPED_IDS}:65536\n"));
    restart_docker(cell, index, &["--config", &config, "--subids", &ids]);
}

/// As the remedy says. What the other daemon has made is no tenant's.
pub fn map_users_no_more(cell: &Cell, index: usize) {
    restart_docker(cell, index, &[]);
    let data = cell.hosts[index].docker_data();
    let _ = fs::remove_dir_all(data.join(format!("{MAPPED_IDS}.{MAPPED_IDS}")));
}

/// daemon.json has this `mtu`.
pub fn limit_packets(cell: &Cell, index: usize, mtu: u32) {
    let config = file(cell, "mtu.json", &format!("{{\"mtu\": {mtu}}}"));
    restart_docker(cell, index, &["--config", &config]);
}

/// After a boot Docker and the agent start before the address is there (VPN, DHCP).
pub fn start_without_address(cell: &mut Cell, index: usize) {
    cell.end_agent(index);
    let host = &cell.hosts[index];
    cell.on_hosts(&["stop", &host.name]).ok();
    ip(host, &format!("address del {}/24 dev eth0", host.address)).ok();
    cell.on_hosts(&["start", &host.name]).ok();
    cell.start_agent(index, &[]);
}

pub fn give_address(cell: &Cell, index: usize) {
    let host = &cell.hosts[index];
    ip(host, &format!("address add {}/24 dev eth0", host.address)).ok();
    ip(host, &format!("route add default via {}", cell.gateway())).ok();
}

/// These images are gone, and all that was made of them. The agent is away meanwhile.
pub fn lose_images(cell: &mut Cell, index: usize, images: (&str, &str)) {
    cell.hosts[index].agent = None;
    let docker = &cell.hosts[index].docker;
    for container in docker.tenants_containers() {
        docker.run(&["rm", "--force", &container]);
    }
    docker.run(&["rmi", "--force", images.0, images.1]);
    cell.start_agent(index, &[]);
}

/// Everything that the agent had is gone; its relay runs on.
pub fn lose_agent(cell: &mut Cell, index: usize) {
    cell.hosts[index].agent = None;
    fs::remove_dir_all(&cell.hosts[index].data).expect("the agent's directory");
}

/// It is installed anew.
pub fn install_agent(cell: &mut Cell, index: usize) {
    cell.join(index, &["--rejoin"]);
    cell.start_agent(index, &[]);
}

/// Starts a host's agent with a clock.
pub fn start_agent_by(cell: &mut Cell, index: usize, clock: &Clock) {
    cell.start_agent(index, &borrowed(&clock.environment()));
}

/// Starts the coordinator with a clock.
pub fn start_coordinator_by(cell: &mut Cell, clock: &Clock) {
    cell.start_coordinator_with(&borrowed(&clock.environment()));
}

fn borrowed<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    let pairs = environment.iter();
    pairs.map(|(key, value)| (*key, value.as_str())).collect()
}
