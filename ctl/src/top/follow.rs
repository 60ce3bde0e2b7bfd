//! The event loop of `isyctl top`: feeds keys, answers, log lines, time and signals to the model, and draws the result.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    fetch::{self, Following},
    model::{Answer, Effect, Event, Model},
    screen::Screen,
    view,
};
use crate::{
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    output::table::clean,
    terminal,
};

/// Redraw once a second, because ages on the screen count in seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Follows the fleet until the user quits or a signal arrives.
pub async fn follow(client: &Client, mut model: Model, every: Duration, colour: bool) -> Outcome {
    // From here on we handle signals ourselves.
    let mut ends = Ends::listen()?;
    let (columns, rows) = terminal::size();
    let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    model.update(Event::Tick(clock::now_ms()));
    model.update(Event::Resize(size(columns), size(rows)));
    // Before switching screens, so that an error of the first request stays visible on the normal screen.
    let first = tokio::select! {
        answer = fetch::ask(client, model.query()) => answer?,
        stopped = ends.came() => return Err(stopped),
    };
    model.update(Event::Answer(Box::new(first)));
    let screen = Screen::enter(colour)?;
    Loop {
        client,
        model,
        screen,
        ends,
        questions: JoinSet::new(),
        again: false,
        log: None,
    }
    .run(every)
    .await
}

struct Loop<'a> {
    client: &'a Client,
    model: Model,
    screen: Screen,
    ends: Ends,
    /// The request in flight: at most one.
    questions: JoinSet<Result<Answer, Failure>>,
    /// The query has changed since the request was sent: send another.
    again: bool,
    log: Option<Following>,
}

impl Loop<'_> {
    async fn run(mut self, every: Duration) -> Outcome {
        let mut turns = interval_at(Instant::now() + every, every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = interval_at(Instant::now() + SECOND, SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.screen.show(view::view(&self.model));
            let event = tokio::select! {
                event = self.screen.next() => event,
                stopped = self.ends.came() => return Err(stopped),
                Some(answer) = self.questions.join_next() => self.answered(answer),
                event = lines(&mut self.log) => event,
                _ = seconds.tick() => Event::Tick(clock::now_ms()),
                _ = turns.tick() => {
                    self.ask();
                    continue;
                }
            };
            if matches!(event, Event::Hangup) {
                return Err(Failure::new(Exit::Interrupted, ""));
            }
            for effect in self.model.update(event) {
                match effect {
                    Effect::Fetch => self.ask(),
                    Effect::OpenLog(name, role) => {
                        self.log = Some(Following::open(self.client, name, role))
                    }
                    Effect::CloseLog => self.log = None,
                    Effect::Quit => return Ok(Exit::Done),
                }
            }
        }
    }

    fn ask(&mut self) {
        if !self.questions.is_empty() {
            self.again = true;
            return;
        }
        let (client, query) = (self.client.clone(), self.model.query());
        self.questions
            .spawn(async move { fetch::ask(&client, query).await });
    }

    fn answered(
        &mut self,
        answer: Result<Result<Answer, Failure>, tokio::task::JoinError>,
    ) -> Event {
        if std::mem::take(&mut self.again) {
            self.ask();
        }
        match answer {
            Ok(Ok(answer)) => Event::Answer(Box::new(answer)),
            Ok(Err(failure)) => Event::Failed(clean(&failure.message)),
            // The panic hook has restored the terminal already.
            Err(broken) if broken.is_panic() => Event::Hangup,
            Err(broken) => Event::Failed(broken.to_string()),
        }
    }
}

async fn lines(log: &mut Option<Following>) -> Event {
    match log {
        Some(log) => log.next().await,
        None => std::future::pending().await,
    }
}

/// Signals that end us.
struct Ends([Signal; 3]);

impl Ends {
    fn listen() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|e| Failure::failed(format!("cannot listen to signals: {e}")))
        };
        Ok(Self([
            on(SignalKind::terminate())?,
            on(SignalKind::interrupt())?,
            on(SignalKind::hangup())?,
        ]))
    }

    async fn came(&mut self) -> Failure {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        Failure::new(Exit::Interrupted, "")
    }
}
