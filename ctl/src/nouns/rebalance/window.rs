//! The time during which moves may begin: hours of the day, or so long from now on. Pure.
//!
//! Not here: waiting for it (apply).

use std::{str::FromStr, time::Duration};

use isyone_proto::echo::echo;
use jiff::{Timestamp, ToSpan as _, civil::Time, tz::TimeZone};

/// Hours of each day, `22:00-05:00`; they may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    from: Time,
    to: Time,
}

/// When moves may begin, from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    /// So long until then; nothing: now.
    pub opens_in: Duration,
    /// And so long, from now on, until the end.
    pub ends_in: Duration,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "`{}` is no time of the day: write it as 22:00-05:00",
                echo(text)
            )
        };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let time = |part: &str| Time::strptime("%H:%M", part).map_err(|_| wrong());
        let (from, to) = (time(from)?, time(to)?);
        if from == to {
            return Err("it ends when it begins".to_owned());
        }
        Ok(Self { from, to })
    }
}

impl Window {
    /// The window that is open at a moment, or the next one.
    pub(super) fn at(self, now: Timestamp, zone: &TimeZone) -> Result<Open, jiff::Error> {
        let today = now.to_zoned(zone.clone()).date();
        let over_midnight = self.to <= self.from;
        // The one that began yesterday may be open still.
        for day in [-1, 0, 1] {
            let begins = today.checked_add(day.days())?;
            let ends = begins.checked_add(i32::from(over_midnight).days())?;
            let at = |day: jiff::civil::Date, time| day.to_datetime(time).to_zoned(zone.clone());
            let (begins, ends) = (at(begins, self.from)?, at(ends, self.to)?);
            if ends.timestamp() > now {
                return Ok(Open {
                    opens_in: until(now, begins.timestamp()),
                    ends_in: until(now, ends.timestamp()),
                });
            }
        }
        // Tomorrow's ends after now, whatever the zone does.
        Ok(Open {
            opens_in: Duration::ZERO,
            ends_in: Duration::ZERO,
        })
    }
}

/// Nothing when it is past.
fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(window: &str, now: &str) -> (u64, u64) {
        let window: Window = window.parse().unwrap();
        let zone = TimeZone::get("America/Sao_Paulo").unwrap();
        let open = window.at(now.parse().unwrap(), &zone).unwrap();
        (open.opens_in.as_secs() / 60, open.ends_in.as_secs() / 60)
    }

    #[test]
    fn a_window_is_open_waits_or_has_gone_over_midnight() {
        // 18:00 there is 21:00 UTC.
        assert_eq!(at("22:00-05:00", "2026-11-27T21:00:00Z"), (240, 660));
        assert_eq!(at("22:00-05:00", "2026-11-28T02:00:00Z"), (0, 360));
        assert_eq!(at("22:00-05:00", "2026-11-28T07:59:00Z"), (0, 1));
        assert_eq!(at("22:00-05:00", "2026-11-28T08:00:00Z"), (1020, 1440));
        assert_eq!(at("08:00-12:00", "2026-11-27T14:00:00Z"), (0, 60));
        assert_eq!(at("08:00-12:00", "2026-11-27T15:00:00Z"), (1200, 1440));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for wrong in [
            "",
            "22:00",
            "22-05",
            "25:00-01:00",
            "22:00-",
            "a-b",
            "5:00-5:00",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }
}
