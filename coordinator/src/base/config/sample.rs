//! The commented configuration file that `init` writes. Lines that begin with `#=` are the defaults: a test removes the
//! mark and compares.
//!
//! Not here: reading it, and the values themselves (defaults).

use super::{Config, Listen};

/// A file with `config`'s domain and addresses; everything else is a comment with its default.
pub fn sample(config: &Config) -> String {
    let hosts = config
        .advertise
        .hosts
        .iter()
        .map(|h| format!("{h:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    let mut text = SAMPLE
        .replace("@BASE_DOMAIN@", config.base_domain.as_str())
        .replace("@HOSTS@", &hosts);
    let (listen, usual) = (&config.listen, Listen::default());
    for (key, address, default) in [
        ("grpc", listen.grpc, usual.grpc),
        ("enroll", listen.enroll, usual.enroll),
        ("http", listen.http, usual.http),
    ] {
        if address != default {
            text = text.replace(
                &format!("#= {key} = \"{default}\""),
                &format!("{key} = \"{address}\""),
            );
        }
    }
    text
}

const SAMPLE: &str = r##"# isy-coordinator. Check changes with `isy-coordinator run --check-config`, then restart.
# Lines with `#=` show the defaults; take the mark away to change one. Sizes: "512MiB", "2GiB"; times: "30s", "24h", "7d".

# Tenants answer as <tenant>.<base_domain>.
base_domain = "@BASE_DOMAIN@"
# How customers' URLs begin ("http" or "https"), and their port when it is not the scheme's own: url_port = 8000
#= url_scheme = "http"
# What a tenant gets that asks for nothing.
#= default_plan = "small"
#= default_edition = "18.0"
# Database, keys and certificates; without it, the directory of this file: data_dir = "/var/lib/isyone"

# gRPC with client certificates (operators and agents); enrolment of agents; plain HTTP for health, metrics, Traefik
# and Prometheus: keep that one on loopback, or on an address that only edges and Prometheus reach. Optional: edges, the same for
# Traefiks on other machines over TLS and with the token in edge.token (docs/operations.md#https): edges = "0.0.0.0:7445"
[listen]
#= grpc = "0.0.0.0:7443"
#= enroll = "0.0.0.0:7444"
#= http = "127.0.0.1:7480"

# Names and addresses of this machine, for its certificate. Agents dial the first.
[advertise]
hosts = [@HOSTS@]

# A host that joins by a token for any name (`isyctl host token` without --host) waits for `isyctl host approve`. true: it does not,
# and whoever has such a token has a host in the fleet.
[join]
#= auto_approve = false

# Tenants' networks are cut out of tenant_range (choose one that your machines do not use); their ports are published
# between first_port and last_port. closed_networks: where tenants may not go, besides the control plane, other hosts, each other
# and clouds' metadata services. mail_relays: mail servers that they may reach wherever they are: "10.0.0.25:587", or "host:25" for
# one on their own host. Optional: mtu (largest packet of tenants' networks; without it each host takes Docker's, or its own network's
# where that is below 1500).
[network]
#= tenant_range = "10.200.0.0/14"
#= subnet_prefix = 28
#= first_port = 20000
#= last_port = 29999
#= closed_networks = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15"]
#= mail_relays = []

# Traefik. addresses: where edges connect from, when they are not on the tenants' own hosts. ports: those of an edge on
# a tenant's host, which tenants may reach. Optional: protected_addresses (closed to tenants, besides advertise.hosts),
# url (where people reach the edge when DNS does not say so), traefik_file (the file form: a path ending in .yml in the
# directory that Traefik watches), traefik_dir (the same for shards: <shard>/isyone.yml in it), pages_url (where Traefik
# reaches this machine's HTTP port). shards: names of edges that share the tenants, when they are too many for one
# (docs/operations.md). From one client address to one tenant: rate_average requests per second, rate_burst at once, in_flight
# answered at the same time. trusted_proxies: addresses or networks of proxies before the edges; Traefik's own
# forwardedHeaders.trustedIPs must name the same. frame_options: "SAMEORIGIN", "DENY", or "" to leave the header out. upload_limit:
# largest file that Odoo takes. Optional: [edge.dashboard] with users_file (from `htpasswd -B`, mode 0600), hostname (without it,
# traefik.<base_domain>) and addresses: Traefik's dashboard (docs/operations.md#the-edges-dashboard-and-logs).
# public_addresses: where visitors reach the edges, which (or trusted_proxies) tenants' own domains must lead to; when there is none,
# that is what <tenant>.<base_domain> resolves to.
[edge]
#= addresses = []
#= ports = [80, 443]
#= public_addresses = []
#= entry_points = ["web"]
#= shards = []
#= rate_average = 100
#= rate_burst = 300
#= in_flight = 100
#= trusted_proxies = []
#= frame_options = "SAMEORIGIN"
#= upload_limit = "1GiB"

# HTTPS for tenants (docs/operations.md#https). mode: "off" (plain, or TLS ends before Traefik), "traefik" (Traefik gets
# certificates by its resolver: one edge), "coordinator" (the coordinator gets them and gives them to every edge). Both want
# url_scheme = "https". entry_point: Traefik's with TLS; [edge] entry_points then only redirect. hsts: how long browsers
# remember that there is only HTTPS ("0s": they are not told). wildcard: one certificate for *.<base_domain>.
[tls]
#= mode = "off"
#= entry_point = "websecure"
#= hsts = "180d"
#= resolver = "isyone"
#= wildcard = false

# The certificate authority, in the mode "coordinator"; you accept its terms. Optional: email, eab_key_id and eab_hmac_file (external
# account binding), ca_file (a CA to trust for the directory, PEM), dns_hook (a program, called with present|cleanup, the
# record's name and its value: needed for a wildcard). The limits are Let's Encrypt's. enabled = false: uploaded ones only.
[tls.acme]
#= enabled = true
#= directory = "https://acme-v02.api.letsencrypt.org/directory"
#= dns_wait = "30s"
#= orders_at_once = 4
#= weekly_per_domain = 50
#= weekly_same = 5
#= retry_first = "5m"
#= retry_most = "6h"

# Prometheus. Optional: prometheus_url (for `isyctl tenant verify`), metrics_address (host:port at which Prometheus
# reaches this machine's HTTP port), file_sd_dir (the file form of the targets), certificate_dir (there the coordinator puts
# ca.pem, prometheus.pem and prometheus.key, with which Prometheus may scrape the hosts, and renews them; they are readable by
# the directory's group if it is setgid). certificate_operator is the operator of that certificate; when it was revoked,
# `isyctl operator create prometheus --role monitor` begins anew. agent_port: where agents answer Prometheus (`isy-agent run --metrics`), at their hosts'
# advertised addresses; edges: where the edges' own metrics are (entry point `metrics` in traefik.yml).
[monitoring]
#= agent_port = 7482
#= edges = ["127.0.0.1:8082"]
#= certificate_operator = "prometheus"

# Each tenant's /web/health is asked for through its edge, as a visitor would, once an interval: so the coordinator can tell
# "tenant down" from "host down" from "edge down". Optional: edges (["192.0.2.1:443"], where edges listen; edge.url when not
# set, and without both nobody is asked), [probes.shard_edges] (a = ["192.0.2.1:443"], for each of edge.shards), ca_file (PEM,
# authorities to trust besides this machine's).
[probes]
#= enabled = true
#= interval = "60s"
#= timeout = "10s"
#= concurrency = 256
#= verify_certificates = true

# Tenants' own domains are looked up when they are added, and once an interval: one that does not lead to the edges, three times in a row
# and retry apart, is told of, and nobody is redirected to it. interval = "0s": only when they are added, and what
# was found before is forgotten. servers: name servers ("192.0.2.53:53") in place of this machine's.
[dns]
#= servers = []
#= interval = "1h"
#= retry = "10m"

# How tenants' Odoos send mail (docs/odoo.md#mail); what a tenant's administrator sets in Odoo comes before it. kind: "none", "relay"
# (host = "smtp.example.com", or "host" for one on the tenants' own hosts; port; tls = "starttls", "tls" or "none"; verify = false
# takes any certificate; user with password_file, mode 0600) or "catcher" (each host keeps what its tenants send, and sends nothing).
# Optional: sender_domain = "isy.one" (tenants send as <tenant>@isy.one), alias_domain. from_filter: senders that the relay takes.
# per_day: messages of one tenant, 0 for any number. The same in [plans.<plan>.mail], in place of this as a whole.
[mail]
#= kind = "none"
#= from_filter = []
#= per_day = 0

# Settings of tenants' Odoos, in place of what isyone sets (docs/odoo.md#settings lists them), such as limit_time_real = 300,
# log_handler = ["odoo.sql_db:DEBUG"]. The same in [plans.<plan>.odoo]; there, each counts before the one here.
[odoo]

# Reserved CPU may exceed a machine's by cpu_overcommit; the reserves are kept free on each host.
[placement]
#= cpu_overcommit = 4.0
#= memory_reserve = "512MiB"
#= disk_reserve = "2GiB"

# A new tenant's Odoo.
[defaults]
#= language = "en_US"
#= country = "BR"
#= time_zone = "UTC"
#= admin_login = "admin"

# How long a deleted tenant can be brought back. clock_hold: for so long after a start or a jump of the clock nothing is removed because
# its time is over.
[lifecycle]
#= quarantine = "7d"
#= clock_hold = "1h"

# Tenants' backups: a base backup each night of those `length` hours, the log of what is written after it as often as `rpo` asks (what
# may be lost with a host), a portable dump each dump_nights nights. time_zone: whose night (defaults.time_zone when not set).
# keep_…: how many states are kept; every_second: for how long back every second can be restored; on_purpose: how long what was
# made on order or before a deletion is kept, and all of a deleted tenant. A plan may say otherwise in [plans.<name>.backup], and
# which destinations. host_rate: most bytes per second that are taken from one host.
[backup]
#= enabled = true
#= rpo = "11m"
#= begin = "01:00"
#= length = "4h"
#= dump_nights = 7
#= keep_last = 2
#= keep_daily = 7
#= keep_weekly = 4
#= keep_monthly = 12
#= every_second = "7d"
#= on_purpose = "30d"
#= host_rate = "100MiB"

# Where to, at most four: each gets everything. path: a directory of this machine, below the data directory unless it begins with "/"
# (then it must be there: a disk that is not mounted is not filled by mistake). reserve is kept free there. Optional: rate = "20MiB"
# (most bytes per second from each host). Naming one here replaces the whole list.
#= [backup.destinations.coordinator]
#= path = "backups"
#= reserve = "5GiB"

# Copies of a destination elsewhere, in S3-compatible buckets, and of this coordinator's own state: [backup.buckets.far] with endpoint =
# "https://s3.example.com", bucket, and access_key_file and secret_key_file (mode 0600, below the data directory unless they begin
# with "/"). Optional: region ("us-east-1"), prefix, of (the destination, where there are several), rate_limit = "20MiB" (bytes per
# second in all). docs/operations.md#copies-in-buckets says what to let the key do.

# How often hosts report; after how much silence they get no new tenants, and count as lost.
[liveness]
#= report_interval = "5s"
#= suspect = "20s"
#= lost = "60s"

[certificates]
#= agent_ttl = "24h"
#= operator_ttl = "365d"
#= server_ttl = "90d"

# format: "human" or "json"; filter: as RUST_LOG.
[log]
#= format = "human"
#= filter = "info,rustic_core=warn"

# Sizes. memory and cpu: limit of both containers together; disk: what placement counts on, and the tenant is held to; workers:
# Odoo's HTTP workers, 0 is one threaded process. Optional: pids, nofile, device_read_bps = "100MiB", device_write_bps,
# device_read_iops, device_write_iops (docs/configuration.md); sleep_after = "14d" (a tenant in which nobody was logged in for so
# long is stopped, and the next visitor wakes it; docs/operations.md); standby = { apart = "rack", takes_over_after = "60s" } (each
# tenant has a copy on a host of another rack, which takes over when the tenant's host was silent for so long; docs/operations.md); and for its network: connections = 4096 (that a tenant may
# have), connections_per_second = 250 (that it may begin), egress = "listed" with egress_allow = ["api.example.com",
# "203.0.113.0/24"] (nothing else is open), egress_smtp = true (port 25 is open). Naming one here replaces the whole list.
#= [plans.small]
#= memory = "1GiB"
#= cpu = 0.5
#= disk = "10GiB"
#= workers = 0
#= [plans.standard]
#= memory = "2GiB"
#= cpu = 1.0
#= disk = "20GiB"
#= workers = 2
#= [plans.large]
#= memory = "4GiB"
#= cpu = 2.0
#= disk = "50GiB"
#= workers = 4

# Images that operators may name for a tenant besides the editions', such as "registry.example.com/odoo:*": * stands for any
# characters but "/". Admins may name any.
[images]
#= allow = []

# Pairs of images, by tag or digest. Naming one here replaces the whole list.
#= [editions."18.0"]
#= odoo = "odoo:18.0"
#= postgres = "postgres:15"
#= [editions."19.0"]
#= odoo = "odoo:19.0"
#= postgres = "postgres:17"
"##;
