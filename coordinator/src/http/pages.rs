//! Pages that stand in for a tenant. Self-contained: no script, no image, nothing loaded from elsewhere.

/// When to look again: suspension is lifted by a person.
pub(super) const RETRY_AFTER_S: &str = "3600";

struct Words {
    code: &'static str,
    title: &'static str,
    text: &'static str,
}

const ENGLISH: Words = Words {
    code: "en",
    title: "This service is suspended",
    text: "Your data is safe. Please contact your provider to have it resumed.",
};
const PORTUGUESE: Words = Words {
    code: "pt-BR",
    title: "Este serviço está suspenso",
    text: "Seus dados estão seguros. Entre em contato com o seu provedor para reativá-lo.",
};

/// The page of a suspended tenant, in the language that the browser likes better.
pub(super) fn suspended(accept_language: &str) -> String {
    let words = if prefers_portuguese(accept_language) { &PORTUGUESE } else { &ENGLISH };
    let Words { code, title, text } = words;
    format!(
        r#"<!doctype html>
<html lang="{code}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 18px/1.5 system-ui, sans-serif }}
body {{ min-height: 100vh; margin: 0; display: grid; place-items: center; text-align: center }}
main {{ max-width: 32rem; padding: 2rem }}
h1 {{ font-size: 1.6rem }}
</style>
</head>
<body><main><h1>{title}</h1><p>{text}</p></main></body>
</html>
"#
    )
}

/// Compares the weights of the first `pt` and the first `en` (or `*`); English when in doubt.
fn prefers_portuguese(accept_language: &str) -> bool {
    let weight = |wanted: &str| {
        accept_language
            .split(',')
            .map(|item| item.split_once(';').unwrap_or((item, "q=1")))
            .filter(|(tag, _)| tag.trim().split('-').next().is_some_and(|l| l.eq_ignore_ascii_case(wanted)))
            .map(|(_, q)| q.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).unwrap_or(0.0))
            .fold(0.0, f32::max)
    };
    weight("pt") > weight("en")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_browsers() {
        for (header, portuguese) in [
            ("pt-BR,pt;q=0.9,en;q=0.8", true),
            ("PT", true),
            ("en-US,en;q=0.5", false),
            ("en;q=0.9, pt;q=0.3", false),
            ("fr, pt;q=0.2", true),
            ("", false),
            ("pt;q=nonsense", false),
        ] {
            assert_eq!(prefers_portuguese(header), portuguese, "{header}");
        }
        assert!(suspended("pt").contains("suspenso") && suspended("de").contains("suspended"));
    }
}
