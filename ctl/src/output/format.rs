//! Numbers and times for people: durations, ages, bytes, shares, points in time, enum words. Pure.

use isyone_proto::{convert::unix_ms, pb::v1};
use prost_types::Timestamp;

/// A duration in two units at most: `650ms`, `1.65s`, `42s`, `3m 5s`, `2h 7m`, `4d 1h`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..10 => format!("{}.{:02}s", seconds, ms % 1000 / 10),
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(big: i64, big_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{big}{big_unit}")
    } else {
        format!("{big}{big_unit} {small}{small_unit}")
    }
}

/// How long ago, in one unit: `8s`, `5m`, `3h`, `12d`; `-` for never.
pub fn age(now_ms: i64, then: Option<&Timestamp>) -> String {
    let Some(then) = then else {
        return "-".to_owned();
    };
    let seconds = (now_ms.saturating_sub(unix_ms(then)) / 1000).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Time between two points; `-` unless both are set.
pub fn between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> String {
    match (start, end) {
        (Some(start), Some(end)) => duration(unix_ms(end).saturating_sub(unix_ms(start))),
        _ => "-".to_owned(),
    }
}

/// Bytes in binary units, at most three digits before the decimal point: `0 B`, `1.5 GiB`, `512 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = 0;
    // 1023.95 would print as "1024.0": switch to the next unit before that.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 || (value - value.round()).abs() < 0.05 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Thousandths of a CPU as CPUs: `0.25`, `2`, `1.5`.
pub fn cpus(millis: u32) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Per mille as per cent, without decimals.
pub fn percent(permille: u32) -> String {
    format!("{}%", (u64::from(permille) + 5) / 10)
}

/// A part of a whole as per cent; `-` when the whole is 0.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        "-".to_owned()
    } else {
        format!(
            "{}%",
            (u128::from(part) * 100 + u128::from(whole) / 2) / u128::from(whole)
        )
    }
}

/// A count per minute as a rate per second: `0`, `0.05`, `3.2`, `120`.
pub fn per_second(per_minute: u32) -> String {
    let rate = f64::from(per_minute) / 60.0;
    match rate {
        0.0 => "0".to_owned(),
        ..1.0 => format!("{rate:.2}"),
        ..100.0 => format!("{rate:.1}"),
        _ => format!("{rate:.0}"),
    }
}

/// 95th percentile of a tenant's response times; none when it is unknown or there were no requests.
pub fn p95(traffic: Option<&v1::Traffic>) -> Option<String> {
    let traffic = traffic.filter(|traffic| traffic.requests_per_minute > 0)?;
    Some(duration(traffic.latency_p95_ms.into()))
}

/// A tenant's disk use. Its volumes are never empty, so 0 means not measured yet.
pub fn measured_disk(usage: Option<&v1::Usage>) -> Option<u64> {
    usage
        .map(|usage| usage.disk_bytes)
        .filter(|bytes| *bytes > 0)
}

/// A timestamp as RFC 3339 in UTC with milliseconds, for programs.
pub fn rfc3339(time: &Timestamp) -> Option<String> {
    let stamp = jiff::Timestamp::from_millisecond(unix_ms(time)).ok()?;
    Some(stamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// A timestamp in the reader's time zone, to the second; `-` when unset.
pub fn local(time: Option<&Timestamp>) -> String {
    time.and_then(|t| jiff::Timestamp::from_millisecond(unix_ms(t)).ok())
        .map_or_else(
            || "-".to_owned(),
            |stamp| {
                stamp
                    .to_zoned(jiff::tz::TimeZone::system())
                    .strftime("%Y-%m-%d %H:%M:%S %Z")
                    .to_string()
            },
        )
}

/// `text`, or `-` when it is empty.
pub fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// The same as programs write it.
pub fn utc(time: Option<&Timestamp>) -> String {
    time.and_then(|t| jiff::Timestamp::from_millisecond(unix_ms(t)).ok())
        .map_or_else(
            || "-".to_owned(),
            |stamp| stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )
}

/// `text`, or its beginning and `…` when it has more than `most` characters.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => {
            let begin: String = text.chars().take(most.saturating_sub(1)).collect();
            format!("{}…", begin.trim_end())
        }
    }
}

/// `k=v,k=v`, sorted; `-` when there is none.
pub fn labels(labels: &std::collections::HashMap<String, String>) -> String {
    let mut pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.sort();
    or_dash(&pairs.join(",")).to_owned()
}

/// In milliseconds; of a time that nobody waits for, the coordinator says what it takes.
pub fn milliseconds(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// A count with its noun: `1 host`, `2 hosts`.
pub fn plural(count: usize, one: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {one}s")
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $enum:ty, $prefix:literal) => {
        $(#[$doc])*
        pub fn $name(value: i32) -> String {
            match <$enum>::try_from(value) {
                Ok(known) => known.as_str_name().trim_start_matches($prefix).to_ascii_lowercase(),
                // A value of a newer coordinator: show the number instead of inventing a word.
                Err(_) => value.to_string(),
            }
        }
    };
}

word!(
    /// A tenant's phase as one lower-case word.
    phase, v1::TenantPhase, "TENANT_PHASE_");
/// A tenant's [`phase`], or that it sleeps.
pub fn tenant_phase(tenant: &v1::Tenant) -> String {
    let sleeps = tenant.asleep_time.is_some() && tenant.phase() == v1::TenantPhase::Suspended;
    if sleeps {
        "asleep".to_owned()
    } else {
        phase(tenant.phase)
    }
}

word!(
    /// A desired state as one lower-case word.
    desired, v1::DesiredState, "DESIRED_STATE_");
word!(
    /// A host's state as one lower-case word.
    host_state, v1::HostState, "HOST_STATE_");
word!(
    /// The state of an operation or a step as one lower-case word.
    operation_state, v1::OperationState, "OPERATION_STATE_");
word!(
    /// What an operation does, as one lower-case word.
    operation_kind, v1::OperationKind, "OPERATION_KIND_");
word!(
    /// An edge's state as one lower-case word.
    edge_state, v1::EdgeState, "EDGE_STATE_");
word!(
    /// What a backup holds, as one lower-case word.
    backup_work, v1::BackupWork, "BACKUP_WORK_");
word!(
    /// Why a backup was made, as one lower-case word.
    backup_purpose, v1::BackupPurpose, "BACKUP_PURPOSE_");
word!(
    /// What a proof has found, as one lower-case word.
    proof_verdict, v1::ProofVerdict, "PROOF_VERDICT_");
/// When backups were last found to be whole; that they are damaged, or that files are missing.
pub fn verified(
    now_ms: i64,
    oldest: Option<&prost_types::Timestamp>,
    (damaged, incomplete): (bool, bool),
) -> String {
    match (damaged, incomplete) {
        (true, _) => "damaged".to_owned(),
        (false, true) => format!("{}, incomplete", age(now_ms, oldest)),
        (false, false) => age(now_ms, oldest),
    }
}
word!(
    /// Whether a tenant can be restored as its plan promises, as one lower-case word.
    standing, v1::Standing, "STANDING_");
word!(
    /// An operator's role as one lower-case word.
    role, v1::Role, "ROLE_");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_well() {
        for (ms, text) in [
            (-5, "0ms"),
            (0, "0ms"),
            (999, "999ms"),
            (1650, "1.65s"),
            (9_999, "9.99s"),
            (10_000, "10s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (185_000, "3m 5s"),
            (7_620_000, "2h 7m"),
            (86_400_000, "1d"),
            (349_200_000, "4d 1h"),
        ] {
            assert_eq!(duration(ms), text, "{ms}");
        }
    }

    #[test]
    fn bytes_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536 << 20, "1.5 GiB"),
            (1 << 30, "1 GiB"),
            (512 << 20, "512 MiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    fn shares_and_cpus_read_well() {
        assert_eq!(
            (cpus(0), cpus(250), cpus(2000), cpus(1500)),
            ("0".into(), "0.25".into(), "2".into(), "1.5".into())
        );
        assert_eq!(
            (percent(314), percent(1000), percent(4)),
            ("31%".into(), "100%".into(), "0%".into())
        );
        assert_eq!((share(1, 3), share(5, 0)), ("33%".into(), "-".into()));
        assert_eq!(
            [0, 3, 59, 60, 5_999, 7_200].map(per_second),
            ["0", "0.05", "0.98", "1.0", "100.0", "120"]
        );
    }

    #[test]
    fn words_are_short_and_an_unknown_value_is_its_number() {
        assert_eq!(phase(v1::TenantPhase::Running.into()), "running");
        assert_eq!(
            operation_state(v1::OperationState::Retrying.into()),
            "retrying"
        );
        assert_eq!(role(99), "99");
    }

    #[test]
    fn what_is_too_long_shows_its_beginning() {
        assert_eq!(shortened("host h2", 7), "host h2");
        assert_eq!(shortened("höst h2, silent", 9), "höst h2,…");
        assert_eq!(shortened("host h2", 6), "host…");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(
            rfc3339(&Timestamp {
                seconds: 1_795_420_800,
                nanos: 5_000_000
            })
            .unwrap(),
            "2026-11-23T08:00:00.005Z"
        );
        assert_eq!(
            rfc3339(&Timestamp {
                seconds: i64::MAX,
                nanos: 0
            }),
            None
        );
    }

    proptest! {
        #[test]
        fn bytes_are_short_and_close(count in any::<u64>()) {
            let text = bytes(count);
            prop_assert!(text.len() <= 8, "{}", text);
            let (number, unit) = text.split_once(' ').unwrap();
            let power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|u| *u == unit).unwrap();
            let back = number.parse::<f64>().unwrap() * 1024f64.powi(power as i32);
            prop_assert!((back - count as f64).abs() <= 0.06 * (count as f64).max(1.0), "{} is not {}", text, count);
        }

        #[test]
        fn durations_keep_their_order(a in 0i64..10_000_000_000, b in 0i64..10_000_000_000) {
            let value = |text: &str| text.split(' ').map(|part| {
                let at = part.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                let scale = match &part[at..] { "ms" => 1.0, "s" => 1e3, "m" => 6e4, "h" => 3.6e6, _ => 8.64e7 };
                part[..at].parse::<f64>().unwrap() * scale
            }).sum::<f64>();
            let (shorter, longer) = (a.min(b), a.max(b));
            prop_assert!(value(&duration(shorter)) <= value(&duration(longer)));
        }

        #[test]
        fn ages_never_panic_and_are_short(now in any::<i64>(), seconds in any::<i64>(), nanos in any::<i32>()) {
            let text = age(now, Some(&Timestamp { seconds, nanos }));
            prop_assert!(!text.is_empty() && text.len() <= 16, "{}", text);
        }
    }
}
