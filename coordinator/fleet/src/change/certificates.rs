//! Commands on the certificates of tenants' host names, and their events.
//!
//! Not here: which certificates to order (orders), and ordering them (the coordinator's edges/acme).

use std::sync::Arc;

use isyone_types::ids::TenantName;

use super::{ChangeError, Edit, Outcome};
use crate::{
    desired::{
        Tenant,
        certificates::{
            AcmeAccount, CertificateTrouble, EdgeCertificate, MAX_ISSUED, Origin, WEEK_MS,
        },
    },
    event::EventKind,
    written::{RecordKind, RecordValue, Write},
};

/// Largest number of uploaded certificates. A fleet that needs more has its own authority, and that speaks ACME.
pub const MAX_UPLOADED: usize = 1_000;

impl Edit<'_> {
    pub(super) fn put_certificate(
        &mut self,
        mut certificate: EdgeCertificate,
    ) -> Result<Outcome, ChangeError> {
        let (fleet, now) = (&self.state.fleet, self.stamp.now);
        let old = fleet.certificates.get(&certificate.name).cloned();
        if certificate.origin == Origin::Uploaded && old.is_none() {
            let uploaded = fleet
                .certificates
                .values()
                .filter(|c| c.origin == Origin::Uploaded)
                .count();
            if uploaded >= MAX_UPLOADED {
                return Err(ChangeError::TooManyCertificates);
            }
        }
        let before = old
            .iter()
            .flat_map(|old| &old.issued)
            .copied()
            .filter(|at| now - at < WEEK_MS);
        certificate.issued = before.collect();
        if certificate.origin == Origin::Acme {
            certificate.issued.push(now);
            let surplus = certificate.issued.len().saturating_sub(MAX_ISSUED);
            certificate.issued.drain(..surplus);
        }
        let kind = match (certificate.origin, old.is_some()) {
            (Origin::Uploaded, _) => EventKind::CertificateUploaded,
            (Origin::Acme, false) => EventKind::CertificateIssued,
            (Origin::Acme, true) => EventKind::CertificateRenewed,
        };
        let owner = self.owner(&certificate.name);
        let what = format!(
            "{} ({})",
            certificate.name,
            certificate.hostnames.join(", ")
        );
        self.event(kind, owner.as_deref(), None, None, what);
        let certificate = Arc::new(certificate);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Certificate(certificate.clone())));
        self.state
            .fleet
            .certificates
            .insert(certificate.name.clone(), certificate.clone());
        self.forget_trouble(&certificate.name);
        Ok(Outcome::Certificate(certificate))
    }

    /// `why` is for the event.
    pub(super) fn remove_certificate(
        &mut self,
        name: &str,
        why: &str,
    ) -> Result<Outcome, ChangeError> {
        let old = self.state.fleet.certificates.remove(name);
        let old = old.ok_or_else(|| ChangeError::CertificateNotFound(name.to_owned()))?;
        self.effects
            .writes
            .push(Write::Delete(RecordKind::Certificate, name.to_owned()));
        let owner = self.owner(name);
        self.event(
            EventKind::CertificateRemoved,
            owner.as_deref(),
            None,
            None,
            format!("{name}: {why}"),
        );
        Ok(Outcome::Certificate(old))
    }

    /// An order failed; or, with 0 failures, the name is no longer wanted.
    pub(super) fn certificate_trouble(
        &mut self,
        trouble: CertificateTrouble,
    ) -> Result<Outcome, ChangeError> {
        if trouble.failures == 0 {
            self.forget_trouble(&trouble.name);
            return Ok(Outcome::Done);
        }
        let owner = self.owner(&trouble.name);
        let message = format!("{}: {}", trouble.name, trouble.error);
        self.event(
            EventKind::CertificateFailed,
            owner.as_deref(),
            None,
            None,
            message,
        );
        let trouble = Arc::new(trouble);
        self.effects
            .writes
            .push(Write::Put(RecordValue::CertificateTrouble(trouble.clone())));
        self.state
            .fleet
            .certificate_troubles
            .insert(trouble.name.clone(), trouble);
        Ok(Outcome::Done)
    }

    pub(super) fn put_acme_account(
        &mut self,
        account: AcmeAccount,
    ) -> Result<Outcome, ChangeError> {
        let account = Arc::new(account);
        self.event(
            EventKind::CertificateAccount,
            None,
            None,
            None,
            account.directory.clone(),
        );
        self.effects
            .writes
            .push(Write::Put(RecordValue::AcmeAccount(account.clone())));
        self.state.fleet.acme_account = Some(account);
        Ok(Outcome::Done)
    }

    fn forget_trouble(&mut self, name: &str) {
        if self.state.fleet.certificate_troubles.remove(name).is_some() {
            self.effects.writes.push(Write::Delete(
                RecordKind::CertificateTrouble,
                name.to_owned(),
            ));
        }
    }

    /// The tenant that owns a host name.
    fn owner(&self, hostname: &str) -> Option<Arc<Tenant>> {
        let fleet = &self.state.fleet;
        let label = hostname
            .strip_suffix(&self.settings.base_domain)
            .and_then(|h| h.strip_suffix('.'));
        let platform = label.and_then(|label| label.parse::<TenantName>().ok());
        let name = platform.or_else(|| fleet.by_domain.get(hostname).cloned())?;
        fleet.tenants.get(&name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{change::Command, desired::Sealed, testing::Bench};

    fn certificate(name: &str, origin: Origin) -> EdgeCertificate {
        EdgeCertificate {
            name: name.to_owned(),
            origin,
            hostnames: vec![name.to_owned()],
            serial: "01".to_owned(),
            issuer: "CN=x".to_owned(),
            not_before: 0,
            not_after: 90 * 86_400,
            chain_pem: String::new(),
            key: Sealed("sealed".into()),
            issued: Vec::new(),
        }
    }

    fn kinds(bench: &Bench) -> Vec<&str> {
        bench
            .state
            .fleet
            .events
            .iter()
            .map(|e| e.kind.as_str())
            .filter(|k| k.starts_with("cert"))
            .collect()
    }

    #[test]
    fn issues_are_counted_for_a_week_and_each_change_is_told() {
        let mut bench = Bench::default();
        let put = |bench: &mut Bench| {
            bench
                .apply(Command::PutCertificate(Box::new(certificate(
                    "a.isy.one",
                    Origin::Acme,
                ))))
                .unwrap();
            bench.state.fleet.certificates["a.isy.one"].issued.len()
        };
        assert_eq!((put(&mut bench), put(&mut bench)), (1, 2));
        bench.now += WEEK_MS;
        assert_eq!(put(&mut bench), 1);
        assert_eq!((0..20).map(|_| put(&mut bench)).max(), Some(MAX_ISSUED));
        let remove = || Command::RemoveCertificate {
            name: "a.isy.one".to_owned(),
            why: "x".to_owned(),
        };
        bench.apply(remove()).unwrap();
        assert_eq!(
            bench.apply(remove()).unwrap_err(),
            ChangeError::CertificateNotFound("a.isy.one".to_owned())
        );
        let told = kinds(&bench);
        assert_eq!(
            (told[0], told[1], *told.last().unwrap()),
            (
                "certificate.issued",
                "certificate.renewed",
                "certificate.removed"
            )
        );
    }

    #[test]
    fn a_success_ends_the_trouble_and_an_event_names_the_tenant() {
        let mut bench = Bench::default();
        bench.host("h1", crate::testing::resources(4, 16, 100));
        bench.create("alfa", "small").unwrap();
        let trouble = |failures| CertificateTrouble {
            name: "alfa.isy.one".to_owned(),
            failures,
            at: 0,
            retry_at: 1,
            error: "no such host".to_owned(),
        };
        bench
            .apply(Command::CertificateTrouble(Box::new(trouble(1))))
            .unwrap();
        let event = bench.state.fleet.events.last().unwrap().clone();
        assert_eq!(
            event.tenant.as_ref().map(ToString::to_string).as_deref(),
            Some("alfa")
        );
        assert!(
            bench
                .state
                .fleet
                .certificate_troubles
                .contains_key("alfa.isy.one")
        );
        bench
            .apply(Command::PutCertificate(Box::new(certificate(
                "alfa.isy.one",
                Origin::Acme,
            ))))
            .unwrap();
        assert!(bench.state.fleet.certificate_troubles.is_empty());
        bench
            .apply(Command::CertificateTrouble(Box::new(trouble(2))))
            .unwrap();
        bench
            .apply(Command::CertificateTrouble(Box::new(trouble(0))))
            .unwrap();
        assert!(bench.state.fleet.certificate_troubles.is_empty());
    }

    #[test]
    fn certificates_troubles_and_the_account_survive_a_restart() {
        let mut bench = Bench::default();
        for name in ["a.isy.one", "b.isy.one"] {
            bench
                .apply(Command::PutCertificate(Box::new(certificate(
                    name,
                    Origin::Acme,
                ))))
                .unwrap();
        }
        let (name, why) = ("b.isy.one".to_owned(), String::new());
        bench
            .apply(Command::RemoveCertificate { name, why })
            .unwrap();
        let trouble = CertificateTrouble {
            name: "c.isy.one".to_owned(),
            failures: 2,
            at: 1,
            retry_at: 2,
            error: "e".to_owned(),
        };
        bench
            .apply(Command::CertificateTrouble(Box::new(trouble)))
            .unwrap();
        let directory = "https://x".to_owned();
        let account = AcmeAccount {
            directory,
            credentials: Sealed("s".into()),
        };
        bench
            .apply(Command::PutAcmeAccount(Box::new(account)))
            .unwrap();
        let mut disk = crate::written::Records::default();
        disk.apply(&bench.effects.writes);
        let (reloaded, fleet) = (
            crate::written::fleet(disk.contents()).unwrap(),
            &bench.state.fleet,
        );
        assert_eq!(reloaded.certificates, fleet.certificates);
        assert_eq!(reloaded.certificate_troubles, fleet.certificate_troubles);
        assert_eq!(reloaded.acme_account, fleet.acme_account);
        assert_eq!(
            (fleet.certificates.len(), fleet.certificate_troubles.len()),
            (1, 1)
        );
    }

    #[test]
    fn uploads_are_bounded_and_replacing_one_is_no_further_one() {
        let mut bench = Bench::default();
        let mut put = |n: usize| {
            let certificate = certificate(&format!("own{n}"), Origin::Uploaded);
            bench
                .apply(Command::PutCertificate(Box::new(certificate)))
                .map(drop)
        };
        (0..MAX_UPLOADED).for_each(|n| put(n).unwrap());
        assert_eq!(put(MAX_UPLOADED), Err(ChangeError::TooManyCertificates));
        put(0).unwrap();
    }
}
