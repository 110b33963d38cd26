//! One Rust file, cut into what the rules look at: code without comments, strings and tests.
//!
//! Owns: a small lexer and brace matching. Promises: line numbers stay those of the file (masked bytes
//! become spaces, newlines stay). Leaves out: parsing Rust; the rules need tokens and braces only.

use std::ops::Range;

/// A file as the rules see it.
#[derive(Debug)]
pub struct Source {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// The file as it is.
    pub text: String,
    /// Same length: comments, strings and chars are blanked.
    pub code: String,
    /// `code` without test modules and test functions; empty for a test file.
    pub product: String,
    /// The comments, with the line each begins on (1-based).
    pub comments: Vec<(usize, String)>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let (code, comments) = mask(text);
        let product = if is_test_file(path) { String::new() } else { without_tests(&code) };
        let comments = comments.into_iter().map(|range| (line_of(text, range.start), text[range].to_owned()));
        let comments = comments.collect();
        Source { path: path.to_owned(), text: text.to_owned(), code, product, comments }
    }

    /// Whether the whole file is tests.
    pub fn is_test(&self) -> bool {
        is_test_file(&self.path)
    }

    /// Lines of the file outside of test items.
    pub fn product_lines(&self) -> usize {
        let tests =
            test_items(&self.code).into_iter().map(|range| self.code[range].matches('\n').count() + 1);
        self.text.lines().count() - tests.sum::<usize>().min(self.text.lines().count())
    }

    /// Every function with a body in `product`, outermost and nested.
    pub fn functions(&self) -> Vec<Function> {
        let code = self.product.as_bytes();
        let mut found = Vec::new();
        for at in words(&self.product, "fn") {
            let name: String =
                self.product[at + 2..].trim_start().chars().take_while(|c| is_word(*c)).collect();
            let Some(open) = body_start(code, at) else { continue };
            let (line, end) = (line_of(&self.text, at), line_of(&self.text, closing(code, open)));
            if !name.is_empty() {
                found.push(Function { name, line, lines: end - line + 1 });
            }
        }
        found
    }
}

/// Tests apart: `tests.rs`, `*_tests.rs`, and what lies in a `tests`, `benches` or `examples` folder.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.contains("/examples/")
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The line (1-based) on which byte `at` lies.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where `word` stands in `code` as a whole word (its ends are not continued by word characters).
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = !word.starts_with(is_word) || !before.is_some_and(is_word);
        starts && (!word.ends_with(is_word) || !after.is_some_and(is_word))
    })
}

/// The brace that opens the body of the `fn` at `at`; `None` for a declaration without one.
fn body_start(code: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, byte) in code.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(index),
            b';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None; // a function pointer type inside of something
        }
    }
    None
}

/// The brace that closes the one at `open`, or the end.
pub fn closing(code: &[u8], open: usize) -> usize {
    let mut depth = 0;
    for (index, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    code.len().saturating_sub(1)
}

/// The bytes of every item under `#[cfg(test)]` or `#[test]`.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for marker in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
        for (at, _) in code.match_indices(marker) {
            let rest = code.as_bytes();
            let end = match rest[at..].iter().position(|byte| matches!(byte, b'{' | b';')) {
                Some(offset) if rest[at + offset] == b'{' => closing(rest, at + offset),
                Some(offset) => at + offset,
                None => code.len() - 1,
            };
            items.push(at..end + 1);
        }
    }
    items.sort_by_key(|range| range.start);
    let mut outer: Vec<Range<usize>> = Vec::new();
    for range in items {
        if outer.last().is_none_or(|last| range.start >= last.end) {
            outer.push(range);
        }
    }
    outer
}

fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for range in test_items(code) {
        blank(&mut bytes, range);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Overwrites with spaces, keeps the newlines.
fn blank(bytes: &mut [u8], range: Range<usize>) {
    for byte in &mut bytes[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Blanks comments, strings and character literals; returns where the comments were.
fn mask(text: &str) -> (String, Vec<Range<usize>>) {
    let bytes = text.as_bytes();
    let mut masked = bytes.to_vec();
    let mut comments = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match rest {
            [b'/', b'/', ..] => at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => at + block_comment(rest),
            [b'"', ..] => at + string(rest),
            [b'r' | b'b' | b'c', ..] if at == 0 || !is_word(bytes[at - 1] as char) => {
                match raw_string(rest) {
                    Some(length) => at + length,
                    None => at,
                }
            }
            [b'\'', ..] => at + character(rest),
            _ => at,
        };
        if end == at {
            at += 1;
            continue;
        }
        if bytes[at] == b'/' {
            comments.push(at..end);
        }
        blank(&mut masked, at..end);
        at = end;
    }
    (String::from_utf8_lossy(&masked).into_owned(), comments)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`: its length, if this is one.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take(2).take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let raw = rest[..prefix].contains(&b'r');
    if !raw {
        return (hashes == 0).then(|| prefix + string(&rest[prefix..]));
    }
    let body = prefix + hashes + 1;
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let length = rest[body..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(rest.len(), |length| body + length + close.len()))
}

/// The length of a character literal; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', _, more @ ..] => {
            more.iter().position(|byte| *byte == b'\'').map_or(0, |length| length + 4)
        }
        _ => {
            let text = std::str::from_utf8(&rest[1..rest.len().min(6)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]));
            let first = text.ok().and_then(|text| text.chars().next()).map_or(1, char::len_utf8);
            if rest.get(1 + first) == Some(&b'\'') { first + 2 } else { 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_chars_are_blanked_and_lines_stay() {
        let text = "let a = \"Instant::now\"; // Instant::now\n/* x /* y */ \n z */ let b = r#\"a\"b\"#; let c = '{'; let d: &'a u8;";
        let source = Source::new("x/src/a.rs", text);
        assert!(!source.code.contains("Instant") && !source.code.contains('z') && !source.code.contains('{'));
        assert!(source.code.contains("&'a u8"), "{}", source.code);
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.comments.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_function_is_as_long_as_its_lines() {
        let source = Source::new(
            "x/src/a.rs",
            "trait T { fn declared(&self); }\nfn f(a: [u8; 3])\n{\n let g = |x| { x };\n}\n",
        );
        assert_eq!(source.functions(), [Function { name: "f".into(), line: 2, lines: 4 }]);
    }

    #[test]
    fn test_items_do_not_count_as_product() {
        let source = Source::new("x/src/a.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n");
        assert_eq!(source.functions().len(), 1);
        assert_eq!(source.product_lines(), 1);
        assert!(Source::new("x/tests/a.rs", "fn a() {}").functions().is_empty());
    }

    #[test]
    fn a_word_is_whole() {
        assert_eq!(words("HashMap; MyHashMap; HashMapX; std::HashMap<", "HashMap").count(), 2);
    }
}
