//! The conformance suite of [`Disk`]: each line of its doc that can be seen without a power cut.
//!
//! Owns: the checks, one claim a function. Promises: whoever passes can stand below the log; both the real disk and
//! the model pass, so that a simulated run means something. Leaves out: power cuts, which only the model can
//! suffer (`model_disk::tests` enumerates them), and speed.
//! Called by the tests of every implementation, with a [`Ground`] that makes disks.

use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;

use crate::disk::{DirEntry, Disk, DiskFile, Open};

/// Where disks come from in a test.
pub trait Ground {
    /// The implementation under test.
    type Disk: Disk;

    /// A disk on a new, empty data directory.
    fn fresh(&mut self) -> Self::Disk;

    /// The directory of the last [`Ground::fresh`] as another process, or the next incarnation, opens it.
    fn reopened(&mut self) -> Self::Disk;
}

/// Runs every check, each on a fresh disk.
///
/// # Panics
/// When the implementation breaks the contract; the message says which line.
pub async fn run_all<G: Ground>(ground: &mut G) {
    an_append_is_visible_at_once_to_every_handle(ground.fresh()).await;
    a_read_is_short_only_at_the_end(ground.fresh()).await;
    an_append_may_overwrite_what_was_there(ground.fresh()).await;
    a_large_append_of_many_parts_arrives_whole(ground.fresh()).await;
    truncated_bytes_do_not_come_back(ground.fresh()).await;
    opening_says_what_is_wrong(ground.fresh());
    a_rename_replaces_and_handles_follow_the_file(ground.fresh()).await;
    a_directory_is_renamed_with_what_it_holds(ground.fresh()).await;
    directories_are_made_with_their_parents(ground.fresh());
    a_list_is_sorted_and_complete(ground.fresh());
    a_removed_file_stays_readable_through_its_handles(ground.fresh()).await;
    a_directory_is_removed_with_what_it_holds(ground.fresh()).await;
    a_sync_takes_any_set_of_files(ground.fresh()).await;
    a_directory_sync_needs_the_directory(ground.fresh()).await;
    preallocation_does_not_change_the_length(ground.fresh()).await;
    a_path_outside_the_data_directory_is_refused(ground.fresh()).await;
    a_full_disk_is_not_the_normal_case(&ground.fresh());
    let disk = ground.fresh();
    what_is_free_is_no_more_than_the_whole(&disk);
    the_lock_keeps_a_second_incarnation_out(disk, || ground.reopened());
    let disk = ground.fresh();
    the_run_of_the_machine_outlives_a_process(disk, || ground.reopened());
    let disk = ground.fresh();
    a_process_that_ends_leaves_its_page_cache(disk, || ground.reopened()).await;
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn create<D: Disk>(disk: &D, path: &str, content: &'static str) -> D::File {
    let file = disk.open(Path::new(path), Open::CreateNew).expect("a new name can be created");
    file.append_at(0, &[bytes(content)]).expect("a fresh file takes an append");
    file
}

async fn content<F: DiskFile>(file: &F) -> Bytes {
    file.read_at(0, 1 << 24).await.expect("a healthy disk reads")
}

async fn content_of<D: Disk>(disk: &D, path: &str) -> Bytes {
    content(&disk.open(Path::new(path), Open::Read).expect("the file is there")).await
}

fn kind<T>(outcome: std::io::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

async fn an_append_is_visible_at_once_to_every_handle<D: Disk>(disk: D) {
    let writer = create(&disk, "a", "");
    let clone = writer.clone();
    let other = disk.open(Path::new("a"), Open::Read).expect("open");
    writer.append_at(0, &[bytes("one"), bytes(""), bytes("two")]).expect("append");
    writer.append_at(6, &[bytes("three")]).expect("append");
    for handle in [&writer, &clone, &other] {
        assert_eq!(handle.len().expect("len"), 11);
        assert_eq!(content(handle).await, "onetwothree");
        if let Some(warm) = handle.try_read_at(3, 3).expect("warm read") {
            assert_eq!(warm, "two");
        }
    }
    let reopened = disk.open(Path::new("a"), Open::Write).expect("open");
    reopened.append_at(11, &[bytes("!")]).expect("append");
    assert_eq!(content(&other).await, "onetwothree!");
}

async fn a_read_is_short_only_at_the_end<D: Disk>(disk: D) {
    let file = create(&disk, "a", "0123456789");
    for (at, len, expected) in
        [(0, 10, "0123456789"), (2, 3, "234"), (8, 10, "89"), (10, 5, ""), (99, 5, ""), (0, 0, "")]
    {
        assert_eq!(file.read_at(at, len).await.expect("read"), expected, "read of {len} at {at}");
        if let Some(warm) = file.try_read_at(at, len).expect("warm read") {
            assert_eq!(warm, expected, "warm read of {len} at {at}");
        }
    }
    let empty = create(&disk, "b", "");
    assert_eq!(empty.len().expect("len"), 0);
    assert_eq!(content(&empty).await, "");
}

async fn an_append_may_overwrite_what_was_there<D: Disk>(disk: D) {
    let file = create(&disk, "a", "0123456789");
    file.append_at(8, &[bytes("ab"), bytes("cd")]).expect("append");
    assert_eq!(content(&file).await, "01234567abcd");
}

async fn a_large_append_of_many_parts_arrives_whole<D: Disk>(disk: D) {
    let file = create(&disk, "a", "");
    let parts: Vec<Bytes> = (0..3000u32).map(|n| Bytes::from(vec![n as u8; 700])).collect();
    file.append_at(0, &parts).expect("append");
    assert_eq!(file.len().expect("len"), 2_100_000);
    assert_eq!(content(&file).await, parts.concat());
}

async fn truncated_bytes_do_not_come_back<D: Disk>(disk: D) {
    let file = create(&disk, "a", "0123456789");
    file.truncate(4).expect("truncate");
    assert_eq!(file.len().expect("len"), 4);
    assert_eq!(content(&file).await, "0123");
    file.append_at(4, &[bytes("x")]).expect("append");
    assert_eq!(content(&file).await, "0123x");
    file.truncate(0).expect("truncate");
    assert_eq!(content(&file).await, "");
}

fn opening_says_what_is_wrong<D: Disk>(disk: D) {
    create(&disk, "a", "");
    disk.create_dir_all(Path::new("d")).expect("mkdir");
    assert_eq!(kind(disk.open(Path::new("missing"), Open::Read)), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.open(Path::new("missing"), Open::Write)), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.open(Path::new("a"), Open::CreateNew)), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(disk.open(Path::new("no/such/dir"), Open::CreateNew)), Some(ErrorKind::NotFound));
    assert!(disk.open(Path::new("d"), Open::Read).is_err(), "a directory is not a file");
}

async fn a_rename_replaces_and_handles_follow_the_file<D: Disk>(disk: D) {
    let new = create(&disk, "new", "new");
    let old = create(&disk, "old", "old");
    disk.rename(Path::new("new"), Path::new("old")).expect("rename");
    assert_eq!(content_of(&disk, "old").await, "new");
    assert!(!disk.exists(Path::new("new")));
    new.append_at(3, &[bytes("er")]).expect("the handle is still the file");
    assert_eq!(content_of(&disk, "old").await, "newer");
    assert_eq!(content(&old).await, "old", "the replaced file lives as long as its handles");
    let missing = disk.rename(Path::new("missing"), Path::new("x"));
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
}

async fn a_directory_is_renamed_with_what_it_holds<D: Disk>(disk: D) {
    disk.create_dir_all(Path::new("d/e")).expect("mkdir");
    disk.create_dir_all(Path::new("trash")).expect("mkdir");
    let inside = create(&disk, "d/e/a", "a");
    disk.rename(Path::new("d"), Path::new("trash/d")).expect("rename");
    assert!(!disk.exists(Path::new("d")));
    assert_eq!(content_of(&disk, "trash/d/e/a").await, "a");
    assert_eq!(content(&inside).await, "a");
}

fn directories_are_made_with_their_parents<D: Disk>(disk: D) {
    disk.create_dir_all(Path::new("a/b/c")).expect("mkdir");
    disk.create_dir_all(Path::new("a/b/c")).expect("it is no error if it exists");
    disk.create_dir_all(Path::new("")).expect("the root exists");
    assert!(disk.exists(Path::new("a/b")));
    create(&disk, "file", "");
    assert!(disk.create_dir_all(Path::new("file/d")).is_err(), "a file has no children");
}

fn a_list_is_sorted_and_complete<D: Disk>(disk: D) {
    for name in ["b", "10", "a", "2"] {
        create(&disk, name, "");
    }
    disk.create_dir_all(Path::new("c/inner")).expect("mkdir");
    let entry = |name: &str, is_dir| DirEntry { name: name.to_owned(), is_dir };
    let expected =
        [entry("10", false), entry("2", false), entry("a", false), entry("b", false), entry("c", true)];
    assert_eq!(disk.list(Path::new("")).expect("list"), expected);
    assert_eq!(disk.list(Path::new("c")).expect("list"), [entry("inner", true)]);
    assert_eq!(disk.list(Path::new("c/inner")).expect("list"), []);
    assert_eq!(kind(disk.list(Path::new("missing"))), Some(ErrorKind::NotFound));
    assert!(disk.list(Path::new("a")).is_err(), "a file has no entries");
}

async fn a_removed_file_stays_readable_through_its_handles<D: Disk>(disk: D) {
    let file = create(&disk, "a", "a");
    disk.remove(Path::new("a")).await.expect("remove");
    assert!(!disk.exists(Path::new("a")));
    assert_eq!(content(&file).await, "a");
    create(&disk, "a", "again");
    assert_eq!(content(&file).await, "a");
    assert_eq!(content_of(&disk, "a").await, "again");
    assert_eq!(kind(disk.remove(Path::new("missing")).await), Some(ErrorKind::NotFound));
}

async fn a_directory_is_removed_with_what_it_holds<D: Disk>(disk: D) {
    disk.create_dir_all(Path::new("d/e")).expect("mkdir");
    let file = create(&disk, "d/e/a", "a");
    disk.remove_dir_all(Path::new("d")).await.expect("remove");
    assert!(!disk.exists(Path::new("d")));
    assert_eq!(disk.list(Path::new("")).expect("list"), []);
    assert_eq!(content(&file).await, "a");
    assert_eq!(kind(disk.remove_dir_all(Path::new("d")).await), Some(ErrorKind::NotFound));
}

async fn a_sync_takes_any_set_of_files<D: Disk>(disk: D) {
    disk.sync_many(Vec::new()).await.expect("nothing to sync");
    let files: Vec<D::File> = ["a", "b", "c", "d", "e"].iter().map(|name| create(&disk, name, "x")).collect();
    disk.rename(Path::new("a"), Path::new("renamed")).expect("rename");
    disk.remove(Path::new("b")).await.expect("remove");
    let mut twice = files.clone();
    twice.extend(files.iter().cloned());
    disk.sync_many(twice).await.expect("renamed, removed and repeated files sync");
    disk.sync_many(files[..1].to_vec()).await.expect("and one alone");
    assert_eq!(content(&files[0]).await, "x");
}

async fn a_directory_sync_needs_the_directory<D: Disk>(disk: D) {
    disk.create_dir_all(Path::new("d")).expect("mkdir");
    disk.sync_dir(Path::new("")).await.expect("the root syncs");
    disk.sync_dir(Path::new("d")).await.expect("and so does a directory");
    assert_eq!(kind(disk.sync_dir(Path::new("missing")).await), Some(ErrorKind::NotFound));
    disk.sync_dir(Path::new("")).await.expect("a missing name is not a failed sync");
}

async fn preallocation_does_not_change_the_length<D: Disk>(disk: D) {
    let file = create(&disk, "a", "abc");
    file.preallocate(1 << 20).expect("there is room");
    file.preallocate(0).expect("nothing to do");
    assert_eq!(file.len().expect("len"), 3);
    assert_eq!(content(&file).await, "abc");
    file.append_at(3, &[bytes("d")]).expect("append");
    assert_eq!(content(&file).await, "abcd");
}

async fn a_path_outside_the_data_directory_is_refused<D: Disk>(disk: D) {
    for path in ["/abs", "../up", "a/../../up"] {
        let path = Path::new(path);
        assert_eq!(kind(disk.open(path, Open::Read)), Some(ErrorKind::InvalidInput), "{path:?}");
        assert_eq!(kind(disk.remove(path).await), Some(ErrorKind::InvalidInput), "{path:?}");
        assert!(!disk.exists(path), "{path:?}");
    }
}

fn a_full_disk_is_not_the_normal_case<D: Disk>(disk: &D) {
    assert!(disk.free_bytes().expect("the file system answers") > 0);
    assert!(disk.display(Path::new("a")).ends_with("a"));
}

fn what_is_free_is_no_more_than_the_whole<D: Disk>(disk: &D) {
    let free = disk.free_bytes().expect("it says");
    if let Some(total) = disk.total_bytes().expect("it says") {
        assert!(free <= total, "{free} of {total} bytes are free");
    }
}

fn the_lock_keeps_a_second_incarnation_out<D: Disk>(disk: D, mut reopened: impl FnMut() -> D) {
    let name = Path::new("lock");
    disk.lock(name).expect("the first takes it");
    disk.lock(name).expect("who holds it may ask again");
    let clone = disk.clone();
    clone.lock(name).expect("a clone is the same process");
    assert_eq!(kind(reopened().lock(name)), Some(ErrorKind::WouldBlock));
    drop(disk);
    assert_eq!(kind(reopened().lock(name)), Some(ErrorKind::WouldBlock), "a clone still holds it");
    drop(clone);
    reopened().lock(name).expect("the lock ends with the last clone");
}

fn the_run_of_the_machine_outlives_a_process<D: Disk>(disk: D, mut reopened: impl FnMut() -> D) {
    let boot = disk.boot_id();
    assert_eq!(disk.clone().boot_id(), boot, "every handle says the same");
    drop(disk);
    assert_eq!(reopened().boot_id(), boot, "the machine ran on");
}

async fn a_process_that_ends_leaves_its_page_cache<D: Disk>(disk: D, mut reopened: impl FnMut() -> D) {
    disk.create_dir_all(Path::new("d")).expect("mkdir");
    let file = create(&disk, "d/tmp", "never synced");
    disk.rename(Path::new("d/tmp"), Path::new("d/a")).expect("rename");
    file.truncate(5).expect("truncate");
    drop(file);
    drop(disk);
    let next = reopened();
    assert_eq!(content_of(&next, "d/a").await, "never");
    assert!(!next.exists(Path::new("d/tmp")));
}
