//! Does Odoo print? A page goes through Odoo's own way to PDF, in its shell beside the running server, which is asked for the
//! page's styles as for every report: text, style, letterhead and the number of pages are looked at.
//!
//! Not here: what a customer's own report looks like.

use serde::Deserialize;

use super::checks::Found;
use crate::{
    client::Client,
    nouns::tenant::inside::{self, Unsaid},
    output::table::clean,
};

const SCRIPT: &str = include_str!("print.py");
/// Begins the line with the answer.
const MARK: &str = "isyone-print ";

/// Most that is repeated of what a shell said last, characters.
const MAX_LAST: usize = 200;

/// What the script says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    state: String,
    why: String,
    bytes: u64,
    pages: u64,
    text: String,
}

/// The check.
pub(super) async fn print(client: &Client, tenant: &str) -> Found {
    let doing = format!("print in tenant `{tenant}`");
    match inside::script(client, &doing, tenant, SCRIPT).await {
        Ok(said) => judge(&said),
        Err(Unsaid::Denied(_)) => Found::Skip("needs the role operator".to_owned()),
        Err(Unsaid::Failed(failure)) => Found::Fail(failure.message),
    }
}

/// A shell that fails has printed nothing, whatever the reason: only one that says nothing at all and ends well is no Odoo's (a
/// stand-in's).
fn judge(shell: &inside::Said) -> Found {
    let silent = shell.out.trim().is_empty() && shell.err.trim().is_empty();
    let line = shell.out.lines().find_map(|line| line.strip_prefix(MARK));
    let line = match line {
        Some(line) if shell.code == 0 => line,
        None if shell.code == 0 && silent => {
            return Found::Skip("there is no Odoo's shell in it".to_owned());
        }
        _ => return Found::Fail(unsaid(shell)),
    };
    let Ok(said) = serde_json::from_str::<Said>(line) else {
        return Found::Fail("what Odoo's shell said cannot be read".to_owned());
    };
    match said.state.as_str() {
        "ok" => judge_page(&said),
        "install" => Found::Skip("the image has no wkhtmltopdf: no PDF reports".to_owned()),
        "failed" => Found::Fail(said.why),
        state => Found::Fail(format!("wkhtmltopdf: {state}")),
    }
}

/// How Odoo's shell ended without printing a page, with the last thing that it said.
fn unsaid(shell: &inside::Said) -> String {
    let said = [&shell.err, &shell.out].map(|text| text.trim().lines().next_back());
    let last = said.into_iter().flatten().next().unwrap_or("nothing");
    let last: String = clean(last).chars().take(MAX_LAST).collect();
    format!(
        "Odoo's shell ended with code {}, and said last: {last}",
        shell.code
    )
}

/// Styles are there when what they hide is hidden, and what they put in capitals is.
fn judge_page(said: &Said) -> Found {
    let text: String = said.text.split_whitespace().collect();
    let kib = said.bytes.div_ceil(1024);
    if said.pages != 2 {
        return Found::Fail(format!("{} pages in place of 2", said.pages));
    }
    if text.is_empty() {
        return Found::Skip(format!(
            "2 pages, {kib} KiB, whose text this image cannot read"
        ));
    }
    if !text.to_uppercase().contains("ISYONEPRINTSÇÃO") {
        return Found::Fail(format!("the page's text is not in it: {}", said.text));
    }
    if text.contains("isyoneunstyled") || !text.contains("ISYONEPRINTS") {
        return Found::Fail(
            "it has no style: wkhtmltopdf cannot fetch Odoo's styles (parameter report.url)"
                .to_owned(),
        );
    }
    let head = match text.contains("isyoneletterhead") {
        true => "letterhead",
        false => "no letterhead (this wkhtmltopdf has not the patched Qt)",
    };
    Found::Ok(format!("2 pages, {kib} KiB: text, style, {head}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(code: i32, out: &str, err: &str) -> Found {
        let (out, err) = (out.to_owned(), err.to_owned());
        judge(&inside::Said { out, err, code })
    }

    fn page(pages: u64, text: &str) -> Found {
        let said = serde_json::json!({"state": "ok", "bytes": 9000, "pages": pages, "text": text});
        shell(0, &format!("a log line\n{MARK}{said}\n"), "")
    }

    #[test]
    fn a_page_is_looked_at() {
        let styled = "isyone letterhead\nISYONE PRINTS ÇÃO\nisyone foot\nisyone end";
        let detail = "2 pages, 9 KiB: text, style, letterhead";
        assert_eq!(page(2, styled), Found::Ok(detail.to_owned()));
        assert!(page(1, styled).failed());
        assert!(matches!(page(2, &styled[18..]), Found::Ok(d) if d.contains("no letterhead")));
        let unstyled = "isyone prints ção\nisyone unstyled\nisyone end";
        assert!(matches!(page(2, unstyled), Found::Fail(d) if d.contains("no style")));
        assert!(matches!(page(2, "□□□"), Found::Fail(d) if d.contains("text is not in it")));
        assert!(matches!(page(2, " \n"), Found::Skip(_)));
    }

    #[test]
    fn what_odoo_says_is_read() {
        let of = |said: &str| shell(0, &format!("{MARK}{said}"), "");
        assert!(matches!(of(r#"{"state": "install"}"#), Found::Skip(_)));
        assert!(of(r#"{"state": "broken"}"#).failed());
        assert!(of(r#"{"state": "failed", "why": "no"}"#).failed());
        assert!(of("[").failed() && of(r#"{"state": 1}"#).failed());
    }

    /// Fails if a tenant passes though nothing was printed.
    #[test]
    fn a_shell_that_fails_has_printed_nothing() {
        let styled = "isyone letterhead\nISYONE PRINTS ÇÃO";
        let said = serde_json::json!({"state": "ok", "bytes": 9, "pages": 2, "text": styled});
        let printed = format!("{MARK}{said}\n");
        for (code, out, err) in [
            (0, "print(\"\\nisyone-print \" + x)", ""),
            (0, "", "Odoo version 19.0\n"),
            (1, "", ""),
            (137, "", "Killed\n"),
            (-1, "", ""),
            (1, printed.as_str(), "it broke\n"),
        ] {
            assert!(shell(code, out, err).failed(), "{code} {out} {err}");
        }
        let Found::Fail(why) = shell(1, "", "loading\nOut of \u{1b}[2Jmemory\n") else {
            panic!("it failed");
        };
        assert!(why.contains("code 1") && why.contains("memory") && !why.contains('\u{1b}'));
        assert!(matches!(shell(0, "", "\n"), Found::Skip(_)), "a stand-in");
    }
}
