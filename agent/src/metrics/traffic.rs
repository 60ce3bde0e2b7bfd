//! Reduces Odoo's counters to what a person looks at: requests and errors per minute, slow requests, active users.
//! Pure.
//!
//! Not here: fetching them (relay) and when (sample).

use std::collections::{BTreeMap, VecDeque};

use isyone_proto::report::Traffic;

use crate::host::board::Work;

/// Length of the window for figures, in seconds, when there are samples that old.
const WINDOW_S: f64 = 60.0;
/// A sample closer than this to the previous one, in seconds, replaces it.
const LEAST_APART_S: f64 = 9.0;
/// Route class of our own health checks, which are not visitors.
const HEALTH: &str = "health";
/// Route class of websockets and long polling, whose duration means nothing.
const WEBSOCKET: &str = "websocket";
/// More buckets than any sensible histogram has.
const MAX_BUCKETS: usize = 64;

/// The samples that are read; the rest of a page is not looked at.
pub const NAMES: [&str; 8] = [
    REQUESTS,
    BUCKETS,
    SECONDS,
    WAITS,
    WEBSOCKETS,
    MAIL_QUEUE,
    ACTIVE_USERS,
    LAST_ACTIVE,
];
const REQUESTS: &str = "odoo_http_requests_total";
const BUCKETS: &str = "odoo_http_request_duration_seconds_bucket";
const SECONDS: &str = "odoo_http_request_duration_seconds_sum";
const WAITS: &str = "odoo_pool_waits_total";
const WEBSOCKETS: &str = "odoo_longpolling_connections";
const MAIL_QUEUE: &str = "odoo_mail_queue";
const ACTIVE_USERS: &str = "odoo_active_users";
const LAST_ACTIVE: &str = "odoo_last_activity_time_seconds";

/// One reading of Odoo's page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    requests: f64,
    errors: f64,
    /// Requests by upper bound in microseconds, cumulative; `u64::MAX` is `+Inf`.
    buckets: BTreeMap<u64, f64>,
    /// Time that Odoo has worked on them.
    worked_s: f64,
    pool_waits: f64,
    websockets: f64,
    active_users: f64,
    last_active_s: Option<f64>,
    mails_failed: Option<f64>,
}

impl Reading {
    /// Parses a page; `None` when it does not count requests.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reading = Self::default();
        let mut counts_requests = false;
        for line in text.lines() {
            let end = line.find(['{', ' ']).unwrap_or(0);
            let (name, rest) = line.split_at(end);
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            if !NAMES.contains(&name) {
                continue;
            }
            let Some((labels, Ok(value))) = rest
                .rsplit_once(' ')
                .map(|(labels, value)| (labels, value.parse::<f64>()))
            else {
                continue;
            };
            let route = label(labels, "route");
            match name {
                REQUESTS => {
                    counts_requests = true;
                    if route == Some(HEALTH) {
                        continue;
                    }
                    reading.requests += value;
                    if label(labels, "code").is_some_and(|code| code.starts_with('5')) {
                        reading.errors += value;
                    }
                }
                BUCKETS => {
                    if let Some(bound) = label(labels, "le").and_then(bound_us)
                        && route.is_none_or(|r| r != HEALTH && r != WEBSOCKET)
                        && (reading.buckets.len() < MAX_BUCKETS
                            || reading.buckets.contains_key(&bound))
                    {
                        *reading.buckets.entry(bound).or_default() += value;
                    }
                }
                SECONDS if route.is_none_or(|r| r != HEALTH && r != WEBSOCKET) => {
                    reading.worked_s += value;
                }
                WAITS => reading.pool_waits += value,
                WEBSOCKETS => reading.websockets += value,
                MAIL_QUEUE if label(labels, "state") == Some("exception") => {
                    reading.mails_failed = Some(reading.mails_failed.unwrap_or(0.0) + value);
                }
                ACTIVE_USERS => reading.active_users += value,
                LAST_ACTIVE if value.is_finite() => {
                    reading.last_active_s = Some(reading.last_active_s.unwrap_or(0.0).max(value));
                }
                _ => {}
            }
        }
        counts_requests.then_some(reading)
    }
}

fn bound_us(le: &str) -> Option<u64> {
    if le == "+Inf" {
        return Some(u64::MAX);
    }
    le.parse::<f64>()
        .ok()
        .filter(|s| *s >= 0.0)
        .map(|s| (s * 1e6).round() as u64)
}

/// A label's raw value; ours have nothing to unescape.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        let value = after.split('"').next()?;
        if key.trim_start_matches(',').trim() == name {
            return Some(value);
        }
        rest = after.get(value.len() + 1..)?;
    }
    None
}

/// What a person looks at, and how busy that keeps Odoo.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    pub traffic: Traffic,
    /// Requests at work at once, on average.
    pub at_work: f64,
    /// Requests that waited for a connection to the database.
    pub waits_per_minute: u32,
}

impl Figures {
    /// Of an Odoo that may work on so many requests at once.
    pub fn work(&self, places: u64) -> Work {
        // `as` saturates.
        Work {
            busy_permille: (self.at_work * 1000.0 / places.max(1) as f64).clamp(0.0, 1000.0) as u16,
            waits_per_minute: u16::try_from(self.waits_per_minute).unwrap_or(u16::MAX),
        }
    }
}

/// The last readings of one tenant.
#[derive(Debug, Clone, Default)]
pub struct History {
    readings: VecDeque<(f64, Reading)>,
}

impl History {
    /// Time of the newest reading in seconds, on the clock of [`Self::add`].
    pub fn newest_s(&self) -> Option<f64> {
        self.readings.back().map(|(at, _)| *at)
    }

    /// Adds a reading at `now_s` of a monotonic clock. Returns the figures, once there are two readings.
    pub fn add(&mut self, now_s: f64, reading: Reading) -> Option<Figures> {
        let restarted = self
            .readings
            .back()
            .is_some_and(|(_, last)| reading.requests < last.requests);
        if restarted {
            // Odoo's counters were reset: all that they count now has happened since the last reading.
            let at = self.newest_s()?;
            self.readings.clear();
            self.readings.push_back((at, Reading::default()));
        }
        if self.newest_s().is_some_and(|at| now_s - at < LEAST_APART_S) && self.readings.len() > 1 {
            self.readings.pop_back();
        }
        self.readings.push_back((now_s, reading));
        while self
            .readings
            .get(1)
            .is_some_and(|(at, _)| now_s - at >= WINDOW_S)
        {
            self.readings.pop_front();
        }
        let ((then, first), (at, last)) = (self.readings.front()?, self.readings.back()?);
        (at > then).then(|| between(first, last, at - then))
    }
}

fn between(first: &Reading, last: &Reading, seconds: f64) -> Figures {
    let per_minute = |from: f64, to: f64| ((to - from).max(0.0) * 60.0 / seconds).round() as u32;
    let buckets: Vec<(u64, f64)> = last
        .buckets
        .iter()
        .map(|(bound, count)| {
            (
                *bound,
                count - first.buckets.get(bound).copied().unwrap_or(0.0),
            )
        })
        .collect();
    let traffic = Traffic {
        requests_per_minute: per_minute(first.requests, last.requests),
        errors_per_minute: per_minute(first.errors, last.errors),
        latency_p95_ms: (quantile_us(&buckets, 0.95) / 1000.0).ceil() as u32,
        websockets: last.websockets.max(0.0) as u32,
        active_users: last.active_users.max(0.0) as u32,
        // `as` saturates.
        last_active_at: last.last_active_s.map(|seconds| (seconds * 1000.0) as i64),
        mails_failed: last.mails_failed.map(|mails| mails as u16),
    };
    Figures {
        traffic,
        at_work: (last.worked_s - first.worked_s).max(0.0) / seconds,
        waits_per_minute: per_minute(first.pool_waits, last.pool_waits),
    }
}

/// Like PromQL's `histogram_quantile`: linear within a bucket; beyond the last bound, that bound.
fn quantile_us(buckets: &[(u64, f64)], quantile: f64) -> f64 {
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let wanted = total * quantile;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *bound == u64::MAX || total <= 0.0 {
            break;
        }
        if *count >= wanted {
            let inside = (count - below).max(f64::MIN_POSITIVE);
            return lower + (*bound as f64 - lower) * (wanted - below) / inside;
        }
        (lower, below) = (*bound as f64, *count);
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(requests: u32, errors: u32) -> String {
        format!(
            "# TYPE odoo_http_requests_total counter\n\
             odoo_http_requests_total{{method=\"GET\",code=\"200\",route=\"page\"}} {}\n\
             odoo_http_requests_total{{method=\"GET\",code=\"200\",route=\"health\"}} {}\n\
             odoo_http_requests_total{{method=\"POST\",code=\"500\",route=\"rpc\"}} {errors}\n\
             odoo_http_request_duration_seconds_bucket{{route=\"page\",le=\"0.1\"}} {}\n\
             odoo_http_request_duration_seconds_bucket{{route=\"page\",le=\"1\"}} {requests}\n\
             odoo_http_request_duration_seconds_bucket{{route=\"page\",le=\"+Inf\"}} {requests}\n\
             odoo_http_request_duration_seconds_sum{{route=\"page\"}} {}\n\
             odoo_http_request_duration_seconds_sum{{route=\"websocket\"}} {requests}000\n\
             odoo_pool_waits_total {}\n\
             odoo_longpolling_connections 3\nodoo_active_users 2\n\
             odoo_mail_queue{{datname=\"a\",state=\"outgoing\"}} 9\nodoo_mail_queue{{datname=\"a\",state=\"exception\"}} 4\n\
             odoo_last_activity_time_seconds{{datname=\"a\"}} 1.7e9\n",
            requests - errors,
            requests * 100,
            requests / 2,
            f64::from(requests) * 0.3,
            f64::from(requests) * 0.12,
        )
    }

    #[test]
    fn two_readings_give_figures() {
        let mut history = History::default();
        assert_eq!(
            history.add(0.0, Reading::parse(&page(10, 0)).unwrap()),
            None
        );
        let figures = history
            .add(30.0, Reading::parse(&page(110, 5)).unwrap())
            .unwrap();
        // 30 s of work in 30 s, and 12 waits.
        assert_eq!((figures.at_work, figures.waits_per_minute), (1.0, 24));
        let work = |places| figures.work(places).busy_permille;
        assert_eq!([work(1), work(2), work(8), work(0)], [1000, 500, 125, 1000]);
        // 100 requests: half of them under 0.1 s, the others spread evenly up to 1 s.
        let wanted = Traffic {
            requests_per_minute: 200,
            errors_per_minute: 10,
            latency_p95_ms: 910,
            websockets: 3,
            active_users: 2,
            last_active_at: Some(1_700_000_000_000),
            mails_failed: Some(4),
        };
        assert_eq!(figures.traffic, wanted);
    }

    #[test]
    fn a_restart_of_odoo_is_no_negative_traffic() {
        let mut history = History::default();
        history.add(0.0, Reading::parse(&page(1000, 0)).unwrap());
        history.add(30.0, Reading::parse(&page(2000, 0)).unwrap());
        let figures = history
            .add(60.0, Reading::parse(&page(20, 0)).unwrap())
            .unwrap();
        assert_eq!(figures.traffic.requests_per_minute, 40);
    }

    #[test]
    fn old_readings_leave_the_window() {
        let mut history = History::default();
        for at in 0..40 {
            history.add(
                f64::from(at) * 15.0,
                Reading::parse(&page(10 * at, 0)).unwrap(),
            );
        }
        assert!(history.readings.len() <= 6, "{}", history.readings.len());
        let quiet = history
            .add(1000.0, Reading::parse(&page(390, 0)).unwrap())
            .unwrap()
            .traffic;
        assert_eq!((quiet.requests_per_minute, quiet.latency_p95_ms), (0, 0));
    }

    #[test]
    fn a_page_of_somebody_else_is_none() {
        assert_eq!(Reading::parse("<html>not found</html>"), None);
        assert_eq!(label("method=\"GET\",code=\"200\"", "code"), Some("200"));
        assert_eq!(label("code", "code"), None);
    }

    proptest! {
        #[test]
        fn whatever_odoo_says_it_is_read(text in "(odoo_[a-z_]{0,40}(\\{[a-z\",=0-9.+]{0,30}\\})? [0-9naif.-]{0,8}\n){0,10}") {
            let mut history = History::default();
            if let Some(reading) = Reading::parse(&text) {
                history.add(0.0, reading.clone());
                history.add(20.0, reading);
            }
        }
    }
}
