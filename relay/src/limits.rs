//! Every number that the relay goes by, each with its reason; a tenant's can be given in its route. Pure.
//!
//! Not here: how a limit is kept (`turns`, `shares`, `budget`, `pace`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;

/// Why limits are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, but must be from {min} to {max}")]
pub struct LimitError {
    /// The limit's name, as in the file.
    pub field: &'static str,
    /// What was given.
    pub value: u64,
    /// Smallest allowed value.
    pub min: u64,
    /// Largest allowed value.
    pub max: u64,
}

fn within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), LimitError> {
    let error = LimitError {
        field,
        value,
        min,
        max,
    };
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(error)
    }
}

/// A struct of limits: each with its reason, its default, and the range in which it makes sense.
macro_rules! limits {
    ($(#[$meta:meta])* $name:ident { $( $(#[$doc:meta])* $field:ident: $default:expr, $min:expr, $max:expr; )* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $( $(#[$doc])* pub $field: u64, )*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }
        impl $name {
            /// Refuses values that cannot work, naming the first.
            pub fn check(&self) -> Result<(), LimitError> {
                $( within(stringify!($field), self.$field, $min, $max)?; )*
                Ok(())
            }
        }
    };
}

limits! {
    /// A tenant's limits. What a file leaves out has its default.
    Limits {
        /// Largest request body, bytes: 1 GiB of file, and what a form says around it.
        upload_bytes: GIB + 16 * MIB, 1, 1024 * GIB;
        /// Largest body of somebody without a session that Odoo would parse in whole, bytes. Odoo needs some 30 times as much memory
        /// for the worst JSON; 1 MiB is far more than a login or a call has.
        anonymous_body_bytes: MIB, KIB, 1024 * GIB;
        /// While uploads are refused for want of disk, bodies above this still are, as at the edges; below are the calls of people who
        /// clean up, bytes.
        refused_upload_bytes: 100_000 - 1, KIB, GIB;
        /// Of a request body in memory before the rest goes to the spool, bytes. Nearly all bodies are smaller.
        body_memory_bytes: MIB, 4 * KIB, 64 * MIB;
        /// Longest pause between two bytes of a request body, milliseconds: a phone that changes its cell needs some 10 s.
        body_pause_ms: 30 * SECOND_MS, 50, 600 * SECOND_MS;
        /// Slowest sender, bytes per second over a window of its own time. A bad mobile line has ten times as much.
        body_rate_bytes: KIB, 0, GIB;
        /// Over how much of a sender's or reader's own time its rate is taken, milliseconds. Longer than the longest pause.
        rate_window_ms: MINUTE_MS, 100, 600 * SECOND_MS;
        /// Of an answer in memory while its reader is behind, bytes: most pages and calls fit.
        answer_memory_bytes: 256 * KIB, 64 * KIB, 64 * MIB;
        /// Of an answer in the spool while its reader is behind, bytes; beyond that the worker waits for the reader.
        answer_spool_bytes: GIB + 16 * MIB, 0, 1024 * GIB;
        /// Longest wait for an answer's next byte, milliseconds. Odoo ends its own requests before (`limit_time_real`), except large imports
        /// where an operator raised that.
        answer_wait_ms: 1_800 * SECOND_MS, 100, 24 * 3_600 * SECOND_MS;
        /// Longest time in which a reader takes no byte at all, milliseconds.
        reader_pause_ms: MINUTE_MS, 100, 3_600 * SECOND_MS;
        /// Slowest reader, bytes per second over a window. Promised are 50 kB/s; half of that, because kernels take and give in lumps.
        reader_rate_bytes: 25_000, 0, GIB;
        /// Requests at work in Odoo at once: its workers, or below what its connection pool has.
        max_in_flight: 8, 1, 4_096;
        /// Of these, one address's; 0: three quarters (rounded up), so that a newcomer finds a place.
        max_in_flight_per_address: 0, 0, 4_096;
        /// Requests at work in the websocket process at once. It serves many, but has a connection pool as well.
        max_in_flight_websocket: 16, 1, 4_096;
        /// Requests that wait for their turn. Each holds its body (in memory or in the spool) and a connection.
        queue_length: 1_024, 1, 65_536;
        /// Longest wait for a turn, milliseconds; then the page *busy*. People reload after that.
        queue_wait_ms: 30 * SECOND_MS, 10, 600 * SECOND_MS;
        /// How long requests are held when Odoo's port refuses connections though it should serve, milliseconds: a container's restart.
        retry_hold_ms: 10 * SECOND_MS, 0, 600 * SECOND_MS;
        /// Websockets at once. On threaded Odoo each is a thread, and the container has 256 processes and threads.
        websockets: 128, 1, 65_536;
        /// Websockets of one address (an office behind one address has many people; a share of what is free applies before).
        websockets_per_address: 64, 1, 65_536;
        /// Requests that are open in any way: sending, waiting, at work, reading. Each costs some 20 KiB beside its body.
        open_requests: 4_096, 1, 1_048_576;
        /// Of these, one address's.
        open_requests_per_address: 512, 1, 1_048_576;
        /// Memory for bodies and answers of this tenant's requests, bytes; what finds no room there goes to the spool.
        memory_bytes: 64 * MIB, 64 * KIB, 64 * GIB;
        /// Disk space for bodies and answers of this tenant's requests, bytes: some large ones at once.
        spool_bytes: 4 * GIB, 0, 1024 * GIB;
        /// Of this, one address's, bytes: one largest upload and one largest download.
        spool_bytes_per_address: 2 * GIB + 32 * MIB, 0, 1024 * GIB;
        /// Tries to get in (login, sign-up, password reset) of one address in a minute, when it goes on.
        sign_in_per_minute: 60, 1, 1_000_000;
        /// The same at once: an office in the morning.
        sign_in_burst: 60, 1, 1_000_000;
        /// External calls without a session (`/jsonrpc`, `/xmlrpc/`) of one address in a minute, when it goes on. Shops in sync do ten a second.
        rpc_per_minute: 1_200, 1, 10_000_000;
        /// The same at once.
        rpc_burst: 200, 1, 1_000_000;
    }
}

limits! {
    /// What all tenants of a host share.
    HostLimits {
        /// Memory for bodies and answers, bytes. One tenant has at most half of what is free.
        memory_bytes: 256 * MIB, MIB, 1024 * GIB;
        /// Disk space of the spool, bytes. One tenant has at most half of what is free.
        spool_bytes: 16 * GIB, 0, 1024 * GIB;
        /// Connections from edges, of all tenants. A file handle each, and one to Odoo.
        connections: 16_384, 16, 1_048_576;
        /// Websockets of all tenants.
        websockets: 16_384, 1, 1_048_576;
        /// Requests that are open in any way, of all tenants.
        open_requests: 16_384, 1, 1_048_576;
        /// A request's head, bytes: Odoo's worst (a long cookie, a long search in the address) has some 10 KiB.
        head_bytes: 64 * KIB, 8 * KIB, MIB;
        /// Headers of a request. Browsers and Traefik send some 30.
        headers: 100, 16, 1_000;
        /// From a head's first byte to its last, milliseconds.
        head_wait_ms: 15 * SECOND_MS, 50, 600 * SECOND_MS;
        /// How long a connection may be idle, milliseconds. Longer than edges keep one (Traefik ours: 2 s, by default 90 s): who closes first loses no request.
        idle_ms: 150 * SECOND_MS, 100, 3_600 * SECOND_MS;
        /// For a connection to Odoo, milliseconds: it is on this host.
        connect_ms: 2 * SECOND_MS, 10, 60 * SECOND_MS;
    }
}

impl Limits {
    /// Requests of one address at work in Odoo at once.
    pub fn in_flight_per_address(&self) -> u64 {
        match self.max_in_flight_per_address {
            0 => (self.max_in_flight * 3).div_ceil(4),
            n => n.min(self.max_in_flight),
        }
    }
}

/// Milliseconds as a duration.
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default_and_the_defaults_are_allowed() {
        let empty: Limits = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, Limits::default());
        empty.check().unwrap();
        HostLimits::default().check().unwrap();
        let newer: Limits =
            serde_json::from_str(r#"{"max_in_flight": 2, "of_next_year": 1}"#).unwrap();
        assert_eq!(newer.max_in_flight, 2);
    }

    #[test]
    fn a_limit_that_cannot_work_is_named() {
        let limits = Limits {
            max_in_flight: 0,
            ..Limits::default()
        };
        let error = limits.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "max_in_flight is 0, but must be from 1 to 4096"
        );
    }

    #[test]
    fn an_address_leaves_a_place_where_there_are_some() {
        let share = |max_in_flight| {
            Limits {
                max_in_flight,
                ..Limits::default()
            }
            .in_flight_per_address()
        };
        assert_eq!([1, 2, 4, 8].map(share), [1, 2, 3, 6]);
    }
}
