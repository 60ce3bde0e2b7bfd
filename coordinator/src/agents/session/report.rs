//! Reports of agents: what could not be read of one goes to the log, and one that ends a traced operation gets its span.
//!
//! Not here: reading it (isyone-proto's convert).

use isyone_proto::{
    convert,
    error::FieldError,
    ids::HostName,
    pb::agent::v1 as wire,
    report::{HostReport, TenantProgress},
};
use isyone_telemetry::{child_span, tracing::Span};

use crate::{base::clock, writer::traces::Traces};

/// The whole report.
pub(super) fn parse(host: &HostName, wire: wire::Report) -> Result<HostReport, FieldError> {
    let (report, left_out) = convert::parse_report(wire, clock::now_ms())?;
    for odd in left_out {
        tracing::warn!(%host, tenant = odd.tenant, error = %odd.error, "status left out");
    }
    Ok(report)
}

/// A span for a report that says how a traced operation came out; the first, should it be several. Those on the way there are left
/// out: they come many times a second, and the agent's own spans say the same.
pub(super) fn in_trace(traces: &Traces, report: &HostReport) -> Span {
    let mut told = report
        .tenants
        .iter()
        .filter(|t| t.progress != TenantProgress::Working);
    let first = told.find_map(|t| {
        let operation = traces.of(t.operation);
        (!operation.is_disabled()).then_some((operation, t))
    });
    let Some((operation, tenant)) = first else {
        return Span::none();
    };
    child_span!(&operation, "report", tenant = %tenant.name, progress = ?tenant.progress)
}
