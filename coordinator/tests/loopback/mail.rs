//! A tenant's mail settings from an operator to its host: the fleet's, its own, with the password, which nobody else sees; and what its
//! host has caught.
//!
//! Not here: which settings count (isyone_fleet), odoo.conf (the agent).

use std::os::unix::fs::PermissionsExt as _;

use isyone_coordinator::base::config::{Config, MailConfig, MailKind};
use isyone_proto::{
    mail::Via,
    pb::{
        agent::v1::{AttachUp, attach_up, open_stream},
        v1,
    },
    plan::TenantPlan,
};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{
    streams::attach,
    support::{Agent, Fixture, soon, start_with},
};

const FLEETS: &str = "fleets-password";
const OWN: &str = "own;#password";

/// With a relay of the fleet's, whose password is in a file.
fn relayed(config: &mut Config) {
    let file = config.data_dir.join("mail.password");
    std::fs::write(&file, format!("{FLEETS}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    config.mail = MailConfig {
        kind: MailKind::Relay,
        host: Some("smtp.example.com".parse().unwrap()),
        user: Some("fleet".parse().unwrap()),
        password_file: Some("mail.password".into()),
        ..MailConfig::default()
    };
}

fn own() -> v1::MailSettings {
    v1::MailSettings {
        kind: v1::MailKind::Relay.into(),
        host: "smtp.customer.com".into(),
        user: "customer".into(),
        ..v1::MailSettings::default()
    }
}

async fn set(
    fixture: &Fixture,
    settings: Option<v1::MailSettings>,
    password: Option<&str>,
) -> Result<v1::Operation, tonic::Status> {
    let request = v1::SetMailRequest {
        name: "alfa".into(),
        settings,
        password: password.map(ToOwned::to_owned),
        request_id: String::new(),
    };
    let answer = fixture.tenants().set_mail(request).await;
    answer.map(tonic::Response::into_inner)
}

/// The tenant's plan, once its mail goes by this login.
async fn by(agent: &mut Agent, user: &str) -> TenantPlan {
    let user_of = |tenant: &TenantPlan| {
        let relay = tenant.mail.as_ref()?.relay()?;
        Some(relay.user.as_ref()?.to_string())
    };
    let has = |tenant: &TenantPlan| user_of(tenant).as_deref() == Some(user);
    let plan = agent.plan_that(|plan| plan.tenants.iter().any(has)).await;
    plan.tenants[0].clone()
}

#[tokio::test]
async fn a_tenants_own_server_and_password_reach_its_host_and_nobody_else() {
    let fixture = start_with(relayed).await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    let plan = by(&mut agent, "fleet").await;
    assert_eq!(plan.secrets.mail_password.expose(), FLEETS);
    agent.converge().await;

    let refused = set(&fixture, Some(own()), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    set(&fixture, Some(own()), Some(OWN)).await.unwrap();
    let plan = by(&mut agent, "customer").await;
    assert_eq!(plan.secrets.mail_password.expose(), OWN);
    agent.converge().await;

    let request = v1::GetTenantRequest {
        name: "alfa".into(),
    };
    let shown = fixture.tenants().get_tenant(request).await.unwrap();
    let mail = shown.get_ref().mail.clone().unwrap();
    assert!(mail.has_password && mail.source() == v1::SettingSource::Tenant);
    assert!(!format!("{shown:?}").contains(OWN));
    // The same server and login keep it.
    let more = v1::MailSettings {
        per_day: 7,
        ..own()
    };
    set(&fixture, Some(more), None).await.unwrap();
    let has = |tenant: &TenantPlan| tenant.mail.as_ref().is_some_and(|mail| mail.per_day == 7);
    let plan = agent.plan_that(|plan| plan.tenants.iter().any(has)).await;
    assert_eq!(plan.tenants[0].secrets.mail_password.expose(), OWN);
    agent.converge().await;

    set(&fixture, None, None).await.unwrap();
    let plan = by(&mut agent, "fleet").await;
    assert_eq!(plan.secrets.mail_password.expose(), FLEETS);
}

#[tokio::test]
async fn what_a_host_has_caught_is_read_through_it() {
    let fixture = start_with(|config| config.mail.kind = MailKind::Catcher).await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    let caught = |tenant: &TenantPlan| tenant.mail.as_ref().is_some_and(|m| m.via == Via::Catcher);
    agent
        .plan_that(|plan| plan.tenants.iter().any(caught))
        .await;
    agent.converge().await;
    let request = |id: &str| v1::ReadMailRequest {
        name: "alfa".into(),
        id: id.into(),
    };
    let mut client = fixture.tenants();
    let refused = client.read_mail(request("../1-2")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let (mails, (target, up, _down)) = tokio::join!(
        client.read_mail(request("7-0001")),
        attach(&mut agent, &host)
    );
    let open_stream::Target::Mail(asked) = target else {
        panic!("{target:?}")
    };
    assert_eq!(asked.id, "7-0001");
    let mail = v1::CaughtMail {
        subject: "Fatura".into(),
        data: b"text".to_vec(),
        ..v1::CaughtMail::default()
    };
    up.send(AttachUp {
        message: Some(attach_up::Message::Mail(mail)),
    })
    .await
    .unwrap();
    drop(up);
    let mut mails = mails.unwrap().into_inner();
    let first = soon(mails.next()).await.unwrap().unwrap();
    assert_eq!(
        (first.subject.as_str(), first.data.as_slice()),
        ("Fatura", &b"text"[..])
    );
    assert!(soon(mails.next()).await.is_none());
}
