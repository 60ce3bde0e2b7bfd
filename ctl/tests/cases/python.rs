//! The Python client of `docs/python-client`, with stubs generated from the `.proto` files, against the canned
//! coordinator.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::run::world;

/// An interpreter with gRPC. One named by `ISYONE_PYTHON` must work; otherwise `python3` is used if it does.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("ISYONE_PYTHON")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let check = Command::new(&python)
        .args(["-c", "import grpc, grpc_tools, tomllib"])
        .output();
    let able = check.is_ok_and(|output| output.status.success());
    assert!(
        able || named.is_none(),
        "{} cannot import grpc, grpc_tools and tomllib",
        python.display()
    );
    able.then_some(python)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn stubs(python: &Path, folder: &Path) {
    let files = std::fs::read_dir(root().join("proto/isyone/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let out = |kind: &str| format!("--{kind}={}", folder.display());
    let status = Command::new(python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(root().join("proto"))
        .args([out("python_out"), out("grpc_python_out")])
        .args(files)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn the_python_client_creates_a_tenant_and_watches_it() {
    let Some(python) = python() else {
        println!(
            "skipped: python3 has no grpcio and grpcio-tools, and ISYONE_PYTHON names no other"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    stubs(&python, folder.path());
    let run = |name: &str| -> Output {
        Command::new(&python)
            .arg(root().join("docs/python-client/create_tenant.py"))
            .arg(world().config().join("contexts/test.toml"))
            .arg(name)
            .env("PYTHONPATH", folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap()
    };
    let good = run("alfa");
    let text = String::from_utf8(good.stdout).unwrap();
    assert!(
        good.status.success(),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    assert!(
        text.contains("alfa goes to h2") && text.contains("7 of 7 steps"),
        "{text}"
    );
    assert!(
        text.ends_with("http://alfa.isy.one admin correct-horse-battery\n"),
        "{text}"
    );

    let bad = run("broken");
    assert!(!bad.status.success());
    let text = String::from_utf8(bad.stderr).unwrap();
    assert!(
        text.contains("broken failed: image odoo:99 is not known"),
        "{text}"
    );
}
