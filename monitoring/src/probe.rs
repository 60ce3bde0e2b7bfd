//! What a probed target answers: Prometheus' text format, from what a host last reported.
//!
//! Not here: whether it may answer at all (a stale or unhealthy target answers 503, decided by the coordinator).

use std::fmt::Write as _;

/// One container, as its host reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `odoo_alfa`.
    pub name: String,
    /// Restarts by Docker.
    pub restarts: u32,
    /// Out-of-memory kills.
    pub oom_kills: u32,
    /// Start of the present run, seconds since the Unix epoch.
    pub started: Option<i64>,
}

/// A tenant's Odoo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Odoo {
    /// Its container, when there is one.
    pub container: Option<Container>,
    /// What the whole stack uses: thousandths of a CPU.
    pub cpu_millis: u32,
    /// Page cache not counted.
    pub memory_bytes: u64,
    /// Both volumes.
    pub disk_bytes: u64,
    /// Limits of the plan.
    pub cpu_limit_millis: u32,
    /// Limits of the plan.
    pub memory_limit_bytes: u64,
    /// Time of the last `/web/health`.
    pub health_latency_ms: u32,
    /// Since the host's last word on it.
    pub report_age_ms: u64,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Logical CPUs.
    pub cpus: u32,
    /// Busy share of all CPUs.
    pub cpu_used_permille: u32,
    /// Physical memory.
    pub memory_total_bytes: u64,
    /// `MemAvailable`.
    pub memory_available_bytes: u64,
    /// Docker's file system.
    pub disk_total_bytes: u64,
    /// Docker's file system.
    pub disk_available_bytes: u64,
    /// Load average over a minute, thousandths.
    pub load1_milli: u32,
    /// Pressure stall over 10 s, per mille: CPU, memory, I/O. `None` where the kernel has none.
    pub pressure_permille: Option<[u32; 3]>,
    /// Tenants placed there.
    pub tenants: u32,
    /// Reserved by them.
    pub reserved_memory_bytes: u64,
    /// Reserved by them.
    pub reserved_cpu_millis: u32,
    /// The agent's own cost.
    pub agent_memory_bytes: u64,
    /// The agent's own cost, share of one CPU.
    pub agent_cpu_permille: u32,
    /// Since the last report.
    pub report_age_ms: u64,
}

/// Builds the text: a name's HELP and TYPE come before its samples, once.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help).sample(name, "", value);
    }

    fn container(&mut self, container: &Container) {
        // A container's name is built from a checked tenant name: nothing in it needs escaping.
        let label = format!("{{container=\"{}\"}}", container.name);
        let name = "isyone_container_restarts_total";
        self.family(name, "counter", "Restarts by Docker since the container was made.");
        self.sample(name, &label, container.restarts);
        let name = "isyone_container_oom_kills_total";
        self.family(name, "counter", "Out-of-memory kills that the agent saw.");
        self.sample(name, &label, container.oom_kills);
        if let Some(started) = container.started {
            let name = "isyone_container_start_time_seconds";
            self.family(name, "gauge", "Start of the present run.");
            self.sample(name, &label, started);
        }
    }
}

fn thousandths(value: impl Into<u64>) -> f64 {
    // Far below 2^53: exact.
    value.into() as f64 / 1000.0
}

/// The answer for `/probe/odoo/<tenant>`.
pub fn odoo(odoo: &Odoo) -> String {
    let mut text = Text(String::new());
    let t = &mut text;
    t.gauge("isyone_tenant_cpu_cores", "CPU that the tenant uses.", thousandths(odoo.cpu_millis));
    t.gauge("isyone_tenant_cpu_limit_cores", "CPU that its plan allows.", thousandths(odoo.cpu_limit_millis));
    t.gauge(
        "isyone_tenant_memory_bytes",
        "Memory that the tenant uses, page cache not counted.",
        odoo.memory_bytes,
    );
    t.gauge("isyone_tenant_memory_limit_bytes", "Memory that its plan allows.", odoo.memory_limit_bytes);
    t.gauge("isyone_tenant_disk_bytes", "Size of its volumes.", odoo.disk_bytes);
    t.gauge(
        "isyone_tenant_health_seconds",
        "Time of the last /web/health.",
        thousandths(odoo.health_latency_ms),
    );
    t.gauge("isyone_tenant_report_age_seconds", "Age of this information.", thousandths(odoo.report_age_ms));
    if let Some(container) = &odoo.container {
        t.container(container);
    }
    text.0
}

/// The answer for `/probe/postgres/<tenant>`.
pub fn postgres(container: &Container, report_age_ms: u64) -> String {
    let mut text = Text(String::new());
    text.gauge("isyone_tenant_report_age_seconds", "Age of this information.", thousandths(report_age_ms));
    text.container(container);
    text.0
}

/// The answer for `/probe/host/<host>`.
pub fn host(host: &Host) -> String {
    let mut text = Text(String::new());
    let t = &mut text;
    t.gauge("isyone_host_cpus", "Logical CPUs.", host.cpus);
    t.gauge("isyone_host_cpu_used_ratio", "Busy share of all CPUs.", thousandths(host.cpu_used_permille));
    t.gauge("isyone_host_memory_bytes", "Physical memory.", host.memory_total_bytes);
    t.gauge("isyone_host_memory_available_bytes", "MemAvailable.", host.memory_available_bytes);
    t.gauge("isyone_host_disk_bytes", "Size of Docker's file system.", host.disk_total_bytes);
    t.gauge("isyone_host_disk_available_bytes", "Free on Docker's file system.", host.disk_available_bytes);
    t.gauge("isyone_host_load1", "Load average over one minute.", thousandths(host.load1_milli));
    t.gauge("isyone_host_tenants", "Tenants placed here.", host.tenants);
    t.gauge("isyone_host_reserved_memory_bytes", "Memory reserved by tenants.", host.reserved_memory_bytes);
    t.gauge(
        "isyone_host_reserved_cpu_cores",
        "CPU reserved by tenants.",
        thousandths(host.reserved_cpu_millis),
    );
    t.gauge("isyone_host_report_age_seconds", "Age of this information.", thousandths(host.report_age_ms));
    t.gauge("isyone_agent_memory_bytes", "Memory of the agent itself.", host.agent_memory_bytes);
    t.gauge("isyone_agent_cpu_ratio", "CPU of the agent itself.", thousandths(host.agent_cpu_permille));
    if let Some(pressure) = host.pressure_permille {
        let name = "isyone_host_pressure_ratio";
        t.family(name, "gauge", "Share of time that something waited, over 10 s.");
        for (resource, permille) in ["cpu", "memory", "io"].into_iter().zip(pressure) {
            t.sample(name, &format!("{{resource=\"{resource}\"}}"), thousandths(permille));
        }
    }
    text.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn golden(name: &str, text: &str) {
        let path = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}");
    }

    fn container(name: &str) -> Container {
        Container { name: name.to_owned(), restarts: 2, oom_kills: 1, started: Some(1_795_420_800) }
    }

    #[test]
    fn probes() {
        let tenant = Odoo {
            container: Some(container("odoo_alfa")),
            cpu_millis: 250,
            memory_bytes: 300 << 20,
            disk_bytes: 200 << 20,
            cpu_limit_millis: 1000,
            memory_limit_bytes: 2 << 30,
            health_latency_ms: 12,
            report_age_ms: 3_500,
        };
        golden("probe-odoo.txt", &odoo(&tenant));
        golden("probe-postgres.txt", &postgres(&container("postgres_alfa"), 3_500));
        let machine = Host {
            cpus: 2,
            cpu_used_permille: 313,
            memory_total_bytes: 8 << 30,
            memory_available_bytes: 5 << 30,
            disk_total_bytes: 100 << 30,
            disk_available_bytes: 60 << 30,
            load1_milli: 1_250,
            pressure_permille: Some([15, 0, 3]),
            tenants: 3,
            reserved_memory_bytes: 6 << 30,
            reserved_cpu_millis: 750,
            agent_memory_bytes: 20 << 20,
            agent_cpu_permille: 4,
            report_age_ms: 900,
        };
        golden("probe-host.txt", &host(&machine));
    }
}
