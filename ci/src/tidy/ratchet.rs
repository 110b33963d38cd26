//! The function-size ratchet: 70 lines, and a list of those over it that may only get shorter.
//!
//! Owns: the format of `ci/tidy/functions.txt` (`path name lines`, sorted). Promises: a function over 100
//! lines is red, listed or not; one over 70 must be listed with its exact size, so that each shortening
//! lowers the list; `--bless` lowers and removes, it never adds and never raises.

use super::Finding;
use super::source::Source;
use std::collections::BTreeMap;

/// A function over this needs an entry.
pub const SOFT_LINES: usize = 70;
/// No function is longer.
pub const HARD_LINES: usize = 100;

/// Allowed sizes by path and function name.
pub type List = BTreeMap<(String, String), usize>;

/// Reads the list; a line that is not `path name lines` is ignored, and its function turns red.
pub fn parse(text: &str) -> List {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let key = (words.next()?.to_owned(), words.next()?.to_owned());
            Some((key, words.next()?.parse().ok()?))
        })
        .collect()
}

pub fn print(list: &List) -> String {
    list.iter().map(|((path, name), lines)| format!("{path} {name} {lines}\n")).collect()
}

/// The sizes over the soft limit as they are. Two functions of one name in a file count as the longer.
pub fn measure(sources: &[Source]) -> List {
    let mut list = List::new();
    for source in sources {
        for function in source.functions().into_iter().filter(|function| function.lines > SOFT_LINES) {
            let size = list.entry((source.path.clone(), function.name)).or_default();
            *size = function.lines.max(*size);
        }
    }
    list
}

/// Compares what is with what was allowed.
pub fn check(allowed: &List, actual: &List, found: &mut Vec<Finding>) {
    let mut red = |path: &str, text: String| found.push(Finding { path: path.to_owned(), line: 0, text });
    for ((path, name), lines) in actual {
        match allowed.get(&(path.clone(), name.clone())) {
            _ if *lines > HARD_LINES => {
                red(path, format!("fn {name} has {lines} lines; {HARD_LINES} is the end"))
            }
            None => red(path, format!("fn {name} has {lines} lines; the limit is {SOFT_LINES}")),
            Some(limit) if lines > limit => {
                red(path, format!("fn {name} grew from {limit} to {lines} lines"))
            }
            Some(limit) if lines < limit => {
                red(path, format!("fn {name} shrank from {limit} to {lines} lines: `cargo ci tidy --bless`"));
            }
            Some(_) => {}
        }
    }
    for (path, name) in allowed.keys().filter(|key| !actual.contains_key(*key)) {
        red(path, format!("fn {name} is within the limit now: `cargo ci tidy --bless`"));
    }
}

/// The list lowered to what is; nothing is added or raised.
pub fn bless(allowed: &List, actual: &List) -> List {
    let lowered = allowed.iter().filter_map(|(key, limit)| Some((key.clone(), *actual.get(key)?.min(limit))));
    lowered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(lines: usize) -> Vec<Source> {
        vec![Source::new("a/src/a.rs", &format!("fn long() {{\n{}}}\n", "    x();\n".repeat(lines - 2)))]
    }

    fn red(allowed: &str, lines: usize) -> usize {
        let mut found = Vec::new();
        check(&parse(allowed), &measure(&source(lines)), &mut found);
        found.len()
    }

    #[test]
    fn a_function_over_the_limit_needs_an_entry_of_its_exact_size() {
        assert_eq!(red("", 70), 0);
        assert_eq!(red("", 71), 1);
        assert_eq!(red("a/src/a.rs long 80", 80), 0);
        assert_eq!(red("a/src/a.rs long 80", 81), 1);
        assert_eq!(red("a/src/a.rs long 80", 79), 1);
        assert_eq!(red("a/src/a.rs long 80", 60), 1);
        assert_eq!(red("a/src/a.rs long 101", 101), 1);
    }

    #[test]
    fn blessing_lowers_and_never_raises() {
        let allowed = parse("a/src/a.rs long 80\na/src/a.rs gone 90\n");
        assert_eq!(print(&bless(&allowed, &measure(&source(75)))), "a/src/a.rs long 75\n");
        assert_eq!(print(&bless(&allowed, &measure(&source(95)))), "a/src/a.rs long 80\n");
        assert_eq!(print(&bless(&List::new(), &measure(&source(95)))), "");
    }
}
