//! HTTPS at real edges, with certificates from a real CA (pebble), obtained in both ways.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use isyone_tests::e2e::{
    acme::Pebble,
    beside, enabled,
    http::get,
    https::{Edge, Site},
    process::{run, self_signed},
    wait_for,
};

const STAND_IN: &str = env!("CARGO_BIN_EXE_isyone-stand-in");
/// Timeout, far above any normal wait.
const SOON: Duration = Duration::from_secs(45);
/// Certificates are renewed after 7/12 to 2/3 of this, which leaves some 13 seconds for a renewal.
const SHORT_LIFE_S: u32 = 40;
const LONG_LIFE_S: u32 = 86_400 * 90;

fn coordinator_tls(pebble: &Pebble, more: &str) -> String {
    format!(
        "[tls]\nmode = \"coordinator\"\n{more}\n[tls.acme]\ndirectory = \"{}\"\nca_file = \"{}\"\nemail = \"ops@isy.one\"\n\
         dns_hook = \"{}\"\ndns_wait = \"0s\"\nretry_first = \"1s\"\nretry_most = \"5s\"\nweekly_same = 1000\n\
         weekly_per_domain = 1000\n[dns]\nservers = [\"{}\"]\ninterval = \"1s\"\nretry = \"1s\"\n",
        pebble.directory(),
        pebble.ca_file().display(),
        pebble.dns_hook().display(),
        pebble.dns(),
    )
}

fn served(edges: &[Edge], host: &str, root: &std::path::Path) {
    for edge in edges {
        wait_for(
            &format!("{host} at {}: {:?}", edge.secure, edge.https(host, root)),
            SOON,
            || edge.https(host, root).ok(),
        );
    }
}

/// The serial number in `cert show`, in the form that `openssl` prints.
fn serial(site: &Site, name: &str) -> String {
    let shown = site.json(&["cert", "show", name]);
    shown["serial"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches('0')
        .to_owned()
}

#[test]
fn the_coordinator_gets_certificates_renews_them_and_gives_them_to_every_edge() {
    if !enabled("the_coordinator_gets_certificates_renews_them_and_gives_them_to_every_edge") {
        return;
    }
    let _beside = beside();
    let mut site = Site::start(
        STAND_IN,
        2,
        SHORT_LIFE_S,
        |pebble| coordinator_tls(pebble, ""),
        |_| String::new(),
    );
    site.isyctl(&["tenant", "create", "alfa", "--domain", "erp.alfa.example"])
        .ok();
    let root = site.pebble.root();
    for host in ["alfa.isy.one", "erp.alfa.example"] {
        served(&site.edges, host, &root);
        wait_for("the same certificate at both edges", SOON, || {
            let known = serial(&site, host);
            site.edges
                .iter()
                .all(|edge| edge.serial(host) == known)
                .then_some(())
        });
    }
    a_domain_is_checked_served_and_left_when_it_leads_elsewhere(&site, &root);
    plain_http_only_redirects_and_answers_challenges(&site);
    strangers_get_no_handshake_and_browsers_are_told_to_stay(&site, &root);
    a_renewal_costs_no_request(&site, &root);
    an_outage_of_the_authority_breaks_nothing(&mut site);
    without_the_coordinator_edges_go_on(&mut site);
}

fn a_domain_is_checked_served_and_left_when_it_leads_elsewhere(
    site: &Site,
    root: &std::path::Path,
) {
    let domain = "shop.customer.example";
    site.pebble.lead(domain, "203.0.113.9");
    let add = ["tenant", "domain", "add", "alfa", domain, "--primary"];
    let refused = site.isyctl(&add);
    let told = |text: &str| {
        assert!(
            refused.code == 1 && refused.stderr.contains(text),
            "{text}: {refused:?}"
        )
    };
    told("found: A 203.0.113.9; no edge has 203.0.113.9");
    told("set CNAME shop.customer.example → alfa.isy.one, or shop.customer.example A 127.0.0.1");
    site.pebble.alias(domain, "alfa.isy.one");
    site.isyctl(&add).ok();
    served(&site.edges, domain, root);
    let redirect = |edge: &Edge| {
        let port = edge.secure.port();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--max-time", "10", "--cacert"])
            .arg(root);
        curl.args(["--resolve", &format!("alfa.isy.one:{port}:127.0.0.1")]);
        let answer = run(curl.arg(format!("https://alfa.isy.one:{port}/odoo")))
            .stdout
            .to_lowercase();
        answer.lines().find_map(|line| {
            line.strip_prefix("location: ")
                .map(|to| to.trim().to_owned())
        })
    };
    let there = format!("https://{domain}:{}/odoo", site.edges[0].secure.port());
    let edges_send = |to: Option<&str>| {
        wait_for("the redirect", SOON, || {
            site.edges
                .iter()
                .all(|edge| redirect(edge).as_deref() == to)
                .then_some(())
        });
    };
    edges_send(Some(&there));
    site.pebble.alias(domain, "elsewhere.example");
    site.pebble.lead("elsewhere.example", "203.0.113.9");
    edges_send(None);
    let list = site.isyctl(&["tenant", "domain", "list", "alfa"]).ok();
    assert!(
        list.contains("unreachable") && list.contains("elsewhere.example"),
        "{list}"
    );
    site.pebble.alias(domain, "alfa.isy.one");
    edges_send(Some(&there));
    site.isyctl(&["tenant", "domain", "remove", "alfa", domain])
        .ok();
    edges_send(None);
}

fn plain_http_only_redirects_and_answers_challenges(site: &Site) {
    for edge in &site.edges {
        let page = get(edge.web, "alfa.isy.one", "/web/login?a=b");
        let port = site.edges[0].secure.port();
        let there = format!("location: https://alfa.isy.one:{port}/web/login?a=b");
        assert!(
            matches!(page.status, 301 | 308) && page.head.to_lowercase().contains(&there),
            "{page:?}"
        );
        assert_eq!(
            get(edge.web, "nobody.isy.one", "/").status,
            page.status,
            "no hint of which tenants there are"
        );
        let challenge = get(
            edge.web,
            "alfa.isy.one",
            "/.well-known/acme-challenge/nothing",
        );
        assert_eq!(
            (challenge.status, challenge.body.trim()),
            (404, "no such challenge")
        );
    }
}

fn strangers_get_no_handshake_and_browsers_are_told_to_stay(site: &Site, root: &std::path::Path) {
    let edge = &site.edges[1];
    let curl = |url: String| {
        run(Command::new("curl").args(["--silent", "--insecure", "--include", &url])).stdout
    };
    let refused = curl(format!("https://{}/traefik/config", site.for_edges()));
    assert!(
        refused.starts_with("HTTP/1.1 401") && !refused.contains("PRIVATE"),
        "{refused}"
    );
    for (token, path, status) in [
        ("prometheus.token", "/sd/odoo", "200"),
        ("prometheus.token", "/probes", "200"),
        ("prometheus.token", "/metrics", "200"),
        ("prometheus.token", "/traefik/config", "401"),
        ("edge.token", "/traefik/config", "200"),
        ("edge.token", "/sd/odoo", "401"),
    ] {
        let answer = site.as_bearer(token, path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{token} {path}: {answer}"
        );
    }
    let page = edge
        .https("alfa.isy.one", root)
        .expect("an answer")
        .to_lowercase();
    assert!(
        page.contains("strict-transport-security: max-age=15552000")
            && page.starts_with("http/2 200"),
        "{page}"
    );
    // curl's 35 is a refused handshake; 60 would be an untrusted certificate.
    let stranger = edge.https("nobody.isy.one", root);
    assert!(
        stranger
            .as_ref()
            .is_err_and(|why| why.starts_with("curl: (35)")),
        "{stranger:?}"
    );
}

fn a_renewal_costs_no_request(site: &Site, root: &std::path::Path) {
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let before = serial(site, "alfa.isy.one");
    thread::scope(|scope| {
        let (stop, asked) = (&stop, &asked);
        let visitors: Vec<_> = site
            .edges
            .iter()
            .map(|edge| {
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        for host in ["alfa.isy.one", "erp.alfa.example"] {
                            failures.extend(edge.https(host, root).err());
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                        thread::sleep(Duration::from_millis(100));
                    }
                    failures
                })
            })
            .collect();
        let renewed = || {
            let known = serial(site, "alfa.isy.one");
            (known != before
                && site
                    .edges
                    .iter()
                    .all(|edge| edge.serial("alfa.isy.one") == known))
            .then_some(())
        };
        wait_for("another certificate at both edges", SOON, renewed);
        // Wait until the first certificate has expired.
        thread::sleep(Duration::from_secs(10));
        stop.store(true, Ordering::Relaxed);
        for visitor in visitors {
            assert_eq!(visitor.join().expect("a visitor"), Vec::<String>::new());
        }
    });
    println!(
        "{} requests around the renewals, none failed",
        asked.load(Ordering::Relaxed)
    );
    let events = site.isyctl(&["events", "-o", "json"]).ok();
    assert!(
        events.contains("certificate.issued") && events.contains("certificate.renewed"),
        "{events}"
    );
    let metrics = site.http("/metrics");
    assert!(
        metrics.contains("isyone_certificate_not_after_seconds{certificate=\"alfa.isy.one\"} "),
        "{metrics}"
    );
}

fn an_outage_of_the_authority_breaks_nothing(site: &mut Site) {
    let old = site.file("old-root.pem");
    std::fs::copy(site.pebble.root(), &old).expect("a copy");
    site.pebble.stop();
    site.isyctl(&["tenant", "create", "beta"]).ok();
    wait_for("the failure to be told", SOON, || {
        let listed = site.json(&["cert", "list"]);
        let beta = listed
            .as_array()?
            .iter()
            .find(|c| c["name"] == "beta.isy.one")?
            .clone();
        (beta["state"] == "failing" && beta["error"].as_str()?.contains("refused")).then_some(())
    });
    for edge in &site.edges {
        edge.https("alfa.isy.one", &old).expect("what runs goes on");
    }
    // After its restart the CA has forgotten our account, too.
    site.pebble.resume();
    served(&site.edges, "beta.isy.one", &site.pebble.root());
    assert_eq!(
        site.json(&["cert", "show", "beta.isy.one"])["state"],
        "valid"
    );
}

fn without_the_coordinator_edges_go_on(site: &mut Site) {
    site.coordinator = None;
    thread::sleep(Duration::from_secs(2));
    for edge in &site.edges {
        edge.https("beta.isy.one", &site.pebble.root())
            .expect("what runs goes on");
    }
}

#[test]
fn one_wildcard_is_for_all_tenants_and_uploaded_certificates_go_before_orders() {
    if !enabled("one_wildcard_is_for_all_tenants_and_uploaded_certificates_go_before_orders") {
        return;
    }
    let _beside = beside();
    let wildcard = |pebble: &Pebble| {
        let watched = format!(
            "[monitoring]\ncertificate_dir = \"prometheus\"\n\
             [probes]\ninterval = \"2s\"\ntimeout = \"2s\"\nedges = [\"{{edge}}\"]\nca_file = \"{}\"\n",
            pebble.root().display()
        );
        coordinator_tls(pebble, "wildcard = true") + &watched
    };
    let site = Site::start(STAND_IN, 1, LONG_LIFE_S, wildcard, |_| String::new());
    site.isyctl(&["tenant", "create", "alfa"]).ok();
    site.isyctl(&["tenant", "create", "beta"]).ok();
    let (root, edge) = (site.pebble.root(), &site.edges[0]);
    served(&site.edges, "alfa.isy.one", &root);
    served(&site.edges, "beta.isy.one", &root);
    assert_eq!(edge.serial("alfa.isy.one"), edge.serial("beta.isy.one"));
    assert_eq!(edge.serial("beta.isy.one"), serial(&site, "*.isy.one"));
    operators_see_when_certificates_end(&site);
    let own = own_certificate(&site, "own.example");
    let [certificate, key] = [&own.0, &own.1].map(|path| path.display().to_string());
    let wrong = site.isyctl(&[
        "cert",
        "add",
        "own",
        "--certificate",
        &certificate,
        "--key",
        &certificate,
    ]);
    assert!(
        wrong.code != 0 && wrong.stderr.contains("--key"),
        "{wrong:?}"
    );
    site.isyctl(&[
        "cert",
        "add",
        "own",
        "--certificate",
        &certificate,
        "--key",
        &key,
    ])
    .ok();
    site.isyctl(&["tenant", "create", "gama", "--domain", "own.example"])
        .ok();
    served(&site.edges, "own.example", &own.0);
    let listed = site.isyctl(&["cert", "list", "-o", "name"]).ok();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["*.isy.one", "own"]);
    // Its key goes to edges and nowhere else.
    assert!(
        !site
            .isyctl(&["cert", "show", "own", "-o", "json"])
            .ok()
            .contains("PRIVATE")
    );
    assert!(site.http("/traefik/config").contains("PRIVATE"));
    site.isyctl(&["cert", "remove", "own", "--yes"]).ok();
    served(&site.edges, "own.example", &root);
}

/// A real Prometheus scrapes the coordinator, whose probes see the certificate that the edge presents. Breaks if the
/// panel queries another name, or if probes do not record the certificate: leave `certificate_until_s` out of
/// `exchange` in coordinator/src/blackbox/ask.rs.
fn operators_see_when_certificates_end(site: &Site) {
    let prometheus = site.prometheus();
    for tenant in ["alfa", "beta"] {
        let of = format!("{{job=\"probes\", tenant=\"{tenant}\", host=\"h1\"}}");
        let ends = site.edges[0].ends(&format!("{tenant}.isy.one"));
        prometheus.wait(&format!("probe_success{of} == 1"), SOON);
        prometheus.wait(
            &format!("probe_ssl_earliest_cert_expiry{of} == {ends}"),
            SOON,
        );
    }
    print!(
        "{}",
        prometheus
            .panels(&["--only", "^edge: Certificates that end first$"])
            .ok()
    );
}

fn own_certificate(site: &Site, host: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (site.file("own.pem"), site.file("own.key"));
    self_signed("own", &[host], &certificate, &key);
    (certificate, key)
}

#[test]
fn traefik_gets_certificates_by_itself_for_one_edge() {
    if !enabled("traefik_gets_certificates_by_itself_for_one_edge") {
        return;
    }
    let _beside = beside();
    let resolver = |pebble: &Pebble| {
        format!(
            "\ncertificatesResolvers:\n  isyone:\n    acme:\n      email: ops@isy.one\n      storage: {}\n      keyType: EC256\n      \
             caServer: {}\n      caCertificates: [{}]\n      httpChallenge:\n        entryPoint: web\n",
            pebble.root().with_file_name("acme.json").display(),
            pebble.directory(),
            pebble.ca_file().display(),
        )
    };
    let tls = |_: &Pebble| "[tls]\nmode = \"traefik\"\n".to_owned();
    let site = Site::start(STAND_IN, 1, LONG_LIFE_S, tls, resolver);
    site.isyctl(&["tenant", "create", "alfa", "--domain", "erp.alfa.example"])
        .ok();
    let (root, edge) = (site.pebble.root(), &site.edges[0]);
    served(&site.edges, "alfa.isy.one", &root);
    served(&site.edges, "erp.alfa.example", &root);
    assert_ne!(
        edge.serial("alfa.isy.one"),
        edge.serial("erp.alfa.example"),
        "one each"
    );
    assert_eq!(get(edge.web, "alfa.isy.one", "/").status, 301);
}
