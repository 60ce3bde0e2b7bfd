//! Tables for people: columns without borders or trailing blanks, readable without colour.
//!
//! Invisible characters of width zero mark a cell's colour, so that column widths are right. They become escape
//! sequences (or nothing) when the text is printed. Text from outside can contain neither.

use comfy_table::{Table as Grid, presets};

/// A colour, named by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it should be.
    Good,
    /// In progress, or unclear.
    Warn,
    /// Needs attention from a person.
    Bad,
    /// Less important.
    Faint,
}

const END: char = '\u{2064}';

impl Paint {
    const ALL: [Self; 4] = [Self::Good, Self::Warn, Self::Bad, Self::Faint];

    fn mark(self) -> char {
        match self {
            Self::Good => '\u{2061}',
            Self::Warn => '\u{2062}',
            Self::Bad => '\u{2063}',
            Self::Faint => '\u{2060}',
        }
    }

    fn escape(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }

    /// Marks `text`; [`paint`] turns the marks into colours.
    pub fn on(self, text: &str) -> Cell {
        Cell(format!("{}{}{END}", self.mark(), clean(text)))
    }

    /// The colour of a state, phase or check result, by its word.
    pub fn of(word: &str) -> Self {
        match word {
            "running" | "ready" | "succeeded" | "ok" | "healthy" | "active" | "current"
            | "protected" => Self::Good,
            "failing" | "failed" | "lost" | "degraded" | "FAIL" | "revoked" | "unreachable"
            | "stuck" | "not_protected" => Self::Bad,
            "suspended" | "asleep" | "skipped" | "skip" | "cancelled" | "quarantined" => {
                Self::Faint
            }
            _ => Self::Warn,
        }
    }

    /// `word` in its own colour.
    pub fn word(word: &str) -> Cell {
        Self::of(word).on(word)
    }
}

/// Text that is safe to print: cleaned, and marked only by [`Paint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell(String);

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(clean(text.as_ref()))
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Turns marks into escape sequences, or removes them.
pub fn paint(text: &str, colour: bool) -> String {
    let mut painted = String::with_capacity(text.len());
    for c in text.chars() {
        if c == END {
            painted.push_str(if colour { "\x1b[0m" } else { "" });
        } else if let Some(kind) = Paint::ALL.into_iter().find(|kind| kind.mark() == c) {
            painted.push_str(if colour { kind.escape() } else { "" });
        } else {
            painted.push(c);
        }
    }
    painted
}

/// A line's pieces with their colours, for callers that do not draw with escape sequences.
pub fn pieces(line: &str) -> Vec<(String, Option<Paint>)> {
    let mut pieces = vec![(String::new(), None)];
    for c in line.chars() {
        if c == END {
            pieces.push((String::new(), None));
        } else if let Some(kind) = Paint::ALL.into_iter().find(|kind| kind.mark() == c) {
            pieces.push((String::new(), Some(kind)));
        } else if let Some((text, _)) = pieces.last_mut() {
            text.push(c);
        }
    }
    pieces.retain(|(text, _)| !text.is_empty());
    pieces
}

/// Makes text from outside harmless on a terminal: escapes control characters, including those for text direction,
/// which can reorder a line; removes our own marks; joins lines.
pub fn clean(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\u{2060}'..='\u{2064}' => {}
            '\n' => safe.push(' '),
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                safe.extend(c.escape_unicode());
            }
            c if c.is_control() => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

#[derive(Debug)]
pub struct Table {
    grid: Grid,
}

impl Table {
    pub fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING)
            .set_header(header.into_iter().map(str::to_owned).collect::<Vec<_>>());
        Self { grid }
    }

    /// A list of `key  value` without a header.
    pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, Cell)>) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        for (key, value) in pairs {
            grid.add_row([key.to_owned(), value.0]);
        }
        render(grid)
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.grid
            .add_row(cells.into_iter().map(|cell| cell.0).collect::<Vec<_>>());
    }

    /// The table as text; every line ends with a line break.
    pub fn render(self) -> String {
        render(self.grid)
    }
}

fn render(mut grid: Grid) -> String {
    // Two blanks between columns, none at the left edge.
    for column in grid.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in grid.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_turn_a_line_round() {
        let all = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        for turn in all.chars() {
            assert_eq!(
                clean(&format!("a{turn}b")),
                format!("a{}b", turn.escape_unicode())
            );
        }
        // Letters of a right-to-left script are ordinary text.
        assert_eq!(clean("a \u{5d0}\u{5d1} b"), "a \u{5d0}\u{5d1} b");
    }

    #[test]
    fn colours_do_not_move_columns_and_strange_text_stays_harmless() {
        let mut table = Table::new(["NAME", "PHASE", "HOST"]);
        table.row(["alfa".into(), Paint::word("running"), "h1".into()]);
        table.row([
            "b\x1b[2J\u{2061}".into(),
            Paint::word("failing"),
            "h2\nx".into(),
        ]);
        let text = table.render();
        assert_eq!(
            paint(&text, false),
            "NAME        PHASE    HOST\nalfa        running  h1\nb\\u{1b}[2J  failing  h2 x\n"
        );
        assert!(paint(&text, true).contains("\x1b[32mrunning\x1b[0m  h1"));
        let line = pieces(text.lines().nth(1).unwrap());
        let expected = [
            ("alfa        ", None),
            ("running", Some(Paint::Good)),
            ("  h1", None),
        ]
        .map(|(t, p)| (t.to_owned(), p));
        assert_eq!(line, expected);
    }
}
