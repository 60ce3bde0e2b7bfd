//! What operators see, ask for and prune.

use super::*;

fn made(snapshot: &str, now_s: i64) -> BackupMade {
    BackupMade {
        snapshot: snapshot.to_owned(),
        work: BackupWork::Base.into(),
        time: Some(prost_types::Timestamp {
            seconds: now_s,
            nanos: 0,
        }),
        end_time: Some(prost_types::Timestamp {
            seconds: now_s,
            nanos: 0,
        }),
        read_bytes: 7,
        stored_bytes: 5,
        ..BackupMade::default()
    }
}

/// A repository as the agent would make it: with the key of the plan, by the library.
fn make_repository(world: &World, key: &RepositoryKey, ages_s: &[i64]) -> Vec<String> {
    let store = backup::store::Local::new(world.folder());
    let key = backup::Key::new(key.bytes());
    let job = backup::Job {
        stop: backup::Stop::default(),
        progress: Arc::default(),
        source: Vec::new(),
        destination: Vec::new(),
        processors: 1,
    };
    let repository = backup::Repository::create(Arc::new(store), &key, &job).unwrap();
    let now = world.fixture.running.handle.snapshot().last_tick.unwrap();
    let write = |age_s: &i64| {
        let label = backup::Label {
            purpose: backup::Purpose::Base,
            time: jiff::Timestamp::from_millisecond(now - age_s * 1000).unwrap(),
            host: "h1".to_owned(),
            tags: Vec::new(),
        };
        let content = format!("{age_s}").repeat(1000);
        let part = backup::Part::bytes("database.tar", content.into_bytes());
        let written = repository.write(&label, vec![part], None, &job).unwrap();
        let name = written.snapshot.to_string();
        // It came when it was made.
        let file = std::fs::File::open(world.folder().join("snapshots").join(&name)).unwrap();
        file.set_modified(label.time.into()).unwrap();
        name
    };
    ages_s.iter().map(write).collect()
}

/// The whole of it as operators see it: ordered, made, listed, asked for, pruned.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one story, in the order in which it happens"
)]
async fn a_backup_is_ordered_made_listed_and_pruned() {
    let mut world = world(0).await;
    let (id, make) = world.ordered().await;
    assert_eq!(make.destination.as_str(), "coordinator");
    let key = key(world.agent.plan.as_ref().unwrap());
    // Of two of one day the newer one is kept, when they have been there for so long that it does not matter who ordered them.
    let ages_s = [0, 40 * 86_400, 40 * 86_400 + 1];
    let names = {
        let world = &world;
        tokio::task::block_in_place(|| make_repository(world, &key, &ages_s))
    };
    let now_s = world.fixture.running.handle.snapshot().last_tick.unwrap() / 1000;
    let done = JobStatus {
        id: id.to_string(),
        state: JobState::Done.into(),
        backup: Some(made(&names[0], now_s)),
        ..JobStatus::default()
    };
    world.agent.converge_with(vec![done]).await;
    world.agent.plan_that(|plan| plan.jobs.is_empty()).await;

    let mut operators = world.operators();
    let request = v1::ListBackupsRequest {
        tenant: "alfa".to_owned(),
        ..v1::ListBackupsRequest::default()
    };
    let listed = operators.list_backups(request).await.unwrap().into_inner();
    let [one] = &listed.backups[..] else {
        panic!("{listed:?}")
    };
    assert_eq!((&one.id, one.stored_bytes), (&names[0], 5));
    let id = one.id[..8].to_owned();
    let shown = operators
        .get_backup(v1::GetBackupRequest { id })
        .await
        .unwrap();
    assert_eq!(shown.into_inner(), *one);
    let tenant = || "alfa".to_owned();
    let request = v1::GetProtectionRequest { tenant: tenant() };
    let protection = operators
        .get_protection(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        protection.standing(),
        v1::Standing::Protected,
        "{protection:?}"
    );

    let request = v1::CreateBackupsRequest {
        all: true,
        notes: vec!["before-import".to_owned()],
        ..v1::CreateBackupsRequest::default()
    };
    let asked = operators
        .create_backups(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(asked.tenants, ["alfa"]);
    let (_, make) = world.ordered().await;
    assert_eq!(make.labels, ["before-import".parse().unwrap()]);

    let prune = |dry_run| v1::PruneBackupsRequest {
        tenant: tenant(),
        destination: String::new(),
        dry_run,
    };
    let dry = operators
        .prune_backups(prune(true))
        .await
        .unwrap()
        .into_inner();
    let wet = operators
        .prune_backups(prune(false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(dry, wet, "what was told is what is done");
    let [pruned] = &wet.destinations[..] else {
        panic!("{wet:?}")
    };
    let forgotten: Vec<_> = pruned.forgotten.iter().map(|one| one.id.clone()).collect();
    assert_eq!(forgotten, [names[2].clone()]);
    let again = operators
        .prune_backups(prune(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.destinations[0].forgotten_count, 0);
    assert_eq!(pruned.kept, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_ask_wrongly_is_refused_by_name() {
    let world = world(0).await;
    let mut operators = world.operators();
    let create = |tenants: &[&str], all, notes: &[&str]| v1::CreateBackupsRequest {
        tenants: tenants.iter().map(|t| (*t).to_owned()).collect(),
        all,
        notes: notes.iter().map(|n| (*n).to_owned()).collect(),
        ..v1::CreateBackupsRequest::default()
    };
    for (request, code) in [
        (create(&[], false, &[]), Code::InvalidArgument),
        (create(&["alfa"], true, &[]), Code::InvalidArgument),
        (
            create(&["alfa"], false, &["No Word"]),
            Code::InvalidArgument,
        ),
        (create(&["alfa"], false, &["a"; 9]), Code::InvalidArgument),
        (create(&["nobody"], false, &[]), Code::NotFound),
    ] {
        let refused = operators.create_backups(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    for (id, code) in [
        ("", Code::InvalidArgument),
        ("abc", Code::InvalidArgument),
        ("ABCDEF01", Code::InvalidArgument),
        ("00000000", Code::NotFound),
    ] {
        let id = id.to_owned();
        let refused = operators
            .get_backup(v1::GetBackupRequest { id })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let mut viewer =
        BackupServiceClient::new(world.fixture.operator("vera", v1::Role::Viewer).await);
    let request = create(&["alfa"], false, &[]);
    let refused = viewer.create_backups(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    viewer
        .list_backups(v1::ListBackupsRequest::default())
        .await
        .unwrap();
}

/// Fails if an agent of a version before is told anything of backups.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_makes_none_is_told_nothing() {
    let fixture = start_with(|config| config.backup.enabled = true).await;
    let h1 = fixture.join("h1").await;
    let mut agent = Agent::connect(&h1).await;
    fixture.create("alfa").await;
    let plan = agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let state = fixture.running.handle.snapshot();
    assert!(state.fleet.backup_keys.is_empty() && state.fleet.backups.is_empty());
    assert!(plan.tenants[0].backup.is_none() && plan.tenants[0].wal_spool.is_none());
    let mut operators = BackupServiceClient::new(fixture.admin.clone());
    let tenant = "alfa".to_owned();
    let shown = operators
        .get_protection(v1::GetProtectionRequest { tenant })
        .await
        .unwrap();
    assert_eq!(shown.into_inner().standing(), v1::Standing::NoneMade);
}
