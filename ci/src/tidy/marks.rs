//! The list of marks that the product has: a campaign that reaches none of one of them proves nothing about it.
//!
//! Owns: the format of `scenarios/marks.txt`: a mark a line, sorted, and behind ` | ` why no simulated run reaches it.
//! Promises: a mark that is not listed, or listed and gone, is red; two files have two names; `--bless` makes the list
//! what is, and keeps the reasons. Leaves out: whether one was reached (`dejaq-sim hunt --require-marks`).

use super::source::{Source, line_of, words};
use super::{Finding, finding};
use std::collections::BTreeMap;

/// The list.
pub const MARKS: &str = "scenarios/marks.txt";

const HEAD: &str = "# Every mark! of the product, kept by `cargo ci tidy --bless`. Behind ` | ` stands why no simulated run reaches \
it; without a reason `dejaq-sim hunt --require-marks` wants it reached.\n";

/// The marks of the sources, with the place of each.
pub fn measure<'a>(sources: &'a [Source], found: &mut Vec<Finding>) -> BTreeMap<String, &'a Source> {
    let mut marks = BTreeMap::new();
    for source in sources {
        for at in words(&source.product, "mark!") {
            let Some(name) = named(&source.text[at..]) else { continue };
            if let Some(first) = marks.insert(name.clone(), source)
                && first.path != source.path
            {
                let text = format!("the mark \"{name}\" is in {}, too: give it its own name", first.path);
                found.push(finding(source, line_of(&source.product, at), text));
            }
        }
    }
    marks
}

/// `mark!("name")`.
fn named(text: &str) -> Option<String> {
    let inner = text.strip_prefix("mark!(\"")?;
    let name = inner.split_once("\")")?.0;
    (!name.contains('"')).then(|| name.to_owned())
}

/// Compares the list with what is.
pub fn check(list: &str, marks: &BTreeMap<String, &Source>, found: &mut Vec<Finding>) {
    let listed = parse(list);
    for (name, source) in marks.iter().filter(|(name, _)| !listed.contains_key(*name)) {
        found.push(finding(
            source,
            0,
            format!("the mark \"{name}\" is not in {MARKS}: `cargo ci tidy --bless`"),
        ));
    }
    for name in listed.keys().filter(|name| !marks.contains_key(*name)) {
        let text = format!("no source has the mark \"{name}\": `cargo ci tidy --bless`");
        found.push(Finding { path: MARKS.to_owned(), line: 0, text });
    }
}

/// The list as it should be: what is, with the reasons that it had.
pub fn bless(list: &str, marks: &BTreeMap<String, &Source>) -> String {
    let listed = parse(list);
    let line = |name: &String| match listed.get(name) {
        Some(Some(why)) => format!("{name} | {why}\n"),
        Some(None) | None => format!("{name}\n"),
    };
    marks.keys().map(line).fold(HEAD.to_owned(), |text, line| text + &line)
}

fn parse(list: &str) -> BTreeMap<String, Option<String>> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once(" | ") {
            Some((name, why)) => (name.to_owned(), Some(why.to_owned())),
            None => (line.to_owned(), None),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        let text = "//! x\nfn a() { mark!(\"one\"); }\n// mark!(\"in a remark\")\n#[cfg(test)]\nmod tests { fn b() { mark!(\"of a test\"); } }";
        vec![
            Source::new("a/src/a.rs", text),
            Source::new("a/src/b.rs", "//! x\nfn a() { dejaq_storage::mark!(\"two\"); }"),
        ]
    }

    #[test]
    fn a_mark_that_is_not_listed_and_one_that_is_gone_are_red() {
        let (sources, mut found) = (sources(), Vec::new());
        let marks = measure(&sources, &mut found);
        assert_eq!(marks.keys().collect::<Vec<_>>(), ["one", "two"]);
        check("one\ntwo | only in a fleet\n", &marks, &mut found);
        assert_eq!(found, []);
        check("one\ngone\n", &marks, &mut found);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn blessing_keeps_the_reasons() {
        let (sources, mut found) = (sources(), Vec::new());
        let blessed = bless("two | only in a fleet\ngone | x\n", &measure(&sources, &mut found));
        assert_eq!(blessed, format!("{HEAD}one\ntwo | only in a fleet\n"));
    }

    #[test]
    fn one_name_in_two_files_is_red() {
        let text = "//! x\nfn a() { mark!(\"one\"); mark!(\"one\"); }";
        let (one, other) = (Source::new("a/src/a.rs", text), Source::new("a/src/b.rs", text));
        let mut found = Vec::new();
        measure(&[one], &mut found);
        assert_eq!(found, []);
        measure(&[Source::new("a/src/a.rs", text), other], &mut found);
        assert_eq!(found.len(), 1);
    }
}
