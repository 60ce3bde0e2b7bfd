//! What the tests of buckets share. Not here: the servers.

use std::io::Cursor;

use isyone_backup::{Job, Label, Part, Purpose, Repository, Snapshot, source::Plain};

/// A base backup with this content, the one of this number.
pub(crate) fn base(repository: &Repository, job: &Job, number: u8, content: Vec<u8>) -> Snapshot {
    let label = Label {
        purpose: Purpose::Base,
        time: jiff::Timestamp::from_second(1_793_498_400 + i64::from(number)).unwrap(),
        host: "h1".to_owned(),
        tags: Vec::new(),
    };
    let part = Part::stream("database.tar", move || Ok(Plain(Cursor::new(content))));
    let written = repository.write(&label, vec![part], None, job).unwrap();
    repository.snapshot(written.snapshot).unwrap()
}
