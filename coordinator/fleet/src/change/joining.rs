//! How hosts come in: join tokens, joining with one, and approval of those whose token named no host.
//!
//! Not here: what a host does once it is in (hosts), and signing its certificate (the coordinator's base/pki).

use std::sync::Arc;

use ipnet::IpNet;
use isyone_types::{identity::CertificateInfo, ids::HostName, network::may_be_a_host};

use super::{ChangeError, Edit, Enroll, MAX_TOKENS, Outcome, WrongAddress};
use crate::{
    desired::{Host, Token},
    event::EventKind,
    written::{RecordKind, RecordValue, Write},
};

impl Edit<'_> {
    pub(super) fn create_token(
        &mut self,
        token: Token,
        asked_with: Option<&CertificateInfo>,
    ) -> Result<Outcome, ChangeError> {
        self.still_accepted(asked_with)?;
        if self.state.fleet.tokens.len() >= MAX_TOKENS {
            return Err(ChangeError::TooManyTokens);
        }
        let (host, message) = (token.host.clone(), described(&token));
        self.event(EventKind::TokenCreated, None, host.as_ref(), None, message);
        self.put_token(token);
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_token(&mut self, id: &str) -> Result<Outcome, ChangeError> {
        let known = self.state.fleet.tokens.get(id).cloned();
        let token = known.ok_or_else(|| ChangeError::TokenNotFound(id.to_owned()))?;
        if let Some(host) = &token.used_by {
            return Err(ChangeError::TokenUsed {
                id: id.to_owned(),
                host: host.clone(),
            });
        }
        self.state.fleet.tokens.remove(id);
        self.effects
            .writes
            .push(Write::Delete(RecordKind::Token, id.to_owned()));
        let (host, message) = (token.host.as_ref(), described(&token));
        self.event(EventKind::TokenRevoked, None, host, None, message);
        Ok(Outcome::Done)
    }

    fn put_token(&mut self, token: Token) {
        let token = Arc::new(token);
        self.effects
            .writes
            .push(Write::Put(RecordValue::Token(token.clone())));
        self.state.fleet.tokens.insert(token.id.clone(), token);
    }

    /// Redeems a token and adds the host, or lets it join again when the token names it.
    pub(super) fn enroll(&mut self, enroll: Enroll) -> Result<Outcome, ChangeError> {
        let token = self.redeemable(&enroll)?;
        let existing = self.state.fleet.hosts.get(&enroll.host).cloned();
        if existing.is_some() && token.host.is_none() {
            return Err(ChangeError::HostExists(enroll.host));
        }
        self.may_advertise(&token, &enroll)?;
        let mut labels = enroll.labels;
        labels.extend(token.labels.clone());
        let mut used = (*token).clone();
        used.used_by = Some(enroll.host.clone());
        self.put_token(used);
        // Who made a token for this very name has let it in.
        let pending = token.host.is_none() && !self.settings.auto_approve;
        let host = match existing {
            // This replaces all earlier certificates: whoever uses one is disconnected.
            Some(old) => Host {
                advertise: enroll.advertise,
                labels,
                pending,
                certificates: vec![enroll.certificate],
                ..(*old).clone()
            },
            None => Host {
                name: enroll.host,
                uid: enroll.uid,
                advertise: enroll.advertise,
                labels,
                cordoned: false,
                maintenance: None,
                pending,
                makes_backups: false,
                proves_backups: false,
                unheard: false,
                plan_generation: self.first_generation(),
                joined_at: self.stamp.now,
                certificates: vec![enroll.certificate],
            },
        };
        let host = self.put_host(host);
        let mut message = format!("advertises {}; {}", host.advertise, described(&token));
        if pending {
            message += "; it waits for approval";
        }
        self.event(EventKind::HostJoined, None, Some(&host.name), None, message);
        Ok(Outcome::Host(host))
    }

    /// The token that was shown, if it may be used now, from there, and for that host.
    fn redeemable(&self, enroll: &Enroll) -> Result<Arc<Token>, ChangeError> {
        let refused = |why| Err(ChangeError::TokenRefused(why));
        // The secret is compared as a hash: the time this takes reveals nothing about it.
        let token = self.state.fleet.tokens.get(&enroll.token_id);
        let Some(token) = token.filter(|token| token.secret_hash == enroll.secret_hash) else {
            return refused("unknown");
        };
        let from = enroll.from.to_canonical();
        if token.used_by.is_some() {
            refused("already used")
        } else if token.expires_at <= self.stamp.now {
            refused("expired")
        } else if token.host.as_ref().is_some_and(|h| *h != enroll.host) {
            refused("made for another host name")
        } else if !token.networks.is_empty() && !token.networks.iter().any(|n| n.contains(&from)) {
            refused("made for another network")
        } else {
            Ok(token.clone())
        }
    }

    /// Others connect to this address, and the host gets a certificate for it: it must lead to this host and nobody else.
    fn may_advertise(&self, token: &Token, enroll: &Enroll) -> Result<(), ChangeError> {
        let address = enroll.advertise;
        let wrong = if address.is_loopback() {
            Some(WrongAddress::Loopback)
        } else if enroll.is_ours {
            Some(WrongAddress::Ours)
        } else {
            None
        };
        let wrong = wrong.filter(|_| !token.same_machine);
        let tenants = IpNet::from(self.settings.network.tenant_range);
        let nobodys = if tenants.contains(&address) {
            Some(WrongAddress::Tenants)
        } else if may_be_a_host(address) {
            None
        } else {
            Some(WrongAddress::NoMachines)
        };
        if let Some(what) = wrong.or(nobodys) {
            return Err(ChangeError::AddressRefused { address, what });
        }
        let others = self.state.fleet.hosts.values();
        let mut others = others.filter(|host| host.name != enroll.host);
        match others.find(|host| host.advertise.to_canonical() == address) {
            Some(other) => Err(ChangeError::AddressTaken {
                address,
                host: other.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Lets a host in that joined by a token for any name.
    pub(super) fn approve_host(&mut self, name: &HostName) -> Result<Outcome, ChangeError> {
        let host = self.host(name)?;
        if !host.pending {
            return Ok(Outcome::Host(host));
        }
        let message = format!("advertises {}", host.advertise);
        self.put_host(Host {
            pending: false,
            ..(*host).clone()
        });
        self.event(EventKind::HostApproved, None, Some(name), None, message);
        // Its session waits for a plan.
        self.touch_host(name);
        Ok(Outcome::Host(self.host(name)?))
    }
}

/// A token in words: its public half, and what it is bound to.
fn described(token: &Token) -> String {
    let mut words = format!("token {}", token.id);
    match &token.host {
        Some(host) => words += &format!(" for host {host} only"),
        None => words += " for any name",
    }
    if !token.networks.is_empty() {
        let networks: Vec<String> = token.networks.iter().map(ToString::to_string).collect();
        words += &format!(", from {}", networks.join(" or "));
    }
    if token.same_machine {
        words += ", for the coordinator's own machine";
    }
    words
}
