//! The core's values and errors as the public protocol says them, and who it is that calls.
//!
//! Not here: parsing what comes in; each service does that itself, once.

pub mod caller;
pub mod shown;
pub mod status;
