//! The page is whole: its JSON parses, its columns agree, and it shows as many sends and polls as the history has.

use serde_json::Value;

use super::*;
use crate::oracle::{Event, History, Outcome};
use crate::runner::{Replay, RunParams, RunReport, Status};
use crate::trace::Line;

fn line(t: u64, n: u32, k: &str, w: &[u64], x: &str) -> Line {
    Line { e: Some(t), t, n, i: 1, k: k.into(), w: w.to_vec(), x: x.into(), ..Line::default() }
}

fn replay() -> Replay {
    "dejaq-sim/1 commit=abc scenario=x seed=1".parse().expect("a line of ours")
}

fn report(status: Status, message: &str) -> RunReport {
    RunReport { status, checker: "LostWrite".into(), ..RunReport::crash(message.into()) }
}

fn small() -> Vec<Line> {
    let mut lines = vec![
        line(0, 1, "start", &[], ""),
        line(5, 1, "ready", &[0], "0 batches"),
        line(20, 100, "sent", &[0, 7, 2, 1, 10, 20], "Send(…)"),
        line(30, 100, "sent", &[0, 8, u64::MAX - 1, 2, 12, 30], "Send(…)"),
        line(40, 0, "fault", &[0, 0], "Kill"),
        line(41, 1, "kill", &[], ""),
        line(50, 200, "polled", &[0, 0, 1, 1, 99], "Poll(…)"),
        line(60, 1, "disk", &[], "Write partitions/ab-0/1.log at 0 len 9 FAILED Other"),
    ];
    lines.extend((0..1000).map(|at| line(61 + at, 1, "disk", &[], "Read </script> \"quoted\"")));
    lines
}

fn data(page: &str) -> Value {
    let from =
        page.find("type=\"application/json\">").expect("the data") + "type=\"application/json\">".len();
    let to = from + page[from..].find("</script>").expect("its end");
    serde_json::from_str(&page[from..to]).expect("the embedded data is JSON")
}

#[test]
fn the_page_is_whole_and_the_data_cannot_end_its_script() {
    let (replay, lines) = (replay(), small());
    let report = report(Status::Violation, "LostWrite in t-0: value 7 acknowledged at Some(0) <b>");
    let run = Run { replay: &replay, report: &report, lines: &lines, history: None, limit: 100_000 };
    let page = html(&Model::of(&run));
    assert!(!page.contains("%%"), "a part was not filled in");
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("src=") && !page.contains("http"), "it loads nothing");
    let data = data(&page);
    let count = data["t"].as_array().expect("a column").len();
    assert_eq!(count, lines.len());
    for column in ["lane", "kind", "part", "text"] {
        assert_eq!(data[column].as_array().expect("a column").len(), count, "{column}");
    }
    assert_eq!(data["lanes"].as_array().expect("lanes").len(), 4);
    assert_eq!(data["evidence"], serde_json::json!([2]), "the send of value 7");
    assert_eq!(data["lives"][0]["how"], "kill");
    assert_eq!(data["message"], report.message.as_str());
}

#[test]
fn only_chatter_is_left_out_and_it_is_told() {
    let (replay, lines) = (replay(), small());
    let report = report(Status::Pass, "");
    let run = Run { replay: &replay, report: &report, lines: &lines, history: None, limit: 100 };
    let model = Model::of(&run);
    assert!(model.t.len() <= 101, "{}", model.t.len());
    assert_eq!(model.t.len() + model.dropped["disk"], lines.len());
    assert_eq!((model.sends.len(), model.polls.len()), (2, 1));
    assert!(model.text.iter().any(|text| text.contains("FAILED")), "a failure is no chatter");
    assert!(model.evidence.is_empty());
}

/// A real run: the page shows what the history holds.
#[test]
#[allow(clippy::disallowed_methods, reason = "the trace of a run is a file")]
fn a_run_is_shown_as_its_history_tells_it() {
    let folder = std::env::temp_dir().join(format!("dejaq-timeline-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder of our own");
    let (trace, history) = (folder.join("t.jsonl"), folder.join("h.jsonl"));
    let params = RunParams {
        seed: 5,
        trace: Some(trace.clone()),
        history: Some(history.clone()),
        ..RunParams::default()
    };
    let report = crate::story::run(&params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        crate::story::Plan::drawn(&mut dice).fault(1, crate::story::Fault::Kill)
    });
    let text = std::fs::read_to_string(trace).expect("the trace");
    let lines: Vec<Line> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line of ours")).collect();
    let text = std::fs::read_to_string(history).expect("the history");
    let history = History::from_json_lines(&text).expect("a history of ours");
    drop(std::fs::remove_dir_all(folder));
    assert_eq!(lines.iter().filter(|line| line.e.is_some()).count() as u64, report.events);
    let replay = replay();
    let run = Run { replay: &replay, report: &report, lines: &lines, history: Some(&history), limit: 5000 };
    let model = Model::of(&run);
    let mut told = [0; 3];
    for event in &history.events {
        if let Event::Send(send) = event {
            told[match send.outcome {
                Outcome::Ok { .. } => 0,
                Outcome::Fail => 1,
                Outcome::Info => 2,
            }] += 1;
        }
    }
    assert_eq!(model.outcomes(), told);
    assert!(told[0] > 0, "the run acknowledged something");
    assert_eq!(model.parts.len(), history.partitions.len());
    assert!(model.lives.iter().any(|life| life.ready.is_some()), "the broker served");
    assert!(lines.iter().any(|line| line.k == "log" && line.n == 1), "what the broker logs is its own");
    let page = html(&model);
    assert_eq!(data(&page)["t"].as_array().expect("a column").len(), model.t.len());
}
