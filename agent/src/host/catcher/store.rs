//! Messages that were caught: one file each in their tenant's directory, so many at most, the oldest go first.
//!
//! A file is the message as it came, after two lines with its envelope. What is in it is the tenant's word. Blocking. Not here: taking
//! messages (mod.rs), showing them (link).

use std::{io, path::Path};

use isyone_proto::{
    convert::{shortened, timestamp},
    pb::v1::CaughtMail,
};
use mail_parser::MessageParser;

use super::session::Envelope;
use crate::base::fsutil;

/// Directory within the tenant's.
pub const DIRECTORY: &str = "mail";
/// Most messages that a tenant has.
pub const MAX_MESSAGES: usize = 200;
/// Most bytes of all of them.
pub const MAX_BYTES: u64 = 64 << 20;
/// Of a message's head, what is read for the list.
const HEAD_BYTES: u64 = 64 << 10;
/// Recipients that the list names.
const NAMED: usize = 10;
/// Characters of a subject in the list, and of an address.
const MAX_SUBJECT: usize = 200;
const ENDING: &str = ".eml";
/// The lines before the message.
const FROM: &str = "X-Isyone-From: ";
const TO: &str = "X-Isyone-To: ";
/// Messages of one millisecond.
const MAX_NUMBER: u32 = 10_000;

/// Keeps a message, and removes what is too old or too much then. Returns its id.
pub fn keep(directory: &Path, now_ms: i64, envelope: &Envelope, text: &[u8]) -> io::Result<String> {
    fsutil::private_dir(directory)?;
    let (head, to) = (&envelope.from, envelope.to.join(", "));
    let mut content = format!("{FROM}{head}\r\n{TO}{to}\r\n").into_bytes();
    content.extend_from_slice(text);
    sweep(directory)?;
    for number in 0..MAX_NUMBER {
        let id = id(now_ms, number);
        let path = path(directory, &id);
        if fsutil::exists(&path) {
            continue;
        }
        match fsutil::write_new(&path, &content, 0o600) {
            // One that came meanwhile has this number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            written => written?,
        }
        tidy(directory)?;
        return Ok(id);
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes what a crash has left of messages that were being written: a tenant has one at a time.
fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fsutil::list(directory)? {
        if fsutil::is_unfinished(&entry.name) && !entry.is_directory {
            fsutil::remove_file(&entry.path)?;
        }
    }
    Ok(())
}

fn id(now_ms: i64, number: u32) -> String {
    format!("{now_ms}-{number:04}")
}

fn path(directory: &Path, id: &str) -> std::path::PathBuf {
    directory.join(format!("{id}{ENDING}"))
}

/// Removes the oldest, until the others are neither too many nor too large.
fn tidy(directory: &Path) -> io::Result<()> {
    let (mut count, mut bytes) = (0, 0);
    for (id, size) in newest_first(directory)? {
        count += 1;
        bytes += size;
        if count > MAX_MESSAGES || (bytes > MAX_BYTES && count > 1) {
            fsutil::remove_file(&path(directory, &id))?;
        }
    }
    Ok(())
}

/// Ids and sizes.
fn newest_first(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    if !fsutil::is_directory(directory) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fsutil::list(directory)? {
        let name = entry.name.to_string_lossy();
        if let Some(id) = name.strip_suffix(ENDING).filter(|id| time(id).is_some()) {
            found.push((id.to_owned(), fsutil::size(&entry.path)?));
        }
    }
    found.sort_by_key(|(id, _)| std::cmp::Reverse((time(id), id.clone())));
    Ok(found)
}

/// When a message of this id came.
fn time(id: &str) -> Option<i64> {
    let (ms, number) = id.split_once('-')?;
    number.parse::<u32>().ok()?;
    ms.parse().ok().filter(|ms: &i64| *ms >= 0)
}

/// What has been caught, the newest first.
pub fn list(directory: &Path) -> io::Result<Vec<CaughtMail>> {
    let newest = newest_first(directory)?.into_iter().take(MAX_MESSAGES);
    let one = |(id, size): (String, u64)| {
        let head = fsutil::read_head(&path(directory, &id), HEAD_BYTES).ok()?;
        Some(shown(id, size, &head))
    };
    // One that is removed meanwhile is not there.
    Ok(newest.filter_map(one).collect())
}

/// A message, all of it; `None`: it is not there, or not any more.
pub fn read(directory: &Path, id: &str) -> io::Result<Option<(CaughtMail, Vec<u8>)>> {
    if time(id).is_none() {
        return Ok(None);
    }
    match fsutil::read(&path(directory, id)) {
        Ok(text) => Ok(Some((shown(id.to_owned(), text.len() as u64, &text), text))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn shown(id: String, size: u64, text: &[u8]) -> CaughtMail {
    let line = |text: &[u8], word: &str| {
        let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        (
            line.strip_prefix(word)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            line.len() + 1,
        )
    };
    let (from, first) = line(text, FROM);
    let rest = text.get(first..).unwrap_or_default();
    let (to, second) = line(rest, TO);
    let message = rest.get(second..).unwrap_or_default();
    let all: Vec<&str> = to.split(", ").filter(|one| !one.is_empty()).collect();
    let parsed = MessageParser::new().parse_headers(message);
    let subject = parsed.as_ref().and_then(|parsed| parsed.subject());
    CaughtMail {
        time: time(&id).map(timestamp),
        from: shortened(from, MAX_SUBJECT),
        to: all
            .iter()
            .take(NAMED)
            .map(|one| shortened((*one).to_owned(), MAX_SUBJECT))
            .collect(),
        recipients: u32::try_from(all.len()).unwrap_or(u32::MAX),
        subject: shortened(subject.unwrap_or_default().to_owned(), MAX_SUBJECT),
        size_bytes: size,
        data: Vec::new(),
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a message came, milliseconds.
    fn came(mail: &CaughtMail) -> i64 {
        mail.time.as_ref().map_or(0, isyone_proto::convert::unix_ms)
    }

    fn envelope() -> Envelope {
        Envelope {
            from: "alfa@isy.one".to_owned(),
            to: (0..12).map(|n| format!("ana{n}@example.com")).collect(),
        }
    }

    const TEXT: &[u8] =
        b"From: A <a@b.c>\r\nSubject: =?utf-8?q?Fatura_n=C2=BA_7?=\r\nX: y\r\n\r\nHello\r\n";

    #[test]
    fn what_was_kept_is_listed_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(DIRECTORY);
        assert!(list(&place).unwrap().is_empty());
        let first = keep(&place, 1_000, &envelope(), TEXT).unwrap();
        let second = keep(&place, 1_000, &envelope(), TEXT).unwrap();
        let found = list(&place).unwrap();
        assert_eq!(found[0].id, second);
        let mail = &found[1];
        assert_eq!((&mail.id, came(mail)), (&first, 1_000));
        assert_eq!(
            (mail.subject.as_str(), mail.from.as_str()),
            ("Fatura nº 7", "alfa@isy.one")
        );
        assert_eq!((mail.to.len(), mail.recipients), (10, 12));
        let (_, text) = read(&place, &first).unwrap().unwrap();
        assert!(text.ends_with(TEXT) && text.starts_with(b"X-Isyone-From: alfa@isy.one\r\n"));
        for bad in ["", "../x-1", "1-x", "99-0000", "-5-0000"] {
            assert!(read(&place, bad).unwrap().is_none(), "{bad}");
        }
    }

    #[test]
    fn what_a_crash_has_left_goes_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".isy-AbC123");
        std::fs::write(&left, vec![0; 1000]).unwrap();
        let first = keep(dir.path(), 7, &envelope(), TEXT).unwrap();
        assert!(!left.exists());
        let path = path(dir.path(), &first);
        let said = fsutil::write_new(&path, b"other", 0o600).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::AlreadyExists);
        assert!(std::fs::read(&path).unwrap().ends_with(TEXT));
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1, "and nothing is left of that");
    }

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path();
        for ms in 0..210 {
            keep(place, ms, &envelope(), TEXT).unwrap();
        }
        let found = list(place).unwrap();
        assert_eq!(
            (found.len(), came(&found[0]), came(&found[199])),
            (200, 209, 10)
        );
        let large = vec![b'x'; 12 << 20];
        for ms in 300..306 {
            keep(place, ms, &envelope(), &large).unwrap();
        }
        let found = list(place).unwrap();
        assert_eq!((found.len(), came(&found[0])), (5, 305), "64 MiB");
    }

    #[test]
    fn whatever_a_message_says_it_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            &b""[..],
            b"\r\n",
            b"\xff\xfe",
            b"Subject: x",
            b"Subject:\r\n x\x1b[2J\r\n\r\n",
            b":::\r\n\r\n",
        ] {
            keep(dir.path(), 1, &Envelope::default(), text).unwrap();
        }
        assert_eq!(list(dir.path()).unwrap().len(), 6);
    }
}
