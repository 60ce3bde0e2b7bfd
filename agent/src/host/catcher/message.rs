//! A message while it is read: what is held of it, and how much of one that is too large is read at all. Pure.
//!
//! Not here: the connection (mod.rs), how long it may take (mod.rs).

use std::slice::Iter;

use smtp_proto::request::receiver::DataReceiver;

use super::session::MAX_MESSAGE_BYTES;

/// Of a message that is too large anyway, read this much more for the sake of an answer.
const MAX_WASTED_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// A message while it is read.
pub(super) struct Message {
    receiver: DataReceiver,
    text: Vec<u8>,
    wasted: usize,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            receiver: DataReceiver::new(),
            text: Vec::new(),
            wasted: 0,
        }
    }
}

impl Message {
    /// Whether its end has come. Of one that is too large nothing is held, and of one without end not much is read.
    pub(super) fn ingest(&mut self, bytes: &mut Iter<'_, u8>) -> std::io::Result<bool> {
        let is_whole = self.receiver.ingest(bytes, &mut self.text);
        if self.text.len() > MAX_MESSAGE_BYTES || self.wasted > 0 {
            self.wasted += self.text.len();
            self.text = Vec::new();
        }
        match self.wasted > MAX_WASTED_BYTES {
            true => Err(std::io::ErrorKind::FileTooLarge.into()),
            false => Ok(is_whole),
        }
    }

    pub(super) fn text(self) -> Option<Vec<u8>> {
        (self.wasted == 0).then_some(self.text)
    }
}
