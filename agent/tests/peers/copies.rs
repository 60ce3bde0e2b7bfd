//! A stopped copy goes to another host: whole, through cuts and restarts, and never twice. Not here: refusals (calls).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    time::Duration,
};

use isyone_agent::testing::tenant_plan;
use isyone_proto::{
    plan::{DesiredState, JobOrder, Seed, TenantPlan},
    report::{JobState, TenantProgress},
};

use crate::{
    node::{Ca, FAR_FUTURE, Node, Site, grant, order, plan_with, standby},
    proxy::Proxy,
};

/// Bytes of a tree's files, with rights, owner and time of everything.
type Tree = BTreeMap<Vec<u8>, (u32, u32, u32, i64, i64, Option<Vec<u8>>)>;

fn tree(at: &Path) -> Tree {
    fn walk(at: &Path, below: &Path, tree: &mut Tree) {
        let meta = fs::symlink_metadata(below).unwrap();
        let content = meta.is_file().then(|| fs::read(below).unwrap());
        if !meta.is_file() && !meta.is_dir() {
            return;
        }
        let name = below.strip_prefix(at).unwrap().as_os_str().to_owned();
        let facts = (
            meta.mode() & 0o777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
        );
        tree.insert(
            name.into_vec(),
            (facts.0, facts.1, facts.2, facts.3, facts.4, content),
        );
        if meta.is_dir() {
            for entry in fs::read_dir(below).unwrap() {
                walk(at, &entry.unwrap().path(), tree);
            }
        }
    }
    let mut found = Tree::new();
    walk(at, at, &mut found);
    found
}

/// Bytes that do not repeat, so that a piece in the wrong place is seen.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Two hosts; the first has run alfa, which is suspended there now with a few files more.
pub(crate) struct Pair {
    pub(crate) sites: [Site; 2],
    pub(crate) source: Node,
    /// As the source has it.
    pub(crate) alfa: TenantPlan,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        let ca = Ca::new();
        let sites = [Site::new("h1", &ca), Site::new("h2", &ca)];
        let mut alfa = tenant_plan("alfa");
        let source = sites[0].start(plan_with(&[alfa.clone()], &[], &[])).await;
        source.converged(&alfa).await;
        alfa.desired = DesiredState::Suspended;
        alfa.generation += 1;
        source.plan(plan_with(
            &[alfa.clone()],
            &[],
            &[grant(&alfa, "h2", FAR_FUTURE)],
        ));
        source.converged(&alfa).await;
        Self {
            sites,
            source,
            alfa,
        }
    }

    fn source_plan(&self) -> isyone_proto::plan::HostPlan {
        let alfa = &self.alfa;
        plan_with(
            std::slice::from_ref(alfa),
            &[],
            &[grant(alfa, "h2", FAR_FUTURE)],
        )
    }

    pub(crate) fn put(&self, volume: &str, name: &str, bytes: &[u8]) {
        let path = self.sites[0].volume(volume).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) async fn target(&self, order: &JobOrder) -> Node {
        let copy = standby(&self.alfa, "h1");
        self.sites[1]
            .start(plan_with(&[copy], std::slice::from_ref(order), &[]))
            .await
    }

    pub(crate) fn assert_equal(&self) {
        for volume in ["pgdata_alfa", "odoo_data_alfa"] {
            let [ours, theirs] = [0, 1].map(|at| tree(&self.sites[at].volume(volume)));
            assert_eq!(
                ours.keys().collect::<Vec<_>>(),
                theirs.keys().collect::<Vec<_>>()
            );
            for (path, facts) in &ours {
                assert!(theirs[path] == *facts, "{} differs", path.escape_ascii());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_comes_whole_without_what_was_laid_out_and_starts_when_it_is_wanted() {
    let pair = Pair::new().await;
    let odoo = pair.sites[0].volume("odoo_data_alfa");
    let secret = pair.sites[0].path().join("secret");
    fs::write(&secret, "of the host").unwrap();
    pair.put("odoo_data_alfa", "filestore/large", &noise(1, 3_000_001));
    pair.put("odoo_data_alfa", "filestore/empty", b"");
    pair.put("pgdata_alfa", "base/1/exact", &noise(2, 2 * (128 << 10)));
    fs::create_dir(odoo.join("sessions")).unwrap();
    let odd = std::ffi::OsString::from_vec(b"n\xff\n".to_vec());
    fs::write(odoo.join("sessions").join(odd), "odd name").unwrap();
    fs::set_permissions(
        odoo.join("filestore/empty"),
        fs::Permissions::from_mode(0o4640),
    )
    .unwrap();
    fs::set_permissions(odoo.join("sessions"), fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(odoo.join("filestore/large"), Some(12_345), Some(54_321)).unwrap();
    }
    symlink(&secret, odoo.join("filestore/link")).unwrap();
    symlink("/dev/zero", odoo.join("filestore/zero")).unwrap();
    symlink("/", odoo.join("filestore/root")).unwrap();
    drop(UnixListener::bind(odoo.join("socket")).unwrap());
    let pipe = odoo.join("filestore/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();

    let order = order(&pair.alfa, "h1", pair.source.address);
    let target = pair.target(&order).await;
    let done = target.job_is(JobState::Done).await;
    assert!(
        done.bytes_total > 3_200_000 && done.bytes_done == done.bytes_total,
        "{done:?}"
    );
    let told = "5 not copied, neither files nor directories: ";
    assert!(done.message.starts_with(told), "{}", done.message);
    pair.assert_equal();
    assert!(
        tree(&pair.sites[1].volume("odoo_data_alfa"))
            .keys()
            .all(|k| !k.ends_with(b"link"))
    );
    target.converged(&standby(&pair.alfa, "h1")).await;
    assert!(pair.sites[1].fake.running().is_empty());

    let mut copy = standby(&pair.alfa, "h1");
    (copy.desired, copy.generation) = (DesiredState::Running, copy.generation + 1);
    target.plan(plan_with(&[copy.clone()], &[], &[]));
    target.converged(&copy).await;
    let keys = [0, 1].map(|at| pair.sites[at].fake.database_keys("alfa"));
    assert!(
        keys[0].is_some() && keys[0] == keys[1],
        "the customer's own database"
    );
    assert_eq!(pair.sites[1].fake.running().len(), 2);
    assert_eq!(pair.sites[1].fake.violations(), Vec::<String>::new());
    target.wait("forgetting", |node| node.job().is_none()).await;

    // It has run: another order for it is refused, and nothing of it is written.
    let mut again = order.clone();
    again.id = uuid::Uuid::from_u128(9);
    target.plan(plan_with(&[copy], &[again], &[]));
    let failed = target.job_is(JobState::Failed).await;
    assert!(failed.message.contains("never written again"), "{failed:?}");
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_cut_costs_no_more_than_what_was_on_it() {
    const MIB: usize = 1 << 20;
    let pair = Pair::new().await;
    for n in 0..12 {
        pair.put(
            "odoo_data_alfa",
            &format!("filestore/f{n:02}"),
            &noise(n, MIB),
        );
    }
    pair.put("pgdata_alfa", "base/large", &noise(99, 12 * MIB));
    let cuts = vec![3 << 20, 9 << 20, 15 << 20];
    let proxy = Proxy::start(pair.source.address, cuts).await;
    let target = pair.target(&order(&pair.alfa, "h1", proxy.address)).await;
    let done = target.job_is(JobState::Done).await;
    assert_eq!(done.bytes_done, done.bytes_total);
    pair.assert_equal();
    // Three cuts: of each, what was in windows and buffers is lost.
    let (passed, total) = (proxy.passed(), done.bytes_total);
    assert!(passed > total, "{passed} of {total}");
    assert!(
        passed < total + 3 * 4 * MIB as u64,
        "{passed} of {total} came"
    );
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_agents_may_be_killed_on_the_way() {
    const SIZE: usize = 6 << 20;
    let mut pair = Pair::new().await;
    pair.put("pgdata_alfa", "base/large", &noise(5, SIZE));
    pair.put("odoo_data_alfa", "filestore/second", &noise(6, SIZE / 2));
    let mut order = order(&pair.alfa, "h1", pair.source.address);
    order.rate_bytes_per_s = 6 << 20;
    let half = |node: &Node| {
        node.job()
            .is_some_and(|job| job.bytes_done > SIZE as u64 / 3)
    };
    let target = pair.target(&order).await;
    target.wait("a third", half).await;
    target.end().await;
    let target = pair.target(&order).await;
    target.wait("more", half).await;
    // The source's agent comes back elsewhere, and the coordinator tells.
    let restarted = pair.sites[0].start(pair.source_plan()).await;
    std::mem::replace(&mut pair.source, restarted).end().await;
    target.job_is(JobState::Retrying).await;
    order.work = isyone_proto::plan::JobWork::Fetch {
        from: "h1".parse().unwrap(),
        address: Some(pair.source.address),
    };
    target.plan(plan_with(&[standby(&pair.alfa, "h1")], &[order], &[]));
    let done = target.job_is(JobState::Done).await;
    assert_eq!(done.bytes_done, done.bytes_total);
    pair.assert_equal();
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_copy_stays_half_and_nothing_starts_on_it_until_another_order_ends_it() {
    let pair = Pair::new().await;
    pair.put("pgdata_alfa", "base/large", &noise(5, 4 << 20));
    let mut order = order(&pair.alfa, "h1", pair.source.address);
    order.rate_bytes_per_s = 2 << 20;
    let target = pair.target(&order).await;
    target
        .wait("the beginning", |node| {
            node.job().is_some_and(|job| job.bytes_done > 1 << 20)
        })
        .await;
    let mut copy = standby(&pair.alfa, "h1");
    for (seed, generation) in [
        (Seed::Peer("h1".parse().unwrap()), 10),
        (Seed::Existing, 11),
    ] {
        (copy.desired, copy.seed, copy.generation) = (DesiredState::Running, seed, generation);
        target.plan(plan_with(&[copy.clone()], &[], &[]));
        target.wait("forgetting", |node| node.job().is_none()).await;
        target
            .wait("the reason", |node| {
                node.status("alfa").is_some_and(|s| {
                    s.progress == TenantProgress::Failing
                        && s.generation == generation
                        && s.message.contains("nothing starts on half of it")
                })
            })
            .await;
    }
    assert!(pair.sites[1].fake.running().is_empty());
    let left = fs::metadata(pair.sites[1].volume("pgdata_alfa").join("base/large")).unwrap();
    assert!(left.len() >= 256 << 10, "kept for the next order");
    // A file that only the cancelled attempt had is not in the way.
    fs::write(pair.sites[1].volume("pgdata_alfa").join("stray"), "x").unwrap();
    order.id = uuid::Uuid::from_u128(9);
    order.rate_bytes_per_s = 0;
    let copy = standby(&pair.alfa, "h1");
    target.plan(plan_with(&[copy], &[order], &[]));
    target.job_is(JobState::Done).await;
    pair.assert_equal();
    target.end().await;
    pair.source.end().await;
}

/// A coordinator hears that nothing is left, or the tenant could never go to that host again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_given_up_while_it_comes_is_removed_and_reported_gone() {
    let pair = Pair::new().await;
    pair.put("pgdata_alfa", "base/large", &noise(5, 4 << 20));
    let mut order = order(&pair.alfa, "h1", pair.source.address);
    order.rate_bytes_per_s = 2 << 20;
    let target = pair.target(&order).await;
    target
        .wait("the beginning", |node| {
            node.job().is_some_and(|job| job.bytes_done > 1 << 20)
        })
        .await;
    let mut copy = standby(&pair.alfa, "h1");
    (copy.desired, copy.purge_now) = (DesiredState::Purged, true);
    // As the coordinator has it: the tenant has run, only not from this copy.
    copy.seed = Seed::Existing;
    copy.generation += 1;
    let plan = plan_with(&[copy.clone()], &[], &[]);
    target.plan(plan.clone());
    let gone = |node: &Node| {
        node.status("alfa").is_some_and(|s| {
            s.absent
                && s.progress == TenantProgress::Converged
                && s.generation == copy.generation
                && s.operation == copy.operation
        })
    };
    target.wait("the end of it", gone).await;
    target.end().await;
    // Nothing on disk names the operation any more.
    let target = pair.sites[1].start(plan).await;
    target.wait("the end of it once more", gone).await;
    // The same tenant may come here again.
    let mut order = order.clone();
    (order.id, order.rate_bytes_per_s) = (uuid::Uuid::from_u128(9), 0);
    let mut again = standby(&pair.alfa, "h1");
    (again.epoch, again.generation) = (copy.epoch + 2, copy.generation + 2);
    target.plan(plan_with(&[], &[], &[]));
    target.plan(plan_with(&[again], &[order], &[]));
    target.job_is(JobState::Done).await;
    pair.assert_equal();
    target.end().await;
    pair.source.end().await;
}

/// Without what a link leads to the database would be incomplete, and nobody would notice before those tables are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_tablespaces_elsewhere_is_refused_and_says_so() {
    let pair = Pair::new().await;
    let tablespaces = pair.sites[0].volume("pgdata_alfa").join("pg_tblspc");
    fs::create_dir_all(&tablespaces).unwrap();
    symlink("/elsewhere", tablespaces.join("16384")).unwrap();
    let order = order(&pair.alfa, "h1", pair.source.address);
    let target = pair.target(&order).await;
    let failed = target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("tablespace") && failed.message.contains("pg_tblspc/16384"),
        "{}",
        failed.message
    );
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_with_numbers_before_a_byte_of_it_comes() {
    let pair = Pair::new().await;
    let huge = fs::File::create(pair.sites[0].volume("odoo_data_alfa").join("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let proxy = Proxy::start(pair.source.address, vec![]).await;
    let target = pair.target(&order(&pair.alfa, "h1", proxy.address)).await;
    let failed = target.job_is(JobState::Failed).await;
    assert!(failed.message.contains("1099512 MB"), "{}", failed.message);
    assert!(proxy.passed() < 20_000 && failed.bytes_done == 0);
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_without_a_database_is_not_fetched() {
    let pair = Pair::new().await;
    let data = pair.sites[0].volume("pgdata_alfa");
    fs::remove_dir_all(data.join("global")).unwrap();
    let target = pair
        .target(&order(&pair.alfa, "h1", pair.source.address))
        .await;
    let failed = target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("it is no database"),
        "{}",
        failed.message
    );
    target.end().await;
    pair.source.end().await;
}

/// The tenant's own health is looked at while a copy of another comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grant_may_come_later_than_the_job_and_other_tenants_are_looked_after_meanwhile() {
    let pair = Pair::new().await;
    let alfa = pair.alfa.clone();
    pair.source.plan(plan_with(
        std::slice::from_ref(&alfa),
        &[],
        &[grant(&alfa, "h3", FAR_FUTURE)],
    ));
    let beta = tenant_plan("beta");
    let order = order(&alfa, "h1", pair.source.address);
    let copy = standby(&alfa, "h1");
    let target = pair.sites[1]
        .start(plan_with(&[copy, beta.clone()], &[order], &[]))
        .await;
    target.converged(&beta).await;
    let waits = target.job_is(JobState::Retrying).await;
    pair.sites[1].fake.set_unhealthy("odoo_beta", true);
    target
        .wait("beta's trouble", |node| {
            node.status("beta")
                .is_some_and(|s| s.progress == TenantProgress::Unhealthy)
        })
        .await;
    assert_eq!(waits.bytes_done, 0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    pair.source.plan(pair.source_plan());
    target.job_is(JobState::Done).await;
    pair.assert_equal();
    target.end().await;
    pair.source.end().await;
}

/// A name is taken again while the volumes of its first tenant are still in quarantine on the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_another_tenant_of_this_name_are_never_written() {
    let pair = Pair::new().await;
    let mut first = tenant_plan("alfa");
    first.uid = uuid::Uuid::from_u128(1);
    let target = pair.sites[1]
        .start(plan_with(std::slice::from_ref(&first), &[], &[]))
        .await;
    target.converged(&first).await;
    let before = tree(&pair.sites[1].volume("pgdata_alfa"));
    let order = order(&pair.alfa, "h1", pair.source.address);
    target.plan(plan_with(&[standby(&pair.alfa, "h1")], &[order], &[]));
    let failed = target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("belongs to another tenant"),
        "{failed:?}"
    );
    assert!(tree(&pair.sites[1].volume("pgdata_alfa")) == before);
    target.end().await;
    pair.source.end().await;
}
