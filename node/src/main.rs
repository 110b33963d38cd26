//! The `dejaq` program. Everything is in the library; see `cli`.

/// Because a quarter of a small request's instructions were glibc's allocator, and 1 MiB costs it 14 to 20 µs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dejaq::cli::main()
}
