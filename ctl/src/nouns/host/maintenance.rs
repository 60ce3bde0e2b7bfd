//! `isyctl host maintenance`: announces work on a host until a stated time, and moves its tenants away unless they are to stay.
//!
//! Not here: what it means (the coordinator's core), the moves themselves (drain).

use std::{str::FromStr, time::Duration};

use clap::Args;
use isyone_proto::{
    convert::timestamp,
    echo::echo,
    pb::v1::{BeginMaintenanceRequest, EndMaintenanceRequest, Host},
};
use jiff::{Timestamp, ToSpan as _, civil::DateTime, civil::Time, tz::TimeZone};

use super::{changed, drain::Drain};
use crate::{
    app::App,
    clock,
    exit::{Failure, Outcome},
    options::{Waiting, duration},
    output::{format, table::clean},
};

/// `isyctl host maintenance`.
#[derive(Debug, Args)]
#[command(after_help = "\
The host is cordoned until the stated time; then it takes tenants again by itself, unless somebody has cordoned it beside. Meanwhile \
its alerts are silenced by one that says so, `host list` says *maintenance*, and the page that visitors get when a tenant there does not \
answer says until when.

Its tenants are moved away as `host drain` does it (they may be moved back with `isyctl rebalance`), or stay with `--leave`: then \
they are down whenever the host is. Said again, time and reason change.

Examples:
  isyctl host maintenance h1 --until 2h --reason 'a new disk'
  isyctl host maintenance h1 --until 05:00 --leave
  isyctl host maintenance h1 --until '2026-12-01 05:00'
  isyctl host maintenance h1 --end")]
pub struct Maintenance {
    /// The host's name
    name: String,
    /// For how long (2h), or until when in this machine's time zone (05:00, '2026-12-01 05:00')
    #[arg(long, value_name = "TIME", required_unless_present = "end")]
    until: Option<Until>,
    /// Leave its tenants there
    #[arg(long, conflicts_with = "end")]
    leave: bool,
    /// Why, for operators
    #[arg(long, value_name = "TEXT", conflicts_with = "end")]
    reason: Option<String>,
    /// It is over
    #[arg(long, conflicts_with_all = ["until", "wait", "no_wait", "max_pause"])]
    end: bool,
    /// Let tenants run while their data is copied, and pause for so long at most, as `host drain` does
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "leave")]
    max_pause: Option<Duration>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// The end of a maintenance, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    In(Duration),
    /// The next time that the clock says so.
    Clock(Time),
    On(DateTime),
    At(Timestamp),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(time) = duration(text) {
            return Ok(Self::In(time));
        }
        if let Ok(time) = Time::strptime("%H:%M", text) {
            return Ok(Self::Clock(time));
        }
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        text.parse().map(Self::On).map_err(|_| {
            format!(
                "`{}` is no time: write it as 2h, 05:00 or '2026-12-01 05:00'",
                echo(text)
            )
        })
    }
}

impl Until {
    fn at(self, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
        match self {
            Self::In(time) => now.checked_add(time),
            Self::At(at) => Ok(at),
            Self::On(day) => Ok(day.to_zoned(zone.clone())?.timestamp()),
            Self::Clock(time) => {
                let today = now.to_zoned(zone.clone()).date();
                let on = |day: jiff::civil::Date| day.to_datetime(time).to_zoned(zone.clone());
                let next = on(today)?.timestamp();
                match next > now {
                    true => Ok(next),
                    false => Ok(on(today.checked_add(1.day())?)?.timestamp()),
                }
            }
        }
    }
}

impl Maintenance {
    pub async fn run(self, app: &App) -> Outcome {
        match self.until.filter(|_| !self.end) {
            Some(until) => self.begin(app, until).await,
            None => self.over(app).await,
        }
    }

    async fn begin(self, app: &App, until: Until) -> Outcome {
        let failed = |e: jiff::Error| Failure::usage(format!("cannot tell when that is: {e}"));
        let now = Timestamp::from_millisecond(clock::now_ms()).map_err(failed)?;
        let at = until.at(now, &TimeZone::system()).map_err(failed)?;
        let request = BeginMaintenanceRequest {
            name: self.name.clone(),
            until: Some(timestamp(at.as_millisecond())),
            reason: self.reason.clone().unwrap_or_default(),
            leaves_tenants: self.leave,
        };
        let doing = format!("announce work on host `{}`", clean(&self.name));
        let host: Host = app
            .client()?
            .read(&doing, request, |c, r| async move {
                c.hosts().begin_maintenance(r).await
            })
            .await?;
        let told = host.maintenance.clone().unwrap_or_default();
        let what = format!(
            "is in maintenance until {}, and takes no tenants",
            format::local(told.until.as_ref())
        );
        if self.leave {
            return changed(app, &host, &format!("{what}; those there stay"));
        }
        app.ui.note(&format!("host {} {what}", clean(&host.name)));
        Drain::of(self.name, self.max_pause, self.yes, self.waiting)
            .run(app)
            .await
    }

    async fn over(self, app: &App) -> Outcome {
        let request = EndMaintenanceRequest {
            name: self.name.clone(),
        };
        let doing = format!("end the work on host `{}`", clean(&self.name));
        let host: Host = app
            .client()?
            .read(&doing, request, |c, r| async move {
                c.hosts().end_maintenance(r).await
            })
            .await?;
        let what = match host.cordoned {
            true => "is out of maintenance, and stays cordoned: `isyctl host uncordon` opens it",
            false => "is out of maintenance, and takes tenants",
        };
        changed(app, &host, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_written_in_four_ways() {
        let zone = TimeZone::get("America/Sao_Paulo").unwrap();
        let now = "2026-11-27T21:00:00Z".parse().unwrap(); // 18:00 there
        let at = |text: &str| {
            let until: Until = text.parse().unwrap();
            until.at(now, &zone).unwrap().to_string()
        };
        assert_eq!(at("2h"), "2026-11-27T23:00:00Z");
        assert_eq!(at("18:30"), "2026-11-27T21:30:00Z");
        assert_eq!(at("05:00"), "2026-11-28T08:00:00Z");
        assert_eq!(at("2026-12-01 05:00"), "2026-12-01T08:00:00Z");
        assert_eq!(at("2026-12-01T05:00:00Z"), "2026-12-01T05:00:00Z");
        for wrong in ["", "soon", "25:00", "0s"] {
            assert!(wrong.parse::<Until>().is_err(), "{wrong}");
        }
    }
}
