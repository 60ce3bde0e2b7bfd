//! What is allowed: the only file to change when modules come, go, or learn of each other.

/// Modules, each with the top modules of its crate that it imports, by their names with spaces between.
pub(super) type Imports = &'static [(&'static str, &'static str)];

/// The crates whose modules have a direction. Roots (`lib.rs`, `main.rs`, binaries) may import all and are not named; nor are
/// modules that import nothing.
pub(super) const CRATES: &[(&str, Imports)] = &[
    (
        "proto",
        &[
            ("convert", "error ids pb plan spec"),
            ("parts", "convert error pb"),
            ("plan", "ids spec"),
            ("spec", "ids"),
            ("tls", "ids"),
            ("token", "plan spec"),
        ],
    ),
    // ("coordinator/fleet", &[]),
    // As it is, cycles and all: to be filled in anew when its modules are regrouped.
    (
        "coordinator",
        &[
            (
                "acme",
                "certificates change clock config context fleet secrets",
            ),
            (
                "api",
                "blackbox certificates change clock config context domains edges fleet listener \
                 liveness metrics observed pki placement secrets settings shards state streams \
                 top views writer",
            ),
            (
                "blackbox",
                "change clock config context fleet liveness secrets settings state views",
            ),
            ("certificates", "fleet"),
            (
                "change",
                "domains fleet liveness observed placement settings state store views",
            ),
            ("clock", "writer"),
            ("config", "files settings shards"),
            (
                "context",
                "acme blackbox config dns domains edges fleet metrics pki secrets session \
                 streams writer",
            ),
            ("dns", "domains"),
            (
                "domains",
                "acme change clock config context dns fleet secrets state",
            ),
            ("edges", "change context shards"),
            ("enroll", "api change clock context fleet writer"),
            (
                "http",
                "blackbox change clock context files fleet listener metrics pki publish secrets \
                 settings state views writer",
            ),
            (
                "init",
                "change clock config files fleet pki secrets store writer",
            ),
            ("listener", "clock metrics pki"),
            ("liveness", "observed settings"),
            ("metrics", "edges liveness settings state timings"),
            ("observed", "fleet"),
            ("pki", "files secrets"),
            ("placement", "fleet liveness observed settings state"),
            ("program", "clock config init secrets server telemetry"),
            (
                "publish",
                "change config context edges files fleet settings shards state views writer",
            ),
            ("scraper", "change clock context files fleet pki"),
            ("secrets", "files fleet"),
            (
                "server",
                "acme api blackbox clock config context dns domains edges enroll http init \
                 listener metrics pki publish scraper secrets session store streams views writer",
            ),
            (
                "session",
                "api change clock context fleet observed state streams timings traces views \
                 writer",
            ),
            ("settings", "shards"),
            ("state", "fleet liveness observed placement settings"),
            ("store", "change fleet"),
            ("streams", "api secrets"),
            ("telemetry", "config"),
            ("testing", "change fleet observed settings shards state"),
            ("top", "blackbox fleet liveness settings state views"),
            ("traces", "change fleet store"),
            ("views", "fleet liveness observed settings state"),
            ("writer", "change settings state store timings traces"),
        ],
    ),
    // As it is, cycles and all: to be filled in anew when its modules are regrouped.
    (
        "agent",
        &[
            ("addon", "fsutil"),
            (
                "agent",
                "config docker firewall host http identity ledger link metrics reconcile renew \
                 usage",
            ),
            ("bulk", "docker host"),
            ("comeback", "clock link"),
            ("config", "fsutil"),
            (
                "database",
                "clock docker execute failpoints golden ready sql stack state tenant tree",
            ),
            ("diff", "docker images sql stack state"),
            (
                "execute",
                "clock database diff docker failpoints fsutil golden ready stack state steps \
                 tenant",
            ),
            ("fake_docker", "docker stack"),
            ("firewall", "fsutil host metrics reconcile"),
            ("golden", "fsutil tree"),
            (
                "host",
                "addon clock config docker golden images known render stack status survey traces",
            ),
            ("http", "metrics"),
            ("identity", "fsutil metrics"),
            ("images", "docker fsutil"),
            ("join", "config identity"),
            ("known", "docker fsutil resources"),
            ("ledger", "fsutil"),
            (
                "link",
                "bulk clock comeback host identity ledger metrics reconcile report resources",
            ),
            (
                "metrics",
                "clock config fake_docker fsutil host reconcile resources sql stack status \
                 testing",
            ),
            ("probe", "docker stack"),
            ("ready", "docker tenant"),
            ("reconcile", "clock docker golden host stack status tenant"),
            ("render", "addon docker fsutil images sql stack"),
            ("renew", "clock identity"),
            ("report", "resources state status"),
            ("resources", "docker metrics"),
            ("sql", "stack"),
            ("stack", "addon docker images render sql"),
            ("state", "fsutil"),
            ("status", "metrics state"),
            ("steps", "state"),
            ("survey", "docker"),
            (
                "tenant",
                "clock diff docker execute fsutil golden host images sql stack state status \
                 steps tree",
            ),
            ("usage", "host metrics resources status tree"),
        ],
    ),
    (
        "ctl",
        &[
            ("app", "client context exit options output retry"),
            ("cli", "app exit nouns options"),
            ("client", "clock context exit output retry status"),
            ("context", "exit"),
            (
                "nouns",
                "app client clock context exit options output retry status terminal top wait",
            ),
            ("options", "output"),
            ("output", "exit"),
            ("progress", "output"),
            ("retry", "status"),
            ("status", "exit output"),
            ("top", "client clock exit output terminal"),
            ("trace", "exit"),
            ("wait", "client clock exit output progress retry status"),
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
    ("telemetry", &[("client", "context")]),
];

/// Crates without any world around them: what they are told is all they know.
pub(super) const PURE: &[&str] = &[
    // "coordinator/fleet",
];

/// What a pure crate must not depend on.
pub(super) const PURE_DEPENDENCIES: &[&str] = &["tokio", "tonic", "rcgen", "hyper", "sqlx", "axum"];

/// Files of more than 500 lines, each with its reason.
pub(super) const TOO_LONG: &[(&str, &str)] = &[];

/// Crates whose modules the code map need not name.
pub(super) const NOT_ON_THE_MAP: &[&str] = &["proto", "traefik", "monitoring", "telemetry"];

/// Names in the code map that look like modules and are none.
pub(super) const NOT_MODULES: &[&str] = &["isyctl"];

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
