//! What is allowed: the only file to change when modules appear, disappear, or gain imports.

/// Modules, each with the top modules of its crate that it imports, separated by spaces.
pub(super) type Imports = &'static [(&'static str, &'static str)];

/// The crates whose module imports are restricted. Roots (`lib.rs`, `main.rs`, binaries) may import everything and are
/// not listed; nor are modules that import nothing.
pub(super) const CRATES: &[(&str, Imports)] = &[
    (
        "proto/types",
        &[
            ("backup", "ids"),
            ("identity", "ids"),
            ("jobs", "backup ids proof"),
            ("known", "echo ids spec"),
            ("lease", "ids"),
            ("mail", "echo ids network spec"),
            ("network", "echo ids spec"),
            ("odoo", "echo spec"),
            ("operation", "plan"),
            (
                "plan",
                "backup callers generation ids jobs lease mail network odoo spec",
            ),
            ("proof", "backup spec"),
            ("report", "backup disk finding ids operation plan proof"),
            ("spec", "echo ids"),
            ("token", "plan spec"),
        ],
    ),
    (
        "proto",
        &[
            ("convert", "error pb"),
            ("hosts", "convert error pb"),
            ("parts", "convert error pb"),
        ],
    ),
    (
        "coordinator/fleet",
        &[
            (
                "change",
                "backups desired domains event liveness observed operation placement planted procedures \
                 settings state views written",
            ),
            ("desired", "backups event operation"),
            ("domains", "orders"),
            ("liveness", "observed settings"),
            ("operation", "backups event"),
            ("orders", "desired"),
            ("placement", "desired liveness observed settings"),
            ("probes", "desired liveness"),
            (
                "procedures",
                "desired observed operation planted settings state views",
            ),
            (
                "rebalance",
                "change desired liveness observed operation placement settings state views",
            ),
            ("settings", "backups shards"),
            (
                "state",
                "desired event liveness observed operation placement settings",
            ),
            (
                "testing",
                "change desired observed procedures settings shards state",
            ),
            ("top", "desired liveness probes settings state views"),
            (
                "views",
                "backups desired liveness observed operation planted settings state",
            ),
            ("written", "desired event operation"),
        ],
    ),
    (
        "coordinator",
        &[
            ("agents", "base ports wire writer"),
            ("backup", "base writer"),
            ("doctor", "base init"),
            ("edges", "base writer"),
            ("init", "base writer"),
            (
                "operators",
                "agents base edges ports repositories wire writer",
            ),
            ("ports", "base edges writer"),
            (
                "program",
                "backup base doctor init rebuild rotation server shipping writer",
            ),
            ("rebuild", "init writer"),
            ("repositories", "base wire writer"),
            ("rotation", "agents backup base ports writer"),
            (
                "server",
                "agents base edges init operators ports repositories rotation shipping writer",
            ),
            ("shipping", "base writer"),
            ("wire", "base edges writer"),
            ("writer", "base"),
        ],
    ),
    (
        "agent",
        &[
            (
                "agent",
                "backup base docker doctor host jobs link metrics peer plan tenant",
            ),
            ("backup", "base docker host jobs peer plan tenant"),
            ("docker", "plan"),
            ("doctor", "base docker host"),
            ("host", "base docker plan"),
            ("jobs", "base docker host peer plan tenant"),
            ("link", "base docker host plan"),
            ("metrics", "base host plan"),
            ("peer", "base host plan tenant"),
            ("relay", "base host plan"),
            ("tenant", "base docker host plan"),
            ("testing", "base docker host plan"),
        ],
    ),
    (
        "ctl",
        &[
            ("app", "client context exit options output retry trust"),
            ("cli", "app exit nouns options"),
            ("client", "clock context exit output retry status"),
            ("context", "exit"),
            (
                "nouns",
                "app client clock context exit options output retry status terminal top wait",
            ),
            ("options", "exit output"),
            ("output", "exit terminal"),
            ("progress", "output"),
            ("retry", "status"),
            ("status", "exit fields output"),
            ("top", "client clock exit output terminal"),
            ("trace", "exit"),
            ("trust", "client context exit output"),
            ("usage", "cli"),
            ("wait", "client clock exit output progress retry status"),
        ],
    ),
    (
        "backup",
        &[
            ("bridge", "error job key limits seal store"),
            ("copy", "error index job limits repository seal store"),
            ("error", "store"),
            ("index", "bridge error key limits seal store"),
            (
                "reader",
                "bridge error index job key limits seal snapshot store tree",
            ),
            (
                "repository",
                "bridge error index job key reader seal snapshot source store verify write",
            ),
            ("restore", "error limits reader snapshot store tree"),
            ("retention", "snapshot store"),
            ("seal", "error key limits store"),
            ("snapshot", "bridge error key limits seal store"),
            ("source", "error job limits tree"),
            ("store", "limits"),
            ("tree", "bridge error limits store"),
            (
                "verify",
                "error index limits reader seal snapshot store tree",
            ),
            (
                "write",
                "bridge error index job key limits reader seal snapshot source store tree",
            ),
        ],
    ),
    (
        "bucket",
        &[
            ("bucket", "access error"),
            ("store", "bucket error"),
            ("testing", "access"),
        ],
    ),
    (
        "relay",
        &[
            ("admin", "figures ledger tenant"),
            ("admitted", "judge ledger line pipe tenant visitor"),
            ("figures", "pages"),
            ("file", "routes"),
            ("gate", "ledger shares turns visitor"),
            ("intake", "ledger pace pages shares spool"),
            ("lapse", "admin clock ledger"),
            ("lease", "ledger"),
            ("ledger", "shares visitor"),
            ("line", "ledger pace"),
            ("listeners", "lease ledger limits line serve tenant"),
            ("pages", "judge"),
            ("pipe", "ledger spool"),
            (
                "relay",
                "admin clock file handover lapse ledger listeners place routes spool tenant",
            ),
            ("routes", "lease limits"),
            (
                "serve",
                "admitted intake judge limits line pages pipe routes shares tenant tunnel upstream \
                 visitor",
            ),
            ("spool", "ledger"),
            (
                "tenant",
                "budget clock figures gate judge lease ledger limits pages routes spool turns \
                 visitor",
            ),
            ("tunnel", "admitted judge pages shares tenant upstream"),
            ("turns", "shares"),
            (
                "upstream",
                "gate intake limits pages pipe routes shares tenant visitor",
            ),
        ],
    ),
    (
        "traefik",
        &[
            ("fragment", "dynamic pages tls"),
            ("pages", "dynamic tls"),
            ("routes", "fragment"),
            ("tls", "dynamic"),
        ],
    ),
    ("monitoring", &[]),
];

/// Crates without side effects: they know only what they are passed.
pub(super) const PURE: &[&str] = &["coordinator/fleet", "proto/types"];

/// Dependencies that a pure crate must not have.
pub(super) const PURE_DEPENDENCIES: &[&str] = &[
    "tokio",
    "tonic",
    "rcgen",
    "hyper",
    "sqlx",
    "axum",
    "isyone-proto",
    "rand",
];

/// Files of more than 500 lines, each with the reason.
pub(super) const TOO_LONG: &[(&str, &str)] = &[];

/// Crates without a table: what they are for has no layers, and nothing that is shipped depends on them (but on telemetry, whose five
/// files import nothing of each other that could turn round).
pub(super) const FLAT: &[&str] = &["telemetry", "tests", "tests/bench", "xtask"];

/// Crates whose modules need not be on the code map.
pub(super) const NOT_ON_THE_MAP: &[&str] = &[
    "proto",
    "traefik",
    "monitoring",
    "telemetry",
    "relay",
    "proto/types",
];

/// Doc comments that say no more than the name below them.
pub(super) const USELESS: &[&str] = &[
    "Whom",
    "Who",
    "Which",
    "Where",
    "What",
    "When",
    "How",
    "Why",
    "Whose",
    "Key",
    "Name",
    "Text",
    "Everything",
    "Likewise",
    "Folder",
    "Short form",
    "Its name",
    "See the module",
    "The same",
];
