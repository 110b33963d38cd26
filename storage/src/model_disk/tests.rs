//! The model is itself tested: for small programs, the states after a crash are exactly those that the contract
//! allows, no fewer (the model would be too kind) and no more (it would accuse the innocent).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::random::stream;
use super::*;

/// What a process finds after a crash: every file with its content.
type Found = Vec<(String, Vec<u8>)>;

fn platter() -> Platter {
    Platter::new(Setup::default())
}

/// Runs a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("nothing waits on a disk without latency"),
    }
}

fn create(disk: &ModelDisk, path: &str, content: &[u8]) -> ModelFile {
    let file = disk.open(Path::new(path), Open::CreateNew).expect("create");
    append(&file, content);
    file
}

fn append(file: &ModelFile, content: &[u8]) {
    let at = file.len().expect("len");
    file.append_at(at, &[Bytes::copy_from_slice(content)]).expect("append");
}

fn sync(disk: &ModelDisk, file: &ModelFile) {
    now(disk.sync_many(vec![file.clone()])).expect("sync");
}

fn sync_dir(disk: &ModelDisk, dir: &str) {
    now(disk.sync_dir(Path::new(dir))).expect("sync of a directory");
}

fn rename(disk: &ModelDisk, from: &str, to: &str) {
    disk.rename(Path::new(from), Path::new(to)).expect("rename");
}

fn found(platter: &Platter) -> Found {
    let named = platter.files().into_iter();
    named.map(|(path, content)| (path.to_string_lossy().into_owned(), content)).collect()
}

/// Every state in which a crash leaves the disk, over many seeds.
fn outcomes(platter: &Platter, mode: CrashMode) -> BTreeSet<Found> {
    let seeds = if matches!(mode, CrashMode::Lose | CrashMode::Keep) { 2 } else { 2500 };
    (0..seeds)
        .map(|seed| {
            let fork = platter.fork();
            fork.crash(&mut stream(seed, "crash", 0), mode);
            found(&fork)
        })
        .collect()
}

fn files(names: &[(&str, &str)]) -> Found {
    names.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
}

fn assert_outcomes(platter: &Platter, expected: &[Found]) {
    let expected: BTreeSet<Found> = expected.iter().cloned().collect();
    assert_eq!(outcomes(platter, CrashMode::Subset), expected);
    assert_eq!(outcomes(platter, CrashMode::Lose).len(), 1);
    assert_eq!(outcomes(platter, CrashMode::Keep), BTreeSet::from([found(platter)]));
}

struct Memory(Vec<Platter>);

impl crate::contract::Ground for Memory {
    type Disk = ModelDisk;
    fn fresh(&mut self) -> ModelDisk {
        self.0.push(platter());
        self.reopened()
    }
    fn reopened(&mut self) -> ModelDisk {
        self.0.last().expect("fresh() comes first").mount()
    }
}

#[test]
fn the_model_keeps_the_contract() {
    now(crate::contract::run_all(&mut Memory(Vec::new())));
}

#[test]
fn what_was_synced_survives_and_each_unsynced_sector_is_on_its_own() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", &[b'A'; 600]);
    sync(&disk, &file);
    sync_dir(&disk, "");
    append(&file, &[b'B'; 1000]);
    let mut expected = Vec::new();
    for len in [600, 1024, 1536, 1600] {
        for kept in 0..8 {
            let mut content = vec![b'A'; 600];
            content.resize(1600, 0);
            for (bit, range) in [600..1024, 1024..1536, 1536..1600].into_iter().enumerate() {
                if kept & 1 << bit != 0 {
                    content[range].fill(b'B');
                }
            }
            content.truncate(len);
            expected.push(vec![("a".to_owned(), content)]);
        }
    }
    assert_outcomes(&platter, &expected);
}

#[test]
fn a_prefix_crash_cuts_at_any_byte_and_keeps_the_order() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", b"");
    sync_dir(&disk, "");
    append(&file, b"one");
    append(&file, b"two");
    let expected: BTreeSet<Found> = (0..=6).map(|len| files(&[("a", &"onetwo"[..len])])).collect();
    assert_eq!(outcomes(&platter, CrashMode::Prefix), expected);
}

#[test]
fn a_created_name_is_at_risk_until_its_directory_is_synced() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", b"x");
    sync(&disk, &file);
    assert_outcomes(&platter, &[files(&[]), files(&[("a", "x")])]);
    sync_dir(&disk, "");
    assert_outcomes(&platter, &[files(&[("a", "x")])]);
}

#[test]
fn a_name_is_durable_only_if_its_parents_are() {
    let platter = platter();
    let disk = platter.mount();
    disk.create_dir_all(Path::new("d")).expect("mkdir");
    let file = create(&disk, "d/a", b"x");
    sync(&disk, &file);
    sync_dir(&disk, "d");
    assert_outcomes(&platter, &[files(&[]), files(&[("d/a", "x")])]);
    sync_dir(&disk, "");
    assert_outcomes(&platter, &[files(&[("d/a", "x")])]);
}

#[test]
fn a_rename_is_old_or_new_until_its_directory_is_synced() {
    let platter = platter();
    let disk = platter.mount();
    let old = create(&disk, "f", b"old");
    sync(&disk, &old);
    sync_dir(&disk, "");
    let new = create(&disk, "tmp", b"new");
    sync(&disk, &new);
    rename(&disk, "tmp", "f");
    assert_outcomes(
        &platter,
        &[files(&[("f", "old")]), files(&[("f", "old"), ("tmp", "new")]), files(&[("f", "new")])],
    );
    sync_dir(&disk, "");
    assert_outcomes(&platter, &[files(&[("f", "new")])]);
}

#[test]
fn a_rename_without_a_sync_of_the_content_may_leave_an_empty_file() {
    let platter = platter();
    let disk = platter.mount();
    create(&disk, "tmp", b"new");
    rename(&disk, "tmp", "f");
    sync_dir(&disk, "");
    assert_outcomes(&platter, &[files(&[("f", "")]), files(&[("f", "\0\0\0")]), files(&[("f", "new")])]);
}

#[test]
fn a_removed_name_may_come_back_until_its_directory_is_synced() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", b"1");
    sync(&disk, &file);
    sync_dir(&disk, "");
    now(disk.remove(Path::new("a"))).expect("remove");
    assert_outcomes(&platter, &[files(&[]), files(&[("a", "1")])]);
    let again = create(&disk, "a", b"2");
    sync(&disk, &again);
    assert_outcomes(&platter, &[files(&[]), files(&[("a", "1")]), files(&[("a", "2")])]);
    sync_dir(&disk, "");
    assert_outcomes(&platter, &[files(&[("a", "2")])]);
}

#[test]
fn a_rename_across_directories_needs_both_syncs() {
    let platter = platter();
    let disk = platter.mount();
    disk.create_dir_all(Path::new("trash")).expect("mkdir");
    let file = create(&disk, "a", b"1");
    sync(&disk, &file);
    sync_dir(&disk, "");
    rename(&disk, "a", "trash/a");
    let both = [files(&[("a", "1")]), files(&[("trash/a", "1")])];
    assert_outcomes(&platter, &both);
    sync_dir(&disk, "trash");
    assert_outcomes(&platter, &both);
    sync_dir(&disk, "");
    assert_outcomes(&platter, &both[1..]);
}

#[test]
fn a_directory_sync_takes_along_what_it_builds_on() {
    let platter = platter();
    let disk = platter.mount();
    disk.create_dir_all(Path::new("d")).expect("mkdir");
    sync_dir(&disk, "");
    let file = create(&disk, "a", b"1");
    sync(&disk, &file);
    rename(&disk, "a", "d/a");
    sync_dir(&disk, "d");
    sync_dir(&disk, "");
    assert_outcomes(&platter, &[files(&[("d/a", "1")])]);
}

#[test]
fn a_durable_truncation_is_never_undone_by_a_later_append() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", b"oldoldold");
    sync(&disk, &file);
    sync_dir(&disk, "");
    file.truncate(3).expect("truncate");
    sync(&disk, &file);
    append(&file, b"NEW");
    let expected = [files(&[("a", "old")]), files(&[("a", "old\0\0\0")]), files(&[("a", "oldNEW")])];
    assert_outcomes(&platter, &expected);
    for outcome in outcomes(&platter, CrashMode::Garbage) {
        assert!(outcome[0].1.starts_with(b"old"), "{outcome:?} lost durable bytes");
    }
}

#[test]
fn an_unsynced_truncation_and_append_leave_old_and_new_in_any_mix_of_sectors() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", &[b'o'; 1024]);
    sync(&disk, &file);
    sync_dir(&disk, "");
    file.truncate(256).expect("truncate");
    append(&file, &[b'N'; 512]); // ends at 768
    let mut expected = Vec::new();
    for len in [256, 512, 768, 1024] {
        // Of each sector: old, cut, or with the new bytes.
        for first in ["oo", "o\0", "oN"] {
            for second in ["oo", "\0\0", "N\0"] {
                let quarters = [first, second].concat();
                let mut content: Vec<u8> = quarters.bytes().flat_map(|byte| [byte; 256]).collect();
                content.truncate(len);
                expected.push(vec![("a".to_owned(), content)]);
            }
        }
    }
    assert_outcomes(&platter, &expected);
}

#[test]
fn a_kill_keeps_everything_and_frees_the_lock() {
    let platter = platter();
    let disk = platter.mount();
    disk.lock(Path::new("lock")).expect("lock");
    let file = create(&disk, "a", b"never synced");
    let before = found(&platter);
    platter.kill();
    assert_eq!(found(&platter), before);
    platter.mount().lock(Path::new("lock")).expect("the dead hold no locks");
    file.append_at(0, &[]).expect_err("the dead write no more");
    disk.open(Path::new("a"), Open::Read).expect_err("nor do they open");
}

/// A latency that ends when it is told to.
struct Gate(Arc<AtomicBool>);

impl Latency for Gate {
    fn pause(&self, _op: Op, _bytes: u64) -> Pause {
        let open = Arc::clone(&self.0);
        let wait = move |_: &mut Context<'_>| {
            if open.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        };
        Box::pin(std::future::poll_fn(wait))
    }
}

#[test]
fn a_sync_covers_what_was_written_before_the_call_and_takes_effect_at_its_end() {
    let open = Arc::new(AtomicBool::new(true));
    let platter =
        Platter::new(Setup { latency: Some(Arc::new(Gate(Arc::clone(&open)))), ..Setup::default() });
    let disk = platter.mount();
    let file = create(&disk, "a", b"1");
    sync_dir(&disk, "");
    open.store(false, Ordering::SeqCst);
    let mut pending = Box::pin(disk.sync_many(vec![file.clone()]));
    append(&file, b"2");
    let mut context = Context::from_waker(Waker::noop());
    assert!(pending.as_mut().poll(&mut context).is_pending());
    assert!(outcomes(&platter, CrashMode::Lose).contains(&files(&[("a", "")])), "nothing is durable yet");
    open.store(true, Ordering::SeqCst);
    assert!(pending.as_mut().poll(&mut context).is_ready());
    assert_eq!(outcomes(&platter, CrashMode::Lose), BTreeSet::from([files(&[("a", "1")])]));
    assert_eq!(platter.unsynced_bytes(), 1);
}

#[test]
fn after_a_failed_sync_the_next_one_says_ok_and_the_bytes_may_be_gone() {
    let mut after = BTreeSet::new();
    let mut cached = BTreeSet::new();
    for seed in 0..200 {
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        let disk = platter.mount();
        let file = create(&disk, "a", b"old");
        sync(&disk, &file);
        sync_dir(&disk, "");
        append(&file, b"new");
        platter.plan(Plan { fault: Fault::SyncError, path_contains: "a".to_owned(), after: 0 });
        now(disk.sync_many(vec![file.clone()])).expect_err("planned");
        sync(&disk, &file);
        cached.extend(outcomes(&platter, CrashMode::Keep));
        after.extend(outcomes_once(&platter));
        assert_eq!(platter.faults().sync_errors, 1);
        assert_eq!(file.len().expect("len"), 6, "the process sees its length");
    }
    let expected = [files(&[("a", "old")]), files(&[("a", "old\0\0\0")]), files(&[("a", "oldnew")])];
    assert_eq!(after, expected.iter().cloned().collect());
    assert_eq!(cached, after, "nothing is left to keep: the pages are clean");
}

fn outcomes_once(platter: &Platter) -> BTreeSet<Found> {
    let fork = platter.fork();
    fork.crash(&mut stream(0, "crash", 0), CrashMode::Subset);
    BTreeSet::from([found(&fork)])
}

#[test]
fn after_a_failed_directory_sync_the_name_may_be_gone_for_good() {
    let mut after = BTreeSet::new();
    for seed in 0..50 {
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        let disk = platter.mount();
        let file = create(&disk, "a", b"x");
        sync(&disk, &file);
        platter.plan(Plan { fault: Fault::DirSyncError, path_contains: String::new(), after: 0 });
        now(disk.sync_dir(Path::new(""))).expect_err("planned");
        sync_dir(&disk, "");
        after.extend(outcomes_once(&platter));
    }
    assert_eq!(after, BTreeSet::from([files(&[]), files(&[("a", "x")])]));
}

#[test]
fn an_aborted_journal_leaves_the_disk_read_only_until_the_power_is_cut() {
    let platter = platter();
    let disk = platter.mount();
    let file = create(&disk, "a", b"x");
    now(disk.sync_many(vec![file.clone()])).expect("sync");
    sync_dir(&disk, "");
    platter.plan(Plan { fault: Fault::JournalAbort, path_contains: String::new(), after: 0 });
    now(disk.sync_dir(Path::new(""))).expect_err("planned");
    platter.heal();
    platter.kill();
    let disk = platter.mount();
    assert!(platter.is_read_only(), "neither healing nor a new process mounts it again");
    let file = disk.open(Path::new("a"), Open::Write).expect("reads go on");
    let refused = |error: io::Error| assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    refused(file.append_at(1, &[Bytes::from_static(b"y")]).expect_err("an append"));
    refused(now(disk.sync_many(vec![file])).expect_err("a sync"));
    refused(now(disk.sync_dir(Path::new(""))).expect_err("a sync of names"));
    refused(now(disk.remove(Path::new("a"))).expect_err("a removal"));
    refused(disk.rename(Path::new("a"), Path::new("b")).expect_err("a rename"));
    refused(disk.open(Path::new("c"), Open::CreateNew).map(|_| ()).expect_err("a creation"));
    platter.crash(&mut stream(0, "crash", 0), CrashMode::Keep);
    create(&platter.mount(), "c", b"after the boot");
}

#[test]
fn damage_tells_what_should_stand_there() {
    let platter = Platter::new(Setup { seed: 3, ..Setup::default() });
    let disk = platter.mount();
    let victim = create(&disk, "victim", &[b'v'; 2000]);
    let other = create(&disk, "other", &[b'o'; 2000]);
    let file = create(&disk, "a", &[b'1'; 2000]);
    now(disk.sync_many(vec![victim, other, file.clone()])).expect("sync");
    file.append_at(0, &[Bytes::from(vec![b'2'; 1024])]).expect("append");
    platter.set_victims("vic");
    platter.plan(Plan { fault: Fault::MisdirectedWrite, path_contains: "a".to_owned(), after: 0 });
    sync(&disk, &file);
    assert!(platter.rot(Path::new("victim"), 7, 1), "the byte is there");
    let damage = platter.damage();
    let places: Vec<&str> = damage.iter().filter_map(|damage| damage.path.to_str()).collect();
    assert_eq!(places, ["a", "victim", "victim"]);
    for (path, expected) in
        [("a", [vec![b'2'; 1024], vec![b'1'; 976]].concat()), ("victim", vec![b'v'; 2000])]
    {
        let files = platter.files();
        let (_, mut content) =
            files.into_iter().find(|(known, _)| known == Path::new(path)).expect("it is there");
        for damage in damage.iter().rev().filter(|damage| damage.path == Path::new(path)) {
            assert!(damage.undo(&mut content), "{damage:?}");
        }
        assert!(content == expected, "{path} is made whole");
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_is_usable_again_when_freed() {
    let platter = Platter::new(Setup { capacity: Some(10), ..Setup::default() });
    let disk = platter.mount();
    let other = create(&disk, "b", b"12345");
    let file = create(&disk, "a", b"123");
    assert_eq!(disk.free_bytes().expect("free"), 2);
    let full = file.append_at(3, &[Bytes::from_static(b"4"), Bytes::from_static(b"5678")]).expect_err("full");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(now(file.read_at(0, 99)).expect("reads keep working"), "12345");
    assert_eq!(
        disk.open(Path::new("c"), Open::CreateNew).map(|_| ()).expect_err("full").kind(),
        ErrorKind::StorageFull
    );
    file.truncate(3).expect("a cut needs no room");
    assert_eq!(disk.free_bytes().expect("free"), 2);
    file.preallocate(6).expect_err("no room to reserve");
    now(disk.remove(Path::new("b"))).expect("remove");
    assert_eq!(disk.free_bytes().expect("free"), 2, "an open file keeps its room");
    drop(other);
    assert_eq!(disk.free_bytes().expect("free"), 7);
    file.preallocate(8).expect("reserve");
    assert_eq!(disk.free_bytes().expect("free"), 2);
    file.append_at(3, &[Bytes::from_static(b"45678")]).expect("reserved room is there");
    assert_eq!(disk.free_bytes().expect("free"), 2);
    assert_eq!(platter.faults().disk_full, 3);
}

#[test]
fn a_failed_append_leaves_any_prefix() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        let file = create(&platter.mount(), "a", b"");
        platter.plan(Plan { fault: Fault::WriteError, path_contains: "a".to_owned(), after: 1 });
        append(&file, b"ok");
        file.append_at(2, &[Bytes::from_static(b"xy"), Bytes::from_static(b"z")]).expect_err("planned");
        lengths.insert(file.len().expect("len"));
    }
    assert_eq!(lengths, (2..=5).collect());
}

#[test]
fn silent_damage_is_read_back_and_counted() {
    let platter = Platter::new(Setup { seed: 3, ..Setup::default() });
    let disk = platter.mount();
    let victim = create(&disk, "victim", &[b'v'; 2000]);
    let file = create(&disk, "a", &[b'1'; 2000]);
    now(disk.sync_many(vec![victim.clone(), file.clone()])).expect("sync");
    file.append_at(0, &[Bytes::from(vec![b'2'; 1024])]).expect("append");
    platter.plan(Plan { fault: Fault::MisdirectedWrite, path_contains: "a".to_owned(), after: 0 });
    sync(&disk, &file);
    let own = now(file.read_at(0, 2000)).expect("read");
    let other = now(victim.read_at(0, 2000)).expect("read");
    let twos = |content: &Bytes| content.iter().filter(|byte| **byte == b'2').count();
    assert_eq!(twos(&own), 512, "one of two sectors did not arrive");
    assert!(twos(&other) > 0, "it lies in the other file");
    assert_eq!(platter.faults().damaged, 2);
    assert_eq!(platter.faults().damage_read, 2);
    assert!(platter.rot(Path::new("victim"), 7, 1), "the byte is there");
    assert!(!platter.rot(Path::new("victim"), 2000, 1), "the file is not that long");
    assert_eq!((platter.faults().damaged, platter.faults().damage_read), (3, 2), "inert until it is read");
    assert_eq!(now(victim.read_at(7, 1)).expect("read")[0] ^ other[7], 1);
    assert_eq!(platter.faults().damage_read, 3);
}

#[test]
fn rates_draw_cold_reads_and_errors_from_the_seed() {
    let run = |seed| {
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        platter.set_rates(Rates { cold_read_ppm: 300_000, read_error_ppm: 300_000, ..Rates::default() });
        let file = create(&platter.mount(), "a", b"x");
        let answers = (0..40).map(|_| match file.try_read_at(0, 1) {
            Ok(Some(_)) => 'w',
            Ok(None) => 'c',
            Err(_) => 'e',
        });
        answers.collect::<String>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!("wce".chars().all(|answer| run(1).contains(answer)), "{}", run(1));
}

#[test]
fn tester_mutant_t1_lets_a_forgotten_sync_survive() {
    let platter = Platter::new(Setup { crash_keeps_page_cache: true, ..Setup::default() });
    create(&platter.mount(), "a", b"never synced");
    assert_eq!(outcomes(&platter, CrashMode::Garbage), BTreeSet::from([files(&[("a", "never synced")])]));
}

#[test]
fn tester_mutant_t1_keeps_what_a_failed_sync_lost() {
    for seed in 0..10 {
        let platter = Platter::new(Setup { crash_keeps_page_cache: true, seed, ..Setup::default() });
        let disk = platter.mount();
        let file = create(&disk, "a", b"x");
        platter.plan(Plan { fault: Fault::SyncError, path_contains: "a".to_owned(), after: 0 });
        platter.plan(Plan { fault: Fault::DirSyncError, path_contains: String::new(), after: 0 });
        now(disk.sync_many(vec![file])).expect_err("planned");
        now(disk.sync_dir(Path::new(""))).expect_err("planned");
        let seen = platter.files();
        assert_eq!(platter.durable_files(), seen, "all that is seen counts as durable");
        platter.crash(&mut stream(seed, "crash", 0), CrashMode::Garbage);
        assert_eq!(platter.files(), seen);
    }
}

#[test]
fn blocks_in_the_wrong_file_are_damage_of_that_file() {
    let platter = platter();
    let disk = platter.mount();
    let (a, b) = (create(&disk, "a", b"aaaa"), create(&disk, "b", b"bb"));
    now(disk.sync_many(vec![a, b])).expect("sync");
    sync_dir(&disk, "");
    assert!(platter.misplace(Path::new("b"), Path::new("a")), "both are there");
    assert_eq!(found(&platter), files(&[("a", "bbaa"), ("b", "bb")]));
    assert_eq!(platter.damage().len(), 1);
    assert!(!platter.misplace(Path::new("b"), Path::new("c")), "there is no such file");
}

#[test]
fn a_garbage_crash_tears_inside_sectors_and_shows_stale_bytes() {
    let platter = platter();
    let disk = platter.mount();
    let other = create(&disk, "other", &[b's'; 4096]);
    sync(&disk, &other);
    let file = create(&disk, "a", b"");
    sync_dir(&disk, "");
    append(&file, &[b'n'; 1024]);
    let all = outcomes(&platter, CrashMode::Garbage);
    let has = |claim: &dyn Fn(&[u8]) -> bool| all.iter().any(|outcome| claim(&outcome[0].1));
    assert!(has(&|a| a.len() == 1024 && a[..512] == [b's'; 512]), "stale");
    assert!(has(&|a| a.len() == 1024 && a[511] == 0 && a[0] == b'n'), "torn");
    assert!(has(&|a| a.len() == 1024 && a[..512].iter().any(|byte| !b"ns\0".contains(byte))), "garbage");
    assert!(has(&|a| a.len() == 512 && *a == [b'n'; 512]), "one sector of two");
}

#[test]
fn removed_files_are_forgotten_when_no_crash_can_bring_them_back() {
    let platter = platter();
    let disk = platter.mount();
    for round in 0..300 {
        let name = format!("{round}");
        drop(create(&disk, &name, b"x"));
        sync_dir(&disk, "");
        now(disk.remove(Path::new(&name))).expect("remove");
    }
    sync_dir(&disk, "");
    let kept = platter.shared.state().inodes();
    assert!(kept <= 64, "{kept} inodes are kept for nothing");
}

#[derive(Debug, Clone)]
enum Step {
    Append(u16),
    Cut(u16),
    Sync,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The promise to the log, on random programs: a durable byte that no unsynced change covers survives every
    /// crash, and a second crash changes nothing.
    #[test]
    fn untouched_durable_bytes_survive_every_crash(
        steps in prop::collection::vec(
            prop_oneof![(1..2000u16).prop_map(Step::Append), any::<u16>().prop_map(Step::Cut), Just(Step::Sync)],
            1..12,
        ),
        seed in any::<u64>(),
    ) {
        let platter = platter();
        let disk = platter.mount();
        let file = create(&disk, "a", b"");
        sync_dir(&disk, "");
        // Bytes below `safe` are durable and have not been covered since.
        let mut safe: Vec<u8> = Vec::new();
        for (round, step) in steps.iter().enumerate() {
            let len = file.len().expect("len");
            match step {
                Step::Append(more) => append(&file, &vec![round as u8 + 1; usize::from(*more)]),
                Step::Cut(to) => {
                    let to = u64::from(*to) % (len + 1);
                    file.truncate(to).expect("truncate");
                    safe.truncate(to as usize);
                }
                Step::Sync => {
                    sync(&disk, &file);
                    safe = now(file.read_at(0, len as usize)).expect("read").to_vec();
                }
            }
        }
        for mode in [CrashMode::Lose, CrashMode::Prefix, CrashMode::Subset, CrashMode::Garbage, CrashMode::Keep] {
            let fork = platter.fork();
            fork.crash(&mut stream(seed, "crash", 0), mode);
            let once = found(&fork);
            prop_assert!(once[0].1.starts_with(&safe), "{mode:?} lost durable bytes");
            fork.crash(&mut stream(seed, "crash", 1), CrashMode::Garbage);
            prop_assert_eq!(found(&fork), once, "nothing is at risk after a crash");
        }
    }
}
