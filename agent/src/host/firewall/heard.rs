//! Hears when somebody changes the packet filter: our tables, which are put back at once, or others', Docker's among them.
//!
//! Restarting the service nftables flushes all tables, and so does whoever loads a file that begins with `flush ruleset`. We hear
//! our own changes as well; what was announced is no proof, so who hears it compares what is in force. Not here: comparing
//! (the parent), Docker's rules (dockers).

use std::{future::pending, time::Duration};

use tokio::time::timeout;

use crate::{
    base::netlink::{Listener, Message},
    plan::firewall::TABLE,
};

/// A change comes as many announcements: for so long they are taken together.
const SETTLE: Duration = Duration::from_millis(50);
/// Packets taken together at most; a change of all of Docker's rules is some hundreds.
const TOGETHER: usize = 4_096;

/// High byte of the kind of announcements about nftables (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u16 = 10;
/// A change is complete (`NFT_MSG_NEWGEN`): says who made it.
const COMPLETE: u16 = 15;
/// Tables, chains, rules and sets that are made or changed, and that are removed. Elements of sets come and go by themselves.
const MADE: [u16; 4] = [0, 3, 6, 9];
const REMOVED: [u16; 4] = [2, 5, 8, 11];
/// What such a message begins with, before its attributes (`nfgenmsg`).
const OWN: usize = 4;
/// Attribute with the table's name, and of a complete change the process and its program.
const TABLE_NAME: u16 = 1;
const PROCESS: u16 = 2;
const PROGRAM: u16 = 3;

/// What was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Of our tables something has changed.
    pub(super) ours: bool,
    /// Of others something was removed.
    pub(super) others: bool,
    /// Who did it, such as `nft (process 4711)`; empty: not known.
    pub(super) by: String,
}

impl Heard {
    /// Announcements were lost: anything may have changed.
    fn anything() -> Self {
        Self {
            ours: true,
            others: true,
            by: String::new(),
        }
    }

    fn is_news(&self) -> bool {
        self.ours || self.others
    }

    fn take(&mut self, messages: &[Message]) {
        let nftables = |kind: u16| (kind >> 8 == NFTABLES).then_some(kind & 0xff);
        for message in messages {
            let Some(kind) = nftables(message.kind) else {
                continue;
            };
            if kind == COMPLETE && self.is_news() && self.by.is_empty() {
                self.by = author(message).unwrap_or_default();
            }
            let table = message.text(OWN, TABLE_NAME).unwrap_or_default();
            let ours = table.starts_with(TABLE);
            self.ours |= ours && (MADE.contains(&kind) || REMOVED.contains(&kind));
            self.others |= !ours && REMOVED.contains(&kind);
        }
    }
}

/// Who made a change. The program's name is of its own choosing, but it is root's.
fn author(complete: &Message) -> Option<String> {
    let process = complete.number(OWN, PROCESS)?;
    let program = complete.text(OWN, PROGRAM)?;
    let harmless: String = program.chars().filter(|c| c.is_ascii_graphic()).collect();
    Some(format!("{harmless} (process {process})"))
}

/// Listens for as long as it lives.
pub(super) struct Watch {
    listener: Option<Listener>,
    /// What was heard and not yet told.
    heard: Heard,
}

impl Watch {
    pub(super) fn open() -> Self {
        let listener = Listener::nftables();
        if let Err(e) = &listener {
            tracing::warn!(
                "changes of the packet filter by others are not heard, only looked for now and then: {e}"
            );
        }
        Self {
            listener: listener.ok(),
            heard: Heard::default(),
        }
    }

    /// Completes with what is heard next; never, where nothing can be heard. What was heard is kept when it is not waited for.
    pub(super) async fn next(&mut self) -> Heard {
        if self.listener.is_none() {
            self.listener = Listener::nftables().ok(); // its error was told
        }
        while !self.heard.is_news() {
            self.hear().await;
        }
        // Ended by the time, as a rule.
        let _ = timeout(SETTLE, self.hear_the_rest()).await;
        std::mem::take(&mut self.heard)
    }

    async fn hear_the_rest(&mut self) {
        for _ in 0..TOGETHER {
            self.hear().await;
        }
        self.heard = Heard::anything();
    }

    async fn hear(&mut self) {
        let Some(listener) = &mut self.listener else {
            return pending().await; // the next call tries again
        };
        match listener.next().await {
            Ok(Some(messages)) => self.heard.take(&messages),
            Ok(None) => self.heard = Heard::anything(),
            Err(e) => {
                tracing::warn!(
                    "changes of the packet filter by others are not heard any more: {e}"
                );
                self.listener = None;
                self.heard = Heard::anything();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::netlink::testing::attribute;

    fn message(kind: u16, attributes: &[Vec<u8>]) -> Message {
        Message {
            kind: NFTABLES << 8 | kind,
            body: [vec![1, 0, 0, 0], attributes.concat()].concat(),
        }
    }

    fn about(kind: u16, table: &str) -> Message {
        message(
            kind,
            &[attribute(TABLE_NAME, format!("{table}\0").as_bytes())],
        )
    }

    #[test]
    fn what_is_ours_is_told_from_what_is_others_and_made_from_removed() {
        let done = message(
            COMPLETE,
            &[
                attribute(1, &7_u32.to_be_bytes()),
                attribute(PROCESS, &4711_u32.to_be_bytes()),
                attribute(PROGRAM, b"nft\0"),
            ],
        );
        let heard = |messages: &[Message]| {
            let mut heard = Heard::default();
            heard.take(messages);
            heard
        };
        let flushed = heard(&[about(8, "isyone"), about(2, "nat"), done.clone()]);
        assert!(flushed.ours && flushed.others);
        assert_eq!(flushed.by, "nft (process 4711)");
        let starts = heard(&[about(6, "nat"), about(3, "filter"), done]);
        assert!(!starts.is_news(), "a container of Docker's has started");
        assert!(heard(&[about(6, "isyone_limits")]).ours);
        assert!(!heard(&[about(12, "isyone_limits")]).is_news());
        assert!(!heard(&[message(2, &[])]).ours);
        let other = Message {
            kind: 1 << 8 | 2,
            ..about(2, "isyone")
        };
        assert!(!heard(&[other]).is_news());
    }
}
