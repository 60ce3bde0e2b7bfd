//! One conversation in SMTP (RFC 5321), from a request to its answer. Pure.
//!
//! It takes whatever it is given, of a bounded size, and offers neither encryption nor a login: it is beside its only clients, on a
//! network of theirs. Not here: the connection (mod.rs), where messages are kept (store).

use std::borrow::Cow;

use smtp_proto::{Error, Request};

/// Recipients of one message: as many as RFC 5321 asks for at least.
pub(super) const MAX_RECIPIENTS: usize = 100;
/// Largest message: more than what Odoo sends by default (10 MB).
pub(super) const MAX_MESSAGE_BYTES: usize = 12 << 20;
/// Wrong requests after which a conversation ends.
const MAX_WRONG: u32 = 20;
/// Longest address that is kept.
const MAX_ADDRESS: usize = 254;

/// Whom the envelope names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    pub from: String,
    pub to: Vec<String>,
}

/// What follows from a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This is said, and the next request is read.
    Say(&'static str),
    /// This is said, and the message is read.
    Take(&'static str),
    /// This is said, and the conversation ends.
    End(&'static str),
}

/// What is said first.
pub(super) const GREETING: &str = "220 isyone catcher ESMTP\r\n";
/// After a message was kept.
pub(super) const KEPT: &str = "250 2.0.0 kept, and not sent\r\n";
/// After one that is too large.
pub(super) const TOO_LARGE: &str = "552 5.3.4 larger than 12 MiB\r\n";
/// When its end does not come.
pub(super) const TOO_SLOW: &str = "421 4.4.2 too slow\r\n";
/// When it cannot be kept.
pub(super) const NOT_KEPT: &str = "452 4.3.1 it cannot be kept now\r\n";

const READY: &str = "250-isyone\r\n250-SIZE 12582912\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n";
const OK: &str = "250 2.0.0 ok\r\n";
const FIRST: &str = "503 5.5.1 EHLO, MAIL and RCPT come first\r\n";
const MANY: &str = "452 4.5.3 too many recipients\r\n";
const UNKNOWN: &str = "502 5.5.1 not here\r\n";
const WRONG: &str = "501 5.5.2 that cannot be read\r\n";
const ENOUGH: &str = "421 4.7.0 too many requests that cannot be read\r\n";

/// A conversation so far.
#[derive(Debug, Default)]
pub(super) struct Session {
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
    wrong: u32,
}

impl Session {
    /// The answer to a request, or to what is none.
    pub(super) fn answer(&mut self, request: Result<Request<Cow<'_, str>>, Error>) -> Next {
        match request {
            Ok(Request::Ehlo { .. }) => self.begin(READY),
            Ok(Request::Helo { .. }) => self.begin(OK),
            Ok(Request::Mail { from }) => self.mail(from.address, from.size),
            Ok(Request::Rcpt { to }) => self.recipient(to.address),
            Ok(Request::Data) if self.is_ready() => Next::Take("354 go on\r\n"),
            Ok(Request::Data) => Next::Say(FIRST),
            Ok(Request::Rset) => {
                self.envelope();
                Next::Say(OK)
            }
            Ok(Request::Noop { .. }) => Next::Say(OK),
            Ok(Request::Quit) => Next::End("221 2.0.0 bye\r\n"),
            Ok(_) | Err(Error::UnknownCommand) => self.refuse(UNKNOWN),
            Err(_) => self.refuse(WRONG),
        }
    }

    /// Whom the message is from and for; the conversation goes on with another one.
    pub(super) fn envelope(&mut self) -> Envelope {
        Envelope {
            from: self.from.take().unwrap_or_default(),
            to: std::mem::take(&mut self.to),
        }
    }

    fn begin(&mut self, answer: &'static str) -> Next {
        self.envelope();
        self.greeted = true;
        Next::Say(answer)
    }

    fn is_ready(&self) -> bool {
        self.from.is_some() && !self.to.is_empty()
    }

    fn mail(&mut self, address: Cow<'_, str>, size: usize) -> Next {
        if !self.greeted || self.from.is_some() {
            return Next::Say(FIRST);
        }
        if size > MAX_MESSAGE_BYTES {
            return Next::Say(TOO_LARGE);
        }
        // Nobody is a sender, too: of what bounces.
        self.from = Some(short(&address));
        Next::Say(OK)
    }

    fn recipient(&mut self, address: Cow<'_, str>) -> Next {
        if self.from.is_none() {
            return Next::Say(FIRST);
        }
        if self.to.len() >= MAX_RECIPIENTS {
            return Next::Say(MANY);
        }
        self.to.push(short(&address));
        Next::Say(OK)
    }

    fn refuse(&mut self, answer: &'static str) -> Next {
        self.wrong += 1;
        match self.wrong < MAX_WRONG {
            true => Next::Say(answer),
            false => Next::End(ENOUGH),
        }
    }
}

/// What can stand in a line.
fn short(address: &str) -> String {
    let plain = address.chars().filter(|c| !c.is_control());
    plain.take(MAX_ADDRESS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn say(session: &mut Session, line: &str) -> Next {
        let text = format!("{line}\r\n");
        session.answer(Request::parse(&mut text.as_bytes().iter()))
    }

    fn code(next: &Next) -> &'static str {
        match next {
            Next::Say(text) | Next::Take(text) | Next::End(text) => &text[..3],
        }
    }

    #[test]
    fn a_message_is_taken_with_its_envelope() {
        let mut session = Session::default();
        let codes = [
            "EHLO odoo",
            "MAIL FROM:<alfa@isy.one> SIZE=300 BODY=8BITMIME",
            "RCPT TO:<ana@example.com>",
            "RCPT TO:<bo@example.com>",
            "DATA",
        ]
        .map(|line| code(&say(&mut session, line)));
        assert_eq!(codes, ["250", "250", "250", "250", "354"]);
        let envelope = session.envelope();
        assert_eq!(
            (envelope.from.as_str(), envelope.to.len()),
            ("alfa@isy.one", 2)
        );
        assert_eq!(
            code(&say(&mut session, "DATA")),
            "503",
            "one message, one envelope"
        );
        assert_eq!(
            code(&say(&mut session, "MAIL FROM:<>")),
            "250",
            "of a bounce"
        );
        assert!(matches!(say(&mut session, "QUIT"), Next::End(_)));
    }

    /// As Python's library writes them, which Odoo uses.
    #[test]
    fn what_odoo_says_is_understood() {
        let mut session = Session::default();
        for (line, answer) in [
            ("ehlo [10.200.0.18]", "250"),
            ("mail FROM:<alfa@isy.one> size=158", "250"),
            ("rcpt TO:<ana@example.com>", "250"),
            ("data", "354"),
            ("rset", "250"),
            ("ehlo odoo-alfa.example.com", "250"),
            (
                "mail FROM:<joão@example.com> size=9 SMTPUTF8 BODY=8BITMIME",
                "250",
            ),
            ("noop", "250"),
            ("quit", "221"),
        ] {
            assert_eq!(code(&say(&mut session, line)), answer, "{line}");
        }
    }

    #[test]
    fn what_comes_too_early_too_large_or_too_often_is_refused() {
        let mut session = Session::default();
        for line in ["MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>", "DATA"] {
            assert_eq!(code(&say(&mut session, line)), "503", "{line}");
        }
        say(&mut session, "HELO x");
        assert_eq!(
            code(&say(&mut session, "MAIL FROM:<a@b.c> SIZE=99999999")),
            "552"
        );
        say(&mut session, "MAIL FROM:<a@b.c>");
        let codes: Vec<_> = (0..102)
            .map(|_| code(&say(&mut session, "RCPT TO:<a@b.c>")))
            .collect();
        assert_eq!((codes[99], codes[100], codes[101]), ("250", "452", "452"));
        for line in ["STARTTLS", "AUTH PLAIN AHgAeA==", "VRFY x", "BDAT 5 LAST"] {
            assert_eq!(code(&say(&mut session, line)), "502", "{line}");
        }
    }

    #[test]
    fn whoever_says_only_nonsense_is_left() {
        let mut session = Session::default();
        let ends = (0..30).position(|_| matches!(say(&mut session, "HTTP/1.1 x"), Next::End(_)));
        assert_eq!(ends, Some(19));
    }

    proptest! {
        #[test]
        fn whatever_is_said_it_is_answered(lines in prop::collection::vec("(EHLO|MAIL FROM:|RCPT TO:|DATA|RSET|[A-Z]{4})?[ -~]{0,40}", 0..40)) {
            let mut session = Session::default();
            for line in lines {
                if let Next::Take(_) = say(&mut session, &line) {
                    let envelope = session.envelope();
                    prop_assert!((1..=MAX_RECIPIENTS).contains(&envelope.to.len()));
                }
            }
        }
    }
}
