//! The ports: gRPC and enrolment over mutual TLS (listener), HTTP for edges, Prometheus and visitors' pages (http).
//!
//! Not here: the services behind them (operators, agents).

pub mod http;
pub mod listener;
