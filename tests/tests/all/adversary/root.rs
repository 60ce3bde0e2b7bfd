//! An operator who wants to be root, in a tenant's container or by an image of their own making.
//!
//! Not here: what a command's process may do (e2e::adversary::root).

use isyone_proto::{
    error::{fields, reason},
    pb::v1::{
        self, event_service_client::EventServiceClient, exec_request, exec_response,
        operator_service_client::OperatorServiceClient, tenant_service_client::TenantServiceClient,
    },
    tls,
};
use isyone_tests::fleet::{Fleet, operator::channel};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Channel};

/// A connection of a new operator who is no admin.
async fn operator(fleet: &Fleet, name: &str) -> Channel {
    let (key, csr_pem) = tls::new_key_and_csr(name).expect("a key can be made");
    let request = v1::CreateOperatorRequest {
        name: name.to_owned(),
        role: v1::Role::Operator.into(),
        csr_pem,
        ttl_days: 1,
    };
    let made = OperatorServiceClient::new(fleet.admin.connection())
        .create_operator(request)
        .await
        .expect("an operator is made")
        .into_inner();
    channel(
        fleet.coordinator.grpc(),
        &made.ca_pem,
        &made.certificate_pem,
        &key,
    )
}

/// Runs `id` in a container of `alfa`; returns what it wrote.
async fn run(who: &Channel, container: v1::ContainerRole, root: bool) -> Result<String, Status> {
    let start = v1::ExecStart {
        name: "alfa".to_owned(),
        kind: v1::ExecKind::Command.into(),
        arguments: vec!["id".to_owned(), "--secret".to_owned()],
        container: container.into(),
        root,
        ..Default::default()
    };
    let start = v1::ExecRequest {
        message: Some(exec_request::Message::Start(start)),
    };
    let eof = v1::ExecRequest {
        message: Some(exec_request::Message::StdinEof(true)),
    };
    let mut output = TenantServiceClient::new(who.clone())
        .exec(tokio_stream::iter([start, eof]))
        .await?
        .into_inner();
    let mut said = Vec::new();
    while let Some(message) = output.next().await {
        if let Some(exec_response::Message::Stdout(bytes)) = message?.message {
            said.extend(bytes);
        }
    }
    Ok(String::from_utf8(said).expect("text"))
}

fn assert_denied(refused: &Status, field: &str, remedy: &str) {
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(reason(refused).as_deref(), Some("PERMISSION_DENIED"));
    assert_eq!(fields(refused), [field]);
    assert!(refused.message().contains(remedy), "{refused}");
}

/// Fails where a command runs as whomever the image names, and where anybody may ask for root.
#[test]
fn only_an_admin_is_root_in_a_container_and_that_is_recorded() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let (odoo, postgres) = (v1::ContainerRole::Odoo, v1::ContainerRole::Postgres);
    fleet.client.block_on(async {
        let ops = operator(&fleet, "ops").await;
        let admin = fleet.admin.connection();
        for who in [&ops, &admin] {
            for (container, user) in [(odoo, "odoo"), (postgres, "postgres")] {
                let said = run(who, container, false).await.expect("it runs");
                assert_eq!(said, format!("ran id --secret as {user}\n"));
            }
        }
        let refused = run(&ops, postgres, true).await.expect_err("no admin");
        assert_denied(&refused, "start.root", "leave it out");
        let said = run(&admin, postgres, true).await.expect("it runs");
        assert_eq!(said, "ran id --secret as 0\n");

        let request = v1::StreamEventsRequest {
            tenant: "alfa".to_owned(),
            ..Default::default()
        };
        let mut client = EventServiceClient::new(admin.clone());
        let events = client.stream_events(request).await;
        let mut events = events.expect("events").into_inner();
        let mut told = Vec::new();
        while let Some(Ok(event)) = events.next().await {
            if event.kind == "tenant.exec" {
                told.push((event.actor, event.message));
            }
        }
        let own = |who: &str| {
            ["odoo", "postgres"].map(|at| (who.to_owned(), format!("command in {at}: id")))
        };
        let mut expected: Vec<_> = [own("ops"), own("admin")].concat();
        let as_root = "command as root in postgres: id".to_owned();
        expected.push(("admin".to_owned(), as_root));
        assert_eq!(told, expected);
    });
}

/// Fails where any image runs that an operator names.
#[test]
fn an_operator_runs_the_editions_images_and_what_the_configuration_allows() {
    let mut fleet = Fleet::start("[images]\nallow = [\"registry.example.com/odoo:*\"]\n");
    fleet.add_agent(1);
    fleet.all_report();
    let create = async |who: &Channel, name: &str, odoo: &str, postgres: &str| {
        let spec = v1::TenantSpec {
            odoo_image: odoo.to_owned(),
            postgres_image: postgres.to_owned(),
            ..Default::default()
        };
        let request = v1::CreateTenantRequest {
            name: name.to_owned(),
            spec: Some(spec),
            dry_run: true,
            ..Default::default()
        };
        TenantServiceClient::new(who.clone())
            .create_tenant(request)
            .await
    };
    fleet.client.block_on(async {
        let ops = operator(&fleet, "ops").await;
        let evil = "evil.example/odoo:18.0";
        for (odoo, postgres, field) in [
            (evil, "", "spec.odoo_image"),
            ("", evil, "spec.postgres_image"),
        ] {
            let refused = create(&ops, "alfa", odoo, postgres).await;
            assert_denied(
                &refused.expect_err("it is nobody's"),
                field,
                "[images] allow",
            );
        }
        let other = "registry.example.com/odoo:19.0-own";
        for (who, image) in [
            (&ops, ""),
            (&ops, "odoo:18.0"),
            (&ops, other),
            (&fleet.admin.connection(), evil),
        ] {
            let made = create(who, "alfa", image, "").await;
            made.unwrap_or_else(|e| panic!("{image:?}: {e}"));
        }
        // The same of an upgrade: whoever may not name an image does not get past that, whether there is such a tenant or not.
        let upgrade = async |who: &Channel, odoo: &str, postgres: &str| {
            let request = v1::UpgradeTenantRequest {
                name: "beta".to_owned(),
                odoo_image: odoo.to_owned(),
                postgres_image: postgres.to_owned(),
                ..Default::default()
            };
            let mut client = TenantServiceClient::new(who.clone());
            let refused = client.upgrade_tenant(request).await;
            refused.expect_err("there is no tenant beta")
        };
        for (odoo, postgres, field) in [(evil, "", "odoo_image"), ("", evil, "postgres_image")] {
            let refused = upgrade(&ops, odoo, postgres).await;
            assert_denied(&refused, field, "[images] allow");
        }
        for (who, image) in [(&ops, ""), (&ops, other), (&fleet.admin.connection(), evil)] {
            assert_eq!(upgrade(who, image, "").await.code(), Code::NotFound);
        }
    });
}
