//! A session's first message: what an agent says of itself and of what it has on disk, checked and bounded.
//!
//! Not here: what follows from it (session, isyone_fleet::change).

use isyone_fleet::observed::Hello;
use isyone_proto::{convert, generation::Generation, pb::agent::v1 as wire};
use tonic::Status;

use super::plans;

/// Highest plan generation that an agent may claim: there is none above it.
const MAX_GENERATION: u64 = Generation::new(Generation::MAX_INCARNATION, u64::MAX).get();
/// Longest version text that we keep.
const MAX_VERSION: usize = 64;
/// SHA-256, hex.
const SHA256_CHARS: usize = 64;
/// Most networks that a host may name; documented in the protocol.
const MAX_NETWORKS: usize = 256;

/// What its session goes on with.
pub(super) struct Said {
    /// The plan that it has.
    pub(super) known: plans::Known,
    /// The CAs that it trusts, by SHA-256.
    pub(super) cas: Vec<String>,
    /// The digest of its list of hosts; empty from an agent of before.
    pub(super) hosts: String,
}

/// What the fleet is told, and what the session goes on with.
pub(super) fn checked(hello: wire::Hello) -> Result<(Hello, Said), Status> {
    if hello.plan_generation > MAX_GENERATION {
        return Err(Status::invalid_argument(format!(
            "plan_generation: more than {MAX_GENERATION}"
        )));
    }
    if hello.networks.len() > MAX_NETWORKS {
        return Err(Status::invalid_argument(format!(
            "networks: more than {MAX_NETWORKS}"
        )));
    }
    let said = Said {
        known: plans::Known {
            generation: hello.plan_generation.into(),
            digest: hello.plan_digest,
        },
        cas: hello.trusted_sha256,
        hosts: convert::shortened(hello.hosts_sha256, SHA256_CHARS),
    };
    let hello = Hello {
        agent_version: convert::shortened(hello.agent_version, MAX_VERSION),
        docker_version: convert::shortened(hello.docker_version, MAX_VERSION),
        // Skip a network that does not parse: it cannot be avoided, and placement continues with the rest.
        networks: hello
            .networks
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect(),
        peer_port: u16::try_from(hello.peer_port).ok().filter(|port| *port > 0),
        makes_backups: hello.makes_backups,
        follows: hello.follows,
        stands: hello.stands,
        leases: hello.leases,
        proves_backups: hello.proves_backups,
        sets_mail: hello.sets_mail,
        sorts: hello.sorts,
    };
    Ok((hello, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_bounded() {
        let digest = "d".repeat(2 * SHA256_CHARS);
        let hello = wire::Hello {
            agent_version: "v".repeat(2 * MAX_VERSION),
            plan_generation: MAX_GENERATION,
            networks: vec!["10.0.0.0/8".to_owned(), "no network".to_owned()],
            hosts_sha256: digest,
            peer_port: 65_536,
            ..wire::Hello::default()
        };
        let (told, said) = checked(hello.clone()).unwrap();
        assert_eq!(told.networks, ["10.0.0.0/8".parse().unwrap()]);
        assert!(told.agent_version.len() <= MAX_VERSION && said.hosts.len() <= SHA256_CHARS);
        assert_eq!(told.peer_port, None, "there is no such port");
        assert_eq!(said.known.generation.get(), MAX_GENERATION);
        let beyond = wire::Hello {
            plan_generation: MAX_GENERATION + 1,
            ..wire::Hello::default()
        };
        let many = wire::Hello {
            networks: vec!["10.0.0.0/8".to_owned(); MAX_NETWORKS + 1],
            ..wire::Hello::default()
        };
        for (hello, field) in [(beyond, "plan_generation"), (many, "networks")] {
            let refused = checked(hello).map(|_| ()).unwrap_err();
            assert!(refused.message().starts_with(field), "{refused}");
        }
    }
}
