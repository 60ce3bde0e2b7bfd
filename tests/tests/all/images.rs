//! The images of a tenant are changed: a patched build takes over, one that cannot be had or does not come up is taken back, and the
//! same once more changes nothing.
//!
//! Not here: who may name an image (adversary), real programs (`e2e::bombard`).

use std::time::Duration;

use isyone_proto::pb::v1::{self, operation_service_client::OperationServiceClient};
use isyone_tests::fleet::{
    Fleet,
    operator::{Order, Request},
    wait_for,
};

/// Far above any normal wait.
const SOON: Duration = Duration::from_secs(30);
const PATCHED: &str = "sha256:patched";

/// Upgrades alfa to this Odoo, or to what its edition has; the operation when it has ended.
fn upgrade(fleet: &Fleet, odoo: &'static str) -> v1::Operation {
    let request = Request {
        tenant: "alfa",
        order: Order::Upgrade(odoo),
        id: String::new(),
    };
    let begun = fleet.client.block_on(fleet.admin.send(&request));
    let id = begun.expect("it begins").operation;
    wait_for("the end of the upgrade", SOON, || {
        let mut client = OperationServiceClient::new(fleet.admin.connection());
        let request = v1::GetOperationRequest { id: id.clone() };
        let operation = fleet.client.block_on(client.get_operation(request));
        operation.ok().map(|o| o.into_inner()).filter(|o| o.done)
    })
}

fn image(fleet: &Fleet) -> String {
    let docker = &fleet.agents[0].docker;
    docker.image_of("odoo_alfa").expect("it has an Odoo")
}

/// How often alfa's containers were stopped.
fn stops(fleet: &Fleet) -> usize {
    let log = fleet.agents[0].docker.log();
    let is_stop = |l: &&String| l.starts_with("stop ") && l.ends_with("_alfa");
    log.iter().filter(is_stop).count()
}

#[test]
fn a_patched_build_takes_over_and_what_cannot_work_is_taken_back() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let docker = fleet.agents[0].docker.clone();
    let begin = stops(&fleet);
    docker.publish("odoo:18.0", PATCHED);
    let done = upgrade(&fleet, "");
    assert_eq!(done.state(), v1::OperationState::Succeeded, "{done:?}");
    assert_eq!(
        (image(&fleet).as_str(), stops(&fleet)),
        (PATCHED, begin + 1)
    );

    let again = upgrade(&fleet, "");
    assert_eq!(again.state(), v1::OperationState::Succeeded, "{again:?}");
    let images = |o: &v1::Operation| -> Vec<v1::OperationState> {
        let steps = o.steps.iter().filter(|s| s.name.starts_with("image-"));
        steps.map(v1::OperationStep::state).collect()
    };
    assert_eq!(
        images(&again),
        [v1::OperationState::Skipped; 2],
        "{again:?}"
    );
    assert_eq!(stops(&fleet), begin + 1, "nothing has changed");

    let failed = upgrade(&fleet, "nowhere.example/odoo:18.0");
    assert_eq!(failed.state(), v1::OperationState::Failed, "{failed:?}");
    for part in [
        "nowhere.example/odoo:18.0",
        "manifest unknown",
        "keeps the images",
    ] {
        assert!(failed.error.contains(part), "{failed:?}");
    }
    assert_eq!(
        (image(&fleet).as_str(), stops(&fleet)),
        (PATCHED, begin + 1)
    );
    let all = fleet.client.block_on(fleet.admin.list()).expect("a list");
    let spec = all[0].spec.as_ref().expect("a spec");
    assert_eq!(spec.odoo_image, "odoo:18.0");

    docker.publish("odoo:18.0-bad", "sha256:bad");
    docker.set_sick("sha256:bad");
    let failed = upgrade(&fleet, "odoo:18.0-bad");
    assert_eq!(failed.state(), v1::OperationState::Failed, "{failed:?}");
    assert_eq!(image(&fleet), PATCHED, "the one that it had");
    fleet.runs("alfa");
}
