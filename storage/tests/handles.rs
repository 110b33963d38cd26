//! A process that has no file handles left: the limit is the whole process's, so these tests are one of their own.
#![allow(clippy::disallowed_methods, reason = "it takes the handles of the real system")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dejaq_storage::Disk;
use dejaq_storage::disk::{is_failed_sync, is_want};
use dejaq_storage::file_disk::FileDisk;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes every handle that is left.
fn take_all(dir: &Path) -> Vec<File> {
    let mut taken = Vec::new();
    loop {
        match File::open(dir) {
            Ok(file) => taken.push(file),
            Err(error) => {
                assert!(is_want(&error), "{error}");
                return taken;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_synced_though_no_handle_is_left_and_nothing_is_taken_for_a_failed_sync() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: limit.maximum })
        .expect("lower is allowed");
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FileDisk::open(dir.path()).expect("it opens");
    let folders: Vec<PathBuf> = ["a", "b"].iter().map(PathBuf::from).collect();
    for folder in &folders {
        disk.create_dir_all(folder).expect("there is room");
    }
    disk.sync_dir(&folders[0]).await.expect("there are handles"); // and the pool has its threads
    let taken = take_all(dir.path());
    disk.sync_dir(&folders[0]).await.expect("the spare one serves");
    disk.sync_dirs(folders.clone()).await.expect("the spare one serves them all");
    // The spare one, too, is taken in the moment in which it is free.
    let thief = {
        let dir = dir.path().to_owned();
        std::thread::spawn(move || {
            let until = std::time::Instant::now() + Duration::from_secs(1);
            let mut more = Vec::new();
            while std::time::Instant::now() < until {
                more.extend(take_all(&dir));
            }
        })
    };
    for _ in 0..50 {
        disk.sync_dirs(folders.clone()).await.expect("it waits until there is one");
    }
    thief.join().expect("it ends");
    drop(taken);
    let gone = disk.sync_dir(Path::new("c")).await.expect_err("there is no such directory");
    assert!(!is_failed_sync(&gone), "{gone}");
    disk.sync_dirs(folders).await.expect("no verdict stays");
}
