//! What a proof looks at, in this order: the repository while it is read, the files against PostgreSQL's own manifest, the log as far as
//! PostgreSQL follows it, tables and indexes, attachments' files, the counts of the manifest, and every page against its checksum.
//!
//! One damage does not end the look where more can be found. Not here: where it is restored to, and that it is removed (the parent),
//! what answers mean (plan::proof).

use std::path::PathBuf;

use isyone_proto::backup::{Fault, Segment};

use super::{
    super::{
        chain::SegmentSize,
        files,
        restore::{
            Ground, Launch, Server,
            ask::{self, POSTGRES},
            choose::Followed,
            fill::Filled,
            recover::{self, Depth, OF_HOST},
        },
        words::Problem,
    },
    Found, Proving,
};
use crate::{
    base::{
        beneath::{RelPath, Root},
        fsutil::blocking,
    },
    plan::{
        facts::ImageFacts,
        proof::{self, Files, LogDamage, Pages},
        recovery::{self, Extent, Look},
    },
};

impl Proving {
    pub(super) async fn look(
        &self,
        ground: &Ground,
        image: ImageFacts,
        scratch: PathBuf,
        found: &mut Found,
    ) -> Result<(), Problem> {
        use std::sync::atomic::Ordering::Relaxed;
        let (restore, shown) = (&self.restore, self.shown.clone());
        let show = move |done, total| {
            shown.done.store(done, Relaxed);
            shown.total.store(total, Relaxed);
        };
        let order = &self.order.restore;
        let cache = scratch.join("cache");
        let filled = restore
            .fetch(cache, order, ground, &self.stop, &show)
            .await?;
        (found.base_at, found.bytes) = (filled.base_at, filled.bytes);
        if let Some(hole) = filled.followed.and_then(|followed| followed.hole) {
            found.damage(format!("segment {hole} of the log is missing"));
        }
        let launch = Launch {
            purpose: restore.purpose(),
            memory_bytes: self.order.memory_bytes,
            image,
            volume: ground.postgres.clone(),
            log: ground.log.clone(),
            extent: Extent::of(order.to, filled.followed.is_some()),
        };
        self.shown.say("its files are compared");
        self.manifest(ground, &launch, found).await?;
        // What was stopped is looked at as it was: PostgreSQL changes pages.
        let before = match filled.was_stopped {
            true => Some(self.pages(&launch).await?),
            false => None,
        };
        let files = match self.recovered(ground, &launch, &filled, found).await {
            Ok(files) => Some(files),
            Err(problem) if super::is_damage(&problem) => {
                found.damage(problem.message);
                None
            }
            Err(problem) => return Err(problem),
        };
        let pages = match (before, &files) {
            (Some(pages), _) => pages,
            (None, Some(_)) => self.pages(&launch).await?,
            // It did not end as it should: nothing can be said of its pages.
            (None, None) => return Ok(()),
        };
        tell(pages, &files.unwrap_or_default(), found);
        Ok(())
    }

    /// Against the manifest that PostgreSQL has made with the backup.
    async fn manifest(
        &self,
        ground: &Ground,
        launch: &Launch,
        found: &mut Found,
    ) -> Result<(), Problem> {
        let (volume, cluster) = (ground.postgres.clone(), ground.cluster.clone());
        let there = blocking(move || {
            let parse = |text: &str| RelPath::parse(text.as_bytes()).map_err(std::io::Error::other);
            let root = Root::open(&volume)?;
            let root = match cluster.as_str() {
                "" => root,
                cluster => root.below(&parse(cluster)?)?,
            };
            Ok(root.file(&parse("backup_manifest")?).is_ok())
        });
        let there = there.await;
        if !there.map_err(|e| Problem::disk("what was restored cannot be read", &e))? {
            return Ok(()); // a tenant that was stopped has none
        }
        let servers = &self.restore.servers;
        let (code, said) = servers.look(launch, Look::Manifest, &self.stop).await?;
        let damaged = proof::against_manifest(&said);
        if code != 0 && damaged.is_empty() {
            found.leave_out("PostgreSQL's own manifest could not be compared");
        }
        found.all(damaged);
        Ok(())
    }

    async fn pages(&self, launch: &Launch) -> Result<Pages, Problem> {
        self.shown.say("its pages are looked at");
        let servers = &self.restore.servers;
        let (code, said) = servers.look(launch, Look::Checksums, &self.stop).await?;
        Ok(proof::pages(code, &said))
    }

    /// Has it recovered, and asks it.
    async fn recovered(
        &self,
        ground: &Ground,
        launch: &Launch,
        filled: &Filled,
        found: &mut Found,
    ) -> Result<Files, Problem> {
        self.shown.say("its PostgreSQL recovers it");
        let (servers, stop) = (&self.restore.servers, &self.stop);
        let started =
            recover::become_ready(&**servers, launch.clone(), filled.followed, stop).await;
        let (server, extent) = started?;
        found.reached = recover::last(&*server, extent, stop).await?;
        if let (Extent::End, Some(followed), Some(size)) = (extent, filled.followed, filled.size) {
            let to = ask::ask(&*server, POSTGRES, recovery::FOLLOWED, stop).await?;
            let said = server.words().await?;
            if recovery::is_of_host(&said) {
                return Err(Problem::new(Fault::NotNow, OF_HOST));
            }
            let broken = ends_early(followed, size, to.parse().ok(), &said);
            if let Some(segment) = broken {
                found.damage(format!(
                    "segment {segment} of the log: nothing after it can be restored"
                ));
            }
        }
        self.counts(&*server, filled, found).await;
        self.shown.say("its tables and indexes are looked into");
        let files = self.tables(&*server, &filled.database, found).await;
        self.shown.say("its attachments' files are looked at");
        self.attachments(&*server, ground, filled, found).await?;
        server.stop().await?;
        Ok(files)
    }

    /// Looks into tables and indexes, as far as this PostgreSQL can; and learns which file is whose.
    async fn tables(&self, server: &dyn Server, database: &str, found: &mut Found) -> Files {
        let (who, stop) = (("postgres", database), &self.stop);
        let files = ask::list(server, who, proof::FILES, stop).await;
        let files = files.map(|said| Files::read(&said)).unwrap_or_default();
        let has = ask::ask(server, POSTGRES, proof::HAS_AMCHECK, stop).await;
        if has.is_ok_and(|has| has == "0") {
            found.leave_out("tables and indexes: this image of PostgreSQL has no amcheck");
            return files;
        }
        match ask::look(server, who, &proof::amcheck(), stop).await {
            Ok(said) => {
                found.all(proof::relations(&said));
                if let Some(what) = proof::not_looked_at(&said) {
                    found.leave_out(&what);
                }
            }
            Err(_) => found.leave_out("tables and indexes: amcheck did not end well"),
        }
        files
    }

    /// Attachments' files.
    async fn attachments(
        &self,
        server: &dyn Server,
        ground: &Ground,
        filled: &Filled,
        found: &mut Found,
    ) -> Result<(), Problem> {
        let (odoo, name, stop) = (ground.odoo.clone(), ground.name.clone(), &self.stop);
        let filestore = blocking(move || files::open(&Root::open(&odoo)?, &name)).await;
        let filestore =
            filestore.map_err(|e| Problem::disk("the filestore cannot be opened", &e))?;
        let of = (filled.database.as_str(), filestore, Depth::Contents);
        let looked = match recover::attachments(server, of, stop).await {
            Ok(looked) => looked,
            Err(problem) if super::is_damage(&problem) => {
                found.damage(problem.message);
                None
            }
            // What keeps them from being listed may be a page that is looked at later.
            Err(problem) => {
                found.kept_from = Some(problem);
                None
            }
        };
        if let Some(looked) = looked {
            found.attachments = looked.named - looked.missing - looked.altered;
            name_files("is missing", looked.missing, looked.examples, found);
            let what = "is not what its name says";
            name_files(what, looked.altered, looked.altered_examples, found);
        }
        Ok(())
    }

    /// What the manifest counts, counted again; before anything is made in it to look into it. What cannot be counted is not compared.
    async fn counts(&self, server: &dyn Server, filled: &Filled, found: &mut Found) {
        let who = ("odoo", filled.database.as_str());
        let mut counts = filled.counts;
        let questions = [
            (proof::RELATIONS, &mut counts.relations),
            (proof::ATTACHMENTS, &mut counts.attachments),
        ];
        let has = ask::ask(server, who, recovery::HAS_ATTACHMENTS, &self.stop).await;
        let has_attachments = has.is_ok_and(|has| has == "1");
        for (question, count) in questions {
            if question == proof::ATTACHMENTS && !has_attachments {
                continue;
            }
            let said = ask::ask(server, who, question, &self.stop).await;
            if let Some(counted) = said.ok().and_then(|said| said.parse().ok()) {
                *count = counted;
            }
        }
        found.relations = counts.relations;
        let is_quiet = found.reached.is_none_or(|last| last <= filled.base_at);
        for odd in proof::differs(filled.counts, counts, is_quiet) {
            found.flaw(odd);
        }
    }
}

fn name_files(what: &str, count: u64, examples: Vec<String>, found: &mut Found) {
    let beyond = count.saturating_sub(examples.len() as u64);
    for name in examples {
        found.flaw(format!("file {name} {what}"));
    }
    let beyond = u32::try_from(beyond).unwrap_or(u32::MAX);
    found.more = found.more.saturating_add(beyond);
}

fn tell(pages: Pages, files: &Files, found: &mut Found) {
    match pages {
        Pages::Good => {}
        Pages::Bad(bad, count) => {
            let beyond = count.saturating_sub(bad.len() as u64);
            found.all(proof::name_pages(&bad, files));
            let beyond = u32::try_from(beyond).unwrap_or(u32::MAX);
            found.more = found.more.saturating_add(beyond);
        }
        Pages::Unmarked => found.leave_out("pages: they carry no checksums"),
        Pages::Failed => found.leave_out("pages: pg_checksums did not look at them"),
    }
}

/// The segment at which the log ends for PostgreSQL although more of it lies there. It says so in its log, and begins a timeline as if
/// that were the end; a record that leads into the next segment, which was never shipped, is none of that.
fn ends_early(
    followed: Followed,
    size: SegmentSize,
    reached_lsn: Option<u64>,
    said: &str,
) -> Option<Segment> {
    let timeline = followed.last.timeline;
    let broken = match proof::log_damage(said) {
        Some(LogDamage::In(segment)) => Some(segment),
        Some(LogDamage::At(lsn)) => Some(size.of(timeline, lsn)),
        None => None,
    };
    let broken = broken.filter(|segment| *segment <= followed.last);
    broken.or_else(|| {
        let reached = size.of(timeline, reached_lsn?);
        (size.ahead(followed.last, reached) > 1).then_some(reached)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_not_followed_to_its_end_is_broken_where_that_stops() {
        let size = SegmentSize::try_from(1 << 20).unwrap();
        let segment = |number: u64| size.of(1, number << 20);
        let followed = Followed {
            last: segment(9),
            hole: None,
        };
        let ends = |lsn: u64, said: &str| ends_early(followed, size, Some(lsn), said);
        assert_eq!(ends(10 << 20, ""), None, "it ends with a switch");
        assert_eq!(ends((9 << 20) + 5, ""), None);
        assert_eq!(ends((9 << 20) - 5, ""), None, "a record that leads on");
        assert_eq!(ends((6 << 20) + 5, ""), Some(segment(6)));
        let said = "LOG:  incorrect resource manager data checksum in record at 0/900060";
        assert_eq!(ends((9 << 20) + 5, said), Some(segment(9)));
        let beyond =
            "LOG:  unexpected pageaddr 0/1 in log segment 00000001000000000000000A, offset 0";
        assert_eq!(ends(10 << 20, beyond), None, "of what was never shipped");
    }
}
