//! The program itself, as a person or a service manager runs it: what it says, and what becomes of it when nobody reads that.
#![allow(clippy::disallowed_methods, reason = "it starts the program, and waits for it, on the real machine")]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

fn dejaq(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dejaq"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn start(dir: &Path, more: &[&str]) -> Command {
    let mut command =
        dejaq(&["start", "--listen", "127.0.0.1:0", "--admin-listen", "", "--min-free-bytes", "0"]);
    command.args(more).arg("--data-dir").arg(dir.join("data")).current_dir(dir);
    command
}

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("Linux has it")
}

fn ended(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    while began.elapsed() < SOON {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("it did not end within {SOON:?}");
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "waited {SOON:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stop(child: &mut Child) -> ExitStatus {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("there is kill").success());
    ended(child)
}

#[test]
fn a_broker_whose_log_lines_cannot_be_written_serves_and_stops_cleanly() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut broker = start(dir.path(), &[]).stderr(full()).spawn().expect("it starts");
    wait_for("the directory of partitions", || dir.path().join("data/partitions").exists());
    std::thread::sleep(Duration::from_millis(1500)); // it serves by then, and hears signals
    assert!(broker.try_wait().expect("it is ours").is_none(), "it died of its log");
    assert!(stop(&mut broker).success());
}

#[test]
fn a_start_says_which_durability_topics_get() {
    let dir = tempfile::tempdir().expect("a folder");
    for (given, said) in
        [("durability=none", "(durability=none)"), ("retention.ms=5", "(durability=durable)")]
    {
        let log = dir.path().join("log");
        let lines = File::create(&log).expect("a file");
        let mut broker =
            start(dir.path(), &["--topic-defaults", given]).stderr(lines).spawn().expect("it starts");
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        wait_for("the line after the start", || text().contains("is ready at"));
        assert!(text().contains(said), "{}", text());
        assert!(stop(&mut broker).success());
    }
}

#[test]
fn a_broker_with_peers_does_not_start_with_a_rule_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = ["--peer-listen", "127.0.0.1:0", "--topic-defaults", "min.insync.replicas=2"];
    let refused = start(dir.path(), &own).stderr(Stdio::piped()).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("dejaq cluster alter --set min.insync.replicas"),
        "{said}"
    );
    assert!(!dir.path().join("data").join("partitions").exists(), "nothing was touched");
}

#[test]
fn a_verb_whose_output_cannot_be_written_says_so_by_its_status() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("log");
    let lines = File::create(&log).expect("a file");
    let mut broker = start(dir.path(), &[]).stderr(lines).spawn().expect("it starts");
    wait_for("the line after the start", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("is ready at"))
    });
    assert!(stop(&mut broker).success());
    let data = dir.path().join("data").display().to_string();
    let verify = ["log", "verify", &data];
    assert_eq!(dejaq(&verify).status().expect("it runs").code(), Some(0));
    assert_eq!(dejaq(&verify).stdout(full()).stderr(full()).status().expect("it runs").code(), Some(2));
    let mut unread = dejaq(&verify).stdout(Stdio::piped()).spawn().expect("it runs");
    drop(unread.stdout.take());
    assert_eq!(ended(&mut unread).code(), Some(141));
    let nobody = ["topic", "list", "--bootstrap", "127.0.0.1:1", "--timeout-s", "1"];
    assert_eq!(dejaq(&nobody).stderr(full()).status().expect("it runs").code(), Some(1));
}

/// A broker of its own, and where it is.
fn serving(dir: &Path) -> (Child, String) {
    let log = dir.join("log");
    let lines = File::create(&log).expect("a file");
    let broker = start(dir, &[]).stderr(lines).spawn().expect("it starts");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_for("the line after the start", || text().contains("is ready at"));
    let text = text();
    let (_, behind) = text.split_once("is ready at ").expect("it was just there");
    let (address, _) = behind.split_once(". ").expect("the sentence ends");
    (broker, address.to_owned())
}

fn lines_of(arguments: &[&str]) -> (ExitStatus, Vec<String>) {
    let output = dejaq(arguments).stdout(Stdio::piped()).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status, text.lines().map(str::to_owned).collect())
}

#[test]
fn a_group_gets_with_every_run_what_the_one_before_did_not_print() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut broker, address) = serving(dir.path());
    let input = dir.path().join("input");
    std::fs::write(&input, "a\nb\nc\nd\ne\n").expect("a file");
    let file = File::open(&input).expect("just written");
    let made = dejaq(&["topic", "create", "t", "--partitions", "1", "--bootstrap", &address]).status();
    assert!(made.expect("it runs").success());
    let produced = dejaq(&["produce", "t", "--bootstrap", &address]).stdin(file).status();
    assert!(produced.expect("it runs").success());
    let group = ["consume", "t", "--group", "g", "--from", "beginning", "--bootstrap", &address];
    for (count, expected) in [("2", &["a", "b"][..]), ("1", &["c"])] {
        let (status, printed) = lines_of(&[&group[..], &["--count", count]].concat());
        assert!(status.success());
        assert_eq!(printed, expected);
    }
    let (_, rest) = lines_of(&[&group[..], &["--exit-at-end"]].concat());
    assert_eq!(rest, ["d", "e"], "none is committed that was not printed");
    let alone = ["consume", "t", "--partition", "0", "--exit-at-end", "--bootstrap", &address];
    let (status, none) = lines_of(&[&alone[..], &["--from", "offset:6"]].concat());
    assert_eq!((status.code(), none.len()), (Some(1), 0), "it begins behind the end");
    let (status, none) = lines_of(&[&alone[..], &["--from", "offset:5"]].concat());
    assert_eq!((status.code(), none.len()), (Some(0), 0), "it begins at the end");
    let policy = ["--from", "offset:6", "--out-of-range", "beginning"];
    assert_eq!(lines_of(&[&alone[..], &policy].concat()).1.len(), 5);
    assert!(stop(&mut broker).success());
}
