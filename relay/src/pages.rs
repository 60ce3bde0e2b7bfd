//! What a visitor reads when the relay itself answers: in English or Portuguese, as a page or as one line. Pure.
//!
//! Never a redirect: who waits stays where he is, and the page asks again by itself.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// Says on an answer that it is the relay's own, and which; Odoo never sets it.
pub const ANSWER_HEADER: &str = "x-isyone-relay";

/// After how many seconds a waiting page asks again. Longer than a reload costs, shorter than patience.
const REFRESH_S: u32 = 5;
/// After how many seconds whoever asked too much may ask again, where nothing better is known.
const CALM_S: u32 = 10;

/// An answer of the relay's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    /// All places were taken for too long.
    Busy,
    /// Odoo is away for a moment.
    Waiting,
    /// Whether the tenant still lives on this host is not known.
    Lapsed,
    /// This address asks too much.
    TooMany {
        /// Seconds until it may ask again.
        retry_s: u32,
    },
    /// The body is larger than the tenant's limit.
    TooLarge,
    /// The body is larger than what somebody without a session may send.
    AnonymousTooLarge,
    /// The body paused, or came too slowly.
    TooSlow,
    /// No disk space for uploads.
    NoSpace,
    /// A head or body that cannot be read with certainty.
    Malformed,
    /// Not a method that Odoo has.
    NoSuchMethod,
    /// Closed on this route.
    Closed,
    /// Odoo ended before its answer; the request may have been acted on.
    Broken,
    /// Odoo did not answer in time.
    NoAnswer,
}

/// The languages that texts are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// English.
    English,
    /// Portuguese of Brazil.
    Portuguese,
}

impl Notice {
    /// Its status.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Busy | Self::Waiting | Self::Lapsed => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge | Self::AnonymousTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Closed => StatusCode::NOT_FOUND,
            Self::Broken => StatusCode::BAD_GATEWAY,
            Self::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Its name in headers and figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Waiting => "waiting",
            Self::Lapsed => "lapsed",
            Self::TooMany { .. } => "too-many",
            Self::TooLarge => "too-large",
            Self::AnonymousTooLarge => "anonymous-too-large",
            Self::TooSlow => "too-slow",
            Self::NoSpace => "no-space",
            Self::Malformed => "malformed",
            Self::NoSuchMethod => "no-such-method",
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::NoAnswer => "no-answer",
        }
    }

    /// All notices, for figures.
    pub(crate) const ALL: [Self; 13] = [
        Self::Busy,
        Self::Waiting,
        Self::Lapsed,
        Self::TooMany { retry_s: CALM_S },
        Self::TooLarge,
        Self::AnonymousTooLarge,
        Self::TooSlow,
        Self::NoSpace,
        Self::Malformed,
        Self::NoSuchMethod,
        Self::Closed,
        Self::Broken,
        Self::NoAnswer,
    ];

    /// Too many at once, without anything better known than a moment of calm.
    pub(crate) fn too_many() -> Self {
        Self::TooMany { retry_s: CALM_S }
    }

    /// Seconds after which the same request may succeed; `None`: never.
    fn retry_s(self) -> Option<u32> {
        match self {
            Self::Busy | Self::Waiting | Self::Lapsed => Some(REFRESH_S),
            Self::TooMany { retry_s } => Some(retry_s.max(1)),
            Self::NoSpace => Some(600),
            _ => None,
        }
    }

    /// Whether the page asks again by itself.
    fn refreshes(self) -> bool {
        matches!(self, Self::Busy | Self::Waiting | Self::Lapsed)
    }

    fn texts(self, language: Language) -> (&'static str, &'static str) {
        match language {
            Language::English => self.english(),
            Language::Portuguese => self.portuguese(),
        }
    }

    fn english(self) -> (&'static str, &'static str) {
        match self {
            Self::Busy => (
                "Busy",
                "Many requests are being worked on. This page tries again by itself.",
            ),
            Self::Waiting => (
                "One moment",
                "The system is starting. This page tries again by itself.",
            ),
            Self::Lapsed => (
                "One moment",
                "The system cannot be reached for a moment. If you were saving something, please see whether it was carried out. \
                 This page tries again by itself.",
            ),
            Self::TooMany { .. } => (
                "Too many requests",
                "Too many requests came from your address. Please wait a moment.",
            ),
            Self::TooLarge => (
                "Too large",
                "What was sent is larger than this system takes.",
            ),
            Self::AnonymousTooLarge => (
                "Too large",
                "What was sent is larger than this system takes from someone who is not signed in.",
            ),
            Self::TooSlow => (
                "Too slow",
                "What was sent stopped arriving. Please send it again.",
            ),
            Self::NoSpace => (
                "No space",
                "There is no space for uploads at the moment. Your administrator can free some.",
            ),
            Self::Malformed => ("Not understood", "The request could not be understood."),
            Self::NoSuchMethod => ("Not understood", "There is no such method."),
            Self::Closed => ("Not found", "There is no such page."),
            Self::Broken => (
                "Interrupted",
                "The request was interrupted. Please see whether it was carried out before you repeat it.",
            ),
            Self::NoAnswer => (
                "No answer",
                "The request took too long. Please see whether it was carried out before you repeat it.",
            ),
        }
    }

    fn portuguese(self) -> (&'static str, &'static str) {
        match self {
            Self::Busy => (
                "Ocupado",
                "Há muitas solicitações em andamento. Esta página tenta de novo sozinha.",
            ),
            Self::Waiting => (
                "Um momento",
                "O sistema está iniciando. Esta página tenta de novo sozinha.",
            ),
            Self::Lapsed => (
                "Um momento",
                "O sistema está fora de alcance por um momento. Se estava salvando algo, verifique se foi executado. Esta página tenta \
                 de novo sozinha.",
            ),
            Self::TooMany { .. } => (
                "Solicitações demais",
                "Vieram solicitações demais do seu endereço. Aguarde um momento.",
            ),
            Self::TooLarge => (
                "Grande demais",
                "O que foi enviado é maior do que este sistema aceita.",
            ),
            Self::AnonymousTooLarge => (
                "Grande demais",
                "O que foi enviado é maior do que este sistema aceita de quem não entrou.",
            ),
            Self::TooSlow => ("Lento demais", "O envio parou de chegar. Envie de novo."),
            Self::NoSpace => (
                "Sem espaço",
                "Não há espaço para envios no momento. Quem administra o sistema pode liberar.",
            ),
            Self::Malformed => ("Não entendido", "A solicitação não pôde ser entendida."),
            Self::NoSuchMethod => ("Não entendido", "Não existe tal método."),
            Self::Closed => ("Não encontrado", "Esta página não existe."),
            Self::Broken => (
                "Interrompido",
                "A solicitação foi interrompida. Verifique se foi executada antes de repetir.",
            ),
            Self::NoAnswer => (
                "Sem resposta",
                "A solicitação demorou demais. Verifique se foi executada antes de repetir.",
            ),
        }
    }

    /// The whole answer. `asked` are the request's headers.
    pub(crate) fn answer(self, asked: &HeaderMap) -> Response<String> {
        let language = language(asked);
        let (title, text) = self.texts(language);
        let is_page = super::judge::wants_html(asked);
        let body = match is_page {
            true => page(title, text, language, self.refreshes()),
            false => format!("{title}: {text}\n"),
        };
        let mut response = own(self.status(), self.name(), is_page, body);
        if let Some(seconds) = self.retry_s() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A page that the route gives, with its status.
pub(crate) fn given(
    status: StatusCode,
    html: &str,
    retry_after_s: Option<u32>,
) -> Response<String> {
    let mut response = own(status, "page", true, html.to_owned());
    if let Some(seconds) = retry_after_s {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn own(status: StatusCode, name: &'static str, is_page: bool, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = if is_page {
        "text/html; charset=utf-8"
    } else {
        "text/plain; charset=utf-8"
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(ANSWER_HEADER, HeaderValue::from_static(name));
    response
}

fn page(title: &str, text: &str, language: Language, refreshes: bool) -> String {
    let code = match language {
        Language::English => "en",
        Language::Portuguese => "pt-BR",
    };
    let refresh = match refreshes {
        true => format!("<meta http-equiv=\"refresh\" content=\"{REFRESH_S}\">"),
        false => String::new(),
    };
    format!(
        "<!doctype html><html lang=\"{code}\"><head><meta charset=\"utf-8\">{refresh}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <style>body{{font:16px/1.5 sans-serif;max-width:32em;margin:20vh auto;padding:0 1em;color:#333}}</style>\
         </head><body><h1>{title}</h1><p>{text}</p></body></html>\n"
    )
}

/// The language that the visitor would rather read: Portuguese of any country, else English.
pub(crate) fn language(asked: &HeaderMap) -> Language {
    let value = asked.get(header::ACCEPT_LANGUAGE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    // More entries than a browser sends.
    let entries = value.split(',').take(32).map(|entry| {
        let mut parts = entry.split(';');
        let tag = parts.next().unwrap_or("").trim();
        let weight = parts.find_map(|part| part.trim().strip_prefix("q=")?.parse::<f32>().ok());
        (tag, weight.unwrap_or(1.0))
    });
    let is = |tag: &str, wanted: &str| {
        let base = tag.split('-').next().unwrap_or("");
        base.eq_ignore_ascii_case(wanted)
    };
    let (mut portuguese, mut english) = (0.0_f32, 0.0_f32);
    for (tag, weight) in entries.filter(|(_, weight)| weight.is_finite()) {
        if is(tag, "pt") {
            portuguese = portuguese.max(weight);
        } else if is(tag, "en") {
            english = english.max(weight);
        }
    }
    match portuguese > english {
        true => Language::Portuguese,
        false => Language::English,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn the_language_that_is_wanted_most() {
        for (value, expected) in [
            ("pt-BR,pt;q=0.9,en-US;q=0.8", Language::Portuguese),
            ("en-US,en;q=0.9,pt;q=0.5", Language::English),
            ("de, pt-PT;q=0.1", Language::Portuguese),
            ("pt;q=0", Language::English),
            ("pt;q=nan, en;q=inf", Language::English),
            ("", Language::English),
            ("*", Language::English),
        ] {
            let asked = HeaderMap::from_iter([(
                header::ACCEPT_LANGUAGE,
                HeaderValue::from_str(value).unwrap(),
            )]);
            assert_eq!(language(&asked), expected, "{value}");
        }
    }

    #[test]
    fn busy_is_a_page_that_asks_again_and_never_a_redirect() {
        let asked = asked(&[("accept", "text/html,*/*"), ("accept-language", "pt-BR")]);
        let response = Notice::Busy.answer(&asked);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(response.headers()[ANSWER_HEADER], "busy");
        assert!(!response.headers().contains_key("location"));
        assert!(
            response.body().contains("http-equiv=\"refresh\"")
                && response.body().contains("Ocupado")
        );
    }

    #[test]
    fn a_program_gets_one_line() {
        let response = Notice::AnonymousTooLarge.answer(&asked(&[("accept", "application/json")]));
        assert_eq!(response.status(), 413);
        assert!(response.body().starts_with("Too large: "));
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn every_notice_has_its_own_name_and_is_an_error() {
        let names: std::collections::BTreeSet<_> = Notice::ALL.iter().map(|n| n.name()).collect();
        assert_eq!(names.len(), Notice::ALL.len());
        assert!(
            Notice::ALL
                .iter()
                .all(|notice| notice.status().as_u16() >= 400)
        );
    }
}
