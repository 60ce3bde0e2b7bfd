//! The whole coordinator over real TLS on loopback, with agents moved by hand. One file for each thing that is looked at.
//!
//! Not here: real agents and a fake Docker (isyone-tests), and what a unit test beside the code shows as well.

mod admission;
mod blackbox;
mod domains;
mod monitoring;
mod pages;
mod published;
mod refusals;
mod sessions;
mod streams;
mod support;
mod tenants;
