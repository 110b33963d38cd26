//! Sizes, headers, reasons and leftovers of one file.
//!
//! Owns: the limits of STYLE rule 9 and 17 and of "no stubs". Leaves out: the ratchet's own file (`ratchet`).

use super::source::{Source, line_of, words};
use super::{Finding, finding};

/// A file's lines outside of tests.
pub const MAX_FILE_LINES: usize = 800;
/// A module header.
const MAX_HEADER_LINES: usize = 25;
/// `lib.rs` and `mod.rs` hold a tour.
const MAX_TOUR_LINES: usize = 40;

pub fn check(source: &Source, found: &mut Vec<Finding>) {
    check_size(source, found);
    check_header(source, found);
    check_allow(source, found);
    check_leftovers(source, found);
}

fn check_size(source: &Source, found: &mut Vec<Finding>) {
    let lines = source.product_lines();
    if !source.is_test() && lines > MAX_FILE_LINES {
        found.push(finding(source, 1, format!("{lines} lines; a file has at most {MAX_FILE_LINES}")));
    }
}

fn check_header(source: &Source, found: &mut Vec<Finding>) {
    if source.is_test() {
        return;
    }
    let lines = source.text.lines().take_while(|line| line.starts_with("//!")).count();
    if lines == 0 {
        found.push(finding(
            source,
            1,
            "no module header (`//!`): what it owns, promises, leaves out".to_owned(),
        ));
    }
    let tour = source.path.ends_with("/lib.rs") || source.path.ends_with("/mod.rs");
    let limit = if tour { MAX_TOUR_LINES } else { MAX_HEADER_LINES };
    if lines > limit {
        found.push(finding(source, 1, format!("a header of {lines} lines; at most {limit}")));
    }
}

/// `#[allow(…)]` and `#[expect(…)]` say why.
fn check_allow(source: &Source, found: &mut Vec<Finding>) {
    for opening in ["[allow(", "[expect("] {
        for (at, _) in source.code.match_indices(opening) {
            let attribute = source.code[at..].split(']').next().unwrap_or_default();
            if words(attribute, "reason").next().is_none() {
                let text = format!("`#{opening}…)]` without a `reason`");
                found.push(finding(source, line_of(&source.code, at), text));
            }
        }
    }
}

fn check_leftovers(source: &Source, found: &mut Vec<Finding>) {
    for what in ["todo!", "unimplemented!", "dbg!"] {
        for at in words(&source.code, what) {
            found.push(finding(
                source,
                line_of(&source.code, at),
                format!("`{what}` is a stub or a leftover"),
            ));
        }
    }
    for (line, comment) in &source.comments {
        // A mark with an issue (`TODO(#12)`) is a promise with an address.
        for what in ["TODO", "FIXME", "XXX", "HACK"] {
            for at in words(comment, what) {
                if !comment[at + what.len()..].starts_with("(#") {
                    found.push(finding(source, *line, format!("`{what}` without an issue")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(&Source::new(path, text), &mut found);
        found.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_file_without_a_header_or_with_a_long_one_is_red() {
        assert_eq!(texts("a/src/a.rs", "fn a() {}").len(), 1);
        assert_eq!(texts("a/src/a.rs", "//! What it is.\nfn a() {}").len(), 0);
        assert_eq!(texts("a/src/a.rs", &"//! x\n".repeat(26)).len(), 1);
        assert_eq!(texts("a/src/tests.rs", "fn a() {}").len(), 0);
    }

    #[test]
    fn a_file_over_the_limit_is_red_but_its_tests_do_not_count() {
        let long = format!("//! x\n{}", "fn a() {}\n".repeat(800));
        assert_eq!(texts("a/src/a.rs", &long).len(), 1);
        let tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}", "fn a() {}\n".repeat(800));
        assert_eq!(texts("a/src/a.rs", &tests).len(), 0);
    }

    #[test]
    fn an_allow_without_a_reason_is_red() {
        assert_eq!(texts("a/src/a.rs", "//! x\n#[allow(dead_code)]\nfn a() {}").len(), 1);
        assert_eq!(texts("a/src/a.rs", "//! x\n#![expect(dead_code, reason = \"why\")]\nfn a() {}").len(), 0);
    }

    #[test]
    fn stubs_and_marks_without_an_issue_are_red() {
        assert_eq!(texts("a/src/a.rs", "//! x\nfn a() { todo!() }").len(), 1);
        assert_eq!(texts("a/src/a.rs", "//! x\n// FIXME later\n// TODO(#7): then").len(), 1);
        assert_eq!(texts("a/src/a.rs", "//! x\nconst A: &str = \"TODO\";").len(), 0);
    }
}
