//! What coordinator, agent and command line share: the protocol, the checked types that wire messages are parsed
//! into, and mutual TLS.
//!
//! Not here: decisions (coordinator), Docker (agent), output (ctl).

pub mod codec;
pub mod convert;
pub mod error;
pub mod ids;
pub mod parts;
pub mod pb;
pub mod plan;
pub mod spec;
pub mod tls;
pub mod token;
