//! Output for people and for programs, word for word.

use crate::support::{data::op_id, run::golden};

/// What `--help` is asked of: a noun, and its verbs.
const HELPED: &[(&str, &[&str])] = &[
    (
        "tenant",
        &[
            "create",
            "list",
            "show",
            "explain",
            "credentials",
            "logs",
            "shell",
            "psql",
            "restart",
            "suspend",
            "resume",
            "resize",
            "upgrade",
            "move",
            "standby",
            "standby add",
            "switchover",
            "failover",
            "delete",
            "undelete",
            "domain",
            "domain add",
            "domain remove",
            "domain list",
            "mail",
            "mail set",
            "mail show",
            "mail clear",
            "mail test",
            "mail list",
            "mail read",
            "settings",
            "settings set",
            "settings show",
            "settings apply",
            "verify",
            "access",
            "access set",
            "restore",
        ],
    ),
    (
        "host",
        &[
            "token",
            "token list",
            "token revoke",
            "list",
            "maintenance",
            "failover",
            "orphans",
            "remove",
        ],
    ),
    ("rebalance", &[]),
    ("op", &["list", "watch", "cancel"]),
    ("events", &[]),
    ("cert", &["add"]),
    (
        "backup",
        &[
            "create", "list", "get", "show", "status", "verify", "prune", "key",
        ],
    ),
    ("edge", &["list", "show", "rejected"]),
    ("top", &[]),
    ("operator", &["create", "renew", "revoke"]),
    ("context", &["import"]),
    ("version", &[]),
    ("completions", &[]),
];

#[test]
fn help() {
    let mut lines = vec!["--help".to_owned(), "--version".to_owned()];
    for (noun, verbs) in HELPED {
        lines.push(format!("{noun} --help"));
        lines.extend(verbs.iter().map(|verb| format!("{noun} {verb} --help")));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    golden("help", &lines);
}

#[test]
fn tenants() {
    golden(
        "tenants",
        &[
            "tenant list",
            "tenant list -o wide --deleted",
            "tenant list --host h1",
            "tenant list --phase failing -o name",
            "tenant list --limit 1 -o name",
            "tenant list --host h9",
            "tenant show alfa",
            "tenant show beta",
            "tenant show gama",
            "tenant show delta",
            "tenant show moved",
            "tenant explain alfa",
            "tenant explain alfa -o wide",
            "tenant credentials alfa",
            "tenant credentials alfa -o wide",
            "tenant access show alfa",
            "tenant access show gama",
            "tenant access show missing",
            "tenant list --color always",
        ],
    );
}

/// The order matters: what the coordinator says next follows from how often it was asked.
#[test]
fn rebalance() {
    golden(
        "rebalance",
        &[
            "rebalance",
            "rebalance --dry-run -o wide",
            "rebalance -o json",
            "rebalance -o name",
            "rebalance --apply",
            "rebalance --apply --most 2 --yes",
            "rebalance --apply --yes --within 22:00-08:00:00",
            "rebalance --apply --yes --deadline 10s",
            "rebalance --apply --yes --max-pause 5s -o name",
            "rebalance --apply --dry-run",
            "rebalance --deadline 1h",
            "rebalance --most 21",
        ],
    );
}

#[test]
fn programs() {
    golden(
        "programs",
        &[
            "tenant show alfa -o json",
            "tenant show delta -o yaml",
            "tenant list -o json --host h9",
            "host show h1 -o json",
            "tenant explain alfa -o json",
            "tenant credentials alfa -o json",
            "tenant access show gama -o json",
            "tenant access set alfa --user tester --generate-password -o json",
            "events -o json --tenant alfa",
            "operator list -o yaml",
            "version -o yaml",
            "host token -o json",
            "host token -o name",
            &format!("op show {} -o json", op_id(1)),
            "tenant restart alfa -o name",
            "tenant create alfa --no-wait -o json",
        ],
    );
}

#[test]
fn hosts_events() {
    golden(
        "hosts-events",
        &[
            "host list",
            "host list -o wide",
            "host list -o name",
            "host show h1",
            "host show h2",
            "host show h3",
            "host cordon h1",
            "host uncordon h2",
            "host maintenance h1 --until 2h --leave --reason disk",
            "host maintenance h2 --end",
            "host maintenance h1",
            "host maintenance h1 --until soon",
            "host show h4",
            "host approve h4",
            "host token --ttl 15m --label zone=eu",
            "host token --host h5 --from 192.0.2.0/24",
            "host token list",
            "host token list -o wide",
            "host token list -o name",
            "host token revoke 0a1b0a1b0a1b0a1b",
            "host token revoke 2c3d2c3d2c3d2c3d",
            "host token revoke 0000000000000000",
            "events",
            "events --tenant alfa -o name",
            "cert list",
            "cert list -o name",
            "cert show erp.alfa.example",
            "cert show own",
            "cert show nobody",
            "cert remove own --yes",
            "operator list",
            "operator revoke prometheus",
            "operator revoke prometheus --yes",
            "version",
            "version --client",
        ],
    );
}

#[test]
fn operations() {
    golden(
        "operations",
        &[
            "op list",
            "op list -o wide",
            "op list --limit 2",
            "op list --active -o name",
            "op list --active --tenant gama --color always",
            &format!("op show {}", op_id(2)),
            &format!("op show {}", op_id(6)),
            &format!("op show {}", op_id(8)),
            &format!("op show {}", op_id(12)),
            &format!("op show {} -o json", op_id(6)),
            // It goes back and ends cancelled, it is cancelled at once, or it ends otherwise.
            &format!("op cancel {}", op_id(6)),
            &format!("op cancel {} --no-wait", op_id(6)),
            &format!("op cancel {} -o name", op_id(6)),
            &format!("op cancel {} --no-wait", op_id(13)),
            &format!("op cancel {}", op_id(1)),
            &format!("op cancel {}", op_id(14)),
            &format!("op watch {}", op_id(6)),
        ],
    );
}

#[test]
fn domains() {
    golden(
        "domains",
        &[
            "tenant domain list alfa",
            "tenant domain list",
            "tenant domain list -o name",
            "tenant domain list alfa -o json",
            "tenant domain add alfa erp.customer.com --primary",
            "tenant domain add alfa alfa.isy.one --primary",
            "tenant domain add alfa customer.com --www",
            "tenant domain add alfa late.customer.com --skip-dns-check",
            "tenant domain add alfa erp.customer.com --primary --no-wait -o json",
            "tenant domain add alfa customer.com --www -o name",
            "tenant domain add alfa wrong.customer.com",
            "tenant domain add alfa old.customer.com",
            "tenant domain add alfa *.a.example",
            "tenant domain remove alfa erp.example.com",
            "tenant domain remove alfa www.example.com",
            "tenant domain remove alfa www.example.com -o json",
            "tenant domain remove alfa none.example",
        ],
    );
}

#[test]
fn mail() {
    golden(
        "mail",
        &[
            "tenant mail test alfa --to ana@example.com",
            "tenant mail test alfa --to ana@example.com -o json",
            "tenant mail test alfa --to refused@example.com",
            "tenant mail test alfa --to ana",
            "tenant mail test denied --to ana@example.com",
            "tenant mail list alfa",
            "tenant mail list alfa -o json",
            "tenant mail list missing",
            "tenant mail list caught",
            "tenant mail list caught -o json",
            "tenant mail read caught 1764460800000-0000",
            "tenant mail read caught 1764460800000-0000 --raw",
            "tenant mail show posts",
            "tenant mail show posts -o json",
            "tenant mail show caught",
            "tenant mail show alfa",
            "tenant show posts",
            "tenant mail set alfa --host smtp.example.com --sender-domain example.com --per-day 500 --no-wait",
            "tenant mail set alfa --host smtp.example.com --user apikey",
            "tenant mail set alfa --host smtp.example.com --user apikey --keep-password",
            "tenant mail set alfa --host nowhere",
            "tenant mail set alfa",
            "tenant mail set alfa --catch --port 25",
            "tenant mail clear alfa",
            "tenant settings set alfa limit_time_real=300 --unset log_level",
            "tenant settings set alfa admin_passwd=x",
            "tenant settings set alfa log_level",
            "tenant settings set alfa log_level=warn log_level=info",
            "tenant settings set alfa",
            "tenant settings show posts",
            "tenant settings show posts -o json",
            "tenant settings show alfa",
            "tenant show posts -o wide",
            "tenant settings apply alfa",
            "tenant settings apply occupied",
        ],
    );
}

#[test]
fn edges() {
    golden(
        "edges",
        &[
            "edge list",
            "edge list -o name",
            "edge list --limit 1 -o json",
            "edge show 192.0.2.11/edge-1",
            "edge show 192.0.2.12/edge-2",
            "edge show 192.0.2.13/edge-3",
            "edge show 192.0.2.14",
            "edge show 192.0.2.99",
            "edge rejected",
            "edge rejected -o name",
            "edge rejected --shard edge-2",
            "edge rejected -o json",
        ],
    );
}

#[test]
fn backups() {
    golden(
        "backups",
        &[
            "backup list",
            "backup list alfa -o wide",
            "backup list alfa -o name",
            "backup list nobody",
            "backup ls alfa 3f2a9c01",
            "backup ls alfa 3f2a9c01 filestore -o wide",
            "backup ls alfa 3f2a9c01 filestore -o name",
            "backup ls alfa 3f2a9c01 filestore -o json",
            "backup ls alfa 3f2a9c01 --destination coordinator",
            "backup get alfa 3f2a9c01 manifest.json --to -",
            "backup get alfa 3f2a9c01 cut --to -",
            "backup get alfa 3f2a9c01 much --to -",
            "backup get alfa 3f2a9c01 damaged --to -",
            "backup get alfa 3f2a9c01 nothing --to -",
            "backup get alfa 3f2a9c01 ..",
            "backup get alfa 3f2a9c01 manifest.json --to /",
            "backup show 3f2a9c01",
            "backup show 5e5e5e5e",
            "backup show 3f2a9c01 -o json",
            "backup show 00000000",
            "backup status",
            "backup status -o wide",
            "backup status --bad -o name",
            "backup status alfa",
            "backup status beta",
            "backup status beta -o json",
            "backup status missing",
            "backup create alfa --note before-import",
            "backup create alfa --no-wait",
            "backup create beta",
            "backup create --all -o name",
            "backup create",
            "backup create alfa --all",
            "backup verify alfa",
            "backup verify beta",
            "backup verify beta --no-wait",
            "backup verify --all -o name",
            "backup verify",
            "backup prune alfa --dry-run",
            "backup prune alfa",
            "backup prune alfa --yes",
            "backup prune alfa --dry-run -o json",
            "backup key alfa",
            "backup key alfa -o json",
            "tenant restore alfa --to latest --as alfa2 --no-wait",
            "tenant restore alfa --to 2026-11-27T15:00:00Z --as alfa2",
            "tenant restore alfa --to yesterday --as alfa2",
            "tenant restore alfa --to before --host h2 --yes",
        ],
    );
}

#[test]
fn create() {
    golden(
        "create",
        &[
            "tenant create alfa --plan standard --domain erp.example.com --modules crm,sale_management --label zone=eu",
            "tenant create alfa -o json",
            "tenant create alfa -o name",
            "tenant create alfa --no-wait",
            "tenant create again",
            "tenant create alfa --dry-run",
            "tenant create alfa --dry-run -o wide",
            "tenant create alfa --dry-run -o name",
        ],
    );
}

#[test]
fn changes() {
    golden(
        "changes",
        &[
            "tenant restart alfa --with-database",
            "tenant suspend alfa",
            "tenant resume alfa --no-wait",
            "tenant resize alfa --plan large",
            "tenant upgrade alfa",
            "tenant upgrade alfa --odoo-image odoo:18.0-patched --no-wait",
            "tenant upgrade same",
            "tenant move moved --to h2 --yes",
            "tenant move gama --to h2 --no-wait -o name",
            "tenant delete alfa --yes",
            "tenant delete delta --yes",
            "tenant delete delta --purge --yes",
            "tenant undelete delta",
            "tenant undelete delta --no-wait -o name",
            "tenant suspend occupied --cancel-running --no-wait",
            "tenant delete occupied --cancel-running --yes --no-wait",
            "tenant access set alfa",
            "tenant access set alfa --user tester",
            "tenant access set alfa --user tester --generate-password --remove-user bob",
            "tenant access set alfa --allow 203.0.113.0/24 --allow 192.0.2.1 --rate 5/10",
            "tenant access set alfa --allow-all --no-users --default-rate",
            "tenant access set missing --allow-all",
        ],
    );
}
