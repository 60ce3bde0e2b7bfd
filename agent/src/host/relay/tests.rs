//! What is written of the host's routes, and when.
//!
//! Not here: tenants' loops and a relay that follows (the reconciler's tests).

use super::*;
use crate::testing::{host_plan, tenant_plan};

fn directory() -> (tempfile::TempDir, DataDir) {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    data.create().unwrap();
    (dir, data)
}

fn leases(data: &DataDir) -> Arc<Leases> {
    Arc::new(Leases::open(data.leases()))
}

fn opened(data: &DataDir) -> RelayRoutes {
    RelayRoutes::open(data, true, leases(data))
}

fn on_disk(data: &DataDir) -> Routes {
    Routes::read(&fsutil::read(&data.relay().join(ROUTES)).unwrap()).unwrap()
}

/// Routes of a host with a plan that names nobody yet.
fn planned(data: &DataDir) -> RelayRoutes {
    let routes = opened(data);
    let advertise = "127.0.0.1".parse().unwrap();
    routes.adapt(&host_plan(1, vec![]), advertise);
    routes
}

fn routed(name: &str) -> Route {
    let advertise = "127.0.0.1".parse().unwrap();
    relay::route(&tenant_plan(name), advertise, [127, 0, 0, 9].into())
}

#[tokio::test]
async fn routes_survive_the_agent_and_are_written_on_change_only() {
    let (_dir, data) = directory();
    let routes = planned(&data);
    assert!(!routes.publish().await.unwrap(), "no relay runs");
    assert_eq!(on_disk(&data).revision(), 1);
    routes.serve(routed("alfa"));
    routes.serve(routed("beta"));
    routes.publish().await.unwrap();
    routes.publish().await.unwrap();
    assert_eq!(on_disk(&data).revision(), 2);
    // The next agent: nothing was looked at yet, and nothing is lost.
    let next = opened(&data);
    next.publish().await.unwrap();
    assert_eq!(on_disk(&data).revision(), 2);
    let advertise = "127.0.0.1".parse().unwrap();
    next.adapt(&host_plan(1, vec![tenant_plan("beta")]), advertise);
    next.publish().await.unwrap();
    let written = on_disk(&data);
    assert_eq!(written.revision(), 3);
    assert_eq!(written.tenants(), [routed("beta")]);
    assert_eq!(written.edges().len(), 3);
}

#[tokio::test]
async fn a_hold_ends_with_serving_and_a_full_disk_refuses_uploads_meanwhile_or_not() {
    let (_dir, data) = directory();
    let routes = planned(&data);
    let name = routed("alfa").name;
    assert!(!routes.hold(&name, 1, 7), "it has no route");
    routes.serve(routed("alfa"));
    routes.set_full(vec![(name.clone(), true)]);
    routes.publish().await.unwrap();
    let state = || on_disk(&data).tenants()[0].state.clone();
    assert_eq!(state(), State::UploadsRefused);
    assert!(routes.hold(&name, 1, 7) && routes.hold(&name, 3, 9));
    routes.publish().await.unwrap();
    assert_eq!(state(), State::Holding { until_ms: 7 });
    let next = opened(&data);
    next.serve(routed("alfa"));
    next.publish().await.unwrap();
    assert_eq!(state(), State::Serving, "what a hold hid is measured again");
    next.set_full(vec![(name.clone(), true)]);
    next.publish().await.unwrap();
    let another = opened(&data);
    another.serve(routed("alfa"));
    another.publish().await.unwrap();
    assert_eq!(state(), State::UploadsRefused, "until it is measured");
    next.remove(&name);
    next.publish().await.unwrap();
    assert!(on_disk(&data).tenants().is_empty());
}

#[tokio::test]
async fn who_was_held_is_served_again_or_goes_on_to_another_host() {
    let (_dir, data) = directory();
    let routes = planned(&data);
    let name = routed("alfa").name;
    let there = Ends {
        http: "192.0.2.8:20000".parse().unwrap(),
        websocket: None,
    };
    assert!(!routes.pass_on(&name, there), "it has no route");
    routes.serve(routed("alfa"));
    routes.hold(&name, 1, 7);
    routes.serve_again(&name);
    routes.publish().await.unwrap();
    assert_eq!(on_disk(&data).tenants(), [routed("alfa")]);
    routes.hold(&name, 1, 7);
    assert!(routes.pass_on(&name, there));
    routes.publish().await.unwrap();
    let written = on_disk(&data).tenants()[0].clone();
    assert_eq!((written.upstream, written.state), (there, State::Serving));
    assert_eq!(written.listen, routed("alfa").listen);
}

/// A data directory was lost, and a relay of before may be there, which follows what is written.
#[tokio::test]
async fn nothing_is_written_before_there_is_a_plan_and_its_tenants_were_looked_at() {
    let (_dir, data) = directory();
    let routes = opened(&data);
    let is_there = || data.relay().join(ROUTES).exists();
    routes.publish().await.unwrap();
    routes.serve(routed("alfa"));
    routes.publish().await.unwrap();
    assert!(!is_there() && !routes.has_begun(), "there is no plan");
    let tenants = ["alfa", "beta", "gama"].map(tenant_plan).to_vec();
    routes.adapt(&host_plan(1, tenants), "127.0.0.1".parse().unwrap());
    routes.remove(&routed("beta").name);
    routes.publish().await.unwrap();
    assert!(!is_there() && !routes.has_begun(), "who serves gama?");
    routes.expect(routed("gama"));
    routes.publish().await.unwrap();
    assert!(routes.has_begun());
    let written = on_disk(&data);
    assert_eq!(written.tenants(), [routed("alfa"), routed("gama")]);
    assert_eq!(written.edges().len(), 3);
    assert!(opened(&data).has_begun(), "the next agent");
}

#[tokio::test]
async fn without_a_relay_nothing_is_written() {
    let (_dir, data) = directory();
    let routes = RelayRoutes::open(&data, false, leases(&data));
    routes.serve(routed("alfa"));
    assert!(!routes.publish().await.unwrap());
    assert!(fsutil::read(&data.relay().join(ROUTES)).is_err());
}
