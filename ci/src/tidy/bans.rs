//! What may appear only in its home: clocks, randomness, threads, sockets, files, unordered maps.
//!
//! Owns: the table. A home is a path prefix. The same list stands in `clippy.toml` by full function name;
//! clippy sees through `use … as`, this sees macros, types and code that is compiled out.

use super::source::{Source, line_of, words};
use super::{Finding, finding};

struct Ban {
    what: &'static [&'static str],
    homes: &'static [&'static str],
    why: &'static str,
}

/// Real processes around the simulated world: one per seed, wall clock, files of traces.
const RUNNER: &str = "sim/src/runner/";
const CI: &str = "ci/src/";
/// The production side of `Runtime`: it and `net`'s implementation are named `tokio*.rs`.
const TOKIO: &str = "node/src/runtime/tokio";
const FILE_DISK: &str = "storage/src/file_disk";
const CLI: &str = "node/src/cli";
const MAIN: &str = "node/src/main.rs";
const SIM_MAIN: &str = "scenarios/src/main.rs";
const FUZZERS: &str = "scenarios/src/bin/";
/// Traces and histories are written to real files, beside the simulated world.
const TRACE: &str = "sim/src/trace";
/// A run writes its history for the person outside of the simulated world.
const STORY: &str = "sim/src/story/";
/// A node is a task of madsim's.
const SIM_CLUSTER: &str = "sim/src/cluster.rs";
/// madsim's own runtime has to be built, seeded and left somewhere.
const SIM_WORLD: &str = "sim/src/runtime";

const BANS: &[Ban] = &[
    Ban {
        what: &["Instant::now", "SystemTime", "UNIX_EPOCH", "chrono", "OffsetDateTime::now_utc"],
        homes: &[TOKIO, CLI, MAIN, RUNNER, CI],
        why: "time comes from Runtime::now and Runtime::unix_ms",
    },
    Ban {
        what: &["std::thread", "thread::spawn", "thread::sleep", "spawn_blocking", "block_in_place"],
        homes: &[TOKIO, FILE_DISK, CLI, MAIN, RUNNER, CI],
        why: "threads are not functions of the seed",
    },
    Ban {
        what: &["tokio::spawn", "tokio::task::spawn", "tokio::runtime", "spawn_local"],
        homes: &[TOKIO, FILE_DISK, CLI, MAIN, SIM_CLUSTER, CI],
        why: "tasks are started by Runtime::spawn, which names them",
    },
    Ban {
        what: &["tokio::time", "tokio::signal"],
        homes: &[TOKIO, CLI, MAIN],
        why: "waits go through Runtime::sleep_until",
    },
    Ban {
        what: &["tokio::net", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "ToSocketAddrs"],
        homes: &[TOKIO, CLI, MAIN, CI],
        why: "frames move through the Net seam",
    },
    Ban {
        what: &["rustix", "socket2"],
        homes: &[TOKIO, FILE_DISK, CLI, CI],
        why: "a system call beside the seams is no function of the seed",
    },
    Ban {
        what: &["tokio::fs", "std::fs", "File::open", "File::create"],
        homes: &[FILE_DISK, CLI, MAIN, RUNNER, TRACE, STORY, SIM_MAIN, CI],
        why: "bytes reach the disk through the Disk seam",
    },
    Ban {
        what: &[
            "rand::rng",
            "thread_rng",
            "OsRng",
            "ThreadRng",
            "getrandom",
            "Uuid::new_v4",
            "from_os_rng",
            "RandomState",
        ],
        homes: &[TOKIO, RUNNER],
        why: "randomness comes from Runtime::random_u64",
    },
    Ban {
        what: &["HashMap", "HashSet"],
        homes: &[],
        why: "their order is not a function of the seed: use BTreeMap",
    },
    Ban {
        what: &["std::env"],
        homes: &["node/src/config", CLI, MAIN, RUNNER, SIM_MAIN, FUZZERS, SIM_WORLD, CI],
        why: "settings come from the config table",
    },
    Ban {
        what: &["std::process"],
        homes: &[TOKIO, CLI, MAIN, RUNNER, SIM_MAIN, FUZZERS, CI],
        why: "only the program's outermost layer ends it or starts others",
    },
];

/// Every use of a banned name outside its homes and outside tests.
pub fn check(source: &Source, found: &mut Vec<Finding>) {
    for ban in BANS {
        if ban.homes.iter().any(|home| source.path.starts_with(home)) {
            continue;
        }
        for what in ban.what {
            for at in words(&source.product, what) {
                found.push(finding(source, line_of(&source.product, at), format!("`{what}`: {}", ban.why)));
            }
        }
    }
    check_grouped_imports(source, found);
    check_select(source, found);
}

/// `use std::{fs, …}` hides the path from the table: refuse it for the crates that the table names.
fn check_grouped_imports(source: &Source, found: &mut Vec<Finding>) {
    for (group, members) in [
        ("std::{", &["fs", "thread", "env", "process"][..]),
        ("tokio::{", &["fs", "net", "time", "task", "runtime", "signal", "spawn"][..]),
    ] {
        let prefix = group.trim_end_matches('{').trim_end_matches(':');
        for (at, _) in source.product.match_indices(group) {
            let rest = &source.product[at + group.len()..];
            for entry in rest.split(';').next().unwrap_or_default().split([',', '{', '}']) {
                let name = entry.split("::").next().unwrap_or_default();
                let name = name.split_whitespace().next().unwrap_or_default(); // `fs as files` is `fs`
                let full = format!("{prefix}::{name}");
                let barred = BANS.iter().any(|ban| {
                    ban.what.contains(&full.as_str())
                        && !ban.homes.iter().any(|home| source.path.starts_with(home))
                });
                if members.contains(&name) && barred {
                    found.push(finding(
                        source,
                        line_of(&source.product, at),
                        format!("`{full}` in a grouped import"),
                    ));
                }
            }
        }
    }
}

/// An unbiased `select!` draws from a process-wide counter: same seed, other run.
fn check_select(source: &Source, found: &mut Vec<Finding>) {
    for at in words(&source.code, "select!") {
        let body =
            source.code[at + "select!".len()..].trim_start().trim_start_matches(['{', '(']).trim_start();
        if !body.starts_with("biased;") {
            let text = "`select!` without `biased;`: its choice is not a function of the seed";
            found.push(finding(source, line_of(&source.code, at), text.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        let mut found = Vec::new();
        check(&Source::new(path, text), &mut found);
        found.len()
    }

    #[test]
    fn each_ban_is_red_outside_its_home() {
        for ban in BANS {
            for what in ban.what {
                let text = format!("fn f() {{ let x = {what}; }}");
                assert!(count("node/src/replica/leader.rs", &text) >= 1, "{what} was not seen");
            }
        }
    }

    #[test]
    fn a_home_may_and_a_test_may() {
        assert_eq!(count("node/src/runtime/tokio_net.rs", "use tokio::net::TcpStream;"), 0);
        assert_eq!(count("storage/src/file_disk/sync.rs", "use std::fs::File;"), 0);
        assert_eq!(count("node/src/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }"), 0);
        assert_eq!(count("node/src/a_tests.rs", "use std::fs;"), 0);
        assert_eq!(count("node/src/a.rs", "// std::fs is not for us\nconst A: &str = \"std::fs\";"), 0);
    }

    #[test]
    fn a_grouped_import_does_not_hide_a_ban() {
        assert_eq!(count("node/src/a.rs", "use std::{fmt, fs};"), 1);
        assert_eq!(count("node/src/a.rs", "use tokio::{sync::mpsc, time::sleep};"), 1);
        assert_eq!(count("node/src/a.rs", "use std::{fs as files, thread as t};"), 2);
        assert_eq!(count("node/src/a.rs", "use std::{fmt, mem};"), 0);
    }

    #[test]
    fn an_unbiased_select_is_red_even_in_a_test() {
        assert_eq!(count("node/src/a.rs", "tokio::select! { a = b => {} }"), 1);
        assert_eq!(count("node/src/a_tests.rs", "tokio::select! { a = b => {} }"), 1);
        assert_eq!(count("node/src/a.rs", "tokio::select! {\n biased;\n a = b => {} }"), 0);
    }
}
