//! The core's values and errors as the public protocol says them.
//!
//! Not here: parsing what comes in; each service does that itself, once.

pub mod shown;
pub mod status;
