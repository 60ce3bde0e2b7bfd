//! A value from outside, as a message may repeat it: short, and unable to drive a terminal or to break a line.
//!
//! Not here: which values are repeated; secrets never are.

/// Most characters of a value that a message repeats: enough to recognise it, and far from any limit on headers.
pub const MAX_ECHO: usize = 64;

/// The first [`MAX_ECHO`] characters of `text`, with control characters and those that turn a line round escaped.
pub fn echo(text: &str) -> String {
    let (mut shown, mut left) = (String::new(), MAX_ECHO);
    for c in text.chars() {
        let piece = if drives(c) {
            c.escape_unicode().to_string()
        } else {
            c.to_string()
        };
        let Some(rest) = left.checked_sub(piece.chars().count()) else {
            shown.push('…');
            return shown;
        };
        left = rest;
        shown.push_str(&piece);
    }
    shown
}

/// All of a text, likewise escaped; line breaks, too.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if drives(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a terminal acts on a character instead of showing it: controls, and marks of the direction of text.
pub fn drives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_short_and_harmless() {
        assert_eq!(echo("-alfa"), "-alfa");
        assert_eq!(echo("bücher `x`"), "bücher `x`");
        assert_eq!(echo("a\x1b[2J\n\u{202e}b"), "a\\u{1b}[2J\\u{a}\\u{202e}b");
        assert_eq!(echo(&"x".repeat(64)), "x".repeat(64));
        let long = echo(&"x".repeat(130_000));
        assert_eq!(long, format!("{}…", "x".repeat(64)));
        // An escape is not cut in the middle.
        assert_eq!(
            echo(&format!("{}\x1b", "x".repeat(60))),
            format!("{}…", "x".repeat(60))
        );
    }
}
