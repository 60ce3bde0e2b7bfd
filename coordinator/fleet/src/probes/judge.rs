//! Decides where the fault lies when a tenant cannot be reached through the edge: with the tenant, its host or the
//! edge. Pure.
//!
//! The edge comes first: when most connections to one edge address fail, no tenant is to blame. Then the host: a silent
//! one explains its tenants' failures. Then a common cause of wrong answers that many tenants get (answers). What is
//! left is the tenant's own fault, including its route and its certificate.
//! Not here: sending probes and keeping their results (the coordinator's edges/probes).

use std::{borrow::Cow, fmt, net::SocketAddr};

use isyone_types::plan::UnixMs;

use super::answers;
use crate::liveness::HostState;

/// Why a visitor would not have got a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No TCP connection or no TLS session with the edge, and why: it would be the same for every tenant behind it.
    NotConnected(Cow<'static, str>),
    /// The edge presents a certificate that browsers do not accept for this name.
    Certificate(Cow<'static, str>),
    /// Connected, but no HTTP response.
    NoAnswer(Cow<'static, str>),
    /// A response status other than 200 to 299.
    Status(u16),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected(why) => write!(f, "no connection: {why}"),
            Self::Certificate(why) => write!(f, "certificate refused: {why}"),
            Self::NoAnswer(why) => write!(f, "no answer: {why}"),
            Self::Status(code) => write!(f, "answered {code}"),
        }
    }
}

/// The result of one probe of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// When the probe was sent.
    pub at: UnixMs,
    /// The edge that it went through.
    pub edge: SocketAddr,
    /// From connecting to the response head, or to the failure.
    pub duration_ms: u32,
    /// HTTP status of the response, if there was one.
    pub status: Option<u16>,
    /// When the leaf certificate that the edge presents expires, seconds since the Unix epoch; `None` without TLS.
    pub certificate_until_s: Option<i64>,
    /// `None` when all was well.
    pub failure: Option<Failure>,
}

impl Probe {
    /// Whether the edge accepted the connection, which is all that a single probe says of the edge.
    pub fn connected(&self) -> bool {
        !matches!(self.failure, Some(Failure::NotConnected(_)))
    }
}

/// Where the fault lies, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Visitors reach the tenant.
    Reachable,
    /// The tenant, its route or its certificate.
    TenantDown,
    /// Its host is silent, or all of the host's tenants get wrong answers.
    HostDown,
    /// Its edge accepts no connections, or gives most tenants wrong answers.
    EdgeDown,
}

impl Judgement {
    /// One word, for labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::TenantDown => "tenant_down",
            Self::HostDown => "host_down",
            Self::EdgeDown => "edge_down",
        }
    }
}

/// Connections to one edge address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub tried: u32,
    pub failed: u32,
}

impl Counts {
    /// Whether most of them failed; false when there were none.
    pub fn most_failed(self) -> bool {
        self.failed > self.tried / 2
    }
}

/// Connections of about the last `span_ms`, which is one round: the current half of it and the half before. Without
/// any, the last connection counts for another round: a tenant alone behind an edge is probed a moment later than a
/// round ago, and an alert about the edge must not be withdrawn in between.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    began: UnixMs,
    present: Counts,
    before: Counts,
    last: Option<(UnixMs, bool)>,
}

impl Window {
    /// Counts a connection attempted at `now`.
    pub fn add(&mut self, now: UnixMs, span_ms: i64, connected: bool) {
        self.turn(now, span_ms);
        self.present.tried = self.present.tried.saturating_add(1);
        self.present.failed = self.present.failed.saturating_add(u32::from(!connected));
        self.last = Some((now, connected));
    }

    /// The counts as of `now`.
    pub fn counts(mut self, now: UnixMs, span_ms: i64) -> Counts {
        self.turn(now, span_ms);
        let counts = Counts {
            tried: self.present.tried.saturating_add(self.before.tried),
            failed: self.present.failed.saturating_add(self.before.failed),
        };
        match self.last {
            Some((at, connected))
                if counts.tried == 0 && (0..2 * span_ms).contains(&(now - at)) =>
            {
                Counts {
                    tried: 1,
                    failed: u32::from(!connected),
                }
            }
            _ => counts,
        }
    }

    fn turn(&mut self, now: UnixMs, span_ms: i64) {
        let (half, age) = ((span_ms / 2).max(1), now - self.began);
        // Also start anew when the clock was set back.
        if age >= 2 * half || age < 0 {
            *self = Self {
                began: now,
                last: self.last,
                ..Self::default()
            };
        } else if age >= half {
            (self.began, self.before) = (self.began + half, std::mem::take(&mut self.present));
        }
    }
}

/// The cause of wrong answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Each tenant by itself, as far as the other tenants' answers tell.
    Tenant,
    Host,
    Edge,
}

/// Decides where the fault lies. `edge` counts connections to the edge that the probe went through. `behind` is called
/// only when the answer was wrong and nothing else explains it.
pub fn judge(
    probe: &Probe,
    edge: Counts,
    host: HostState,
    behind: impl FnOnce() -> Behind,
) -> Judgement {
    if probe.failure.is_none() {
        return Judgement::Reachable;
    }
    if !probe.connected() && edge.most_failed() {
        return Judgement::EdgeDown;
    }
    if matches!(host, HostState::Suspect | HostState::Lost) {
        return Judgement::HostDown;
    }
    if answers::is_wrong(probe) != Some(true) {
        return Judgement::TenantDown;
    }
    match behind() {
        Behind::Tenant => Judgement::TenantDown,
        Behind::Host => Judgement::HostDown,
        Behind::Edge => Judgement::EdgeDown,
    }
}

/// Failed probes in a row before an event reports it: one may be a restart or a lost packet.
const TELL_AFTER: u8 = 2;

/// What events have reported of a tenant, and its failures in a row since it was last reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    down: bool,
    failures: u8,
}

/// What an event must report of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The tenant is not reachable, and the fault is its own.
    Down,
    /// The tenant is reachable again.
    Up,
}

impl Told {
    /// Takes in a judgement. Trouble of hosts and edges is reported as theirs, not for each tenant.
    pub fn hear(&mut self, judgement: Judgement) -> Option<News> {
        match judgement {
            Judgement::Reachable => {
                let news = self.down.then_some(News::Up);
                *self = Self::default();
                news
            }
            Judgement::TenantDown => {
                self.failures = self.failures.saturating_add(1);
                let news = (!self.down && self.failures >= TELL_AFTER).then_some(News::Down);
                self.down |= news.is_some();
                news
            }
            Judgement::HostDown | Judgement::EdgeDown => None,
        }
    }

    /// Call this when the event could not be recorded: the next probe reports it again.
    pub fn not_told(&mut self) {
        self.down = !self.down;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;

    fn probe(failure: Option<Failure>) -> Probe {
        let edge = ([192, 0, 2, 1], 443).into();
        Probe {
            at: 0,
            edge,
            duration_ms: 3,
            status: None,
            certificate_until_s: None,
            failure,
        }
    }

    #[test]
    fn whose_trouble_it_is() {
        use HostState::{Degraded, Lost, Ready, Suspect, Unknown};
        use Judgement::{EdgeDown, HostDown, Reachable, TenantDown};
        let refused = || Some(Failure::NotConnected("refused".into()));
        let counts = |failed, tried| Counts { tried, failed };
        for (failure, edge, host, expected) in [
            (None, counts(9, 9), Lost, Reachable),
            (refused(), counts(1, 1), Ready, EdgeDown),
            (refused(), counts(9, 9), Lost, EdgeDown),
            (refused(), counts(6, 10), Ready, EdgeDown),
            // One of many: the edge accepts the others' connections.
            (refused(), counts(1, 10), Ready, TenantDown),
            (refused(), counts(5, 10), Ready, TenantDown),
            (refused(), counts(1, 10), Lost, HostDown),
            // The edge answers this one, whatever happens to others.
            (Some(Failure::Status(502)), counts(9, 10), Ready, TenantDown),
            (Some(Failure::Status(502)), counts(0, 10), Suspect, HostDown),
            (Some(Failure::Status(502)), counts(0, 10), Lost, HostDown),
            (
                Some(Failure::NoAnswer("timeout".into())),
                counts(0, 10),
                Lost,
                HostDown,
            ),
            (
                Some(Failure::NoAnswer("timeout".into())),
                counts(0, 10),
                Degraded,
                TenantDown,
            ),
            // Right after a start nothing is known of the host; that is no excuse for the tenant.
            (
                Some(Failure::Status(404)),
                counts(0, 10),
                Unknown,
                TenantDown,
            ),
            (
                Some(Failure::Certificate("expired".into())),
                counts(0, 10),
                Ready,
                TenantDown,
            ),
        ] {
            let judged = judge(&probe(failure.clone()), edge, host, || Behind::Tenant);
            assert_eq!(judged, expected, "{failure:?} {edge:?} {host:?}");
        }
        assert!(!Counts::default().most_failed());
    }

    #[test]
    fn a_wrong_answer_that_others_get_too_is_the_trouble_of_whoever_is_behind_them() {
        use HostState::{Degraded, Lost, Ready};
        use Judgement::{EdgeDown, HostDown, TenantDown};
        let edge = Counts {
            tried: 10,
            failed: 1,
        };
        for (failure, host, behind, expected) in [
            (Failure::Status(404), Ready, Behind::Edge, EdgeDown),
            (Failure::Status(502), Degraded, Behind::Edge, EdgeDown),
            (
                Failure::NoAnswer("timeout".into()),
                Ready,
                Behind::Edge,
                EdgeDown,
            ),
            (Failure::Status(504), Ready, Behind::Host, HostDown),
            (Failure::Status(503), Lost, Behind::Edge, HostDown),
            // Odoo's own error, and certificate trouble: an edge in trouble does not answer like this.
            (Failure::Status(500), Ready, Behind::Edge, TenantDown),
            (
                Failure::Certificate("expired".into()),
                Ready,
                Behind::Edge,
                TenantDown,
            ),
            (
                Failure::NotConnected("refused".into()),
                Ready,
                Behind::Edge,
                TenantDown,
            ),
        ] {
            let judged = judge(&probe(Some(failure.clone())), edge, host, || behind);
            assert_eq!(judged, expected, "{failure:?} {host:?} {behind:?}");
        }
    }

    #[test]
    fn a_window_forgets() {
        let mut window = Window::default();
        for second in 0..20 {
            window.add(1_000_000 + second * 1000, MINUTE, false);
        }
        assert_eq!(
            window.counts(1_020_000, MINUTE),
            Counts {
                tried: 20,
                failed: 20
            }
        );
        window.add(1_040_000, MINUTE, true);
        assert_eq!(
            window.counts(1_040_000, MINUTE),
            Counts {
                tried: 21,
                failed: 20
            }
        );
        assert_eq!(
            window.counts(1_065_000, MINUTE),
            Counts {
                tried: 1,
                failed: 0
            }
        );
        assert_eq!(window.counts(1_200_000, MINUTE), Counts::default());
        assert_eq!(window.counts(5, MINUTE), Counts::default());
    }

    #[test]
    fn a_change_is_told_once_and_only_the_tenants_own() {
        use Judgement::{EdgeDown, HostDown, Reachable, TenantDown};
        let mut told = Told::default();
        let course = [
            (Reachable, None),
            (TenantDown, None),
            (Reachable, None),
            (EdgeDown, None),
            (HostDown, None),
            (EdgeDown, None),
            (TenantDown, None),
            (TenantDown, Some(News::Down)),
            (TenantDown, None),
            (EdgeDown, None),
            (Reachable, Some(News::Up)),
            (Reachable, None),
        ];
        for (step, (judgement, news)) in course.into_iter().enumerate() {
            assert_eq!(told.hear(judgement), news, "step {step}");
        }
        assert_eq!(
            (told.hear(TenantDown), told.hear(TenantDown)),
            (None, Some(News::Down))
        );
        told.not_told();
        assert_eq!(told.hear(TenantDown), Some(News::Down));
    }

    fn judgements() -> impl Strategy<Value = Vec<Judgement>> {
        use Judgement::{EdgeDown, HostDown, Reachable, TenantDown};
        proptest::collection::vec(
            proptest::sample::select(vec![Reachable, TenantDown, HostDown, EdgeDown]),
            0..60,
        )
    }

    proptest! {
        #[test]
        fn down_and_up_are_told_in_turns(course in judgements()) {
            let mut told = Told::default();
            let news: Vec<News> = course.into_iter().filter_map(|j| told.hear(j)).collect();
            for (place, one) in news.iter().enumerate() {
                prop_assert_eq!(*one, if place % 2 == 0 { News::Down } else { News::Up });
            }
        }

        /// Whatever else happens: while an edge fails for all, no tenant is blamed.
        #[test]
        fn a_dead_edge_blames_no_tenant(steps in proptest::collection::vec(0..20_000_i64, 1..200)) {
            let (mut window, mut now) = (Window::default(), 1_000_000);
            let dead = probe(Some(Failure::NotConnected("refused".into())));
            for step in steps {
                now += step;
                window.add(now, MINUTE, dead.connected());
                let judged = judge(&dead, window.counts(now, MINUTE), HostState::Ready, || Behind::Tenant);
                prop_assert_eq!(judged, Judgement::EdgeDown);
            }
        }

        /// A window never counts anything older than its span, and always everything within half of it.
        #[test]
        fn a_window_covers_its_span(steps in proptest::collection::vec((0..40_000_i64, any::<bool>()), 1..200)) {
            let (mut window, mut now, mut all) = (Window::default(), 1_000_000, Vec::new());
            for (step, connected) in steps {
                now += step;
                window.add(now, MINUTE, connected);
                all.push(now);
                let counts = window.counts(now, MINUTE);
                let within = |ms: i64| all.iter().filter(|at| now - **at < ms).count() as u32;
                prop_assert!(counts.failed <= counts.tried);
                prop_assert!((within(MINUTE / 2)..=within(MINUTE)).contains(&counts.tried));
            }
        }
    }

    #[test]
    fn of_the_edge_of_a_lone_tenant_something_is_known_until_its_next_late_probe() {
        let mut window = Window::default();
        for round in 1..5 {
            // Each connection attempt times out after five seconds and is then recorded under its start time.
            let begin = round * (MINUTE + 300);
            window.add(begin, MINUTE, false);
            for after in (5_000..MINUTE + 5_300).step_by(100) {
                assert!(
                    window.counts(begin + after, MINUTE).most_failed(),
                    "{after} ms after round {round}"
                );
            }
        }
    }
}
