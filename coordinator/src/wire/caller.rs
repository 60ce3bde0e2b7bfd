//! Who calls. The access layer reads it from the peer's certificate, once, and passes it to the services with the
//! request.
//!
//! Not here: what a caller may do (operators/access).

use std::fmt;

use isyone_proto::{
    ids::{HostName, ShortName},
    tls::OperatorRole,
};

/// Who calls, according to the certificate and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A person or a program.
    Operator(ShortName, OperatorRole),
    /// A host's agent.
    Agent(HostName),
    /// A machine that wants to join.
    Stranger,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name, _) => f.write_str(name.as_str()),
            Self::Agent(host) => write!(f, "host/{host}"),
            Self::Stranger => f.write_str("stranger"),
        }
    }
}
