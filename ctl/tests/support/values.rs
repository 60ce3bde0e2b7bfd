//! The canned coordinator's word on values that do not exist: the coordinator's own, for it is what people read.
//!
//! Not here: who asks (tenants).

use isyone_proto::{error::FieldError, known, pb::v1::TenantSpec, spec::ValueError};
use tonic::Status;

/// The refusal of the first value of a spec that does not exist.
pub(crate) fn unknown_value(spec: &TenantSpec) -> Status {
    fn refused<T>(field: &str, judged: Result<T, ValueError>) -> Option<FieldError> {
        let problem = judged.err()?.to_string();
        Some(FieldError::new(format!("spec.{field}"), problem))
    }
    let given = |text: &str| !text.is_empty();
    let problems = [
        given(&spec.language).then(|| refused("language", known::language(&spec.language))),
        given(&spec.country).then(|| refused("country", known::country(&spec.country))),
        given(&spec.time_zone).then(|| refused("time_zone", known::time_zone(&spec.time_zone))),
        given(&spec.admin_login).then(|| refused("admin_login", known::login(&spec.admin_login))),
        given(&spec.odoo_image).then(|| refused("odoo_image", known::image(&spec.odoo_image))),
    ];
    let first = problems.into_iter().flatten().flatten().next();
    first
        .expect("a test asks for something that is not there")
        .into()
}
