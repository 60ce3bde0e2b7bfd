//! Values with units, as people write them: `"2GiB"`, `"7d"`, `0.5`, `"10.0.0.1"`.
//!
//! Not here: which values are allowed, which depends on the key (check).

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A number of bytes: `"512MiB"`, `"2GB"` or a plain integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

impl Bytes {
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = || D::Error::custom("expected a number of bytes such as \"2GiB\" or 1048576");
        match NumberOrText::deserialize(deserializer).map_err(|_| wanted())? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text
                .parse::<bytesize::ByteSize>()
                .map(|b| Self(b.as_u64()))
                .map_err(|_| wanted()),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = [("GiB", 30), ("MiB", 20)]
            .into_iter()
            .find(|(_, shift)| self.0 >> shift << shift == self.0);
        match whole {
            Some((unit, shift)) if self.0 > 0 => {
                serializer.serialize_str(&format!("{}{unit}", self.0 >> shift))
            }
            _ => serializer.serialize_u64(self.0),
        }
    }
}

/// A number with three decimal places: CPUs, or a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u32);

impl Cpus {
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis)
    }
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        // No machine has 4096 CPUs; NaN fails the comparison, too.
        if (0.001..=4096.0).contains(&number) {
            Ok(Self((number * 1000.0).round() as u32))
        } else {
            Err(D::Error::custom(format!(
                "{number} is out of range: expected 0.001 to 4096"
            )))
        }
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

/// A duration: `"5s"`, `"24h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
    pub const fn days(n: u64) -> Self {
        Self::seconds(n * 86_400)
    }
    pub const fn get(self) -> Duration {
        self.0
    }
    /// In milliseconds; saturates.
    pub fn millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wanted = |_| {
            D::Error::custom(format!(
                "{text:?} is no duration such as \"5s\", \"24h\" or \"7d\""
            ))
        };
        humantime::parse_duration(&text).map(Self).map_err(wanted)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// Addresses or networks; a bare address is a network with one address.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(|n| n.trunc())
            .map_err(|_| D::Error::custom(format!("{text:?} is no address or network")))
    };
    texts.iter().map(parse).collect()
}

/// A time of the day: `"01:30"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    minutes: u16,
}

impl TimeOfDay {
    /// So many minutes after midnight; a day has 1440.
    pub(super) const fn at(minutes: u16) -> Self {
        Self { minutes }
    }

    pub(super) const fn minutes(self) -> u16 {
        self.minutes
    }
}

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str, below: u16| {
            let two_digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse::<u16>().ok().filter(|_| two_digits);
            number.filter(|number| *number < below)
        };
        let parts = text.split_once(':');
        let parts = parts.and_then(|(h, m)| Some((number(h, 24)?, number(m, 60)?)));
        let (hours, minutes) =
            parts.ok_or_else(|| format!("{text:?} is no time of the day such as \"01:30\""))?;
        Ok(Self {
            minutes: hours * 60 + minutes,
        })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}
