//! Edges, and the certificates that they get.

use isyone_proto::pb::v1::{
    certificate_service_server::CertificateService, edge_service_server::EdgeService, *,
};
use tonic::{Request, Response, Status};

use super::{Fake, page};
use crate::support::data;

#[tonic::async_trait]
impl CertificateService for Fake {
    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let (certificates, next_page_token) =
            page(&data::certificates(), &request.into_inner().page_token);
        Ok(Response::new(ListCertificatesResponse {
            certificates,
            next_page_token,
        }))
    }
    async fn get_certificate(
        &self,
        request: Request<GetCertificateRequest>,
    ) -> Result<Response<Certificate>, Status> {
        let name = request.into_inner().name;
        let found = data::certificates()
            .into_iter()
            .find(|certificate| certificate.name == name);
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no certificate `{name}`")))
    }
    async fn add_certificate(
        &self,
        _: Request<AddCertificateRequest>,
    ) -> Result<Response<Certificate>, Status> {
        Err(isyone_proto::error::FieldError::new(
            "key_pem",
            "is not the key of the first certificate",
        )
        .into())
    }
    async fn remove_certificate(
        &self,
        _: Request<RemoveCertificateRequest>,
    ) -> Result<Response<RemoveCertificateResponse>, Status> {
        Ok(Response::new(RemoveCertificateResponse {}))
    }
}

#[tonic::async_trait]
impl EdgeService for Fake {
    async fn list_edges(
        &self,
        request: Request<ListEdgesRequest>,
    ) -> Result<Response<ListEdgesResponse>, Status> {
        let (edges, next_page_token) = page(&data::edges(), &request.into_inner().page_token);
        let files = vec!["/var/lib/isyone/edge/isyone.yml".to_owned()];
        Ok(Response::new(ListEdgesResponse {
            edges,
            next_page_token,
            files,
            rejected_routes: 2,
        }))
    }
    async fn get_edge(&self, request: Request<GetEdgeRequest>) -> Result<Response<Edge>, Status> {
        let name = request.into_inner().name;
        let found = data::edges().into_iter().find(|edge| edge.name == name);
        found.map(Response::new).ok_or_else(|| {
            Status::not_found(format!("no edge `{name}` asks for its configuration"))
        })
    }
    async fn list_rejected_routes(
        &self,
        request: Request<ListRejectedRoutesRequest>,
    ) -> Result<Response<ListRejectedRoutesResponse>, Status> {
        let asked = request.into_inner();
        let all = if asked.shard == "edge-2" {
            Vec::new()
        } else {
            data::rejected_routes()
        };
        let (routes, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListRejectedRoutesResponse {
            routes,
            next_page_token,
        }))
    }
}
