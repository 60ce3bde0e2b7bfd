//! The host's metrics for Prometheus, on one mTLS port: the host itself, its tenants' containers, and relays to each
//! tenant's Odoo and PostgreSQL, so that monitoring opens no tenant port.
//!
//! Pure: `text` (the format), `target` (paths), `containers` (control groups to cAdvisor's names), `procfs` (to
//! node-exporter's), `pg_statements`, `pg_text` (to postgres_exporter's), `traffic` and `traffic_samples` (Odoo's counters to a few
//! numbers), `filter` (which lines of a customer's page are passed on). Acting: `server` (the port), `loopback` (the
//! agent's own page, for this machine), `scrape` (one answer each, shared for a moment), `node` (reading the host),
//! `relay` (Odoo), `postgres`, `visitors` (the host's relay), `sample` (asks tenants that nobody scrapes). Not here: who may scrape (host::monitors),
//! what `isyctl` shows of it.

pub mod containers;
pub mod filter;
pub mod loopback;
pub mod node;
pub mod own;
pub mod pg_statements;
pub mod pg_text;
pub mod postgres;
pub mod procfs;
pub mod relay;
pub mod sample;
pub mod scrape;
pub mod server;
pub mod target;
pub mod text;
pub mod traffic;
pub mod traffic_samples;
pub mod visitors;
