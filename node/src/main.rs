//! The `dejaq` program. Everything is in the library; see `cli`.
//!
//! The allocator is the system's. Decided 2026-11-22: a build with mimalloc held 17 MiB empty and 27 KiB for each empty
//! partition, an earlier one without it 7 MiB and 4 KiB (`dejaq bench suite`; the two differed in more than that). The
//! goals are 15 MiB and 4 KiB; mimalloc would save about a seventh of the instructions of an unbatched request.
//! Revisit with two builds that differ in nothing else.

fn main() -> std::process::ExitCode {
    dejaq::cli::main()
}
