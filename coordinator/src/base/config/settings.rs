//! The part of the configuration that the core's decisions depend on, in the core's own types.
//!
//! Not here: what only the acting parts need (addresses, files, logs).

use std::{collections::BTreeMap, net::IpAddr};

use isyone_fleet::{
    settings::{self, Settings, StandbyRules},
    shards::Shards,
};
use isyone_proto::{
    ids::ShortName,
    network::{DnsName, NetworkRules},
    spec::{Bounds, Size},
};

use super::{Bytes, Config, Plan};

impl Config {
    /// The part that decisions depend on.
    pub fn settings(&self) -> Settings {
        let mut protected = self.edge.protected_addresses.clone();
        let own = self
            .advertise
            .hosts
            .iter()
            .filter_map(|h| h.parse::<IpAddr>().ok());
        protected.extend(own.filter(|ip| !ip.is_loopback()));
        protected.sort();
        protected.dedup();
        let names = |host: &String| host.parse::<DnsName>().ok();
        let protected_names = self.advertise.hosts.iter().filter_map(names);
        Settings {
            base_domain: self.base_domain.to_string(),
            url_scheme: self.url_scheme.as_str().to_owned(),
            url_port: self.url_port,
            plans: self
                .plans
                .iter()
                .map(|(name, plan)| (name.clone(), plan.size()))
                .collect(),
            sleep_after_ms: self.sleep_after_ms(),
            standbys: self.standbys(),
            network_rules: self.network_rules(),
            mail: self.mail_rules(),
            odoo: self.odoo_rules(),
            editions: self.editions.clone(),
            defaults: settings::Defaults {
                plan: self.default_plan.clone(),
                edition: self.default_edition.clone(),
                language: self.defaults.language.clone(),
                country: self.defaults.country.clone(),
                time_zone: self.defaults.time_zone.clone(),
                admin_login: self.defaults.admin_login.clone(),
            },
            network: self.network_settings(),
            edge: settings::Edge {
                addresses: self.edge.addresses.clone(),
                ports: self.edge.ports.clone(),
                protected_addresses: protected,
                protected_names: protected_names
                    .filter(|name| name.as_str() != "localhost")
                    .collect(),
                public_addresses: self.edge.public_addresses.clone(),
                upload_limit_bytes: self.edge.upload_limit.get(),
            },
            shards: Shards::new(self.edge.shards.clone()),
            placement: settings::PlacementSettings {
                cpu_overcommit_permille: self.placement.cpu_overcommit.millis(),
                memory_reserve_bytes: self.placement.memory_reserve.get(),
                disk_reserve_bytes: self.placement.disk_reserve.get(),
            },
            liveness: settings::Liveness {
                report_interval_ms: u32::try_from(self.liveness.report_interval.millis())
                    .unwrap_or(u32::MAX),
                suspect_ms: self.liveness.suspect.millis(),
                lost_ms: self.liveness.lost.millis(),
            },
            quarantine_ms: self.lifecycle.quarantine.millis(),
            quarantine_hold_ms: self.lifecycle.clock_hold.millis(),
            edges_have_our_certificates: self.publishes_keys(),
            dashboard_hostname: self.dashboard_hostname(),
            domains_are_watched: self.dns.watches(),
            auto_approve: self.join.auto_approve,
            backups: self.backups(),
        }
    }

    fn network_settings(&self) -> settings::Network {
        settings::Network {
            tenant_range: self.network.tenant_range.trunc(),
            subnet_prefix: self.network.subnet_prefix,
            first_port: self.network.first_port,
            last_port: self.network.last_port,
            closed: self.network.closed_networks.clone(),
            mail_relays: self.network.mail_relays.clone(),
            mtu: self.network.mtu,
        }
    }

    fn network_rules(&self) -> BTreeMap<ShortName, NetworkRules> {
        let rules = |(name, plan): (&ShortName, &Plan)| (name.clone(), plan.network_rules());
        self.plans.iter().map(rules).collect()
    }

    fn standbys(&self) -> BTreeMap<ShortName, StandbyRules> {
        let rules = |(name, plan): (&ShortName, &Plan)| {
            Some((name.clone(), plan.standby.as_ref()?.rules()))
        };
        self.plans.iter().filter_map(rules).collect()
    }

    fn sleep_after_ms(&self) -> BTreeMap<ShortName, i64> {
        let sleeps =
            |(name, plan): (&ShortName, &Plan)| Some((name.clone(), plan.sleep_after?.millis()));
        self.plans.iter().filter_map(sleeps).collect()
    }
}

impl Plan {
    fn size(&self) -> Size {
        Size {
            memory_bytes: self.memory.get(),
            cpu_millis: self.cpu.millis(),
            disk_bytes: self.disk.get(),
            workers: self.workers,
            bounds: Bounds {
                pids: self.pids.unwrap_or(0),
                nofile: self.nofile.unwrap_or(0),
                device_read_bps: self.device_read_bps.map_or(0, Bytes::get),
                device_write_bps: self.device_write_bps.map_or(0, Bytes::get),
                device_read_iops: self.device_read_iops.unwrap_or(0),
                device_write_iops: self.device_write_iops.unwrap_or(0),
            },
        }
    }
}
