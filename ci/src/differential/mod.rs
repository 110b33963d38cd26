//! `cargo ci differential`: the same requests to Apache Kafka and to us; the answers must be the same
//! but for ids, places, times and wording.
//!
//! Owns: the comparison and the recorded answers of the oracle (`ci/oracle/answers.txt`), so that CI
//! needs no Java for it. `--record` asks a real Kafka and writes that file; `--live` asks it and compares.
//! Where we differ on purpose, `ci/oracle/differences.txt` names the case and says why.
//!
//! A tour: [`session`] asks and renders; [`data`], [`admin`] and [`frames`] are the questions.

mod admin;
mod data;
mod frames;
mod session;

use crate::oracle::Kafka;
use crate::report::{Outcome, Report};
use crate::server::Dejaq;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use session::Session;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

const ANSWERS: &str = "ci/oracle/answers.txt";
const DIFFERENCES: &str = "ci/oracle/differences.txt";

/// A question: its name, and the answer as text.
type Case = (&'static str, fn(&mut Session) -> Result<String>);

/// Answers by the name of the case.
type Answers = BTreeMap<String, String>;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask a real Kafka and write its answers down; nothing is compared.
    #[arg(long, conflicts_with = "live")]
    record: bool,
    /// Ask a real Kafka now instead of reading its recorded answers.
    #[arg(long)]
    live: bool,
    /// A broker that is there already and fresh, instead of building and starting `dejaq`.
    #[arg(long, value_name = "IP:PORT")]
    broker: Option<String>,
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let file = work.root.join(ANSWERS);
    if args.record {
        let kafka = Kafka::start(&work, 0)?;
        let answers = ask(kafka.address())?;
        fs::write(&file, print(&answers))?;
        println!("recorded {} answers in {ANSWERS}", answers.len());
        return Ok(true);
    }
    let wanted = if args.live {
        ask(Kafka::start(&work, 0)?.address())?.into_iter().collect()
    } else {
        parse(
            &fs::read_to_string(&file)
                .with_context(|| format!("reading {ANSWERS}: record it with --record"))?,
        )
    };
    let excused = excuses(&fs::read_to_string(work.root.join(DIFFERENCES))?);
    let given = match &args.broker {
        Some(address) => ask(address)?,
        None => ask(Dejaq::start(&work, "differential")?.address())?,
    };
    let mut report = Report::default();
    compare(&wanted, &given, &excused, &mut report)?;
    Ok(report.finish("differential against Apache Kafka"))
}

/// All cases in order, each with the time it took.
fn cases() -> impl Iterator<Item = &'static Case> {
    data::CASES.iter().chain(admin::CASES).chain(frames::CASES)
}

/// The answers of one fresh broker, in the order of the cases.
fn ask(address: &str) -> Result<Vec<(String, String)>> {
    let mut session = Session::new(address);
    admin::setup(&mut session)?;
    let mut answers = Vec::new();
    for (name, question) in cases() {
        session.reconnect();
        let started = Instant::now();
        let answer = question(&mut session).unwrap_or_else(|error| format!("no answer: {error:#}"));
        if started.elapsed() > Duration::from_secs(5) {
            println!("  slow: {name} took {:.1} s", started.elapsed().as_secs_f64());
        }
        answers.push(((*name).to_owned(), answer));
    }
    Ok(answers)
}

fn compare(
    wanted: &Answers,
    given: &[(String, String)],
    excused: &BTreeMap<String, String>,
    report: &mut Report,
) -> Result<()> {
    ensure!(
        wanted.len() == given.len(),
        "{} recorded answers, {} cases: record again",
        wanted.len(),
        given.len()
    );
    for (name, answer) in given {
        let oracle = wanted.get(name).with_context(|| format!("{name:?} is not recorded: record again"))?;
        let outcome = match (answer == oracle, excused.get(name)) {
            (true, None) => Outcome::Passed,
            (true, Some(_)) => Outcome::Failed(format!("no longer differs: take it out of {DIFFERENCES}")),
            (false, Some(why)) => Outcome::Skipped(format!("differs on purpose: {why}")),
            (false, None) => Outcome::Failed(format!("\n      kafka: {oracle}\n      ours:  {answer}")),
        };
        report.add("differential", name, outcome, Duration::ZERO);
    }
    for name in excused.keys().filter(|name| !wanted.contains_key(*name)) {
        report.add(
            "differential",
            name,
            Outcome::Failed(format!("{DIFFERENCES} names no case")),
            Duration::ZERO,
        );
    }
    Ok(())
}

/// `## name`, then the lines of the answer.
fn print(answers: &[(String, String)]) -> String {
    answers.iter().map(|(name, answer)| format!("## {name}\n{answer}\n\n")).collect()
}

fn parse(text: &str) -> Answers {
    let blocks = text.split("## ").filter_map(|block| block.split_once('\n'));
    blocks.map(|(name, answer)| (name.trim().to_owned(), answer.trim().to_owned())).collect()
}

/// Lines `name: why`; `#` begins a comment.
fn excuses(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(": "));
    pairs.map(|(name, why)| (name.trim().to_owned(), why.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ours: &str, excused: &str) -> (usize, usize, usize) {
        let wanted = Answers::from([("a".to_owned(), "NONE(0)".to_owned())]);
        let mut report = Report::default();
        let given = [("a".to_owned(), ours.to_owned())];
        compare(&wanted, &given, &excuses(excused), &mut report).expect("one answer each");
        report.counts()
    }

    #[test]
    fn a_difference_is_red_unless_it_is_on_purpose_and_then_it_must_differ() {
        assert_eq!(counts("NONE(0)", ""), (1, 0, 0));
        assert_eq!(counts("CLOSED", ""), (0, 1, 0));
        assert_eq!(counts("CLOSED", "a: we are stricter"), (0, 0, 1));
        assert_eq!(counts("NONE(0)", "a: we are stricter"), (0, 1, 0));
        assert_eq!(counts("NONE(0)", "b: no such case"), (1, 1, 0));
    }

    #[test]
    fn answers_read_back_as_they_were_written_and_names_are_their_own() {
        let answers = vec![("a".to_owned(), "x\ny".to_owned()), ("b".to_owned(), "closed".to_owned())];
        assert_eq!(parse(&print(&answers)), answers.into_iter().collect());
        let mut names: Vec<&str> = cases().map(|(name, _)| *name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two cases of one name");
    }
}
