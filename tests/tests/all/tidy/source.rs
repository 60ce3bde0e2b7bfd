//! A source text as tokens, without comments, strings and code that is compiled for tests only. Pure.

/// A name, `::`, or one other character, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A source text without its tests.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) tokens: Vec<Token>,
    /// Modules in separate files that are declared for tests only.
    pub(super) test_modules: Vec<String>,
}

/// All tokens of a source text, including its tests.
pub(super) fn with_tests(text: &str) -> Vec<Token> {
    tokens(&blanked(text))
}

impl Source {
    pub(super) fn of(text: &str) -> Self {
        let all = with_tests(text);
        let mut source = Self::default();
        let mut at = 0;
        while at < all.len() {
            if is_test_attribute(&all[at..]) {
                let item = after_attributes(&all, at);
                let end = item_end(&all, item);
                source.test_modules.extend(module_in_file(&all[item..end]));
                at = end;
            } else {
                source.tokens.push(all[at].clone());
                at += 1;
            }
        }
        source
    }
}

/// The text with a space for each character of a comment, a string or a character literal. Line breaks stay.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match skipped(&chars, at) {
            Some(end) => end.clamp(at + 1, chars.len()),
            None => {
                out.push(chars[at]);
                at += 1;
                continue;
            }
        };
        out.extend(
            chars[at..end]
                .iter()
                .map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    out
}

/// The end of the comment or literal that starts here, if one does.
fn skipped(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => Some(find(chars, at, |c| c == '\n')),
        ('/', Some('*')) => Some(block_comment_end(chars, at)),
        ('"', _) => Some(string_end(chars, at)),
        ('\'', Some('\\')) => Some(find(chars, at + 3, |c| c == '\'') + 1),
        // Otherwise it is a lifetime.
        ('\'', _) => (chars.get(at + 2) == Some(&'\'')).then_some(at + 3),
        ('r', Some('"' | '#')) if !is_inside_a_name(chars, at) => raw_string_end(chars, at),
        _ => None,
    }
}

/// `br` and `cr` also start raw strings.
fn is_inside_a_name(chars: &[char], at: usize) -> bool {
    let is_name = |back: usize| at.checked_sub(back).is_some_and(|at| is_word(chars[at]));
    is_name(1) && (is_name(2) || !matches!(chars[at - 1], 'b' | 'c'))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len())
        .find(|at| wanted(chars[*at]))
        .unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let open = find(chars, from + 1, |c| c != '#');
    if chars.get(open) != Some(&'"') {
        return None; // a raw name: r#type
    }
    let hashes = open - from - 1;
    let is_end = |at: &usize| {
        chars[*at] == '"' && (1..=hashes).all(|more| chars.get(at + more) == Some(&'#'))
    };
    let end = (open + 1..chars.len()).find(is_end);
    Some(end.map_or(chars.len(), |at| at + hashes + 1))
}

fn tokens(blanked: &str) -> Vec<Token> {
    let mut out = Vec::new();
    for (number, line) in blanked.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let end = match first {
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            out.push(Token {
                text: rest[..end].to_owned(),
                line: number + 1,
            });
            rest = rest[end..].trim_start();
        }
    }
    out
}

/// `#[cfg(test)]`, or `all` conditions of which `test` is the first.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let begins = |words: &[&str]| words.iter().enumerate().all(|(at, word)| text(at) == *word);
    begins(&["#", "[", "cfg", "(", "test", ")"])
        || begins(&["#", "[", "cfg", "(", "all", "(", "test"])
}

fn after_attributes(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() && tokens[at].text == "#" {
        at = group_end(tokens, at + 1);
    }
    at
}

/// The index after the bracket that closes the one here.
fn group_end(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// The index after the item, field or match arm that starts here.
fn item_end(tokens: &[Token], from: usize) -> usize {
    const ITEMS: [&str; 13] = [
        "pub", "fn", "mod", "struct", "enum", "impl", "trait", "async", "unsafe", "extern",
        "const", "static", "type",
    ];
    let first = tokens.get(from).map_or("", |token| token.text.as_str());
    let head = tokens[from..].iter().take(6);
    let head: Vec<&str> = head
        .map(|token| token.text.as_str())
        .take_while(|text| !["{", "=", ":"].contains(text))
        .collect();
    let is = |word: &str| head.contains(&word);
    let is_function = is("fn");
    let has_semicolon = is("use") || !is_function && (is("const") || is("static") || is("type"));
    let is_item = ITEMS.contains(&first) || has_semicolon;
    let mut at = from;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            "{" if !has_semicolon => return group_end(tokens, at),
            "(" | "[" | "{" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

fn module_in_file(item: &[Token]) -> Option<String> {
    let at = item.iter().position(|token| token.text == "mod")?;
    (item.last()?.text == ";").then(|| item[at + 1].text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> String {
        let source = Source::of(source);
        let texts: Vec<_> = source.tokens.iter().map(|t| t.text.as_str()).collect();
        texts.join(" ")
    }

    #[test]
    fn comments_and_strings_are_left_out_and_lines_stay() {
        let text = "//! crate::a\nuse x::y; /* crate::b /* c */ */ \"crate::\\\"d\" r#\"crate::\"e\"#\nlast";
        assert_eq!(texts(text), "use x :: y ; last");
        assert_eq!(Source::of(text).tokens.last().unwrap().line, 3);
        assert_eq!(
            texts("fn f<'a>(x: &'a str) { '\"' '\\'' 'x' }"),
            "fn f < ' a > ( x : & ' a str ) { }"
        );
        assert_eq!(texts("for br\"x\\\" in r#type"), "for b in r # type");
    }

    #[test]
    fn what_is_for_tests_only_is_left_out() {
        let text = "a; #[cfg(test)] #[allow(x)] mod tests { use crate::b; } c; \
             #[cfg(test)] mod more; d; #[cfg(test)] use crate::{e, f}; g; \
             #[cfg(test)] pub(crate) fn h<A, B>() -> [u8; 2] { i } j; struct K { #[cfg(test)] l: M, n: O }";
        let source = Source::of(text);
        assert_eq!(texts(text), "a ; c ; d ; g ; j ; struct K { n : O }");
        assert_eq!(source.test_modules, ["more"]);
        assert_eq!(
            texts("#[cfg(not(test))] a;"),
            "# [ cfg ( not ( test ) ) ] a ;"
        );
    }
}
