//! How often the agent looks, how long it waits, and how long anything may take.
//!
//! Not here: what is done then.

use std::time::Duration;

/// The agent's timeouts and intervals. Tests shorten them.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Between checks while something starts.
    pub poll: Duration,
    /// Between checks for a moment without creates, for work that can wait.
    pub idle: Duration,
    /// How long a program may take from its start to its first answer.
    pub start_timeout: Duration,
    /// How long Odoo's websocket process may take to accept connections, once Odoo answers; after that the tenant goes
    /// on without it.
    pub websockets_timeout: Duration,
    /// How long our SQL may run: well under a second, but a tenant's own triggers and locks could hold it up for ever.
    pub sql_timeout: Duration,
    /// How long a tenant keeps its turn among those that are worked on; what takes longer goes on without. Most Odoos answer within
    /// that.
    pub turn: Duration,
    /// Between health checks of a settled tenant.
    pub probe: Duration,
    /// Between full comparisons of a settled tenant; events trigger more in between.
    pub resync: Duration,
    /// First wait after a failure; doubles.
    pub retry_first: Duration,
    /// Longest wait after a failure.
    pub retry_cap: Duration,
    /// Between questions whether Docker answers.
    pub docker_ask: Duration,
    /// How long that may take.
    pub docker_patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(25),
            idle: Duration::from_secs(1),
            start_timeout: Duration::from_secs(180),
            websockets_timeout: Duration::from_secs(15),
            sql_timeout: Duration::from_secs(60),
            turn: Duration::from_secs(15),
            // 120 settled tenants: some 8 small HTTP requests at one moment of each second (PROBE_MOMENTS).
            probe: Duration::from_secs(15),
            resync: Duration::from_secs(300),
            retry_first: Duration::from_secs(1),
            retry_cap: Duration::from_secs(60),
            // With two questions unanswered, a Docker that hangs is found within 40 s.
            docker_ask: Duration::from_secs(10),
            docker_patience: Duration::from_secs(10),
        }
    }
}

impl Pace {
    /// For tests over a fake engine: everything happens within milliseconds.
    pub fn hasty() -> Self {
        let ms = Duration::from_millis;
        Self {
            poll: ms(1),
            idle: ms(5),
            start_timeout: ms(300),
            websockets_timeout: ms(50),
            sql_timeout: ms(100),
            turn: ms(20),
            probe: ms(50),
            resync: ms(200),
            retry_first: ms(2),
            retry_cap: ms(20),
            docker_ask: ms(50),
            // Longer than a busy machine keeps a fake Docker from answering.
            docker_patience: ms(500),
        }
    }
}
