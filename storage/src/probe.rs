//! Planted bugs and coverage marks: the two hooks by which the simulator proves that it can see.
//!
//! Owns: `mutant!(M21)` (true when that planted bug is the active one) and `mark!("…")` (this rare branch was
//! reached). Promises: without the feature `mutants`, `mutant!` is the constant `false` and costs nothing; a mark
//! costs one relaxed store. Leaves out: which mutants exist and who must kill them (see `scenarios`).
//! Called by product code at the one place where the bug would be made; switched by the simulation runner, once,
//! before anything runs. One process runs one seed, so that a process-wide switch is a function of the seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static ACTIVE: AtomicU32 = AtomicU32::new(0);
static MARKS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// Makes `number` the active mutant of this process; 0 is none.
pub fn activate_mutant(number: u32) {
    ACTIVE.store(number, Ordering::Relaxed);
}

/// Whether mutant `number` is active; use [`mutant!`](crate::mutant).
#[must_use]
pub fn is_active(number: u32) -> bool {
    cfg!(feature = "mutants") && ACTIVE.load(Ordering::Relaxed) == number
}

/// Records that a marked branch was reached; use [`mark!`](crate::mark).
pub fn reached(name: &'static str) {
    if let Ok(mut marks) = MARKS.lock()
        && !marks.contains(&name)
    {
        marks.push(name);
    }
}

/// The marks reached so far in this process, sorted.
#[must_use]
pub fn marks_reached() -> Vec<&'static str> {
    let mut marks = MARKS.lock().map(|m| m.clone()).unwrap_or_default();
    marks.sort_unstable();
    marks
}

/// The marks reached after the first `known` ones, in the order in which they were reached.
#[must_use]
pub fn marks_since(known: usize) -> Vec<&'static str> {
    MARKS.lock().map(|marks| marks.get(known..).unwrap_or_default().to_vec()).unwrap_or_default()
}

/// True when the planted bug `Mnn` (its number, as in CORRECTNESS.md 4) is active. Constant `false` in products.
#[macro_export]
macro_rules! mutant {
    ($number:literal) => {
        $crate::probe::is_active($number)
    };
}

/// Marks a rare branch: `mark!("recovery cuts a torn tail")`. Some test or scenario must reach each mark.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {{
        static ONCE: ::std::sync::Once = ::std::sync::Once::new();
        ONCE.call_once(|| $crate::probe::reached($name));
    }};
}
