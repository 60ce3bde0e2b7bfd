//! Maintenance of a host: it is cordoned until a stated time, and opened again then unless somebody else has cordoned it.
//!
//! Not here: moving its tenants away (each is a move of its own, as `host drain` orders them), and what visitors are told (the
//! coordinator's pages).

use isyone_types::{ids::HostName, plan::UnixMs};

use super::{ChangeError, Edit, Outcome};
use crate::{
    desired::{Host, Maintenance},
    event::EventKind,
    views,
};

impl Edit<'_> {
    /// Announces it; said again, its end and its reason change.
    pub(super) fn begin_maintenance(
        &mut self,
        name: &HostName,
        until: UnixMs,
        reason: String,
        leaves_tenants: bool,
    ) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        let before = host.maintenance.as_ref();
        let maintenance = Maintenance {
            until,
            leaves_tenants,
            opens: !host.cordoned || before.is_some_and(|before| before.opens),
            reason,
        };
        if before == Some(&maintenance) {
            return Ok(Outcome::Host(host));
        }
        let mut message = format!("until {}", views::utc(until));
        if !maintenance.reason.is_empty() {
            message = format!("{message}: {}", maintenance.reason);
        }
        let host = self.put_host(Host {
            cordoned: true,
            maintenance: Some(maintenance),
            ..(*host).clone()
        });
        self.event(EventKind::HostMaintenance, None, Some(name), None, message);
        Ok(Outcome::Host(host))
    }

    /// Ends it, if there is any.
    pub(super) fn end_maintenance(&mut self, name: &HostName) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        let Some(maintenance) = &host.maintenance else {
            return Ok(Outcome::Host(host));
        };
        let cordoned = host.cordoned && !maintenance.opens;
        let host = self.put_host(Host {
            cordoned,
            maintenance: None,
            ..(*host).clone()
        });
        let message = match cordoned {
            true => {
                "it stays cordoned, because somebody has cordoned it beside: `isyctl host uncordon` opens it"
            }
            false => "it takes tenants again",
        };
        self.event(
            EventKind::HostMaintenanceEnded,
            None,
            Some(name),
            None,
            message.to_owned(),
        );
        Ok(Outcome::Host(host))
    }

    /// Ends those whose time is over.
    pub(super) fn end_maintenances(&mut self) {
        let now = self.stamp.now;
        let is_over =
            |host: &Host| (host.maintenance.as_ref()).is_some_and(|work| work.until <= now);
        let hosts = self.state.fleet.hosts.values();
        let over = hosts.filter(|host| is_over(host));
        let over: Vec<HostName> = over.map(|host| host.name.clone()).collect();
        for name in over {
            // The host is there, which is all that it asks for.
            let _ = self.end_maintenance(&name);
        }
    }
}
