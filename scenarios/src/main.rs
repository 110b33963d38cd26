//! The `dejaq-sim` binary: the runner of `sim` with the scenarios of this crate.

fn main() -> std::process::ExitCode {
    dejaq_sim::runner::main(dejaq_scenarios::TABLES)
}
