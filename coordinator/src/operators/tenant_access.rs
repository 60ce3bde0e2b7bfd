//! Who gets through the edge to a tenant: `GetAccess` and `SetAccess` of `TenantService`.
//!
//! Passwords are hashed only here, so that all clients get the same treatment; they are neither stored nor logged.
//! Not here: what the edge does with it (isyone-traefik).

use std::collections::BTreeSet;

use ipnet::IpNet;
use isyone_fleet::{
    change::{
        AccessChange, Command, Outcome, User,
        access::{MAX_NETWORKS, MAX_USERS, name_of},
    },
    desired::{Rate, VisitorAccess},
};
use isyone_proto::{echo::echo, error::FieldError, pb::v1};
use tonic::Status;
use zeroize::Zeroizing;

use super::{Api, tenant_name, tenants::unexpected};
use crate::{
    base::{
        config::{Edge, overlap},
        secrets,
    },
    wire::status,
};

/// Longest user name.
const MAX_NAME: usize = 64;
/// Shortest password that an operator may choose.
const MIN_PASSWORD: usize = 12;
/// bcrypt ignores everything beyond this many bytes.
const MAX_PASSWORD: usize = 72;
/// Number of letters and digits in a generated password: 142 bits.
const GENERATED: usize = 24;
/// Highest rate: far above what one client sends, far below where Traefik's arithmetic would break.
const MAX_RATE: u32 = 1_000_000;

impl Api {
    pub(super) fn access(&self, name: &str) -> Result<v1::TenantAccess, Status> {
        let name = tenant_name(name)?;
        let state = self.state();
        Ok(wire(
            &self.tenant(&state, &name)?.access,
            &self.parts.config.edge,
        ))
    }

    pub(super) async fn change_access(
        &self,
        actor: String,
        asked: v1::SetAccessRequest,
    ) -> Result<v1::SetAccessResponse, Status> {
        let name = tenant_name(&asked.name)?;
        let networks = asked.networks.map(|list| networks(&list.networks));
        let networks = networks.transpose()?;
        self.apart_from_tenants(networks.as_deref().unwrap_or_default())?;
        let (put_user, generated_password) = match asked.put_user {
            None => (None, String::new()),
            Some(user) => user_of(user)
                .await
                .map(|(user, password)| (Some(user), password))?,
        };
        let change = AccessChange {
            networks,
            remove_all_users: asked.remove_all_users,
            remove_users: names(asked.remove_users)?,
            put_user,
            rate: asked.rate_choice.map(rate).transpose()?,
        };
        let command = Command::SetAccess {
            name,
            change: Box::new(change),
        };
        match self
            .parts
            .handle
            .submit(actor, command)
            .await
            .map_err(status::submit)?
        {
            Outcome::Changed(tenant) => {
                let access = wire(&tenant.access, &self.parts.config.edge);
                Ok(v1::SetAccessResponse {
                    access: Some(access),
                    generated_password,
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Whoever is let in by address must not be another tenant, which reaches an edge on its own host under its own
    /// address.
    fn apart_from_tenants(&self, networks: &[IpNet]) -> Result<(), FieldError> {
        let range = self.parts.config.network.tenant_range;
        let state = self.state();
        // Networks of tenants from before the range was changed.
        let earlier = state.fleet.tenants.values().map(|t| t.placement.subnet);
        let earlier: BTreeSet<_> = match networks {
            [] => BTreeSet::new(),
            _ => earlier.filter(|net| !range.contains(net)).collect(),
        };
        for (i, network) in networks.iter().enumerate() {
            let mut tenants = std::iter::once(&range).chain(&earlier);
            if let Some(tenants) = tenants.find(|tenants| overlap(network, **tenants)) {
                return Err(FieldError::new(
                    format!("networks[{i}]"),
                    format!(
                        "`{network}` has addresses in common with tenants' networks ({tenants}), so another tenant \
                         would be let in; name only the parts outside"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// In wire form: without hashes.
pub(super) fn wire(access: &VisitorAccess, edge: &Edge) -> v1::TenantAccess {
    let rate = access.rate.unwrap_or(Rate {
        average: edge.rate_average,
        burst: edge.rate_burst,
    });
    v1::TenantAccess {
        networks: access.addresses.iter().map(ToString::to_string).collect(),
        users: access
            .users
            .iter()
            .map(|line| name_of(line).to_owned())
            .collect(),
        rate: Some(v1::RequestRate {
            average: rate.average,
            burst: rate.burst,
        }),
        own_rate: access.rate.is_some(),
    }
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, FieldError> {
    if texts.len() > MAX_NETWORKS {
        return Err(FieldError::new(
            "networks",
            format!("more than {MAX_NETWORKS}"),
        ));
    }
    let parse = |(i, text): (usize, &String)| {
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        net.map(|net| net.trunc()).map_err(|_| {
            FieldError::new(
                format!("networks[{i}]"),
                format!(
                    "`{}` is no address or network such as 203.0.113.0/24",
                    echo(text)
                ),
            )
        })
    };
    texts.iter().enumerate().map(parse).collect()
}

fn names(names: Vec<String>) -> Result<Vec<String>, FieldError> {
    if names.len() > MAX_USERS {
        return Err(FieldError::new(
            "remove_users",
            format!("more than {MAX_USERS}"),
        ));
    }
    names
        .iter()
        .try_for_each(|name| check_name("remove_users", name))?;
    Ok(names)
}

fn check_name(field: &str, name: &str) -> Result<(), FieldError> {
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b));
    if fits {
        return Ok(());
    }
    Err(FieldError::new(
        field,
        format!(
            "`{}` must be 1 to {MAX_NAME} letters, digits and any of `._@-`",
            echo(name)
        ),
    ))
}

fn rate(choice: v1::set_access_request::RateChoice) -> Result<Option<Rate>, FieldError> {
    let v1::set_access_request::RateChoice::Rate(rate) = choice else {
        return Ok(None);
    };
    let fits = |n| (1..=MAX_RATE).contains(&n);
    if fits(rate.average) && fits(rate.burst) {
        return Ok(Some(Rate {
            average: rate.average,
            burst: rate.burst,
        }));
    }
    Err(FieldError::new(
        "rate",
        format!(
            "{}/{}: average and burst must be between 1 and {MAX_RATE}",
            rate.average, rate.burst
        ),
    ))
}

/// The user with a hashed password, and the password if it was generated here.
async fn user_of(user: v1::AccessUser) -> Result<(User, String), Status> {
    let v1::AccessUser { name, password } = user;
    let password = Zeroizing::new(password);
    check_name("put_user.name", &name)?;
    let (password, generated) = if password.is_empty() {
        let made = secrets::random_password(GENERATED);
        (Zeroizing::new(made.clone()), made)
    } else {
        (password, String::new())
    };
    if !(MIN_PASSWORD..=MAX_PASSWORD).contains(&password.len()) {
        let problem = format!("must have {MIN_PASSWORD} to {MAX_PASSWORD} bytes");
        return Err(FieldError::new("put_user.password", problem).into());
    }
    // Slow on purpose, so keep it off the runtime's threads.
    let hash = tokio::task::spawn_blocking(move || secrets::edge_hash(&password)).await;
    let hash = hash
        .ok()
        .flatten()
        .ok_or_else(|| Status::internal("the password could not be hashed"))?;
    Ok((User { name, hash }, generated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_hashed_as_traefik_reads_it_and_only_a_made_one_is_told() {
        let user = |name: &str, password: &str| v1::AccessUser {
            name: name.into(),
            password: password.into(),
        };
        let (stored, told) = user_of(user("ana", "correct horse")).await.unwrap();
        assert!(bcrypt::verify("correct horse", &stored.hash).unwrap() && told.is_empty());
        assert!(stored.hash.starts_with("$2y$06$"), "{}", stored.hash);
        assert!(isyone_traefik::is_user(&format!(
            "{}:{}",
            stored.name, stored.hash
        )));
        let (stored, told) = user_of(user("ana.b@c", "")).await.unwrap();
        assert!(told.len() == GENERATED && bcrypt::verify(&told, &stored.hash).unwrap());
        for (name, password) in [
            ("", "long enough too"),
            ("a:b", "long enough too"),
            ("a", "short"),
            ("a", &"x".repeat(73)),
            ("ç", ""),
        ] {
            let refused = user_of(user(name, password)).await.unwrap_err();
            assert_eq!(
                refused.code(),
                tonic::Code::InvalidArgument,
                "{name} {password}"
            );
            assert!(!refused.message().contains("long enough"));
        }
    }

    #[test]
    fn networks_and_rates_are_checked() {
        let nets = |text: &str| networks(&[text.to_owned()]);
        assert_eq!(
            nets("203.0.113.9/24").unwrap()[0].to_string(),
            "203.0.113.0/24"
        );
        assert_eq!(
            nets("2001:db8::1").unwrap()[0].to_string(),
            "2001:db8::1/128"
        );
        assert_eq!(nets("example.com").unwrap_err().field, "networks[0]");
        assert!(networks(&vec!["192.0.2.1".to_owned(); MAX_NETWORKS + 1]).is_err());
        let choice = |average, burst| {
            rate(v1::set_access_request::RateChoice::Rate(v1::RequestRate {
                average,
                burst,
            }))
        };
        assert!(choice(0, 5).is_err() && choice(5, 0).is_err() && choice(u32::MAX, 1).is_err());
        assert_eq!(
            choice(5, 10).unwrap(),
            Some(Rate {
                average: 5,
                burst: 10
            })
        );
        assert_eq!(
            rate(v1::set_access_request::RateChoice::DefaultRate(true)).unwrap(),
            None
        );
    }
}
