//! Operators.

use std::sync::atomic::Ordering;

use isyone_proto::pb::v1::{operator_service_server::OperatorService, *};
use tonic::{Request, Response, Status};

use super::{Fake, page};
use crate::support::data;

#[tonic::async_trait]
impl OperatorService for Fake {
    async fn create_operator(
        &self,
        request: Request<CreateOperatorRequest>,
    ) -> Result<Response<CreateOperatorResponse>, Status> {
        let asked = request.into_inner();
        self.created.lock().unwrap().push(asked.name.clone());
        if asked.name == "taken" {
            return Err(Status::failed_precondition("has another role"));
        }
        let role = Role::try_from(asked.role).map_err(|_| Status::invalid_argument("role"))?;
        let word = role
            .as_str_name()
            .trim_start_matches("ROLE_")
            .to_lowercase();
        let certificate_pem = self
            .ca
            .sign(&asked.csr_pem, &asked.name, &word)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let operator = Some(data::operator(&asked.name, role));
        Ok(Response::new(CreateOperatorResponse {
            operator,
            certificate_pem,
            ca_pem: self.ca.pem.clone(),
        }))
    }
    async fn list_operators(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let all = [
            data::operator("ana", Role::Admin),
            data::operator("ci", Role::Viewer),
            data::operator("eve", Role::Operator),
            data::operator("prometheus", Role::Monitor),
        ];
        let (operators, next_page_token) = page(&all, &request.into_inner().page_token);
        Ok(Response::new(ListOperatorsResponse {
            operators,
            next_page_token,
        }))
    }
    async fn renew_operator(
        &self,
        request: Request<RenewOperatorRequest>,
    ) -> Result<Response<RenewOperatorResponse>, Status> {
        let asked = request.into_inner();
        let role = match asked.role() {
            Role::Unspecified => Role::Admin,
            role => role,
        };
        let word = role
            .as_str_name()
            .trim_start_matches("ROLE_")
            .to_lowercase();
        let certificate_pem = self
            .ca
            .sign(&asked.csr_pem, &asked.name, &word)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(RenewOperatorResponse {
            operator: Some(data::operator(&asked.name, role)),
            certificate_pem,
            ca_pem: self.ca.pem.clone(),
            old_is_accepted: asked.name == "ana",
        }))
    }
    async fn retire_certificates(
        &self,
        _: Request<RetireCertificatesRequest>,
    ) -> Result<Response<Operator>, Status> {
        self.retired.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(data::operator("ana", Role::Admin)))
    }
    async fn revoke_operator(
        &self,
        request: Request<RevokeOperatorRequest>,
    ) -> Result<Response<RevokeOperatorResponse>, Status> {
        match request.into_inner().name.as_str() {
            "ana" => Err(Status::failed_precondition(
                "the last admin cannot be revoked",
            )),
            _ => Ok(Response::new(RevokeOperatorResponse {})),
        }
    }
}
