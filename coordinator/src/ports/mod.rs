//! The ports: gRPC with client certificates and enrolment without (listener); HTTP for edges, Prometheus and visitors'
//! pages (http).
//!
//! Not here: the services behind them (operators, agents).

pub mod http;
pub mod listener;
