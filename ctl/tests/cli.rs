//! `isyctl` itself, run as people and scripts run it, against a coordinator that speaks the real protocol over real mutual
//! TLS on loopback and answers with canned data at fixed times. What it prints is compared with `golden/`;
//! `UPDATE_GOLDEN=1 cargo test -p isyone-ctl` writes those files anew.

mod cases;
mod support;
