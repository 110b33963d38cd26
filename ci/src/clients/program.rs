//! One client program and the protocol it speaks on its standard output.
//!
//! Owns: the deadline of each check and the restart behind a check that hung. Promises: a program
//! that dies, hangs or says nothing turns red; it never looks like success.

use crate::process::{Lines, Next};
use crate::report::{Outcome, Report};
use anyhow::Result;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A program may hang or die in so many checks before the rest is given up.
const MAX_RESTARTS: usize = 5;

/// How a client's program is started.
#[derive(Debug)]
pub struct Program {
    program: PathBuf,
    args: Vec<PathBuf>,
    env: Vec<(String, String)>,
}

/// What one line of a program says.
#[derive(Debug, PartialEq)]
enum Said {
    Start(String),
    Done(String, Outcome),
    Chatter,
}

fn parse(line: &str) -> Said {
    let split = |rest: &str| match rest.split_once(": ") {
        Some((name, why)) => (name.to_owned(), why.to_owned()),
        None => (rest.to_owned(), "no reason given".to_owned()),
    };
    if let Some(name) = line.strip_prefix("start ") {
        Said::Start(name.to_owned())
    } else if let Some(name) = line.strip_prefix("ok ") {
        Said::Done(name.to_owned(), Outcome::Passed)
    } else if let Some(rest) = line.strip_prefix("not ok ") {
        let (name, why) = split(rest);
        Said::Done(name, Outcome::Failed(why))
    } else if let Some(rest) = line.strip_prefix("skip ") {
        let (name, why) = split(rest);
        Said::Done(name, Outcome::Skipped(why))
    } else {
        Said::Chatter
    }
}

/// How one start of the program ended.
enum Ended {
    Well,
    /// It ended well without a single check.
    Empty,
    /// It said nothing at all.
    Silent(String),
    /// It hung or died in this check, for this reason.
    In(String, String),
}

impl Program {
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = PathBuf>) -> Program {
        Program { program: program.into(), args: args.into_iter().collect(), env: Vec::new() }
    }

    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Runs every check of the program into `report`, each within `limit`. A program that ends well
    /// without any check is red unless it `may_be_empty` (a filter chose none of its checks).
    pub fn run(&self, subject: &str, limit: Duration, may_be_empty: bool, report: &mut Report) -> Result<()> {
        let mut after = String::new();
        for _ in 0..=MAX_RESTARTS {
            let started = Instant::now();
            match self.run_once(subject, &after, limit, report)? {
                Ended::Well => return Ok(()),
                Ended::Empty if may_be_empty => return Ok(()),
                Ended::Empty => {
                    let why = "the program ended without a check".to_owned();
                    report.add(subject, "start", Outcome::Failed(why), started.elapsed());
                    return Ok(());
                }
                Ended::Silent(why) => {
                    // Behind a restart an empty rest is fine: the culprit was the last check.
                    if after.is_empty() {
                        report.add(subject, "start", Outcome::Failed(why), started.elapsed());
                    }
                    return Ok(());
                }
                Ended::In(check, why) => {
                    report.add(subject, &check, Outcome::Failed(why), limit);
                    after = check;
                }
            }
        }
        let why = format!("gave up after {MAX_RESTARTS} checks that hung or died");
        report.add(subject, "rest", Outcome::Failed(why), Duration::ZERO);
        Ok(())
    }

    fn run_once(&self, subject: &str, after: &str, limit: Duration, report: &mut Report) -> Result<Ended> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env("DEJAQ_AFTER", after);
        command.envs(self.env.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
        let mut lines = Lines::spawn(&mut command)?;
        let mut running: Option<String> = None;
        let mut began = Instant::now();
        let mut results = 0;
        loop {
            match lines.next(limit.saturating_sub(began.elapsed())) {
                Next::Line(line) => match parse(&line) {
                    Said::Start(name) => {
                        running = Some(name);
                        began = Instant::now();
                    }
                    Said::Done(name, outcome) => {
                        report.add(subject, &name, outcome, began.elapsed());
                        results += 1;
                        running = None;
                        began = Instant::now();
                    }
                    Said::Chatter => {}
                },
                Next::Silent => {
                    lines.child.kill();
                    let (_, stderr) = lines.finish();
                    let why = format!("no result within {limit:?}{}", tail(&stderr));
                    return Ok(running.map_or(Ended::Silent(why.clone()), |check| Ended::In(check, why)));
                }
                Next::End => {
                    let (status, stderr) = lines.finish();
                    let why = format!("the program ended with {status:?}{}", tail(&stderr));
                    return Ok(match running {
                        Some(check) => Ended::In(check, why),
                        None if results == 0 && after.is_empty() && status.is_some_and(|s| s.success()) => {
                            Ended::Empty
                        }
                        None if results == 0 => Ended::Silent(why),
                        None => Ended::Well,
                    });
                }
            }
        }
    }
}

fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.len() {
        0 => String::new(),
        count => format!("; stderr ends: {}", lines[count.saturating_sub(3)..].join(" | ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> (usize, usize, usize) {
        let program = Program::new("sh", ["-c".into(), script.into()]);
        let mut report = Report::default();
        program.run("test", Duration::from_millis(400), false, &mut report).expect("sh starts");
        report.counts()
    }

    #[test]
    fn each_line_becomes_one_result() {
        assert_eq!(
            run("echo start a; echo ok a; echo noise; echo 'not ok b: why: so'; echo 'skip c: old'"),
            (1, 1, 1)
        );
        assert_eq!(parse("not ok b: why: so"), Said::Done("b".into(), Outcome::Failed("why: so".into())));
    }

    #[test]
    fn a_program_that_says_nothing_is_red() {
        assert_eq!(run("true"), (0, 1, 0));
        assert_eq!(run("sleep 30"), (0, 1, 0));
    }

    #[test]
    fn a_hung_check_is_red_and_the_checks_behind_it_still_run() {
        let script = "if [ \"$DEJAQ_AFTER\" = b ]; then echo start c; echo ok c; exit; fi; \
                      echo start a; echo ok a; echo start b; sleep 30";
        assert_eq!(run(script), (2, 1, 0));
    }

    #[test]
    fn a_check_in_which_the_program_dies_is_red() {
        assert_eq!(run("[ -n \"$DEJAQ_AFTER\" ] && exit; echo start a; exit 7"), (0, 1, 0));
    }
}
