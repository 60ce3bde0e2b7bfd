//! Where a bucket is, who we are there, and how long we wait for it.
//!
//! Not here: where the credentials come from (the coordinator's configuration).

use std::{fmt, time::Duration};

use zeroize::Zeroizing;

/// Shows nobody its keys.
#[derive(Clone)]
pub struct Access {
    /// `https://s3.example.com`, without the bucket.
    pub endpoint: String,
    pub bucket: String,
    /// What the request is signed for; many servers take any.
    pub region: String,
    /// What all keys begin with; may be empty.
    pub prefix: String,
    pub access_key: Zeroizing<String>,
    pub secret_key: Zeroizing<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

impl Access {
    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        let prefix = self.prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!(
            "{}/{}{slash}{prefix}",
            self.endpoint.trim_end_matches('/'),
            self.bucket
        )
    }
}

/// How long a bucket may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Anything that carries no file.
    pub short: Duration,
    /// A file of 16 MiB, of 64 MiB at most.
    pub long: Duration,
    /// Between two attempts, growing to four times as much.
    pub pause: Duration,
    /// Attempts after the first one.
    pub retries: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            short: Duration::from_secs(20),
            // 64 MiB at 400 KB a second.
            long: Duration::from_secs(180),
            pause: Duration::from_secs(1),
            retries: 3,
        }
    }
}
