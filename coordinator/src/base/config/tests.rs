//! The defaults are valid, the sample shows them, errors name the place, and contradictions are found.

use super::*;
use isyone_proto::spec::Bounds;

#[test]
fn the_defaults_are_valid_and_survive_toml() {
    let config = Config::default();
    config.check().unwrap();
    assert_eq!(Config::parse("x", &config.to_toml()).unwrap(), config);
}

#[test]
fn the_sample_shows_every_default_as_it_is() {
    let text = sample(&Config::default());
    assert_eq!(Config::parse("sample", &text).unwrap(), Config::default());
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n")
        .collect();
    assert_eq!(
        Config::parse("sample", &uncommented).unwrap(),
        Config::default()
    );
}

#[test]
fn the_sample_keeps_what_init_was_told() {
    let mut config = Config::default();
    config.listen.http = ([127, 0, 0, 1], 17_480).into();
    config.advertise.hosts = vec!["192.0.2.1".to_owned()];
    assert_eq!(Config::parse("sample", &sample(&config)).unwrap(), config);
}

#[test]
fn errors_name_line_and_key() {
    for (text, place) in [
        ("a = 1", "f line 1, a"),
        (
            "base_domain = \"isy.one\"\n[network]\nfirst_prot = 5\n",
            "f line 3, network.first_prot",
        ),
        (
            "[network]\nfirst_port = \"x\"\n",
            "f line 2, network.first_port",
        ),
        (
            "[plans.small]\nmemory = \"lots\"\ncpu = 1\ndisk = 1",
            "f line 2, plans.small.memory",
        ),
        ("[listen]\ngrpc = \"nowhere\"", "f line 2, listen.grpc"),
        ("[edge]\nshards = [\"A b\"]", "f line 2, edge.shards[0]"),
        ("x", "f line 1"),
    ] {
        let error = Config::parse("f", text).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
}

fn plan(more: &str) -> String {
    format!("[plans.small]\nmemory = \"1GiB\"\ncpu = 1\ndisk = \"10GiB\"\n{more}")
}

#[test]
fn a_plan_says_further_limits_or_none() {
    let size = |text: &str| {
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap();
        config.settings().plans["small"]
    };
    assert!(size(&plan("")).bounds.are_unsaid());
    let limited = size(&plan(
        "pids = 400\nnofile = 8192\ndevice_read_bps = \"100MiB\"\ndevice_write_iops = 500",
    ));
    let bounds = limited.bounds;
    assert_eq!((bounds.pids, bounds.nofile), (400, 8_192));
    assert_eq!(
        (bounds.device_read_bps, bounds.device_write_bps),
        (100 << 20, 0)
    );
    assert_eq!(
        (bounds.device_read_iops, bounds.device_write_iops),
        (0, 500)
    );
    // All of them, each another.
    let all = "pids = 401\nnofile = 8193\ndevice_read_bps = \"3MiB\"\ndevice_write_bps = \"4MiB\"\n\
               device_read_iops = 600\ndevice_write_iops = 700";
    let expected = Bounds {
        pids: 401,
        nofile: 8_193,
        device_read_bps: 3 << 20,
        device_write_bps: 4 << 20,
        device_read_iops: 600,
        device_write_iops: 700,
    };
    assert_eq!(size(&plan(all)).bounds, expected);
}

#[test]
fn a_plan_that_could_not_run_is_found() {
    for (text, key) in [
        (&plan("nofile = 20001"), "plans.small.nofile"),
        (&plan("nofile = 100"), "plans.small.nofile"),
        (&plan("workers = 4\npids = 160"), "plans.small.pids"),
        (
            &plan("device_write_bps = 1000"),
            "plans.small.device_write_bps",
        ),
        (
            &plan("device_read_iops = 0"),
            "plans.small.device_read_iops",
        ),
    ] {
        assert_refused(text, key);
    }
}

/// The configuration is refused, naming its key.
fn assert_refused(text: &str, key: &str) {
    let error = Config::parse("f", text).unwrap().check().unwrap_err();
    assert!(error.to_string().starts_with(key), "{text}: {error}");
}

#[test]
fn contradictions_are_found() {
    for (text, key) in [
        ("default_plan = \"huge\"", "default_plan"),
        ("[network]\nfirst_port = 30000", "network.last_port"),
        ("[network]\nsubnet_prefix = 30", "network.subnet_prefix"),
        (
            "[network]\ntenant_range = \"10.200.0.1/14\"",
            "network.tenant_range",
        ),
        ("[listen]\nhttp = \"127.0.0.1:20000\"", "listen.http"),
        ("[advertise]\nhosts = []", "advertise.hosts"),
        ("[advertise]\nhosts = [\"http://x\"]", "advertise.hosts"),
        ("[liveness]\nsuspect = \"2m\"", "liveness.lost"),
        (
            "[certificates]\nagent_ttl = \"1s\"",
            "certificates.agent_ttl",
        ),
        ("[edge]\npages_url = \"nonsense\"", "edge.pages_url"),
        ("[edge]\nshards = [\"a\", \"b\", \"a\"]", "edge.shards"),
        ("[edge]\ntraefik_dir = \"x\"", "edge.traefik_dir"),
        ("[edge]\nin_flight = 0", "edge.in_flight"),
        (
            "[edge]\ntrusted_proxies = [\"0.0.0.0/0\"]",
            "edge.trusted_proxies",
        ),
        ("[edge]\nupload_limit = \"1MiB\"", "edge.upload_limit"),
        (
            "[edge.dashboard]\nusers_file = \"x\"\nhostname = \"alfa.isy.one\"",
            "edge.dashboard.hostname",
        ),
        (
            "[placement]\ncpu_overcommit = 0.5",
            "placement.cpu_overcommit",
        ),
        ("[log]\nfilter = \"a=b=c\"", "log.filter"),
        ("[tls]\nmode = \"traefik\"", "url_scheme"),
        ("[tls]\nentry_point = \"a b\"", "tls.entry_point"),
        (
            "url_scheme = \"https\"\n[tls]\nmode = \"traefik\"\nentry_point = \"web\"",
            "edge.entry_points",
        ),
        (
            "[edge]\nshards = [\"a\"]\npublic_addresses = [\"192.0.2.1\"]",
            "edge.public_addresses",
        ),
        ("[dns]\nservers = [\"192.0.2.1:0\"]", "dns.servers"),
        ("[dns]\ninterval = \"10ms\"", "dns.interval"),
        ("[dns]\nretry = \"0s\"", "dns.retry"),
        ("[dns]\nretry = \"2h\"", "dns.retry"),
        ("[probes]\ninterval = \"100ms\"", "probes.interval"),
        ("[probes]\ntimeout = \"2m\"", "probes.timeout"),
        ("[probes]\nconcurrency = 0", "probes.concurrency"),
        ("[probes]\nedges = [\"192.0.2.1\"]", "probes.edges"),
        (
            "[probes.shard_edges]\na = [\"192.0.2.1:443\"]",
            "probes.shard_edges",
        ),
        (
            "[edge]\nshards = [\"a\"]\n[probes]\nedges = [\"192.0.2.1:443\"]",
            "probes.edges",
        ),
    ] {
        assert_refused(text, key);
    }
}

#[test]
fn defaults_that_only_look_right_are_found() {
    for (text, key) in [
        ("[defaults]\ncountry = \"UK\"", "defaults.country"),
        (
            "[defaults]\ntime_zone = \"Mars/Phobos\"",
            "defaults.time_zone",
        ),
    ] {
        assert_refused(text, key);
    }
}
