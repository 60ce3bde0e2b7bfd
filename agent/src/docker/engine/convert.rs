//! Converts our plain types to bollard's and back. Pure. Not here: the calls (calls).

use std::{collections::HashMap, path::Path};

use bollard::{container::LogOutput, exec::CreateExecOptions, models as m};
use bytes::Bytes;

use super::super::{
    Chunk, ContainerSummary, EngineEvent, ListedContainer, MAX_OUTPUT_BYTES, tenant_of_volume,
};
use crate::plan::{
    container::{
        Container, ContainerSpec, DEFAULT_NOFILE, DeviceLimits, LABEL_TENANT, Limits, Mount,
        MountSource, Volume,
    },
    postgres,
};

pub(super) fn filters(pairs: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let mut map: HashMap<String, Vec<String>> = HashMap::new();
    for (key, value) in pairs {
        map.entry((*key).to_owned())
            .or_default()
            .push((*value).to_owned());
    }
    map
}

pub(super) fn chunk(output: LogOutput) -> Chunk {
    match output {
        LogOutput::StdErr { message } => (true, message),
        LogOutput::StdOut { message }
        | LogOutput::Console { message }
        | LogOutput::StdIn { message } => (false, message),
    }
}

pub(super) fn append(buffer: &mut Vec<u8>, message: &Bytes) {
    let room = MAX_OUTPUT_BYTES.saturating_sub(buffer.len());
    buffer.extend_from_slice(&message[..message.len().min(room)]);
}

pub(super) fn create_body(spec: &ContainerSpec) -> m::ContainerCreateBody {
    let endpoint = m::EndpointSettings {
        aliases: Some(spec.aliases.clone()),
        ..Default::default()
    };
    m::ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        user: (!spec.user.is_empty()).then(|| spec.user.clone()),
        env: Some(spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        exposed_ports: Some(
            spec.ports
                .iter()
                .map(|p| format!("{}/tcp", p.container))
                .collect(),
        ),
        stop_timeout: Some(i64::from(spec.stop_grace_s)),
        host_config: Some(host_config(spec)),
        networking_config: Some(m::NetworkingConfig {
            endpoints_config: Some(HashMap::from([(spec.network.clone(), endpoint)])),
        }),
        ..Default::default()
    }
}

/// Digits of an image's id in the names of volumes: as many as make it one of its kind.
const IMAGE_DIGITS: usize = 32;

fn host_config(spec: &ContainerSpec) -> m::HostConfig {
    let ports = spec.ports.iter().map(|port| {
        let binding = m::PortBinding {
            host_ip: Some(port.host_ip.to_string()),
            host_port: Some(port.host.to_string()),
        };
        (format!("{}/tcp", port.container), Some(vec![binding]))
    });
    // A noisy tenant must not fill the disk: at most three files of ten megabytes.
    let log_options = HashMap::from([
        ("max-size".to_owned(), "10m".to_owned()),
        ("max-file".to_owned(), "3".to_owned()),
    ]);
    let nofile = i64::from(spec.nofile.unwrap_or(DEFAULT_NOFILE));
    let ulimit = m::ResourcesUlimits {
        name: Some("nofile".to_owned()),
        soft: Some(nofile),
        hard: Some(nofile),
    };
    let throttle = |rate: fn(&DeviceLimits) -> u64| {
        let limits = spec.device.as_ref().filter(|limits| rate(limits) > 0)?;
        Some(vec![m::ThrottleDevice {
            path: Some(limits.device.clone()),
            rate: i64::try_from(rate(limits)).ok(),
        }])
    };
    m::HostConfig {
        ulimits: Some(vec![ulimit]),
        blkio_device_read_bps: throttle(|limits| limits.read_bps),
        blkio_device_write_bps: throttle(|limits| limits.write_bps),
        blkio_device_read_iops: throttle(|limits| limits.read_iops.into()),
        blkio_device_write_iops: throttle(|limits| limits.write_iops.into()),
        memory: Some(spec.limits.memory_bytes as i64),
        memory_swap: Some(spec.limits.memory_bytes as i64), // equal: no swap
        nano_cpus: Some(spec.limits.nano_cpus as i64),
        pids_limit: Some(i64::from(spec.limits.pids)),
        shm_size: spec.shm_bytes.map(|b| b as i64),
        restart_policy: Some(restart_policy(spec.restart)),
        log_config: Some(m::HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log_options),
        }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(spec.cap_add.clone()),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        init: Some(spec.init),
        mounts: Some(spec.mounts.iter().map(|m| mount(m, &spec.image)).collect()),
        port_bindings: Some(ports.collect()),
        network_mode: Some(spec.network.clone()),
        ..Default::default()
    }
}

fn restart_policy(restart: bool) -> m::RestartPolicy {
    m::RestartPolicy {
        name: Some(match restart {
            true => m::RestartPolicyNameEnum::UNLESS_STOPPED,
            false => m::RestartPolicyNameEnum::NO,
        }),
        maximum_retry_count: None,
    }
}

/// Another way to come back, and nothing else.
pub(super) fn restart_update(restart: bool) -> m::ContainerUpdateBody {
    m::ContainerUpdateBody {
        restart_policy: Some(restart_policy(restart)),
        ..Default::default()
    }
}

/// What of a container's limits changes while it runs.
pub(super) fn limits_update(limits: &Limits) -> m::ContainerUpdateBody {
    m::ContainerUpdateBody {
        memory: Some(limits.memory_bytes as i64),
        memory_swap: Some(limits.memory_bytes as i64),
        nano_cpus: Some(limits.nano_cpus as i64),
        pids_limit: Some(i64::from(limits.pids)),
        ..Default::default()
    }
}

/// A command in a running container: as this very user, with nothing that the container's own processes do not have.
pub(super) fn exec_options(user: &str, command: &[String], tty: bool) -> CreateExecOptions<String> {
    CreateExecOptions {
        cmd: Some(command.to_vec()),
        user: Some(user.to_owned()),
        privileged: Some(false),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(tty),
        ..Default::default()
    }
}

fn mount(mount: &Mount, image: &str) -> m::Mount {
    let (typ, source, read_only) = match &mount.source {
        MountSource::Volume(name) => (m::MountType::VOLUME, name.clone(), false),
        MountSource::File(path) => (m::MountType::BIND, path.clone(), true),
        MountSource::Directory(path) => (m::MountType::BIND, path.clone(), false),
        MountSource::Image => (
            m::MountType::VOLUME,
            image_volume(image, &mount.target),
            true,
        ),
    };
    m::Mount {
        target: Some(mount.target.clone()),
        source: Some(source),
        typ: Some(typ),
        read_only: Some(read_only),
        ..Default::default()
    }
}

/// The volume that shows what an image has in a directory. The engine fills it from the image when it is first used, and
/// makes no volume without a name that is read-only. All containers of an image share it: none of them can write there.
fn image_volume(image: &str, target: &str) -> String {
    let image = image.strip_prefix("sha256:").unwrap_or(image);
    let name = target.rsplit('/').next().unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let id: String = image.chars().take(IMAGE_DIGITS).map(allowed).collect();
    format!("isyone_{name}_{id}")
}

pub(super) fn container_view(found: m::ContainerInspectResponse) -> Container {
    let state = found.state.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    let networks = found
        .network_settings
        .and_then(|n| n.networks)
        .unwrap_or_default();
    let ip = networks
        .values()
        .filter_map(|n| n.ip_address.as_ref())
        .find_map(|ip| ip.parse().ok());
    let started = state
        .started_at
        .as_ref()
        .and_then(|t| t.parse::<jiff::Timestamp>().ok())
        .map(|t| t.as_millisecond());
    let config = found.config.unwrap_or_default();
    let mounts = found.mounts.unwrap_or_default();
    Container {
        name: found
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        id: found.id.unwrap_or_default(),
        state: state.status.map(|s| s.to_string()).unwrap_or_default(),
        labels: config.labels.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or_default() as i32,
        is_out_of_memory: state.oom_killed.unwrap_or_default(),
        restarts: found.restart_count.unwrap_or_default() as u32,
        started_ms: started.filter(|ms| *ms > 0),
        ip,
        pid: state.pid.unwrap_or_default() as i32,
        limits: Limits {
            memory_bytes: host.memory.unwrap_or_default() as u64,
            nano_cpus: host.nano_cpus.unwrap_or_default() as u64,
            pids: host.pids_limit.unwrap_or_default() as u32,
        },
        unnamed: mounts.into_iter().filter_map(unnamed).collect(),
        error: state.error.unwrap_or_default(),
    }
}

/// The directory of a volume that a container may write, or its spool, unless it is one of a tenant's two. What its image has is
/// read-only.
fn unnamed(mount: m::MountPoint) -> Option<String> {
    let is_spool = mount.destination.as_deref() == Some(postgres::SPOOL_TARGET);
    let is_volume = is_spool || mount.typ.as_deref() == Some("volume");
    let is_volume = is_volume && mount.rw == Some(true);
    let named = mount.name.as_deref().map_or("", tenant_of_volume);
    mount
        .source
        .filter(|place| is_volume && named.is_empty() && place.starts_with('/'))
}

/// The options of a volume that is a record of a directory.
pub(super) fn bind_options(directory: &Path) -> HashMap<String, String> {
    [
        ("type", "none".to_owned()),
        ("o", "bind".to_owned()),
        ("device", directory.display().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

pub(super) fn engine_event(event: m::EventMessage) -> EngineEvent {
    let actor = event.actor.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    let name = attributes.remove("name").or(actor.id).unwrap_or_default();
    EngineEvent {
        action: event.action.unwrap_or_default(),
        tenant: attributes
            .remove(LABEL_TENANT)
            .unwrap_or_else(|| tenant_of_volume(&name).to_owned()),
        name,
    }
}

/// Returns the volume with its name.
pub(super) fn volume_view(found: m::Volume) -> (String, Volume) {
    let mut options = found.options;
    let is_bind = options
        .get("o")
        .is_some_and(|o| o.split(',').any(|word| word == "bind"));
    (
        found.name,
        Volume {
            mountpoint: found.mountpoint,
            device: options.remove("device").filter(|_| is_bind),
            opaque: found.driver != "local" || (!options.is_empty() && !is_bind),
            labels: found.labels,
        },
    )
}

/// Returns the container with its name.
pub(super) fn listed(found: m::ContainerSummary) -> (String, ListedContainer) {
    let name = found
        .names
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    let networks = found
        .network_settings
        .and_then(|n| n.networks)
        .unwrap_or_default();
    let listed = ListedContainer {
        id: found.id.unwrap_or_default(),
        state: found.state.map(|s| s.to_string()).unwrap_or_default(),
        labels: found.labels.unwrap_or_default(),
        image_id: found.image_id.unwrap_or_default(),
        ip: networks
            .values()
            .filter_map(|n| n.ip_address.as_ref())
            .find_map(|ip| ip.parse().ok()),
    };
    (name.trim_start_matches('/').to_owned(), listed)
}

pub(super) fn summary(found: m::ContainerSummary) -> ContainerSummary {
    let name = found
        .names
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    ContainerSummary {
        name: name.trim_start_matches('/').to_owned(),
        state: found.state.map(|s| s.to_string()).unwrap_or_default(),
        tenant: found
            .labels
            .and_then(|mut l| l.remove(LABEL_TENANT))
            .unwrap_or_default(),
    }
}

/// Adds up the layers being pulled: percent of the bytes known so far.
#[derive(Default)]
pub(super) struct Layers(HashMap<String, (i64, i64)>);

impl Layers {
    pub(super) fn percent(&mut self, line: &m::CreateImageInfo) -> Option<u32> {
        let (id, detail) = (line.id.as_ref()?, line.progress_detail.as_ref()?);
        let (current, total) = (detail.current?, detail.total?);
        self.0.insert(id.clone(), (current, total));
        let (current, total) = self
            .0
            .values()
            .fold((0, 0), |(c, t), (a, b)| (c + a, t + b));
        (total > 0).then(|| (current.saturating_mul(100) / total).clamp(0, 99) as u32)
    }
}

/// Adds the default tag: a reference without a tag would pull every tag there is.
pub(super) fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains(':') || reference.contains('@') {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

pub(super) fn first_file(archive: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(archive);
    let entry = archive.entries().ok()?.next()?.ok()?;
    let mut bytes = Vec::new();
    entry
        .take(MAX_OUTPUT_BYTES as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_runs_as_whom_it_is_told_and_is_never_privileged() {
        let options = exec_options("odoo", &["id".to_owned()], false);
        assert_eq!(options.user.as_deref(), Some("odoo"));
        assert_eq!(options.privileged, Some(false));
    }

    #[test]
    fn volumes_that_nobody_has_named_are_told() {
        let mount = |name: &str, rw| m::MountPoint {
            typ: Some("volume".to_owned()),
            name: Some(name.to_owned()),
            source: Some(format!("/v/{name}/_data")),
            rw: Some(rw),
            ..Default::default()
        };
        let file = m::MountPoint {
            typ: Some("bind".to_owned()),
            source: Some("/etc/odoo.conf".to_owned()),
            rw: Some(true),
            ..Default::default()
        };
        let spool = m::MountPoint {
            source: Some("/r/tenants/alfa/wal".to_owned()),
            destination: Some("/var/lib/isyone/wal".to_owned()),
            ..file.clone()
        };
        let found = m::ContainerInspectResponse {
            mounts: Some(vec![
                spool,
                mount("odoo_data_alfa", true),
                mount("isyone_extra-addons_0", false),
                mount("5f3c", true),
                file,
            ]),
            ..Default::default()
        };
        assert_eq!(
            container_view(found).unnamed,
            ["/r/tenants/alfa/wal", "/v/5f3c/_data"]
        );
    }

    #[test]
    fn references_without_a_tag_get_one() {
        assert_eq!(with_tag("odoo"), "odoo:latest");
        assert_eq!(
            with_tag("r.example:5000/odoo"),
            "r.example:5000/odoo:latest"
        );
        assert_eq!(
            with_tag("r.example:5000/odoo:18.0"),
            "r.example:5000/odoo:18.0"
        );
        assert_eq!(with_tag("odoo@sha256:00"), "odoo@sha256:00");
    }

    /// Fails where somebody can put modules there, which would vanish with the container, or be another tenant's too.
    #[test]
    fn nobody_writes_where_the_image_has_further_modules() {
        let plan = crate::testing::tenant_plan("alfa");
        let spec = crate::testing::world::render(&plan).odoo;
        let mounts = host_config(&spec).mounts.unwrap();
        let is_there = |mount: &&m::Mount| mount.target.as_deref() == Some("/mnt/extra-addons");
        let extra = mounts.iter().find(is_there).unwrap();
        assert_eq!(extra.read_only, Some(true));
        // Without a name it would be made anew with each container.
        assert!(extra.source.as_deref().is_some_and(|name| !name.is_empty()));
    }

    /// Fails where a limit is not told to the engine, or as another: when a container is made, and when it is resized.
    #[test]
    fn each_limit_reaches_the_engine_as_itself_and_none_that_the_plan_does_not_say() {
        let plan = crate::testing::tenant_plan("alfa");
        let mut spec = crate::testing::world::render(&plan).odoo;
        let nofile = |spec: &ContainerSpec| {
            let limits = host_config(spec).ulimits.unwrap();
            (limits[0].name.clone(), limits[0].hard)
        };
        assert_eq!(nofile(&spec), (Some("nofile".to_owned()), Some(20_000)));
        spec.nofile = Some(4_096);
        assert_eq!(nofile(&spec).1, Some(4_096));
        let mut of_device = |[read_bps, write_bps]: [u64; 2], [read_iops, write_iops]: [u32; 2]| {
            spec.device = Some(DeviceLimits {
                device: "/dev/sda".to_owned(),
                read_bps,
                write_bps,
                read_iops,
                write_iops,
            });
            let config = host_config(&spec);
            let bps = [config.blkio_device_read_bps, config.blkio_device_write_bps];
            let (reads, writes) = (
                config.blkio_device_read_iops,
                config.blkio_device_write_iops,
            );
            let rate = |devices: Option<Vec<m::ThrottleDevice>>| {
                let device = devices?.pop()?;
                assert_eq!(device.path.as_deref(), Some("/dev/sda"));
                device.rate
            };
            [bps, [reads, writes]].map(|pair| pair.map(rate))
        };
        let all = [[Some(11), Some(12)], [Some(13), Some(14)]];
        assert_eq!(of_device([11, 12], [13, 14]), all);
        assert_eq!(of_device([0, 0], [0, 0]), [[None; 2]; 2]);
        (spec.limits.memory_bytes, spec.limits.nano_cpus) = (3 << 30, 700_000_000);
        spec.limits.pids = 411;
        let told = [[Some(3 << 30); 2], [Some(700_000_000), Some(411)]];
        let (made, resized) = (host_config(&spec), limits_update(&spec.limits));
        assert_eq!(
            restart_update(spec.restart).restart_policy,
            made.restart_policy
        );
        let memory = [made.memory, made.memory_swap];
        assert_eq!([memory, [made.nano_cpus, made.pids_limit]], told);
        let memory = [resized.memory, resized.memory_swap];
        assert_eq!([memory, [resized.nano_cpus, resized.pids_limit]], told);
    }
}
