//! `isyctl` itself, run as people and scripts run it, against a coordinator that speaks the real protocol over real
//! mutual TLS on loopback and returns canned data at fixed times. Output is compared with `golden/`;
//! `UPDATE_GOLDEN=1 cargo test -p isyone-ctl` rewrites those files.

mod cases;
mod support;
