//! The core's values and errors in terms of the public protocol, and the caller.
//!
//! Not here: parsing requests; each service does that itself, once.

pub mod caller;
mod copies;
pub(crate) mod reader;
pub mod shown;
mod standby;
pub mod status;
