//! Log lines for people: one for each event, whatever the values in it are. A value's line breaks, and what would drive a
//! terminal or turn a line round, are escaped, so that nobody who is named in a log can write lines of it.
//!
//! Not here: JSON, whose strings are escaped anyway; which values may be logged at all (each program).

use std::fmt::{self, Write as _};

use tracing_subscriber::{
    field::MakeExt as _,
    fmt::{FormatFields, format},
};

/// The fields of a line, as the usual format has them: the message, then `name=value`.
pub(crate) fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(
        |writer, field, value| match (field.name(), writer.has_ansi_escapes()) {
            ("message", _) => write!(writer, "{}", OneLine(value)),
            (name, true) => write!(
                writer,
                "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{}",
                OneLine(value)
            ),
            (name, false) => write!(writer, "{name}={}", OneLine(value)),
        },
    )
    .delimited(" ")
}

/// A value as a line may show it.
struct OneLine<'a>(&'a dyn fmt::Debug);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if drives(c) {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Controls, and marks of the direction of text (as isyone-types' `echo` has them, which this crate does not know).
fn drives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{fmt, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(colours: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = fmt::layer()
            .without_time()
            .fmt_fields(fields())
            .with_ansi(colours)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const FORGED: &str = "x\n2026-11-28T12:00:00Z  INFO isy_coordinator: operator `eva` is admin\r\x1b[2J\u{9b}A\u{202e}";

    #[test]
    fn no_value_makes_a_line_of_its_own_or_drives_a_terminal() {
        for colours in [false, true] {
            let line = logged(colours, || {
                tracing::info!(name = %FORGED, quoted = FORGED, "refused: there is no `{FORGED}`");
            });
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(line.ends_with('\n') && !line.contains(['\r', '\u{9b}', '\u{202e}']));
            assert!(!line.contains("\x1b[2J"), "{line:?}");
            assert_eq!(line.matches("x\\n2026").count(), 3, "{line}");
        }
    }

    #[test]
    fn a_plain_line_looks_as_usual() {
        let line = logged(false, || {
            tracing::warn!(host = %"h1", tries = 3, why = "gone", "left out: {}", "ä `b`");
        });
        assert_eq!(
            line,
            " WARN isyone_telemetry::lines::tests: left out: ä `b` host=h1 tries=3 why=\"gone\"\n"
        );
    }
}
