//! `cargo ci corpus`: seeds still mean what was recorded, so that a dependency's change of behaviour is seen.
//!
//! Owns: two records and what a difference means. `ci/corpus/substrate.txt` is of the scenario `substrate`, in which
//! nothing of the product runs: its digests change only with a dependency (madsim, rand_chacha, tokio, the compiler) or
//! with the simulator itself. It is compared in each run of the suite, and any difference is red until somebody blesses it
//! in the commit that means it. `ci/corpus/digests.txt` (`--whole`) is of some seeds of every scenario, and changes with
//! the product; it is a tool for the hour in which a dependency is updated, and not kept: bless before, compare after.
//! It is red when a digest differs although our own sources are those of the record, and when both changed; when only our
//! sources changed, a difference is what they meant to do: it is counted and told.
//! Leaves out: one build against another (`determinism`), one process against another (`dejaq-sim twice`).

use crate::process;
use crate::server;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40 * 60);
/// Seeds of the small world: each strikes with every kind of fault, so that a few are enough.
const SUBSTRATE_SEEDS: u64 = 32;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the record anew.
    #[arg(long)]
    bless: bool,
    /// Use the debug build, which is slower to run and quicker to make; the digests are the same.
    #[arg(long)]
    debug: bool,
    /// Every scenario with the product in it, rather than the simulator alone.
    #[arg(long)]
    whole: bool,
    /// With `--whole --bless`: how many seeds of each random scenario; stories have one.
    #[arg(long, default_value_t = 4)]
    seeds: u64,
}

/// One of the two records.
struct Corpus {
    file: &'static str,
    /// What decides a run, of ours.
    ours: &'static [&'static str],
    /// Whether a change of our sources excuses a difference.
    excuses: bool,
}

const SUBSTRATE: Corpus = Corpus {
    file: "ci/corpus/substrate.txt",
    ours: &[
        "sim/src/clock.rs",
        "sim/src/cluster.rs",
        "sim/src/disk.rs",
        "sim/src/net",
        "sim/src/rng.rs",
        "sim/src/runtime.rs",
        "sim/src/substrate.rs",
        "sim/src/trace.rs",
        "sim/src/world.rs",
        "storage/src/model_disk",
    ],
    excuses: false,
};

const WHOLE: Corpus = Corpus {
    file: "ci/corpus/digests.txt",
    ours: &["wire/src/", "storage/src/", "node/src/", "sim/src/", "scenarios/src/"],
    excuses: true,
};

/// What a record was made of, and its digests by scenario and seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Record {
    /// Our sources.
    sources: String,
    /// Everything else that is known: the lockfile and the compiler.
    others: String,
    runs: BTreeMap<(String, u64), String>,
}

/// What the comparison of two records says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// Only our sources changed.
    Meant,
    /// Something else changed, and what a seed means with it.
    Foreign,
    /// Both changed.
    Unclear,
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let corpus = if args.whole { &WHOLE } else { &SUBSTRATE };
    let file = work.root.join(corpus.file);
    let sim = build(&work, args.debug)?;
    let kept = parse(&fs::read_to_string(&file).unwrap_or_default())?;
    let scenarios = scenarios(&work, &sim)?;
    let wanted: Vec<(String, std::ops::Range<u64>)> = match (args.bless, args.whole) {
        (true, true) => scenarios
            .iter()
            .map(|(name, random)| (name.clone(), 0..if *random { args.seeds } else { 1 }))
            .collect(),
        (true, false) => vec![("substrate".to_owned(), 0..SUBSTRATE_SEEDS)],
        (false, _) => spans(&kept),
    };
    let again = if args.whole { "cargo ci corpus --whole --bless" } else { "cargo ci corpus --bless" };
    ensure!(!wanted.is_empty(), "{} holds no seed: `{again}`", corpus.file);
    let mut now = Record { sources: sources(&work, corpus)?, others: others(&work)?, ..Record::default() };
    for (name, seeds) in &wanted {
        if !scenarios.iter().any(|(known, _)| known == name) {
            println!("the record has scenario `{name}`, which is gone: `{again}`");
            return Ok(false);
        }
        let range = format!("{}..{}", seeds.start, seeds.end);
        let text = process::output(
            Command::new(&sim).args(["digest", name, "--seeds", &range]).current_dir(&work.root),
            LIMIT,
        )?;
        now.runs.extend(runs(&text)?);
    }
    if args.bless {
        fs::write(&file, print(&now))?;
        println!("corpus: {} seeds of {} scenarios recorded", now.runs.len(), wanted.len());
        return Ok(true);
    }
    Ok(tell(corpus, &kept, &now))
}

fn build(work: &Work, debug: bool) -> Result<std::path::PathBuf> {
    if !debug {
        server::build_release(work, &["dejaq-sim"])?;
        return Ok(work.target().join("release/dejaq-sim"));
    }
    let mut build = Command::new("cargo");
    build
        .args(["build", "--quiet", "--package", "dejaq-scenarios", "--bin", "dejaq-sim"])
        .current_dir(&work.root);
    ensure!(build.status().context("cargo starts")?.success(), "the debug build failed");
    Ok(work.target().join("debug/dejaq-sim"))
}

/// Name and whether it is random, as `dejaq-sim list` says.
fn scenarios(work: &Work, sim: &std::path::Path) -> Result<Vec<(String, bool)>> {
    let text = process::output(Command::new(sim).arg("list").current_dir(&work.root), LIMIT)?;
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()? == "random"))
    };
    Ok(text.lines().filter_map(row).collect())
}

/// The seeds of a record by scenario; its seeds of one scenario follow one another.
fn spans(record: &Record) -> Vec<(String, std::ops::Range<u64>)> {
    let mut spans: Vec<(String, std::ops::Range<u64>)> = Vec::new();
    for (name, seed) in record.runs.keys() {
        match spans.last_mut() {
            Some((last, seeds)) if last == name && seeds.end == *seed => seeds.end = seed + 1,
            _ => spans.push((name.clone(), *seed..seed + 1)),
        }
    }
    spans
}

fn tell(corpus: &Corpus, kept: &Record, now: &Record) -> bool {
    let differ: Vec<_> =
        kept.runs.iter().filter(|(run, digest)| now.runs.get(*run) != Some(*digest)).collect();
    let verdict = judge(kept, now);
    let shown = if verdict == Verdict::Meant { 3 } else { 20 };
    for ((name, seed), before) in differ.iter().take(shown) {
        let after = now.runs.get(&(name.clone(), *seed)).map_or("nothing", String::as_str);
        println!("{name} {seed}: recorded {before}, now {after}");
    }
    println!("corpus: {} seeds, {} differ", kept.runs.len(), differ.len());
    match verdict {
        Verdict::Same => {}
        Verdict::Meant if corpus.excuses => {
            println!("our sources changed since the record was made, so that is no finding: bless again")
        }
        Verdict::Meant => println!(
            "the simulator's own sources changed, and what every seed means with them: if that is what the change is for, \
             `cargo ci corpus --bless` belongs to its commit"
        ),
        Verdict::Foreign => println!(
            "our sources are those of the record: a dependency, the toolchain or this machine changed what a seed means\n  recorded with {}\n  now           {}",
            kept.others, now.others
        ),
        Verdict::Unclear => println!(
            "our sources and {} both changed: bless at the commit before that change, then compare again",
            now.others
        ),
    }
    verdict == Verdict::Same || (verdict == Verdict::Meant && corpus.excuses)
}

fn judge(kept: &Record, now: &Record) -> Verdict {
    match (kept.runs == now.runs, kept.sources == now.sources, kept.others == now.others) {
        (true, _, _) => Verdict::Same,
        (false, true, _) => Verdict::Foreign,
        (false, false, true) => Verdict::Meant,
        (false, false, false) => Verdict::Unclear,
    }
}

fn runs(text: &str) -> Result<BTreeMap<(String, u64), String>> {
    let row = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().with_context(|| format!("`{line}` is no digest"));
        Ok(((word()?.to_owned(), word()?.parse()?), word()?.to_owned()))
    };
    text.lines().map(row).collect()
}

fn parse(text: &str) -> Result<Record> {
    let mut record = Record::default();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(": ") {
            Some(("sources", value)) => record.sources = value.to_owned(),
            Some(("others", value)) => record.others = value.to_owned(),
            _ => record.runs.extend(runs(line)?),
        }
    }
    Ok(record)
}

fn print(record: &Record) -> String {
    let mut text = String::from(
        "# What some seeds mean: scenario, seed, digest, events, status. Written by `cargo ci corpus --bless` (see ci/src/seeds.rs).\n",
    );
    text += &format!("sources: {}\nothers: {}\n", record.sources, record.others);
    for ((name, seed), digest) in &record.runs {
        text += &format!("{name} {seed} {digest}\n");
    }
    text
}

/// A checksum over our sources.
fn sources(work: &Work, corpus: &Corpus) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(&work.root);
    let listed = process::output(&mut git, Duration::from_secs(30)).context("listing our sources")?;
    let mut paths: Vec<&str> =
        listed.lines().filter(|path| corpus.ours.iter().any(|ours| path.starts_with(ours))).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut sum = Sum::default();
    for path in paths.iter().filter(|path| path.ends_with(".rs")) {
        let Ok(bytes) = fs::read(work.root.join(path)) else { continue };
        sum.add(path.as_bytes());
        sum.add(&bytes);
    }
    Ok(format!("{:016x}", sum.0))
}

/// The lockfile and the compiler.
fn others(work: &Work) -> Result<String> {
    let mut sum = Sum::default();
    sum.add(&fs::read(work.root.join("Cargo.lock"))?);
    let compiler = process::output(Command::new("rustc").arg("--version"), Duration::from_secs(30))?;
    Ok(format!("Cargo.lock {:016x}, {}", sum.0, compiler.trim()))
}

/// Fowler, Noll and Vo's checksum: enough to tell one tree from another, and no dependency.
struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Sum(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sources: &str, others: &str, digest: &str) -> Record {
        let text = format!(
            "sources: {sources}\nothers: {others}\nsteady 0 {digest} 17 Pass\nsteady 1 bb 9 Pass\nx 0 cc 1 Pass\n"
        );
        parse(&text).expect("of the form")
    }

    #[test]
    fn a_record_survives_its_text_and_tells_its_seeds() {
        let kept = record("s", "Cargo.lock 1, rustc 1.95", "aa");
        assert_eq!(parse(&print(&kept)).expect("its own form"), kept);
        assert_eq!(spans(&kept), [("steady".to_owned(), 0..2), ("x".to_owned(), 0..1)]);
        assert!(parse("steady\n").is_err());
    }

    #[test]
    fn a_difference_is_red_unless_our_sources_alone_explain_it() {
        let kept = record("s", "o", "aa");
        assert_eq!(judge(&kept, &record("t", "p", "aa")), Verdict::Same);
        assert_eq!(judge(&kept, &record("s", "p", "ab")), Verdict::Foreign);
        assert_eq!(judge(&kept, &record("s", "o", "ab")), Verdict::Foreign);
        assert_eq!(judge(&kept, &record("t", "o", "ab")), Verdict::Meant);
        assert_eq!(judge(&kept, &record("t", "p", "ab")), Verdict::Unclear);
        assert!(!tell(&WHOLE, &kept, &record("s", "p", "ab")));
        assert!(tell(&WHOLE, &kept, &record("t", "o", "ab")));
        // Nothing excuses a difference of what does not depend on the product.
        assert!(!tell(&SUBSTRATE, &kept, &record("t", "o", "ab")));
        assert!(tell(&SUBSTRATE, &kept, &record("t", "p", "aa")));
    }

    #[test]
    fn the_checksum_tells_where_one_file_ends() {
        let sum = |parts: &[&[u8]]| {
            let mut sum = Sum::default();
            parts.iter().for_each(|part| sum.add(part));
            sum.0
        };
        assert_ne!(sum(&[b"ab", b"c"]), sum(&[b"a", b"bc"]));
    }
}
