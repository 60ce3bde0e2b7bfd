//! One look at all of a host's networks, volumes and containers, shared by all tenants that are being looked at at the
//! same time: after a start, or when Docker comes back, hundreds of single requests would be most of the work, and to
//! find one network the engine scans all of them.
//!
//! A visitor only gets a survey started after it entered, so a survey is never older than the question. Not here: what
//! one tenant asks for itself (tenant/look).

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::docker::{Docker, Result, Survey};

/// With fewer concurrent tenants than this, each asks for itself: that is cheaper than a list of everything.
const CROWD: usize = 4;

#[derive(Debug, Default)]
struct Newest {
    /// Visitors up to this number entered before the survey was made.
    covers: u64,
    survey: Option<Arc<Survey>>,
}

/// The newest survey, kept as long as there is a visitor.
#[derive(Debug, Default)]
pub struct Surveys {
    newest: Mutex<Newest>,
    /// Only one survey is made at a time.
    making: tokio::sync::Mutex<()>,
    came: AtomicU64,
    here: AtomicUsize,
}

/// A task that is about to look at a tenant.
#[derive(Debug)]
pub struct Visitor<'a> {
    surveys: &'a Surveys,
    number: u64,
}

impl Surveys {
    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a task that is about to look.
    pub fn enter(&self) -> Visitor<'_> {
        self.here.fetch_add(1, Ordering::Relaxed);
        Visitor {
            surveys: self,
            number: self.came.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl Visitor<'_> {
    fn find(&self) -> Option<Arc<Survey>> {
        let newest = self.surveys.newest();
        newest
            .survey
            .clone()
            .filter(|_| newest.covers >= self.number)
    }

    /// A survey made after this visitor entered; `None` when there are so few visitors that each asks for itself.
    pub async fn survey(&self, docker: &dyn Docker) -> Result<Option<Arc<Survey>>> {
        if self.surveys.here.load(Ordering::Relaxed) < CROWD && self.find().is_none() {
            return Ok(None);
        }
        let _turn = self.surveys.making.lock().await;
        if let Some(found) = self.find() {
            return Ok(Some(found));
        }
        let covers = self.surveys.came.load(Ordering::Relaxed);
        let survey = Arc::new(docker.survey().await?);
        *self.surveys.newest() = Newest {
            covers,
            survey: Some(survey.clone()),
        };
        Ok(Some(survey))
    }
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        if self.surveys.here.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The last visitor frees it: it is a few hundred kilobytes on a full host.
            self.surveys.newest().survey = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_docker::FakeDocker;

    #[tokio::test]
    async fn a_crowd_shares_and_a_late_comer_gets_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let docker = FakeDocker::new(dir.path(), 1);
        let surveys = Surveys::default();
        let alone = surveys.enter();
        assert!(alone.survey(&*docker).await.unwrap().is_none());
        let crowd: Vec<_> = (0..CROWD).map(|_| surveys.enter()).collect();
        let first = crowd[0].survey(&*docker).await.unwrap().unwrap();
        let second = crowd[1].survey(&*docker).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let late = surveys.enter();
        let third = late.survey(&*docker).await.unwrap().unwrap();
        assert!(!Arc::ptr_eq(&first, &third));
        drop((alone, crowd, late));
        assert!(surveys.newest().survey.is_none());
    }
}
