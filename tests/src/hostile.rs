//! Where bytes of outsiders are parsed: one function for each place, which panics when a promise is broken: nothing panics,
//! nothing grows beyond its bound, what is accepted reads back as the same, and no error repeats what it must not.
//!
//! `tests/corpus/<name>/` has inputs that once mattered. They are replayed and mutated by the ordinary tests; a fuzzer
//! needs no more than `fuzz_target!(|bytes: &[u8]| isyone_tests::hostile::token(bytes))`. A ClientHello is read where only
//! the coordinator's own tests reach (ports/listener), with a corpus beside these.
//! Not here: how inputs are made (the test `corpus`).

use std::path::PathBuf;

use isyone_agent::{
    base::beneath::{MAX_DEPTH, RelPath},
    metrics::{filter::only_odoo, target::Target as Page},
};
use isyone_proto::{
    convert::{MAX_MESSAGE, MAX_TENANTS_PER_HOST, parse_report},
    echo::{MAX_ECHO, drives, echo, harmless},
    error::FieldError,
    pb::agent::v1 as wire,
    plan::HostPlan,
    token::JoinToken,
};
use prost::Message as _;

/// Longest error that a parser may answer with, bytes: a sentence, and a value's first characters.
const MAX_ERROR_BYTES: usize = 1_000;

/// A place, by the name of its corpus.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub name: &'static str,
    pub check: fn(&[u8]),
}

/// All of them.
pub const PLACES: [Place; 6] = [
    Place {
        name: "token",
        check: token,
    },
    Place {
        name: "plan",
        check: plan,
    },
    Place {
        name: "report",
        check: report,
    },
    Place {
        name: "metrics",
        check: metrics,
    },
    Place {
        name: "path",
        check: path,
    },
    Place {
        name: "echo",
        check: repeated,
    },
];

impl Place {
    /// Where its corpus is.
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }
}

/// A join token, as somebody pastes it.
pub fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<JoinToken>() {
        Ok(token) => {
            assert_eq!(token.expose(), text.trim());
            assert!(!token.to_string().contains(token.secret.expose()));
        }
        Err(refused) => {
            let said = refused.to_string();
            assert!(said.len() < MAX_ERROR_BYTES, "{said}");
            let worth = text.trim();
            assert!(worth.len() < 40 || !said.contains(worth), "it is repeated");
        }
    }
}

/// Whether a terminal would act on it: said here once more, because what is checked escapes by `drives` itself.
fn acts(text: &str) -> bool {
    let turns = [
        '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}',
    ];
    text.contains(char::is_control) || text.contains(turns)
}

fn is_plain(refused: &FieldError) {
    let said = refused.to_string();
    assert!(said.len() < MAX_ERROR_BYTES, "{said}");
    assert!(!acts(&said), "{said:?}");
}

/// A plan, as a coordinator that is none may send it.
pub fn plan(bytes: &[u8]) {
    let Ok(sent) = wire::Plan::decode(bytes) else {
        return;
    };
    match HostPlan::try_from(sent) {
        Ok(plan) => {
            assert!(plan.tenants.len() <= MAX_TENANTS_PER_HOST);
            let again = wire::Plan::decode(&*wire::Plan::from(&plan).encode_to_vec());
            let again = HostPlan::try_from(again.expect("our own")).expect("it was accepted");
            assert_eq!(again.digest(), plan.digest());
        }
        Err(refused) => is_plain(&refused),
    }
}

/// A report, as a host that was taken over may send it.
pub fn report(bytes: &[u8]) {
    let Ok(sent) = wire::Report::decode(bytes) else {
        return;
    };
    match parse_report(sent, 0) {
        Ok((report, left_out)) => {
            let told = report.tenants.iter().map(|tenant| tenant.message.len());
            assert!(told.max().unwrap_or(0) <= MAX_MESSAGE);
            for odd in left_out {
                assert!(odd.tenant.len() <= MAX_MESSAGE && !odd.tenant.contains('\r'));
                is_plain(&odd.error);
            }
            let (again, left_out) = parse_report((&report).into(), 0).expect("it was accepted");
            assert_eq!(
                (again.tenants.len(), left_out.len()),
                (report.tenants.len(), 0)
            );
        }
        Err(refused) => is_plain(&refused),
    }
}

/// A page of metrics, as a customer's Odoo may answer.
pub fn metrics(bytes: &[u8]) {
    let passed = only_odoo(bytes);
    assert!(passed.len() <= (512 << 10) + 100, "{}", passed.len());
    let samples = passed.lines().filter(|line| !line.starts_with('#'));
    for line in samples.clone() {
        assert!(line.starts_with("odoo_"), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(samples.count() <= 2_000);
    // What has passed passes again, but for the remark at its end.
    let page = match passed.rsplit_once("# ") {
        Some((page, remark)) if remark.contains(" lines were no metrics of Odoo") => page,
        _ => &passed,
    };
    assert_eq!(only_odoo(page.as_bytes()), page);
}

/// A path inside a volume, as another host may name it, and the path of a page.
pub fn path(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(Page::Odoo(tenant) | Page::Postgres(tenant)) = Page::parse(text)
    {
        assert!(text.contains(tenant.as_str()));
    }
    let Ok(path) = RelPath::parse(bytes) else {
        return;
    };
    assert_eq!(path.bytes(), bytes);
    let Some((parent, name)) = path.split() else {
        return assert!(bytes.is_empty());
    };
    assert_eq!(parent.join(name).expect("it was one"), path);
    let names: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').collect();
    assert!(names.len() <= MAX_DEPTH);
    for name in names {
        assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&0));
    }
}

/// A value that a message repeats.
pub fn repeated(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let shown = echo(&text);
    assert!(shown.chars().count() <= MAX_ECHO + 1);
    assert!(!acts(&shown) && !acts(&harmless(&text)), "{shown:?}");
    if text.chars().count() <= MAX_ECHO && !text.contains(drives) {
        assert_eq!(shown, text);
    }
}
