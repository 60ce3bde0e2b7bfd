//! Which edges we wait for, and for how long; what is reported about an edge.

use super::*;

const EDGE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const SAME: ScopeProgress = ScopeProgress {
    changed: None,
    pending: false,
    tenants: 400,
};
const PENDING: ScopeProgress = ScopeProgress {
    pending: true,
    ..SAME
};
/// For 400 tenants.
const TAKEN_UP: Duration = Duration::from_millis(200);

fn changed() -> ScopeProgress {
    to("a")
}

fn to(version: &str) -> ScopeProgress {
    ScopeProgress {
        changed: Some(version.to_owned()),
        ..SAME
    }
}

/// Edges that cannot be asked.
fn silent() -> Edges {
    Edges::new(Ask::with(|_| Box::pin(async { None })))
}

fn regular(edges: &Edges, scope: usize) {
    edges.asked(EDGE, scope, clock::monotonic());
    edges.asked(EDGE, scope, clock::monotonic());
}

fn ask_after(edges: &Arc<Edges>, scope: usize, ms: u64) {
    let edges = edges.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        edges.asked(EDGE, scope, clock::monotonic());
    });
}

async fn took(edges: &Edges, version: u64, shard: Option<usize>) -> Duration {
    let began = clock::monotonic();
    let _ = edges.take_up(version, shard).await;
    clock::monotonic().duration_since(began)
}

#[tokio::test(start_paused = true)]
async fn without_edges_nobody_waits() {
    let edges = silent();
    edges.published(3, &[changed()]);
    assert_eq!(took(&edges, 3, None).await, Duration::ZERO);
    // A person who looks once is no edge.
    edges.asked(EDGE, 0, clock::monotonic());
    edges.published(4, &[changed()]);
    assert_eq!(took(&edges, 4, None).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_edge_is_waited_for_until_it_has_asked_again() {
    let edges = Arc::new(silent());
    regular(&edges, 0);
    edges.published(5, &[changed()]);
    ask_after(&edges, 0, 700);
    assert_eq!(
        took(&edges, 5, None).await,
        Duration::from_millis(700) + TAKEN_UP
    );
    // It has this version already.
    edges.published(6, &[SAME]);
    assert_eq!(took(&edges, 6, None).await, Duration::ZERO);
    // An edge that long-polls gets each change at once, but still has to build its routes.
    edges.published(7, &[changed()]);
    edges.asked(EDGE, 0, clock::monotonic());
    assert_eq!(took(&edges, 7, None).await, TAKEN_UP);
}

#[tokio::test(start_paused = true)]
async fn only_edges_that_serve_the_tenant_are_waited_for() {
    let edges = Arc::new(silent());
    regular(&edges, 1);
    regular(&edges, 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    // Shard 0 (scope 1) changed; the edge of shard 1 is not affected.
    edges.published(5, &[changed(), changed(), SAME]);
    assert_eq!(took(&edges, 5, Some(1)).await, Duration::ZERO);
    ask_after(&edges, 1, 300);
    assert_eq!(
        took(&edges, 5, Some(0)).await,
        Duration::from_millis(300) + TAKEN_UP
    );
    // An edge with everything serves both.
    regular(&edges, 0);
    edges.published(6, &[changed(), changed(), SAME]);
    edges.asked(EDGE, 1, clock::monotonic());
    ask_after(&edges, 0, 400);
    assert_eq!(
        took(&edges, 6, Some(0)).await,
        Duration::from_millis(400) + TAKEN_UP
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_waits_for_its_turn_is_waited_for() {
    let edges = Arc::new(silent());
    edges.published(5, &[PENDING, changed()]);
    // No edge takes everything, so its turn does not matter.
    assert_eq!(took(&edges, 5, Some(0)).await, Duration::ZERO);
    edges.published(6, &[PENDING, PENDING]);
    let later = edges.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(800)).await;
        later.published(7, &[PENDING, changed()]);
    });
    assert_eq!(took(&edges, 6, Some(0)).await, Duration::from_millis(800));
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_says_what_it_runs_is_waited_for_until_it_runs_it() {
    let runs = Arc::new(Mutex::new(Some("a".to_owned())));
    let (answer, begin) = (runs.clone(), clock::monotonic());
    let edges = Arc::new(Edges::new(Ask::with(move |_| {
        let answer = answer.lock().unwrap().clone();
        Box::pin(async { answer })
    })));
    edges.published(1, &[to("a")]);
    regular(&edges, 0);
    edges.published(2, &[to("b")]);
    edges.asked(EDGE, 0, clock::monotonic());
    // Built long after the usual time; in between, the edge does not answer at all for a while.
    let later = runs.clone();
    tokio::spawn(async move {
        for (at_ms, version) in [(300, None), (900, Some("a")), (1_500, Some("b"))] {
            tokio::time::sleep_until((begin + Duration::from_millis(at_ms)).into()).await;
            *later.lock().unwrap() = version.map(ToOwned::to_owned);
        }
    });
    let (first, second) = tokio::join!(took(&edges, 2, None), took(&edges, 2, None));
    assert!(
        (1_500..1_600).contains(&first.as_millis()) && second <= first,
        "{first:?} {second:?}"
    );
    // Built before the usual time is over.
    *runs.lock().unwrap() = Some("c".to_owned());
    edges.published(3, &[to("c")]);
    edges.asked(EDGE, 0, clock::monotonic());
    assert_eq!(took(&edges, 3, None).await, Duration::ZERO);
    // After it lost its memory, an edge runs a version from before that.
    *runs.lock().unwrap() = Some("who knows".to_owned());
    edges.published(4, &[to("d")]);
    edges.asked(EDGE, 0, clock::monotonic());
    assert_eq!(took(&edges, 4, None).await, PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_cannot_be_asked_holds_up_nobody() {
    let edges = Arc::new(Edges::new(Ask::with(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        })
    })));
    edges.published(1, &[to("a")]);
    regular(&edges, 0);
    let begin = clock::monotonic();
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let edges = edges.clone();
            tokio::spawn(async move { edges.take_up(1, None).await })
        })
        .collect();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(
        clock::monotonic().duration_since(begin),
        Duration::from_secs(1),
        "one question for all of them"
    );
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_also_when_nothing_is_published() {
    assert_eq!(took(&silent(), 1, None).await, PATIENCE);
}

/// The only edge of a scope.
fn only(edges: &Edges) -> EdgeSeen {
    let mut seen = edges.seen(clock::monotonic());
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

/// It polls every second, and we ask it every fifteen.
async fn polls(edges: &Edges, scope: usize, seconds: u64) {
    for second in 0..seconds {
        edges.asked(EDGE, scope, clock::monotonic());
        if second % 15 == 0 {
            edges.look(|_| true).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    edges.look(|_| true).await;
}

/// Edges that give this answer.
fn answering(says: &Arc<Mutex<Option<String>>>) -> Edges {
    let says = says.clone();
    Edges::new(Ask::with(move |_| {
        let answer = says.lock().unwrap().clone();
        Box::pin(async { answer })
    }))
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_take_up_what_it_is_given_is_stuck_however_much_more_it_is_given() {
    let says = Arc::new(Mutex::new(Some("v0".to_owned())));
    let edges = answering(&says);
    edges.published(0, &[to("v0")]);
    polls(&edges, 0, 20).await;
    assert_eq!(only(&edges).state, EdgeState::Current);
    assert_eq!(
        (only(&edges).behind_since, only(&edges).tenants),
        (None, 400)
    );
    let refused = clock::monotonic();
    for n in 1..=85 {
        edges.published(n, &[to(&format!("v{n}"))]);
        polls(&edges, 0, 1).await;
    }
    assert_eq!(
        only(&edges).state,
        EdgeState::Behind,
        "85 s may be a large document on a busy machine"
    );
    for n in 86..=95 {
        edges.published(n, &[to(&format!("v{n}"))]);
        polls(&edges, 0, 1).await;
    }
    let stuck = only(&edges);
    assert_eq!(
        (stuck.state, stuck.behind_since),
        (EdgeState::Stuck, Some(refused))
    );
    let versions = [stuck.given, stuck.runs, stuck.newest].map(Option::unwrap);
    assert_eq!(versions, ["v95", "v0", "v95"].map(ToOwned::to_owned));
    // It takes up one of the versions: it is late, not stuck.
    *says.lock().unwrap() = Some("v90".to_owned());
    polls(&edges, 0, 1).await;
    assert_eq!(only(&edges).state, EdgeState::Behind);
    *says.lock().unwrap() = Some("v95".to_owned());
    polls(&edges, 0, 1).await;
    assert_eq!(
        (only(&edges).state, only(&edges).behind_since),
        (EdgeState::Current, None)
    );
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_is_given_what_it_runs_is_not_stuck_after_a_restart_of_the_coordinator() {
    let says = Arc::new(Mutex::new(Some("from before".to_owned())));
    let edges = answering(&says);
    edges.published(0, &[to("from before")]);
    polls(&edges, 0, 200).await;
    assert_eq!(only(&edges).state, EdgeState::Current);
    // An edge that runs an unknown version is late from the moment when it was given another.
    *says.lock().unwrap() = Some("who knows".to_owned());
    let edges = answering(&says);
    edges.published(0, &[to("new")]);
    polls(&edges, 0, 30).await;
    assert_eq!(only(&edges).state, EdgeState::Behind);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_of_an_edge_is_unknown() {
    let says = Arc::new(Mutex::new(None));
    let edges = answering(&says);
    edges.published(0, &[SAME, to("a"), to("b")]);
    polls(&edges, 2, 200).await;
    let seen = only(&edges);
    assert_eq!(
        (seen.state, seen.scope, seen.runs, seen.given),
        (EdgeState::Unknown, 2, None, Some("b".into()))
    );
    *says.lock().unwrap() = Some("b".to_owned());
    polls(&edges, 2, 20).await;
    assert_eq!(only(&edges).state, EdgeState::Current);
    // An old answer says nothing.
    *says.lock().unwrap() = None;
    polls(&edges, 2, 40).await;
    assert_eq!(only(&edges).state, EdgeState::Current);
    polls(&edges, 2, 40).await;
    assert_eq!(only(&edges).state, EdgeState::Unknown);
    // It stops polling; after an hour it is forgotten, but until then we remember that it was stuck.
    edges.told(&only(&edges), true);
    tokio::time::advance(isyone_fleet::edge::GONE).await;
    assert_eq!(
        (only(&edges).state, only(&edges).told),
        (EdgeState::Silent, true)
    );
    *says.lock().unwrap() = Some("b".to_owned());
    polls(&edges, 2, 5).await;
    assert_eq!(
        (only(&edges).state, only(&edges).told),
        (EdgeState::Current, true)
    );
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(edges.seen(clock::monotonic()), []);
}

#[tokio::test(start_paused = true)]
async fn a_persons_look_is_no_edge() {
    let edges = silent();
    edges.published(0, &[to("a")]);
    polls(&edges, 0, 4).await;
    assert_eq!(edges.seen(clock::monotonic()), []);
}
