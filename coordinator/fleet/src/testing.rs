//! Values for tests, here and in `tests/`: a configuration, specs, reports. Not shipped.
//!
//! Not here: stand-ins for what acts; the coordinator and the agent have their own.

use std::collections::BTreeMap;

use isyone_types::{
    ids::{HostName, ShortName, TenantName},
    operation::OperationState,
    report::{
        ContainerReport, HostReport, HostResources, Stuck, TenantProgress, TenantReport, Usage,
        Which,
    },
    spec::{Bounds, Size, TenantSpec},
};
use uuid::Uuid;

use crate::{
    change::{self, ChangeError, Command, CreateTenant, Effects, Enroll, Outcome, Stamp},
    desired::{Certificate, CopyRole, Sealed, Token},
    observed::Hello,
    procedures,
    settings::{Defaults, Edge, Edition, Liveness, Network, PlacementSettings, Settings},
    state::State,
};

/// Parses a literal that the test knows to be valid.
pub fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|e| panic!("{text}: {e:?}"))
}

/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;

/// A small configuration.
pub fn settings() -> Settings {
    let size = |memory_bytes, cpu_millis, workers| Size {
        memory_bytes,
        cpu_millis,
        disk_bytes: GIB,
        workers,
        bounds: Bounds::default(),
    };
    Settings {
        base_domain: "isy.one".to_owned(),
        url_scheme: "http".to_owned(),
        url_port: None,
        plans: BTreeMap::from([
            (name::<ShortName>("small"), size(GIB, 500, 0)),
            (name("standard"), size(2 * GIB, 1000, 2)),
            (name("large"), size(4 * GIB, 2000, 4)),
        ]),
        sleep_after_ms: BTreeMap::new(),
        standbys: BTreeMap::new(),
        network_rules: BTreeMap::new(),
        editions: BTreeMap::from([(
            name::<ShortName>("18.0"),
            Edition {
                odoo: name("odoo:18.0"),
                postgres: name("postgres:15"),
            },
        )]),
        defaults: Defaults {
            plan: name("small"),
            edition: name("18.0"),
            language: name("en_US"),
            country: name("BR"),
            time_zone: name("UTC"),
            admin_login: name("admin"),
        },
        network: network(),
        edge: Edge {
            addresses: Vec::new(),
            ports: vec![80, 443],
            protected_addresses: Vec::new(),
            protected_names: Vec::new(),
            public_addresses: Vec::new(),
            upload_limit_bytes: 1 << 30,
        },
        mail: crate::settings::MailRules::default(),
        odoo: crate::settings::OdooRules::default(),
        shards: crate::shards::Shards::default(),
        placement: PlacementSettings {
            cpu_overcommit_permille: 4_000,
            memory_reserve_bytes: GIB / 2,
            disk_reserve_bytes: GIB,
        },
        liveness: Liveness {
            report_interval_ms: 5_000,
            suspect_ms: 20_000,
            lost_ms: 60_000,
        },
        quarantine_ms: 7 * 86_400_000,
        quarantine_hold_ms: 3_600_000,
        edges_have_our_certificates: false,
        dashboard_hostname: None,
        domains_are_watched: true,
        auto_approve: false,
        backups: crate::settings::Backups::default(),
    }
}

fn network() -> Network {
    Network {
        tenant_range: name("10.200.0.0/14"),
        subnet_prefix: 28,
        first_port: 20_000,
        last_port: 29_999,
        closed: Vec::new(),
        mail_relays: Vec::new(),
        mtu: None,
    }
}

/// A spec with default values.
pub fn spec(settings: &Settings, plan: &str) -> TenantSpec {
    let edition = &settings.editions[&settings.defaults.edition];
    TenantSpec {
        plan: name(plan),
        domains: Vec::new(),
        language: settings.defaults.language.clone(),
        country: settings.defaults.country.clone(),
        time_zone: settings.defaults.time_zone.clone(),
        modules: Vec::new(),
        edition: settings.defaults.edition.clone(),
        odoo_image: edition.odoo.clone(),
        postgres_image: edition.postgres.clone(),
        host: None,
        host_labels: BTreeMap::new(),
        admin_login: settings.defaults.admin_login.clone(),
        signup: false,
        collation: None,
    }
}

/// The resources of an idle machine.
pub fn resources(cpus: u32, memory_gib: u64, disk_gib: u64) -> HostResources {
    HostResources {
        cpus,
        memory_total_bytes: memory_gib * GIB,
        memory_available_bytes: memory_gib * GIB,
        disk_total_bytes: disk_gib * GIB,
        disk_available_bytes: disk_gib * GIB,
        ..HostResources::default()
    }
}

/// A state that a test drives by hand, with its clock and its writes.
#[derive(Debug)]
pub struct Bench {
    pub state: State,
    pub settings: Settings,
    /// The time of the next command.
    pub now: i64,
    /// By how much the clock was set since the start, milliseconds.
    pub set_by: i64,
    /// Everything that would have been stored.
    pub effects: Effects,
    ids: u128,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            state: State::new(crate::desired::Fleet::default(), 0),
            settings: settings(),
            now: 0,
            set_by: 0,
            effects: Effects::default(),
            ids: 1,
        }
    }
}

impl Bench {
    /// A fresh id; ids rise.
    pub fn id(&mut self) -> Uuid {
        self.ids += 1;
        // Both halves are unique, as in real ids: a tick derives its ids from the lower half.
        Uuid::from_u128(self.ids << 64 | self.ids)
    }

    /// Applies a command as the writer does: a refused one changes nothing.
    pub fn apply(&mut self, command: Command) -> Result<Outcome, ChangeError> {
        self.apply_as("ana", command)
    }

    /// Like [`Self::apply`], but somebody else asks; see [`Stamp::actor`].
    pub fn apply_as(&mut self, actor: &str, command: Command) -> Result<Outcome, ChangeError> {
        let stamp = Stamp {
            now: self.now,
            steady: self.now - self.set_by,
            id: self.id(),
            actor: actor.to_owned(),
        };
        change::heed_the_clock(&mut self.state, &self.settings, &stamp, &mut self.effects);
        let before = (self.state.clone(), self.effects.writes.len());
        let result = change::apply(
            &mut self.state,
            &self.settings,
            &stamp,
            &mut self.effects,
            command,
        );
        if result.is_err() {
            self.state = before.0;
            self.effects.writes.truncate(before.1);
        } else {
            self.state.version += 1;
        }
        result
    }

    /// Lets time pass as it does for the coordinator, in ticks; more at once would be a jump of the clock.
    pub fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        while self.now < until {
            self.now = until.min(self.now + change::CLOCK_JUMP_MS);
            self.apply(Command::Tick).expect("never refused");
        }
    }

    /// All edges run the newest routes.
    pub fn edges_run(&mut self) {
        let version = self.state.version;
        let scopes = (0..self.settings.shards.scopes())
            .map(|scope| (scope, version))
            .collect();
        self.apply(Command::EdgesRun { scopes })
            .expect("never refused");
    }

    /// All hosts report all their tenants as converged, then all edges run the newest routes.
    pub fn settle(&mut self) {
        let hosts: Vec<HostName> = self.state.fleet.by_host.keys().cloned().collect();
        for host in hosts {
            let tenants = self.state.fleet.by_host[&host].tenants.clone();
            let reports = tenants
                .iter()
                .map(|t| self.converged_on(t, &host))
                .collect();
            let resources = self.state.observed.hosts[&host].resources;
            self.report(&host, resources, reports);
        }
        self.edges_run();
    }

    /// An operation's state and error as people see them.
    pub fn progress(&self, id: Uuid) -> (OperationState, String) {
        let operation = &self.state.fleet.operations[&id];
        let waiting = procedures::waiting(&self.state, &self.settings, operation, self.now);
        procedures::progress(operation, waiting.as_ref())
    }

    /// Adds a host and lets it report.
    pub fn host(&mut self, host: &str, resources: HostResources) -> HostName {
        let host = self.join(host);
        self.greet(&host);
        self.report(&host, resources, Vec::new());
        host
    }

    /// Adds a host that has not spoken yet.
    pub fn join(&mut self, host: &str) -> HostName {
        let host: HostName = name(host);
        let id = format!("{:016x}", self.ids);
        let token = Token {
            id: id.clone(),
            secret_hash: "s".to_owned(),
            host: Some(host.clone()),
            expires_at: self.now + change::CLOCK_JUMP_MS,
            ..Token::default()
        };
        self.apply(Command::CreateToken {
            token: Box::new(token),
            asked_with: None,
        })
        .expect("token");
        let last = u8::try_from(self.state.fleet.hosts.len() % 250 + 1).expect("fits");
        let third = u8::try_from(self.state.fleet.hosts.len() / 250).expect("fits");
        let enroll = Enroll {
            token_id: id,
            secret_hash: "s".to_owned(),
            host: host.clone(),
            uid: self.id(),
            advertise: std::net::IpAddr::from([192, 0, third, last]),
            from: std::net::IpAddr::from([192, 0, third, last]),
            is_ours: false,
            labels: BTreeMap::new(),
            certificate: Certificate {
                serial: "01".to_owned(),
                not_after: 1 << 40,
                sha256: String::new(),
                follows: None,
            },
        };
        self.apply(Command::Enroll(Box::new(enroll)))
            .expect("enroll");
        host
    }

    /// A host's agent connects, with the newest plan.
    pub fn greet(&mut self, host: &HostName) {
        let accepted_generation = self.state.fleet.hosts[host].plan_generation;
        let hello = Hello {
            peer_port: Some(7483),
            follows: true,
            stands: true,
            leases: true,
            sets_mail: true,
            sorts: true,
            ..Hello::default()
        };
        self.apply(Command::Greet {
            host: host.clone(),
            hello,
            accepted_generation,
        })
        .expect("a host greets");
    }

    /// A host reports these tenants as a complete list.
    pub fn report(
        &mut self,
        host: &HostName,
        resources: HostResources,
        tenants: Vec<TenantReport>,
    ) {
        let report = HostReport {
            resources,
            docker_error: String::new(),
            tenants,
            complete: true,
            jobs: Vec::new(),
            condition: Default::default(),
        };
        self.apply(Command::Report {
            host: host.clone(),
            report: Box::new(report),
        })
        .expect("report");
    }

    /// A request for a tenant of this plan, with defaults for everything else.
    pub fn creation(&mut self, tenant: &str, plan: &str) -> CreateTenant {
        let spec = spec(&self.settings, plan);
        CreateTenant {
            name: name(tenant),
            uid: self.id(),
            size: self.settings.plans[&spec.plan],
            spec,
            secrets: Sealed("sealed".into()),
            request_id: None,
            force: false,
            dry_run: false,
        }
    }

    /// Applies [`Self::creation`].
    pub fn create(&mut self, tenant: &str, plan: &str) -> Result<Outcome, ChangeError> {
        let creation = self.creation(tenant, plan);
        self.apply(Command::CreateTenant(Box::new(creation)))
    }

    /// What the host of a tenant would report once it has converged.
    pub fn converged(&self, tenant: &TenantName) -> TenantReport {
        let host = self.state.fleet.tenants[tenant].placement.host.clone();
        self.converged_on(tenant, &host)
    }

    /// What a host would report of a tenant's copy there once it has converged.
    pub fn converged_on(&self, tenant: &TenantName, host: &HostName) -> TenantReport {
        let record = &self.state.fleet.tenants[tenant];
        let (place, role) = record.copy_on(host).expect("it has a copy there");
        let absent = record.desired == isyone_types::plan::Lifecycle::Purged
            || role == Some(&CopyRole::Discarded);
        TenantReport {
            name: tenant.clone(),
            uid: record.uid,
            epoch: place.epoch,
            generation: record.generation,
            progress: TenantProgress::Converged,
            message: "".into(),
            stuck: Stuck::No,
            containers: [ContainerReport {
                which: Which::Its(isyone_types::plan::Role::Odoo),
                state: "running".into(),
                healthy: true,
                restarts: 0,
                oom_kills: 0,
                image_digest: None,
                exit_code: 0,
                started_at: None,
            }]
            .into(),
            usage: Some(Usage::default()),
            traffic: None,
            strain: None,
            operation: Some(record.operation),
            steps: [].into(),
            absent,
            health_latency_ms: 1,
            volume_repairs: 0,
            modules_cut_off: 0,
            installs_finished: 0,
            held_ms: 0,
            disk: None,
            backup: None,
        }
    }
}
