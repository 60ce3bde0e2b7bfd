//! One file of a destination: a line that says what it is, then frames of records, compressed and sealed.
//!
//! Each frame is sealed for that line, its own number and whether it is the last, so that no frame can be left out, swapped or brought
//! over from another file, and a file that was cut off is not taken for a whole one.
//! Not here: where files lie (folder), which there are (ship).

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, Read, Write},
    str::FromStr,
    sync::Arc,
};

use isyone_fleet::{
    event::Event,
    written::{self, Record, RecordKind, RecordValue},
};
use isyone_proto::{
    ids::ShortName,
    plan::{Secret, UnixMs},
};
use serde::{Deserialize, Serialize};

use crate::base::secrets::Sealer;

/// The first field of every file.
const FORMAT: &str = "isyone-state-1";
/// Most bytes of the first line: it has six short fields.
const MAX_HEAD: u64 = 1 << 10;
/// A frame is closed when it has so many bytes: bounds what is held in memory.
const FRAME: usize = 1 << 20;
/// Most bytes of a frame, unpacked: a record goes into one whole, and the largest (what was made of one tenant) have some 100 KiB.
const MAX_FRAME: usize = 64 << 20;
/// Half the size of level 1, and still faster than a disk.
const COMPRESSION: i32 = 3;

/// A full copy and what follows it, named by when it was begun: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Series(pub i64);

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}", self.0)
    }
}

impl FromStr for Series {
    type Err = String;

    /// Only as we write it: what it names is removed one day.
    fn from_str(text: &str) -> Result<Self, String> {
        let series = text.parse().map(Self).ok();
        let series = series.filter(|series| series.0 >= 0 && series.to_string() == text);
        series.ok_or_else(|| format!("{text:?} is no state: 13 digits, as `--list` shows them"))
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A full copy, without the keys of backups.
    Base,
    /// What changed since the part before; from 1.
    Batch(u32),
    /// The keys of tenants' backups: the latest ones and no others.
    Keys,
    /// The configuration.
    Configuration,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Batch(number) => write!(f, "{number:06}"),
            Self::Keys => f.write_str("keys"),
            Self::Configuration => f.write_str("configuration"),
        }
    }
}

impl Part {
    /// The part of a series with this file name.
    pub fn of_series(name: &str) -> Option<Self> {
        let part = match name {
            "base" => Self::Base,
            number => Self::Batch(number.parse().ok().filter(|number| *number > 0)?),
        };
        (part.to_string() == name).then_some(part)
    }
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    format: String,
    /// What it belongs to, or belonged to when it was written.
    pub series: Series,
    pub part: Part,
    /// The time of the state.
    pub at: UnixMs,
    pub incarnation: u16,
    /// The newest event of the state: with the incarnation it says which of two states is newer.
    pub last_event: u64,
}

impl Head {
    pub fn new(
        series: Series,
        part: Part,
        at: UnixMs,
        (incarnation, last_event): (u16, u64),
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            series,
            part,
            at,
            incarnation,
            last_event,
        }
    }

    /// Rises with what happens to a fleet.
    pub fn age(&self) -> (u16, u64) {
        (self.incarnation, self.last_event)
    }
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("it is not of this format, or of a newer version")]
    Format,
    #[error("it does not open: another sealing key, or it is damaged")]
    DoesNotOpen,
    #[error("it is not whole")]
    Short,
    #[error("it says that it is {0}")]
    Misplaced(String),
}

/// What is in a file.
#[derive(Debug, Default)]
pub struct Content {
    pub writes: Vec<written::Write>,
    pub configuration: Option<Configuration>,
}

/// The configuration, and what it only names the files of and cannot be started without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    pub text: String,
    /// Passwords at mail servers, by plan; `None`: the fleet's.
    pub mail_passwords: BTreeMap<Option<ShortName>, Secret>,
}

/// One line of a frame.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// Kind, key and body of a record.
    Put(String, String, String),
    Gone(String, String),
    Event(Arc<Event>),
    Forgotten(u64),
    Configuration(String),
    /// Of a plan, or the fleet's; after the configuration.
    MailPassword(Option<ShortName>, Secret),
}

impl From<&written::Write> for Line {
    fn from(write: &written::Write) -> Self {
        match write {
            written::Write::Put(value) => {
                let (kind, id) = value.key();
                Self::Put(kind.as_str().to_owned(), id.into_owned(), value.body())
            }
            written::Write::Delete(kind, id) => Self::Gone(kind.as_str().to_owned(), id.clone()),
            written::Write::Event(event) => Self::Event(event.clone()),
            written::Write::ForgetEvent(sequence) => Self::Forgotten(*sequence),
        }
    }
}

impl Content {
    fn add(&mut self, line: Line) -> Result<(), Damage> {
        let kind = |word: &str| RecordKind::parse(word).ok_or(Damage::Format);
        let write = match line {
            Line::Put(word, id, body) => {
                let kind = kind(&word)?;
                written::Write::Put(RecordValue::Copy(Record { kind, id, body }))
            }
            Line::Gone(word, id) => written::Write::Delete(kind(&word)?, id),
            Line::Event(event) => written::Write::Event(event),
            Line::Forgotten(sequence) => written::Write::ForgetEvent(sequence),
            Line::Configuration(text) => {
                self.configuration.get_or_insert_default().text = text;
                return Ok(());
            }
            Line::MailPassword(plan, password) => {
                let configuration = self.configuration.get_or_insert_default();
                configuration.mail_passwords.insert(plan, password);
                return Ok(());
            }
        };
        self.writes.push(write);
        Ok(())
    }
}

/// What a frame is sealed for.
fn record(head: &str, number: u32, is_last: bool) -> String {
    format!("state/{head}/{number}/{is_last}")
}

/// Writes frames.
struct Frames<'a, W> {
    out: &'a mut W,
    sealer: &'a Sealer,
    head: String,
    number: u32,
    plain: Vec<u8>,
}

impl<W: Write> Frames<'_, W> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.plain, line)?;
        self.plain.push(b'\n');
        match self.plain.len() >= FRAME {
            true => self.frame(false),
            false => Ok(()),
        }
    }

    fn frame(&mut self, is_last: bool) -> io::Result<()> {
        let packed = zstd::bulk::compress(&self.plain, COMPRESSION)?;
        let record = record(&self.head, self.number, is_last);
        let sealed = self.sealer.seal_bytes(&record, &packed);
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.out.write_all(&[u8::from(is_last)])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&sealed)?;
        self.plain.clear();
        self.number += 1;
        Ok(())
    }
}

/// Writes a file with these records, and perhaps a configuration.
pub fn write<W: Write>(
    out: &mut W,
    sealer: &Sealer,
    head: &Head,
    writes: &[written::Write],
    configuration: Option<&Configuration>,
) -> io::Result<()> {
    let head = serde_json::to_string(head)?;
    writeln!(out, "{head}")?;
    let mut frames = Frames {
        out,
        sealer,
        head,
        number: 0,
        plain: Vec::new(),
    };
    for write in writes {
        frames.line(&Line::from(write))?;
    }
    if let Some(configuration) = configuration {
        frames.line(&Line::Configuration(configuration.text.clone()))?;
        for (plan, password) in &configuration.mail_passwords {
            frames.line(&Line::MailPassword(plan.clone(), password.clone()))?;
        }
    }
    frames.frame(true)
}

/// Reads a whole file that must be this one, which may be anybody's.
pub fn read(input: impl Read, sealer: &Sealer, part: Part) -> Result<(Head, Content), Damage> {
    let mut input = io::BufReader::new(input);
    let mut first = String::new();
    let read = input.by_ref().take(MAX_HEAD).read_line(&mut first);
    read.map_err(|_| Damage::Format)?;
    let first = first.strip_suffix('\n').ok_or(Damage::Format)?;
    let head: Head = serde_json::from_str(first).map_err(|_| Damage::Format)?;
    if head.format != FORMAT {
        return Err(Damage::Format);
    }
    if head.part != part {
        return Err(Damage::Misplaced(head.part.to_string()));
    }
    let mut content = Content::default();
    for number in 0.. {
        let (is_last, plain) = frame(&mut input, sealer, first, number)?;
        for line in plain
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            content.add(serde_json::from_slice(line).map_err(|_| Damage::Format)?)?;
        }
        if is_last {
            break;
        }
    }
    match input.fill_buf()?.is_empty() {
        true => Ok((head, content)),
        false => Err(Damage::Format),
    }
}

fn frame(
    input: &mut impl Read,
    sealer: &Sealer,
    head: &str,
    number: u32,
) -> Result<(bool, Vec<u8>), Damage> {
    let mut begin = [0; 5];
    whole(input, &mut begin)?;
    let [last, length @ ..] = begin;
    let length = u32::from_le_bytes(length) as usize;
    if last > 1 || length > MAX_FRAME {
        return Err(Damage::Format);
    }
    // What a length claims is not believed before it is there.
    let mut sealed = Vec::new();
    input.take(length as u64).read_to_end(&mut sealed)?;
    if sealed.len() < length {
        return Err(Damage::Short);
    }
    let is_last = last == 1;
    let packed = sealer.open_bytes(&record(head, number, is_last), &sealed);
    let packed = packed.map_err(|_| Damage::DoesNotOpen)?;
    Ok((is_last, unpacked(&packed)?))
}

fn whole(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), Damage> {
    input.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Damage::Short,
        _ => Damage::Io(e),
    })
}

fn unpacked(packed: &[u8]) -> Result<Vec<u8>, Damage> {
    let decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    let mut plain = Vec::new();
    decoder.take(MAX_FRAME as u64 + 1).read_to_end(&mut plain)?;
    match plain.len() <= MAX_FRAME {
        true => Ok(plain),
        false => Err(Damage::Format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(part: Part) -> Head {
        Head::new(Series(7), part, 8, (0, 9))
    }

    fn file(sealer: &Sealer, part: Part, writes: &[written::Write]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, sealer, &head(part), writes, None).unwrap();
        out
    }

    /// Records of so many bytes.
    fn records(count: usize, bytes: usize) -> Vec<written::Write> {
        let record = |n: usize| Record {
            kind: RecordKind::Meta,
            id: n.to_string(),
            // Does not get smaller, so that there are several frames.
            body: crate::base::secrets::random_hex(bytes / 2),
        };
        let put = |n| written::Write::Put(RecordValue::Copy(record(n)));
        (0..count).map(put).collect()
    }

    fn bodies(writes: &[written::Write]) -> Vec<String> {
        let body = |write: &written::Write| match write {
            written::Write::Put(value) => value.body(),
            other => panic!("{other:?}"),
        };
        writes.iter().map(body).collect()
    }

    #[test]
    fn a_file_of_several_frames_comes_back_and_no_secret_is_in_it() {
        let (sealer, writes) = (Sealer::ephemeral(), records(30, 100_000));
        let bytes = file(&sealer, Part::Base, &writes);
        let (said, content) = read(&*bytes, &sealer, Part::Base).unwrap();
        assert_eq!((said, content.writes.len()), (head(Part::Base), 30));
        assert_eq!(bodies(&content.writes), bodies(&writes));
        let empty = file(&sealer, Part::Batch(1), &[]);
        let (_, content) = read(&*empty, &sealer, Part::Batch(1)).unwrap();
        assert!(content.writes.is_empty());
        let mut out = Vec::new();
        let passwords = [
            (None, "hunter2"),
            (Some("small".parse().unwrap()), "p\\s\n"),
        ];
        let configuration = Configuration {
            text: "base_domain = \"isy.one\"".to_owned(),
            mail_passwords: passwords.map(|(of, text)| (of, Secret::new(text))).into(),
        };
        let head = head(Part::Configuration);
        write(&mut out, &sealer, &head, &[], Some(&configuration)).unwrap();
        let shown = String::from_utf8_lossy(&out);
        assert!(!shown.contains("isy.one") && !shown.contains("hunter2"));
        let (_, content) = read(&*out, &sealer, Part::Configuration).unwrap();
        assert_eq!(content.configuration, Some(configuration));
    }

    #[test]
    fn whatever_is_flipped_cut_off_or_swapped_is_noticed() {
        let sealer = Sealer::ephemeral();
        let bytes = file(&sealer, Part::Base, &records(2, 300));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(read(&*other, &sealer, Part::Base).is_err(), "byte {at}");
            assert!(
                read(&bytes[..at], &sealer, Part::Base).is_err(),
                "cut at {at}"
            );
        }
        assert!(read(&*[&*bytes, b"x"].concat(), &sealer, Part::Base).is_err());
        let misplaced = read(&*bytes, &sealer, Part::Batch(1)).unwrap_err();
        assert!(matches!(misplaced, Damage::Misplaced(_)));
        let other = read(&*bytes, &Sealer::ephemeral(), Part::Base).unwrap_err();
        assert!(matches!(other, Damage::DoesNotOpen), "{other}");
    }

    #[test]
    fn a_file_with_a_frame_left_out_is_not_whole() {
        let sealer = Sealer::ephemeral();
        let bytes = file(&sealer, Part::Base, &records(30, 100_000));
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let length = u32::from_le_bytes(bytes[first + 1..first + 5].try_into().unwrap()) as usize;
        let without = [&bytes[..first], &bytes[first + 5 + length..]].concat();
        let noticed = read(&*without, &sealer, Part::Base).unwrap_err();
        assert!(matches!(noticed, Damage::DoesNotOpen), "{noticed}");
        let short = read(&bytes[..first + 5 + length], &sealer, Part::Base).unwrap_err();
        assert!(matches!(short, Damage::Short), "{short}");
    }

    #[test]
    fn names_are_read_only_as_we_write_them() {
        assert_eq!("0000000000007".parse(), Ok(Series(7)));
        for text in [
            "7",
            "00000000000007",
            "-000000000007",
            "+000000000007",
            "..",
            "",
        ] {
            assert!(text.parse::<Series>().is_err(), "{text}");
        }
        assert_eq!(Part::of_series("base"), Some(Part::Base));
        assert_eq!(Part::of_series("000012"), Some(Part::Batch(12)));
        for text in ["12", "000000", "keys", ".isyone-x", "+00012"] {
            assert_eq!(Part::of_series(text), None, "{text}");
        }
    }
}
