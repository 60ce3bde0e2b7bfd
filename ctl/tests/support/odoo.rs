//! What the canned coordinator's Odoo says when a script is run in its shell, its database of mails, and what was caught of them.

use isyone_proto::pb::v1::CaughtMail;

use super::data::ago;

/// The answer to a script, by what it is about and to whom.
pub(super) fn said(script: &str) -> &'static str {
    match script.contains("ir.mail_server") {
        true if script.contains("refused@") => REFUSED,
        true => SENT,
        false => PRINTED,
    }
}

/// What Odoo's shell says of a page that it printed.
const PRINTED: &str = r#"
isyone-print {"state": "ok", "bytes": 19001, "pages": 2, "text": "isyone letterhead\nISYONE PRINTS \u00c7\u00c3O\nisyone end"}
"#;

/// What it says of a message.
const SENT: &str = r#"
isyone-mail {"server": "smtp.example.com:587", "tls": true, "login": true, "from": "books@alfa.example", "servers": 1, "state": "ok", "id": "<1@alfa>"}
"#;
const REFUSED: &str = r#"
isyone-mail {"state": "failed", "why": "SMTPRecipientsRefused: relay access denied"}
"#;
pub(super) const MAILS: &str = r#"[{"id": 12, "state": "exception", "time": "2026-11-28T10:00:00Z", "to": "ana@example.com", "subject": "Invoice\u001b[31m 7",
 "why": "[Errno 111] Connection refused"}, {"id": 11, "state": "outgoing", "time": null, "to": null, "subject": null, "why": null}]"#;

/// What a host has caught: a list, or a message in two pieces.
pub(super) fn caught(id: &str) -> Vec<CaughtMail> {
    let mail = |number: u32| CaughtMail {
        id: format!("1764460800000-{number:04}"),
        time: ago(60),
        from: "caught@isy.one".into(),
        to: vec!["ana@example.com".into(), "bo@example.com".into()],
        recipients: 12,
        subject: "Fatura\u{1b}[31m 7".into(),
        size_bytes: 2_048,
        data: Vec::new(),
    };
    let piece = |text: &str| CaughtMail {
        data: text.into(),
        ..mail(0)
    };
    match id {
        "" => vec![mail(1), mail(0)],
        _ => [
            "X-Isyone-From: caught@isy.one\r\nSubject: Fat",
            "ura\r\n\r\n\u{1b}[31mHello\r\n",
        ]
        .map(piece)
        .to_vec(),
    }
}
