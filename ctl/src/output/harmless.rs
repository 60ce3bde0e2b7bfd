//! A stream of bytes from a tenant made harmless for a terminal: whoever writes a log must not move the cursor, set a title
//! or hide a line of whoever reads it.
//!
//! Not here: text of the coordinator (`table::clean`), and what a person asked to see as it is (`--raw`).

use isyone_proto::echo::drives;

/// Escapes what a terminal acts on, except line breaks and tabs. Keeps a character that is not whole yet for the next
/// piece.
#[derive(Debug, Default)]
pub struct Harmless {
    pending: Vec<u8>,
}

impl Harmless {
    /// The next piece of the stream.
    pub fn next(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.pending);
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.push(&mut text, valid, true);
                    return text;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    let valid = String::from_utf8_lossy(valid);
                    let Some(length) = error.error_len() else {
                        self.push(&mut text, &valid, false);
                        self.pending = bad.to_vec();
                        return text;
                    };
                    self.push(&mut text, &valid, false);
                    for byte in &bad[..length] {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                    rest = &bad[length..];
                }
            }
        }
    }

    /// What is left at the end.
    pub fn end(&mut self) -> String {
        let left = std::mem::take(&mut self.pending);
        if left == b"\r" {
            return "\\r".to_owned();
        }
        left.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn push(&mut self, to: &mut String, text: &str, last: bool) {
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\n' | '\t' => to.push(c),
                '\r' if chars.peek() == Some(&'\n') => to.push(c),
                // Only the next piece tells whether the line ends here.
                '\r' if last && chars.peek().is_none() => self.pending.push(b'\r'),
                '\r' => to.push_str("\\r"),
                c if drives(c) => to.extend(c.escape_unicode()),
                c => to.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut harmless = Harmless::default();
        let mut text: String = pieces.iter().map(|piece| harmless.next(piece)).collect();
        text.push_str(&harmless.end());
        text
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through() {
        let whole = "ü\ta\x1b]0;title\x07b\u{9b}2J\r\nc\rd\u{202e}\x00\n".as_bytes();
        let expected = "ü\ta\\u{1b}]0;title\\u{7}b\\u{9b}2J\r\nc\\rd\\u{202e}\\u{0}\n";
        assert_eq!(shown(&[whole]), expected);
        // Wherever the pieces are cut.
        for cut in 0..whole.len() {
            assert_eq!(shown(&[&whole[..cut], &whole[cut..]]), expected, "{cut}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(shown(&bytes), expected);
    }

    #[test]
    fn what_is_no_text_is_shown_as_bytes() {
        assert_eq!(shown(&[b"a\x9b2Jb\xff"]), "a\\x9b2Jb\\xff");
        assert_eq!(shown(&[b"a\xc3"]), "a\\xc3");
        assert_eq!(shown(&[b"a\r"]), "a\\r");
    }
}
