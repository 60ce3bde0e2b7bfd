//! A test's own certificate authority, made with openssl, and one certificate signed by it.
//!
//! Not here: an authority that issues certificates on request (acme).

use std::{path::Path, process::Command};

use super::process::run;

/// Writes `ca.pem`, and `server.pem` with `server.key` for `names` (as in `subjectAltName`), into a folder.
pub fn make(dir: &Path, names: &str) {
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(dir)).ok();
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let ca = [
        "req",
        "-x509",
        "-subj",
        "/CN=test CA",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&ca[..], &key].concat());
    let request = [
        "req",
        "-subj",
        "/CN=test",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&request[..], &key].concat());
    std::fs::write(dir.join("names"), format!("subjectAltName={names}")).expect("names");
    let sign = [
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
    ];
    openssl(&[&sign[..], &["-out", "server.pem", "-extfile", "names"]].concat());
}
