//! The whole coordinator over real TLS on loopback, with agents driven by hand. One file per topic.
//!
//! Not here: real agents and a fake Docker (isyone-tests), and what a unit test beside the code can show.

mod admission;
mod blackbox;
mod buckets;
mod domains;
mod kept;
mod mail;
mod monitoring;
mod pages;
mod published;
mod refusals;
mod relay;
mod removed;
mod repositories;
mod sessions;
mod shipped;
mod streams;
mod support;
mod tenants;
mod values;
