//! `cargo ci symbols`: the release `dejaq` binary carries no libc function of madsim's, and the product builds alone.
//!
//! The whole workspace is built with `--cfg madsim`, and madsim defines `clock_gettime`, `getrandom` and
//! others under their libc names, so that linking it in would silently replace the machine's clock and
//! randomness. Owns: the list of names, and the claims: the product at most *imports* them, the simulator
//! *defines* them (which shows that this check can fail at all), and what README's command builds, the package
//! `dejaq` without the simulator beside it, compiles and has no madsim among its dependencies.

use crate::process;
use crate::report::{Outcome, Report};
use crate::server;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Every `#[no_mangle]` function of madsim 0.2.34; those of one platform only are absent on others.
const INTERPOSED: [&str; 10] = [
    "CCRandomGenerateBytes",
    "clock_gettime",
    "getentropy",
    "gethostname",
    "getrandom",
    "gettimeofday",
    "mach_absolute_time",
    "pthread_attr_init",
    "sched_getaffinity",
    "sysconf",
];
/// These two alone would end determinism or, in production, time: the simulator must have them.
const MUST_BE_IN_SIM: [&str; 2] = ["clock_gettime", "getrandom"];
const NM_LIMIT: Duration = Duration::from_secs(120);

/// The verb.
pub fn run() -> Result<bool> {
    let work = Work::open()?;
    server::build_release(&work, &["dejaq", "dejaq-sim"])?;
    let release = work.target().join("release");
    let mut report = Report::default();
    let product = defined_in(&release.join("dejaq"))?;
    report.add("dejaq", "defines no interposed symbol", none_of(&product), Duration::ZERO);
    let sim = defined_in(&release.join("dejaq-sim"))?;
    report.add("dejaq-sim", "defines them, so we would see", all_needed(&sim), Duration::ZERO);
    let started = Instant::now();
    report.add("dejaq", "builds without the simulator", builds_alone(&work)?, started.elapsed());
    Ok(report.finish("symbols"))
}

/// What a person builds who knows of the product only, with the features that it has then.
fn builds_alone(work: &Work) -> Result<Outcome> {
    let mut tree = Command::new("cargo");
    tree.args(["tree", "--package", "dejaq", "--edges", "normal,build", "--prefix", "none"]);
    let tree = process::output(tree.current_dir(&work.root), NM_LIMIT)?;
    let mut check = Command::new("cargo");
    check.args(["check", "--quiet", "--package", "dejaq", "--bins"]).current_dir(&work.root);
    let compiles = check.status().context("cargo starts")?.success();
    Ok(judge_alone(&tree, compiles))
}

fn judge_alone(tree: &str, compiles: bool) -> Outcome {
    match tree.lines().find(|line| line.starts_with("madsim")) {
        Some(line) => Outcome::Failed(format!("the product depends on {line}")),
        None if !tree.starts_with("dejaq ") => Outcome::Failed("cargo tree shows no product".to_owned()),
        None if !compiles => Outcome::Failed("`cargo check --package dejaq` fails".to_owned()),
        None => Outcome::Passed,
    }
}

fn none_of(defined: &BTreeSet<String>) -> Outcome {
    if defined.is_empty() {
        return Outcome::Passed;
    }
    Outcome::Failed(format!("the product's binary replaces {defined:?} of libc: it depends on madsim"))
}

fn all_needed(defined: &BTreeSet<String>) -> Outcome {
    match MUST_BE_IN_SIM.iter().find(|name| !defined.contains(**name)) {
        None => Outcome::Passed,
        Some(name) => Outcome::Failed(format!("{name} is not defined there: the check proves nothing")),
    }
}

/// The interposed names that the binary defines itself.
fn defined_in(binary: &Path) -> Result<BTreeSet<String>> {
    let text = process::output(Command::new("nm").arg("-P").arg(binary), NM_LIMIT)
        .with_context(|| format!("listing the symbols of {}", binary.display()))?;
    let (defined, main) = parse(&text);
    ensure!(main, "{} has no symbol `main`: it is stripped, nothing can be shown", binary.display());
    Ok(defined)
}

/// Reads `nm -P`: name, type, and for a defined one its place. Type U (and w, v: weak imports without a
/// place) is an import. Returns the interposed names defined, and whether `main` is.
fn parse(text: &str) -> (BTreeSet<String>, bool) {
    let mut defined = BTreeSet::new();
    let mut main = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { continue };
        if matches!(kind, "U" | "w" | "v") {
            continue;
        }
        // Mach-O puts one underscore in front, glibc a version behind.
        let bare = name.split('@').next().unwrap_or(name);
        let bare = if cfg!(target_os = "macos") { bare.strip_prefix('_').unwrap_or(bare) } else { bare };
        main |= bare == "main";
        if INTERPOSED.contains(&bare) {
            defined.insert(bare.to_owned());
        }
    }
    (defined, main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_fine_and_a_definition_is_seen() {
        let (defined, main) = parse("getrandom@GLIBC_2.25 U\nsysconf w\nmain T 138e0 2e\n");
        assert_eq!((defined.len(), main), (0, true));
        let (defined, _) = parse("clock_gettime T 4000 10\ngetrandom U\ngethostname W 1 2\n");
        assert_eq!(defined.into_iter().collect::<Vec<_>>(), ["clock_gettime", "gethostname"]);
    }

    #[test]
    fn a_product_that_depends_on_the_simulator_or_does_not_build_alone_is_red() {
        let good = "dejaq v0.1.0 (/somewhere)\ntokio v1.54.0\n";
        assert_eq!(judge_alone(good, true), Outcome::Passed);
        assert!(matches!(judge_alone(good, false), Outcome::Failed(_)));
        assert!(matches!(judge_alone(&format!("{good}madsim v0.2.34\n"), true), Outcome::Failed(_)));
        assert!(matches!(judge_alone("", true), Outcome::Failed(_)));
    }

    #[test]
    fn a_product_that_defines_one_is_red_and_a_simulator_without_them_is_red() {
        let clock = BTreeSet::from(["clock_gettime".to_owned()]);
        assert!(matches!(none_of(&clock), Outcome::Failed(_)));
        assert_eq!(none_of(&BTreeSet::new()), Outcome::Passed);
        assert!(matches!(all_needed(&clock), Outcome::Failed(_)));
    }
}
