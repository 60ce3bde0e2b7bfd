//! Says whose trouble it is when a tenant cannot be reached through the edge: its own, its host's or the edge's. Pure.
//!
//! The edge comes first: when most connections to one edge address fail, nobody's tenant is to blame. Then the host: a
//! silent one explains its tenants. Then whoever is behind wrong answers that many tenants get (answers). What is left is the
//! tenant's own trouble, its route and its certificate included. Not here: asking, and keeping the answers (the coordinator's edges/probes).

use std::{borrow::Cow, fmt, net::SocketAddr};

use isyone_types::plan::UnixMs;

use super::answers;
use crate::liveness::HostState;

/// Why a visitor would not have got a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No TCP connection or no TLS session with the edge, and why: the same for every tenant behind it.
    NotConnected(Cow<'static, str>),
    /// The edge shows a certificate that browsers do not take for this name.
    Certificate(Cow<'static, str>),
    /// Connected, but no HTTP answer.
    NoAnswer(Cow<'static, str>),
    /// Another answer than 200 to 299.
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

/// How one tenant was found, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// When it was asked.
    pub at: UnixMs,
    /// The edge that it went through.
    pub edge: SocketAddr,
    /// From the beginning of the connection to the answer's head, or to the failure.
    pub duration_ms: u32,
    /// HTTP status of the answer, when there was one.
    pub status: Option<u16>,
    /// When the first certificate of the chain that the edge showed ends, seconds; none without TLS.
    pub certificate_until_s: Option<i64>,
    /// None when all was well.
    pub failure: Option<Failure>,
}

impl Probe {
    /// Whether the edge took the connection: that is all that a probe says of the edge.
    pub fn connected(&self) -> bool {
        !matches!(self.failure, Some(Failure::NotConnected(_)))
    }
}

/// What a probe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Visitors get in.
    Reachable,
    /// The tenant, its route or its certificate.
    TenantDown,
    /// Its host is silent, or all its tenants get wrong answers.
    HostDown,
    /// Its edge takes no connections, or answers wrongly for most.
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
    /// Most of them failed. Of none, nothing is known.
    pub fn most_failed(self) -> bool {
        self.failed > self.tried / 2
    }
}

/// The connections of about the last `span_ms`, a round: the present half of it and the one before. Where there were none, the last one
/// counts for another round: who is alone behind an edge is asked a moment later than a round ago, and meanwhile an alert of the edge
/// shall not be taken back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    began: UnixMs,
    present: Counts,
    before: Counts,
    last: Option<(UnixMs, bool)>,
}

impl Window {
    /// Counts a connection that was tried at `now`.
    pub fn add(&mut self, now: UnixMs, span_ms: i64, connected: bool) {
        self.turn(now, span_ms);
        self.present.tried = self.present.tried.saturating_add(1);
        self.present.failed = self.present.failed.saturating_add(u32::from(!connected));
        self.last = Some((now, connected));
    }

    /// What is known at `now`.
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
        // A clock that was set back begins anew, too.
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

/// Who is behind wrong answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Each tenant itself, as far as others tell.
    Tenant,
    Host,
    Edge,
}

/// Whose trouble a probe shows. `edge` is what is known of the edge that the probe went through; `behind` is asked only when the answer was a wrong
/// one and nothing else explains it.
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

/// Failed probes in a row after which it is told: one may be a restart, or a lost packet.
const TELL_AFTER: u8 = 2;

/// What operators were told of a tenant, and how often in a row it has failed since it was last reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    down: bool,
    failures: u8,
}

/// What an event is to tell of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The tenant is not reachable, and it is its own trouble.
    Down,
    /// It is reachable again.
    Up,
}

impl Told {
    /// Takes a judgement in. A host's and an edge's trouble are told as theirs, not once more for each tenant.
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

    /// What was to be told was not: the next probe tells it.
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
            // One of many: the edge takes the others' connections.
            (refused(), counts(1, 10), Ready, TenantDown),
            (refused(), counts(5, 10), Ready, TenantDown),
            (refused(), counts(1, 10), Lost, HostDown),
            // The edge answers this one, whatever becomes of others.
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
            // Right after a start nothing is known of the host: that excuses nobody.
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
            // Odoo's own error, and what a certificate is: no edge in trouble says so.
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

        /// Whatever the rest of the world does: while an edge fails for all, no tenant is blamed.
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

        /// A window never knows more than what happened within its span, nor less than within half of it.
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
            // Each waits five seconds for a connection that does not come, and is then noted under the time of its begin.
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
