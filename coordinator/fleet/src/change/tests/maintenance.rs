//! Announced work on a host: what it closes it opens again, and nothing else.
//!
//! Not here: moving tenants away (moves).

use super::*;

fn begin(bench: &mut Bench, until: i64) {
    let order = Command::BeginMaintenance {
        host: name("h1"),
        until,
        reason: "a new disk".into(),
        leaves_tenants: true,
    };
    bench.apply(order).unwrap();
}

fn cordon(bench: &mut Bench, cordoned: bool) {
    let host = name("h1");
    bench.apply(Command::CordonHost { host, cordoned }).unwrap();
}

fn tick(bench: &mut Bench, now: i64) {
    bench.now = now;
    bench.apply(Command::Tick).unwrap();
}

/// Whether the host is cordoned, and whether it is being worked on.
fn is(bench: &Bench) -> (bool, bool) {
    let host = &bench.state.fleet.hosts["h1"];
    (host.cordoned, host.maintenance.is_some())
}

fn bench() -> Bench {
    let mut bench = Bench::default();
    bench.host("h1", resources(8, 32, 100));
    bench
}

#[test]
fn it_ends_by_itself_and_opens_the_host() {
    let mut bench = bench();
    begin(&mut bench, 100_000);
    assert_eq!(is(&bench), (true, true));
    assert!(bench.create("alfa", "small").is_err());
    tick(&mut bench, 99_999);
    assert_eq!(is(&bench), (true, true));
    tick(&mut bench, 100_000);
    assert_eq!(is(&bench), (false, false));
    let said: Vec<String> = (bench.state.fleet.events.iter())
        .filter(|event| event.kind.as_str().starts_with("host.maintenance"))
        .map(|event| format!("{} {}", event.kind.as_str(), event.message))
        .collect();
    assert_eq!(
        said,
        [
            "host.maintenance until 1970-01-01T00:01:40Z: a new disk",
            "host.maintenance_ended it takes tenants again"
        ]
    );
}

#[test]
fn an_order_ends_it_before_its_time() {
    let mut bench = bench();
    begin(&mut bench, 100_000);
    let end = Command::EndMaintenance { host: name("h1") };
    bench.apply(end.clone()).unwrap();
    assert_eq!(is(&bench), (false, false));
    let events = bench.state.fleet.last_event;
    bench.apply(end).unwrap();
    assert_eq!(bench.state.fleet.last_event, events);
}

#[test]
fn what_somebody_has_cordoned_stays_cordoned() {
    // Before.
    let mut before = bench();
    cordon(&mut before, true);
    begin(&mut before, 100_000);
    begin(&mut before, 200_000); // longer
    tick(&mut before, 100_000);
    assert_eq!(is(&before), (true, true));
    tick(&mut before, 200_000);
    assert_eq!(is(&before), (true, false));
    // Meanwhile.
    let mut during = bench();
    begin(&mut during, 100_000);
    cordon(&mut during, true);
    tick(&mut during, 100_000);
    assert_eq!(is(&during), (true, false));
    // Opened meanwhile, and closed by it once more.
    let mut opened = bench();
    begin(&mut opened, 100_000);
    cordon(&mut opened, false);
    assert_eq!(is(&opened), (false, true));
    begin(&mut opened, 200_000);
    tick(&mut opened, 200_000);
    assert_eq!(is(&opened), (false, false));
}
