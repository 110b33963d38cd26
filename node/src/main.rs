//! The `dejaq` program. Everything is in the library; see `cli`.

fn main() -> std::process::ExitCode {
    dejaq::cli::main()
}
