//! Who carries which kind of order out.
//!
//! Not here: carrying it out.

use std::sync::Arc;

use isyone_proto::plan::{JobOrder, JobWork};
use tonic::async_trait;

use super::{JobError, Progress, Work, fetch::Fetch, follow::Follow};

/// All that jobs of this agent can do.
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
        }
    }
}
