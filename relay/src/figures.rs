//! What is counted, and the page on which Prometheus reads it.
//!
//! Counters are kept for each tenant for as long as it has a route. Not here: who counts, and the listener (`admin`).

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::pages::Notice;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// `n` more.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! figures {
    ($( $field:ident: $help:literal; )*) => {
        /// A tenant's counters.
        #[derive(Debug, Default)]
        pub(crate) struct Figures {
            $( #[doc = $help] pub $field: Counter, )*
            /// Answers of the relay's own, in the order of `Notice::ALL`.
            notices: [Counter; Notice::ALL.len()],
        }
        impl Figures {
            /// Name, help and value of each counter.
            fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$( (stringify!($field), $help, self.$field.get()), )*]
            }
        }
    };
}

figures! {
    requests: "Requests that came.";
    answers: "Answers of Odoo that were passed on.";
    requests_queued: "Requests that waited for a place.";
    queue_wait_ms: "Time that requests waited for a place, milliseconds.";
    requests_held: "Requests that were held while Odoo was away.";
    connects_retried: "Connections to Odoo that were tried again, before anything was sent.";
    body_bytes: "Bytes of request bodies.";
    bodies_spooled: "Request bodies that went to the spool.";
    answer_bytes: "Bytes of answers.";
    answers_spooled: "Answers of which a part went to the spool.";
    answers_stalled: "Times that Odoo had to wait for a reader, because the spool was full.";
    readers_cut: "Readers that took too little for too long.";
    visitors_gone: "Visitors that went before their answer was there.";
    websockets: "Websockets that were opened.";
    connections_refused: "Connections closed at once because there were too many.";
}

/// What is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Now {
    /// Requests at work in Odoo.
    pub in_flight: u64,
    /// Requests that wait for a place.
    pub waiting: u64,
    /// Requests that are open in any way.
    pub open: u64,
    /// Websockets.
    pub websockets: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes in the spool.
    pub spool_bytes: u64,
}

impl Now {
    fn all(&self) -> [(&'static str, &'static str, u64); 6] {
        [
            ("in_flight", "Requests at work in Odoo.", self.in_flight),
            ("waiting", "Requests that wait for a place.", self.waiting),
            (
                "open_requests",
                "Requests that are open in any way.",
                self.open,
            ),
            (
                "open_websockets",
                "Websockets that are open.",
                self.websockets,
            ),
            (
                "memory_bytes",
                "Bodies and answers in memory, bytes.",
                self.memory_bytes,
            ),
            (
                "spool_bytes",
                "Bodies and answers in the spool, bytes.",
                self.spool_bytes,
            ),
        ]
    }
}

impl Figures {
    /// Counts an answer of the relay's own.
    pub(crate) fn notice(&self, notice: Notice) {
        let is = |other: &Notice| other.name() == notice.name();
        if let Some(at) = Notice::ALL.iter().position(is) {
            self.notices[at].one();
        }
    }

    #[cfg(test)]
    fn notices(&self, notice: Notice) -> u64 {
        let all = Notice::ALL.iter().zip(&self.notices);
        let of = all.filter(|(other, _)| other.name() == notice.name());
        of.map(|(_, counter)| counter.get()).sum()
    }
}

/// What concerns the relay as a whole.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Files of routes that were refused.
    pub(crate) routes_refused: Counter,
    /// Times that accepting a connection failed.
    pub(crate) accept_failures: Counter,
    /// Times that an address could not be listened at.
    pub(crate) listen_failures: Counter,
}

/// The page in Prometheus' text form. Tenants sorted by the caller.
pub(crate) fn page(own: &Own, revision: u64, tenants: &[(String, &Figures, Now)]) -> String {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    for (name, kind, help, value) in [
        (
            "isyone_relay_routes_revision",
            "gauge",
            "Number of the routes that are in force.",
            revision,
        ),
        (
            "isyone_relay_routes_refused_total",
            "counter",
            "Files of routes that were refused.",
            own.routes_refused.get(),
        ),
        (
            "isyone_relay_accept_failures_total",
            "counter",
            "Times that accepting a connection failed.",
            own.accept_failures.get(),
        ),
        (
            "isyone_relay_listen_failures_total",
            "counter",
            "Times that an address could not be listened at.",
            own.listen_failures.get(),
        ),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
    let Some((_, first, now)) = tenants.first() else {
        return out;
    };
    for (at, (name, help, _)) in first.all().into_iter().enumerate() {
        let name = format!("isyone_relay_{name}_total");
        head(&mut out, &name, "counter", help);
        for (tenant, figures, _) in tenants {
            let value = figures.all()[at].2;
            let _ = writeln!(out, "{name}{{tenant=\"{tenant}\"}} {value}");
        }
    }
    head(
        &mut out,
        "isyone_relay_notices_total",
        "counter",
        "Answers of the relay's own.",
    );
    for (tenant, figures, _) in tenants {
        for (notice, count) in Notice::ALL.iter().zip(&figures.notices) {
            let (notice, count) = (notice.name(), count.get());
            let _ = writeln!(
                out,
                "isyone_relay_notices_total{{tenant=\"{tenant}\",notice=\"{notice}\"}} {count}"
            );
        }
    }
    for (at, (name, help, _)) in now.all().into_iter().enumerate() {
        let name = format!("isyone_relay_{name}");
        head(&mut out, &name, "gauge", help);
        for (tenant, _, now) in tenants {
            let value = now.all()[at].2;
            let _ = writeln!(out, "{name}{{tenant=\"{tenant}\"}} {value}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_on_the_page_once_for_each_tenant() {
        let (alfa, beta) = (Figures::default(), Figures::default());
        alfa.requests.add(3);
        alfa.notice(Notice::TooMany { retry_s: 77 });
        assert_eq!(alfa.notices(Notice::too_many()), 1);
        let now = Now {
            waiting: 5,
            ..Now::default()
        };
        let tenants = [
            ("alfa".to_owned(), &alfa, now),
            ("beta".to_owned(), &beta, Now::default()),
        ];
        let page = page(&Own::default(), 9, &tenants);
        for line in [
            "isyone_relay_routes_revision 9",
            "isyone_relay_requests_total{tenant=\"alfa\"} 3",
            "isyone_relay_requests_total{tenant=\"beta\"} 0",
            "isyone_relay_notices_total{tenant=\"alfa\",notice=\"too-many\"} 1",
            "isyone_relay_waiting{tenant=\"alfa\"} 5",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        let series: Vec<_> = page.lines().filter(|l| !l.starts_with('#')).collect();
        let names: std::collections::HashSet<_> = series
            .iter()
            .filter_map(|l| l.rsplit_once(' '))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(names.len(), series.len());
    }
}
