//! Agents' reports: logs what could not be read in one, and gives a report that ends a traced operation its span.
//!
//! Not here: parsing (isyone-proto's convert).

use isyone_proto::{
    convert,
    error::FieldError,
    ids::HostName,
    pb::agent::v1 as wire,
    report::{HostReport, TenantProgress},
};
use isyone_telemetry::{child_span, tracing::Span};

use crate::{base::clock, writer::traces::Traces};

/// Logs statuses that could not be read, and returns the rest of the report.
pub(super) fn parse(host: &HostName, wire: wire::Report) -> Result<HostReport, FieldError> {
    let (report, left_out) = convert::parse_report(wire, clock::now_ms())?;
    for odd in left_out {
        tracing::warn!(%host, tenant = odd.tenant, error = %odd.error, "status left out");
    }
    Ok(report)
}

/// A span for a report that says how a traced operation turned out (the first one, if there are several). Intermediate
/// reports get none: they come many times a second, and the agent's own spans say the same.
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
