//! What coordinator, agent and command line share: the protocol, the checked types that wire messages are parsed
//! into, mutual TLS, and places for those who come to a port.
//!
//! Not here: decisions (coordinator), Docker (agent), output (ctl).

#![warn(missing_docs)]

pub mod codec;
pub mod convert;
pub mod error;
pub mod hosts;
pub mod parts;
pub mod pb;
pub mod places;
pub mod tls;

/// Re-exported so that programs get the checked types together with the border that makes them.
pub use isyone_types::{
    backup, disk, echo, finding, generation, identity, ids, known, lease, mail, network, odoo,
    operation, plan, proof, report, spec, token,
};
