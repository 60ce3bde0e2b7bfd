//! Refusals word for word as the coordinator sends them.
//!
//! Not here: who gets them (tenants).

use std::time::Duration;

use isyone_proto::error;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::data;

/// ABORTED as the coordinator sends it, naming the operation under way.
pub(super) fn occupied(name: &str) -> Status {
    let id = data::op_id(7);
    let message = format!(
        "tenant `{name}` is busy: operation {id} (resize) is at stage `host` for 42 s; wait for it (`isyctl op watch {id}`) \
         or cancel it (`isyctl op cancel {id}`)"
    );
    let metadata = [
        ("operation_id".to_owned(), id),
        ("stage".to_owned(), "host".to_owned()),
    ];
    let metadata = metadata.into_iter().collect();
    error::status(Code::Aborted, "OPERATION_IN_PROGRESS", message, metadata)
}

/// RESOURCE_EXHAUSTED as the coordinator sends it: an `ErrorInfo`, and the placement as an `Any`.
pub(super) fn no_host_fits(name: &str) -> Status {
    let message = format!("no host fits tenant `{name}`: 3 looked at");
    let plain = error::status(
        Code::ResourceExhausted,
        "NO_HOST_FITS",
        message.clone(),
        Default::default(),
    );
    let mut rpc = tonic_types::Status::decode(plain.details()).unwrap();
    rpc.details.push(prost_types::Any {
        type_url: "type.googleapis.com/isyone.v1.Placement".into(),
        value: data::nowhere(name).encode_to_vec(),
    });
    Status::with_details(Code::ResourceExhausted, message, rpc.encode_to_vec().into())
}

/// The status of a coordinator that sheds load.
pub(super) fn busy() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(20)));
    Status::with_error_details(Code::ResourceExhausted, "too many calls at once", details)
}

/// FAILED_PRECONDITION of an upgrade that would be another edition.
pub(super) fn other_edition(name: &str) -> Status {
    let message = format!(
        "tenant `{name}` is of edition `18.0`, and `odoo:19.0` is edition `19.0`'s: an upgrade stays within its edition. Another edition \
         needs the tenant's modules migrated, which is not there yet"
    );
    error::status(
        Code::FailedPrecondition,
        "WRONG_STATE",
        message,
        Default::default(),
    )
}
