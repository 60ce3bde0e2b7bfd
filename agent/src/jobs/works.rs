//! Who carries which kind of order to copy out.
//!
//! Not here: carrying it out, and orders of other kinds (agent).

use std::sync::Arc;

use isyone_proto::plan::{JobOrder, JobWork};
use tonic::async_trait;

use super::{JobError, Progress, Work, fetch::Fetch, follow::Follow};

/// What brings copies from other hosts.
pub struct Works {
    pub fetch: Arc<Fetch>,
    pub follow: Follow,
}

#[async_trait]
impl Work for Works {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError> {
        match &order.work {
            JobWork::Fetch { .. } => self.fetch.attempt(order, progress).await,
            JobWork::Follow { .. } => self.follow.attempt(order, progress).await,
            JobWork::Backup(_) | JobWork::Restore(_) | JobWork::Verify(_) => {
                Err(JobError::Never("no order to copy".to_owned()))
            }
        }
    }
}
