//! Test support: a coordinator with canned answers, its certificates, and ways to run `isyctl`.

pub(crate) mod coordinator;
pub(crate) mod data;
pub(crate) mod odoo;
pub(crate) mod operations;
pub(crate) mod pki;
pub(crate) mod programs;
pub(crate) mod pty;
pub(crate) mod refusals;
pub(crate) mod run;
pub(crate) mod tenants;
pub(crate) mod top;
pub(crate) mod values;
