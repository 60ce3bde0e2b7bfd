//! What the coordinator does for the edges and the monitoring beside them: documents for Traefik and Prometheus,
//! certificates of host names, tenants' domains in DNS, probes through the edges, and which version of their
//! configuration the edges run.
//!
//! Not here: the ports that serve it (ports/http), what routes look like (isyone-traefik).

pub mod acme;
pub mod certificates;
pub mod dns;
pub mod domains;
pub mod probes;
pub mod publish;
pub mod running;
pub mod scraper;
