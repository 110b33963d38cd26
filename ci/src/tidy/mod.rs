//! `cargo ci tidy`: what the compiler and clippy do not see, over the sources as text.
//!
//! A tour: [`source`] cuts a file into code, comments and tests; [`shape`] sizes, headers, reasons and stubs;
//! [`ratchet`] function sizes; [`marks`] the list of marks; [`bans`] clocks, threads, files and maps outside their homes; [`arrows`] the
//! direction of dependencies; [`pure`] the files where rules live. Each has tests with snippets that go red.

mod arrows;
mod bans;
mod marks;
mod pure;
mod ratchet;
mod shape;
mod source;

use crate::process;
use crate::work::Work;
use anyhow::{Context, Result};
use source::Source;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

const FUNCTIONS: &str = "ci/tidy/functions.txt";
const PURE: &str = "ci/tidy/pure.txt";
/// The top level as fixed; another folder is a decision, not an accident.
const TOP_FOLDERS: [&str; 8] = [".cargo", ".ci", "ci", "node", "scenarios", "sim", "storage", "wire"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Lower the function-size list to what is (it never adds and never raises), and make the list of marks what is.
    #[arg(long)]
    bless: bool,
}

/// One thing that is wrong, at a place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    path: String,
    line: usize,
    text: String,
}

fn finding(source: &Source, line: usize, text: String) -> Finding {
    Finding { path: source.path.clone(), line, text }
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    // Tracked files and new ones that git does not ignore.
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(&work.root);
    let listed =
        process::output(&mut git, Duration::from_secs(30)).context("listing the repository's files")?;
    let paths: BTreeSet<&str> = listed.lines().filter(|path| work.root.join(path).is_file()).collect();
    let read =
        |path: &str| fs::read_to_string(work.root.join(path)).with_context(|| format!("reading {path}"));

    let mut sources = Vec::new();
    let mut found = Vec::new();
    for path in &paths {
        if path.ends_with(".rs") {
            sources.push(Source::new(path, &read(path)?));
        } else if path.ends_with("Cargo.toml") {
            arrows::check_manifest(path, &read(path)?, &mut found);
        }
    }
    let pure_list = read(PURE)?;
    for source in &sources {
        check_source(source, &pure_list, &mut found);
    }
    check_lists(&sources, &pure_list, &mut found);
    check_top(&paths, &mut found);

    let allowed = ratchet::parse(&read(FUNCTIONS)?);
    let actual = ratchet::measure(&sources);
    let allowed = if args.bless { ratchet::bless(&allowed, &actual) } else { allowed };
    if args.bless {
        fs::write(work.root.join(FUNCTIONS), ratchet::print(&allowed))?;
    }
    ratchet::check(&allowed, &actual, &mut found);
    check_marks(&work, &sources, args.bless, &mut found)?;
    Ok(print(found, sources.len()))
}

fn check_marks(work: &Work, sources: &[Source], bless: bool, found: &mut Vec<Finding>) -> Result<()> {
    let file = work.root.join(marks::MARKS);
    let mut list = fs::read_to_string(&file).with_context(|| format!("reading {}", marks::MARKS))?;
    let is = marks::measure(sources, found);
    if bless {
        list = marks::bless(&list, &is);
        fs::write(&file, &list)?;
    }
    marks::check(&list, &is, found);
    Ok(())
}

fn check_source(source: &Source, pure_list: &str, found: &mut Vec<Finding>) {
    shape::check(source, found);
    bans::check(source, found);
    arrows::check(source, found);
    if pure::entries(pure_list).any(|entry| pure::covers(entry, &source.path)) {
        pure::check(source, found);
    }
}

/// An entry that names nothing guards nothing.
fn check_lists(sources: &[Source], pure_list: &str, found: &mut Vec<Finding>) {
    for entry in pure::entries(pure_list) {
        if !sources.iter().any(|source| pure::covers(entry, &source.path)) {
            found.push(Finding { path: PURE.to_owned(), line: 0, text: format!("`{entry}` names no file") });
        }
    }
}

/// The top level holds exactly the folders that it should.
fn check_top(paths: &BTreeSet<&str>, found: &mut Vec<Finding>) {
    let folders: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.split_once('/')).map(|(top, _)| top).collect();
    for folder in &folders {
        if !TOP_FOLDERS.contains(folder) {
            found.push(Finding {
                path: (*folder).to_owned(),
                line: 0,
                text: "an unknown top-level folder".to_owned(),
            });
        }
    }
    for folder in TOP_FOLDERS.iter().filter(|folder| !folders.contains(*folder)) {
        found.push(Finding {
            path: (*folder).to_owned(),
            line: 0,
            text: "this top-level folder is dead".to_owned(),
        });
    }
}

fn print(mut found: Vec<Finding>, files: usize) -> bool {
    found.sort();
    for Finding { path, line, text } in &found {
        if *line == 0 {
            println!("{path}: {text}");
        } else {
            println!("{path}:{line}: {text}");
        }
    }
    println!("tidy: {files} files, {} findings", found.len());
    found.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_or_a_dead_top_level_folder_is_red() {
        let mut paths: BTreeSet<&str> = [
            ".cargo/a",
            ".ci/a",
            "ci/a",
            "node/a",
            "scenarios/a",
            "sim/a",
            "storage/a",
            "wire/a",
            "README.md",
        ]
        .into();
        let mut found = Vec::new();
        check_top(&paths, &mut found);
        assert_eq!(found, []);
        paths.insert("tools/x.rs");
        paths.remove("sim/a");
        check_top(&paths, &mut found);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_pure_entry_without_a_file_is_red() {
        let mut found = Vec::new();
        check_lists(&[Source::new("a.rs", "")], "a.rs\nb.rs\n", &mut found);
        assert_eq!(found.len(), 1);
    }
}
