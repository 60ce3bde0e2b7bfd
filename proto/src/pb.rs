//! Code generated from `isyone/**/*.proto`. Wire types stop at the border: parse them with [`crate::convert`].
//!
//! Not here: anything written by hand.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)] // generated; its documentation is in the .proto files

/// The public protocol, for operators: package `isyone.v1`.
pub mod v1 {
    tonic::include_proto!("isyone.v1");
}

/// The protocol between coordinator and agents.
pub mod agent {
    /// Package `isyone.agent.v1`.
    pub mod v1 {
        tonic::include_proto!("isyone.agent.v1");
    }
}

/// All services' descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
