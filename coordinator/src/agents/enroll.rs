//! `EnrollmentService`: a join token and a public key become a host with a certificate.
//!
//! The service checks the token before it signs anything, and the writer decides on it: when two requests show the same
//! token at once, only one gets in. Not here: the rate of connections (ports/listener), what a token allows and which
//! addresses a host may advertise (isyone_fleet::change), which ones are ours (ours).

use std::{net::IpAddr, sync::Arc};

use isyone_fleet::change::{ChangeError, Command, Enroll, Outcome};
use isyone_proto::{
    convert::{parse, parse_labels},
    echo::echo,
    error::FieldError,
    ids::HostName,
    pb::agent::v1::{EnrollRequest, EnrollResponse, enrollment_service_server::EnrollmentService},
    tls, token,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::ours::Ours;
use crate::{
    base::{clock, pki::Pki},
    ports::listener::Peer,
    wire::status,
    writer::{Handle, SubmitError},
};

/// The service on the enrolment port.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// The writer and its snapshots.
    pub handle: Handle,
    /// Signs new agents' certificates.
    pub pki: Arc<Pki>,
    /// Lifetime of agents' certificates, in seconds.
    pub agent_ttl_s: i64,
    /// `host:port` that agents dial once they have joined.
    pub agent_endpoint: String,
    /// Names and addresses that lead to us.
    pub ours: Arc<Ours>,
}

impl Enrollment {
    /// Checked first, so that we sign nothing for strangers.
    fn knows(&self, token_id: &str, secret_hash: &str) -> bool {
        let state = self.handle.snapshot();
        state
            .fleet
            .tokens
            .get(token_id)
            .is_some_and(|t| t.secret_hash == secret_hash)
    }

    /// An address that an edge can connect to. It becomes part of a certificate, and so does the host's name: neither may be
    /// one that the coordinator is known by.
    fn advertised(&self, host: &HostName, text: &str) -> Result<IpAddr, FieldError> {
        let bad = |problem: String| Err(FieldError::new("advertise_address", problem));
        if self.ours.is_our_name(text) {
            return bad(format!(
                "`{}` is the coordinator's own name; give --advertise the address at which edges reach this host",
                echo(text)
            ));
        }
        if self.ours.is_our_name(&tls::host_server_name(host)) {
            let problem = format!(
                "`{host}` would have a name of the coordinator's; choose another with --name"
            );
            return Err(FieldError::new("host", problem));
        }
        let address = parse::<IpAddr>("advertise_address", text)?.to_canonical();
        let broadcast = address == IpAddr::from([255, 255, 255, 255]);
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return bad(format!(
                "{address} is no address of one machine; give --advertise the address at which edges reach this host"
            ));
        }
        Ok(address)
    }
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = peer.ok_or_else(|| Status::internal("request without a peer"))?;
        let from = peer.address.ip();
        let asked = request.into_inner();
        let secret_hash = token::secret_hash(&asked.token_secret);
        if !self.knows(&asked.token_id, &secret_hash) {
            return Err(status::submit(SubmitError::Refused(
                ChangeError::TokenRefused("unknown"),
            )));
        }
        let host: HostName = parse("host", &asked.host)?;
        let advertise = self.advertised(&host, &asked.advertise_address)?;
        let is_ours = self.ours.leads_to_us(advertise).await;
        let issued = self
            .pki
            .sign_agent(
                &asked.csr_pem,
                &host,
                advertise,
                self.agent_ttl_s,
                clock::now_seconds(),
            )
            .map_err(|e| status::pki(&e))?;
        let enroll = Enroll {
            token_id: asked.token_id,
            secret_hash,
            uid: Uuid::now_v7(),
            advertise,
            from,
            is_ours,
            labels: parse_labels("labels", &asked.labels)?,
            certificate: issued.record(),
            host: host.clone(),
        };
        let command = Command::Enroll(Box::new(enroll));
        match self
            .handle
            .submit_patiently(format!("host/{host}"), command)
            .await
            .map_err(status::submit)?
        {
            Outcome::Host(joined) => {
                tracing::info!(%host, %advertise, pending = joined.pending, agent = asked.agent_version.escape_debug().to_string(), "host joined");
                Ok(Response::new(EnrollResponse {
                    certificate_pem: issued.pem,
                    ca_pem: self.pki.ca_pem(),
                    agent_endpoint: self.agent_endpoint.clone(),
                    host_uid: joined.uid.to_string(),
                    pending: joined.pending,
                }))
            }
            other => {
                tracing::error!(?other, "unexpected outcome");
                Err(Status::internal("unexpected outcome"))
            }
        }
    }
}
