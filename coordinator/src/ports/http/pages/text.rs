//! The text of the pages, in two languages and three forms. Self-contained: no script, no image, nothing loaded from
//! elsewhere; and nothing from the request, so there is nothing to escape. Pure.
//!
//! Not here: which page it is (choose).

use std::{borrow::Cow, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use super::choose::Page;
use isyone_fleet::views;
use isyone_proto::plan::UnixMs;

/// Light or dark as the browser prefers; the dots do not move for users who prefer reduced motion.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2937;--soft:#5b6472;--paper:#f6f7f9;--card:#fff;--line:#e1e5ea;--mark:#6d4aff}\
@media(prefers-color-scheme:dark){:root{--ink:#e8eaee;--soft:#a3abb8;--paper:#14161a;--card:#1c1f25;--line:#2c313a;--mark:#a08bff}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;background:var(--paper);color:var(--ink);\
font:1.0625rem/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif}\
main{max-width:34rem;width:100%;padding:2.5rem 2rem;background:var(--card);border:1px solid var(--line);\
border-top:4px solid var(--mark);border-radius:10px;text-align:center}\
h1{margin:0 0 .75rem;font-size:1.5rem;line-height:1.25}\
p{margin:0;color:var(--soft)}\
.dots{display:flex;gap:.5rem;justify-content:center;margin:1.5rem 0 0}\
.dots i{width:.625rem;height:.625rem;border-radius:50%;background:var(--mark);animation:b 1.2s infinite}\
.dots i:nth-child(2){animation-delay:.2s}.dots i:nth-child(3){animation-delay:.4s}\
@keyframes b{0%,60%,100%{opacity:.25}30%{opacity:1}}\
@media(prefers-reduced-motion:reduce){.dots i{animation:none;opacity:.6}}\
footer{margin-top:1.75rem;font-size:.875rem;color:var(--soft)}";

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
});

/// `Content-Security-Policy` of the HTML form: allows only its own style sheet.
pub(super) fn policy() -> &'static str {
    &POLICY
}

/// Title and text.
type Words = (&'static str, Cow<'static, str>);

fn english(page: Page) -> Words {
    let (title, text) = match page {
        Page::Maintenance(until) => {
            let until = minute(until);
            return (
                "We are working on the server of this system",
                format!(
                    "This was planned, and your data is safe. It should be back by {until}. This page opens your system by itself as soon as it is back."
                )
                .into(),
            );
        }
        Page::Unknown => (
            "There is nothing here",
            "Please check the address, or ask who gave it to you.",
        ),
        Page::Suspended => (
            "This service is suspended",
            "Your data is safe. Please contact your provider to have it resumed.",
        ),
        Page::Asleep => (
            "Good to see you: we are starting your system",
            "Nobody used it for a while, so it was put to sleep. This takes less than a minute, and this page opens it by itself.",
        ),
        Page::Starting => (
            "Your system is starting",
            "This takes a moment. You do not have to do anything: this page opens it by itself.",
        ),
        Page::Restarting => (
            "Your system is restarting",
            "It will be back in a moment. This page opens it by itself.",
        ),
        Page::Updating => (
            "Your system is being updated",
            "Your data is safe, and it will be back soon. This page opens it by itself.",
        ),
        Page::HostLost => (
            "We cannot reach the server of this system",
            "We know about it and are working on it. This page opens your system by itself as soon as it is back.",
        ),
        Page::Failing => (
            "This system has a problem",
            "We know about it and are working on it. This page opens your system by itself as soon as it is back.",
        ),
        Page::DiskFull => (
            "This system has used up its disk space",
            "Your data is safe. Please contact your provider to get more space. This page opens your system by itself as soon as there is some.",
        ),
        Page::NoUploads => (
            "There is no room for this upload",
            "This system has nearly used up its disk space. Remove what is not needed, or contact your provider to get more space.",
        ),
        Page::Away => (
            "Your system does not answer right now",
            "It should be back in a moment. This page tries again by itself.",
        ),
    };
    (title, text.into())
}

fn portuguese(page: Page) -> Words {
    let (title, text) = match page {
        Page::Maintenance(until) => {
            let until = minute(until);
            return (
                "Estamos trabalhando no servidor deste sistema",
                format!(
                    "Isto foi planejado e seus dados estão seguros. Ele deve voltar até {until}. Esta página abre o sistema sozinha assim que ele voltar."
                )
                .into(),
            );
        }
        Page::Unknown => (
            "Não há nada aqui",
            "Confira o endereço ou pergunte a quem o passou para você.",
        ),
        Page::Suspended => (
            "Este serviço está suspenso",
            "Seus dados estão seguros. Entre em contato com o seu provedor para reativá-lo.",
        ),
        Page::Asleep => (
            "Que bom ver você: estamos iniciando o seu sistema",
            "Ninguém o usou por algum tempo e ele foi colocado para dormir. Leva menos de um minuto, e esta página o abre sozinha.",
        ),
        Page::Starting => (
            "O seu sistema está iniciando",
            "Leva só um instante. Você não precisa fazer nada: esta página o abre sozinha.",
        ),
        Page::Restarting => (
            "O seu sistema está reiniciando",
            "Ele volta em um instante. Esta página o abre sozinha.",
        ),
        Page::Updating => (
            "O seu sistema está sendo atualizado",
            "Seus dados estão seguros e ele volta logo. Esta página o abre sozinha.",
        ),
        Page::HostLost => (
            "Não conseguimos alcançar o servidor deste sistema",
            "Já sabemos e estamos trabalhando nisso. Esta página abre o sistema sozinha assim que ele voltar.",
        ),
        Page::Failing => (
            "Este sistema está com um problema",
            "Já sabemos e estamos trabalhando nisso. Esta página abre o sistema sozinha assim que ele voltar.",
        ),
        Page::DiskFull => (
            "Este sistema usou todo o seu espaço em disco",
            "Seus dados estão seguros. Entre em contato com o seu provedor para obter mais espaço. Esta página abre o sistema sozinha assim que houver.",
        ),
        Page::NoUploads => (
            "Não há espaço para este envio",
            "Este sistema quase usou todo o seu espaço em disco. Remova o que não é necessário ou entre em contato com o seu provedor para obter mais espaço.",
        ),
        Page::Away => (
            "O seu sistema não está respondendo agora",
            "Ele deve voltar em um instante. Esta página tenta de novo sozinha.",
        ),
    };
    (title, text.into())
}

/// `2026-11-30 22:30 UTC`. Where its reader is nobody knows.
fn minute(at: UnixMs) -> String {
    let text = views::utc(at);
    let (day, time) = text.split_once('T').unwrap_or((text.as_str(), ""));
    format!("{day} {} UTC", time.get(..5).unwrap_or(time))
}

fn words(page: Page, in_portuguese: bool) -> Words {
    if in_portuguese {
        portuguese(page)
    } else {
        english(page)
    }
}

/// For browsers. `brand` is the platform's domain, a validated name.
pub(super) fn html(page: Page, in_portuguese: bool, brand: &str) -> String {
    let (title, text) = words(page, in_portuguese);
    let language = if in_portuguese { "pt-BR" } else { "en" };
    let seconds = page.retry_after_s().filter(|_| page.reloads());
    let refresh = seconds
        .map(|s| format!("<meta http-equiv=\"refresh\" content=\"{s}\">\n"))
        .unwrap_or_default();
    let dots = if seconds.is_some() {
        "<div class=\"dots\" aria-hidden=\"true\"><i></i><i></i><i></i></div>\n"
    } else {
        ""
    };
    format!(
        "<!doctype html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n{refresh}<title>{title}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<main role=\"status\">\n<h1>{title}</h1>\n<p>{text}</p>\n{dots}<footer>{brand}</footer>\n\
         </main>\n</body>\n</html>\n"
    )
}

/// The page as JSON, for programs.
pub(super) fn json(page: Page, in_portuguese: bool) -> String {
    let (title, _) = words(page, in_portuguese);
    let mut error = serde_json::json!({"code": page.word(), "message": title});
    if let Some(seconds) = page.retry_after_s() {
        error["retry_after_seconds"] = seconds.into();
    }
    format!("{}\n", serde_json::json!({ "error": error }))
}

/// The page as one line of text.
pub(super) fn plain(page: Page, in_portuguese: bool) -> String {
    format!("{}.\n", words(page, in_portuguese).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_small_complete_and_load_nothing() {
        for page in Page::ALL {
            for portuguese in [false, true] {
                let html = html(page, portuguese, "isy.one");
                assert!(html.len() < 6 * 1024, "{page:?}: {}", html.len());
                for loaded in ["src=", "href=", "url(", "@import", "<script", "on="] {
                    assert!(!html.contains(loaded), "{page:?}: {loaded}");
                }
                let language = if portuguese {
                    "lang=\"pt-BR\""
                } else {
                    "lang=\"en\""
                };
                assert!(html.contains(language) && html.contains("isy.one"));
                assert_eq!(
                    html.contains("http-equiv=\"refresh\""),
                    page.reloads(),
                    "{page:?}"
                );
                let (title, text) = words(page, portuguese);
                // Neither text needs escaping, in HTML or elsewhere.
                assert!(
                    !format!("{title}{text}").contains(['<', '>', '&', '"']),
                    "{page:?}"
                );
            }
            assert_ne!(english(page), portuguese(page));
        }
    }

    #[test]
    fn announced_work_says_until_when() {
        let html = html(Page::Maintenance(1_796_000_000_000), true, "isy.one");
        assert!(
            html.contains("Ele deve voltar até 2026-11-30 00:53 UTC."),
            "{html}"
        );
    }

    #[test]
    fn programs_get_a_word_and_a_time() {
        assert_eq!(
            json(Page::Starting, false),
            "{\"error\":{\"code\":\"starting\",\"message\":\"Your system is starting\",\"retry_after_seconds\":5}}\n"
        );
        assert!(!json(Page::Unknown, true).contains("retry_after_seconds"));
        assert_eq!(
            plain(Page::Suspended, true),
            "Este serviço está suspenso.\n"
        );
    }

    #[test]
    fn the_policy_admits_the_style_and_nothing_else() {
        assert!(
            policy().starts_with("default-src 'none'; style-src 'sha256-"),
            "{}",
            policy()
        );
    }
}
