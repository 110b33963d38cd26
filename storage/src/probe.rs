//! Planted bugs, coverage marks and whims: the hooks by which the simulator proves that it can see.
//!
//! Owns: `mutant!(M21)` (true when that planted bug is the active one), `mark!("…")` (this rare branch was
//! reached) and `buggify!("…", 20)` (true now and then under simulation: do what is allowed and rare). Promises: without
//! the feature `mutants`, `mutant!` is the constant `false` and costs nothing; a mark costs two relaxed loads; a whim costs
//! one relaxed load and is never true but where a simulator has given them a seed. Leaves out: which mutants exist and who must kill them (see `scenarios`).
//! Called by product code at the one place where the bug would be made; switched by the simulation runner, once,
//! before anything runs. One process runs one seed, so that a process-wide switch is a function of the seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

static ACTIVE: AtomicU32 = AtomicU32::new(0);
/// Which run this is; a site that knows another number has not been reached in it.
static RUN: AtomicU32 = AtomicU32::new(1);
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

/// One `mark!` in the source: in which run it was reached last.
pub struct Site(AtomicU32);

impl Site {
    /// One that was not reached yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default cannot be made in a static")]
    pub const fn new() -> Site {
        Site(AtomicU32::new(0))
    }

    /// Records that this branch was reached; use [`mark!`](crate::mark).
    #[inline]
    pub fn reached(&self, name: &'static str) {
        let run = RUN.load(Ordering::Relaxed);
        if self.0.load(Ordering::Relaxed) != run {
            self.0.store(run, Ordering::Relaxed);
            keep(name);
        }
    }
}

#[cold]
fn keep(name: &'static str) {
    if let Ok(mut marks) = MARKS.lock()
        && !marks.contains(&name)
    {
        marks.push(name);
    }
}

/// Forgets the marks reached so far: what comes is another run. Tests have several in one process.
pub fn forget_marks() {
    if let Ok(mut marks) = MARKS.lock() {
        marks.clear();
        RUN.fetch_add(1, Ordering::Relaxed);
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

/// One of so many sites has whims in a run (FoundationDB's two levels: first which sites, then how often).
const SITES_IN: u64 = 4;

static HAS_WHIMS: AtomicBool = AtomicBool::new(false);
static WHIMS: Mutex<Whims> = Mutex::new(Whims { seed: 0, asked: BTreeMap::new(), had: BTreeMap::new() });

/// What the sites of `buggify!` did in this process.
struct Whims {
    seed: u64,
    /// How often each active site was asked.
    asked: BTreeMap<&'static str, u64>,
    /// How often each had its way.
    had: BTreeMap<&'static str, u64>,
}

/// Lets sites of [`buggify!`](crate::buggify) have whims from now on, by this seed; `None`: no more.
pub fn set_whims(seed: Option<u64>) {
    let mut whims = WHIMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(seed) = seed {
        *whims = Whims { seed, asked: BTreeMap::new(), had: BTreeMap::new() };
    }
    HAS_WHIMS.store(seed.is_some(), Ordering::Relaxed);
}

/// How often each site had its way since [`set_whims`] gave a seed.
#[must_use]
pub fn whims() -> BTreeMap<&'static str, u64> {
    WHIMS.lock().unwrap_or_else(PoisonError::into_inner).had.clone()
}

/// Whether site `name` has its way this time; use [`buggify!`](crate::buggify).
#[inline]
#[must_use]
pub fn is_whim(name: &'static str, in_1000: u64) -> bool {
    HAS_WHIMS.load(Ordering::Relaxed) && draw_whim(name, in_1000)
}

#[cold]
fn draw_whim(name: &'static str, in_1000: u64) -> bool {
    let mut whims = WHIMS.lock().unwrap_or_else(PoisonError::into_inner);
    let site = name.bytes().fold(whims.seed, |state, byte| mix(state ^ u64::from(byte)));
    if !mix(site).is_multiple_of(SITES_IN) {
        return false;
    }
    let asked = whims.asked.entry(name).or_default();
    *asked += 1;
    let is_whim = mix(site ^ *asked) % 1000 < in_1000;
    if is_whim {
        *whims.had.entry(name).or_default() += 1;
    }
    is_whim
}

/// A step of SplitMix64: every bit of the result depends on every bit of `state`.
fn mix(state: u64) -> u64 {
    let one = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let two = (one ^ (one >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let three = (two ^ (two >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    three ^ (three >> 31)
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
        static SITE: $crate::probe::Site = $crate::probe::Site::new();
        SITE.reached($name);
    }};
}

/// A whim: `if buggify!("a segment is rolled early", 20) { … }` does, under simulation, in a quarter of the runs, 20 times
/// of 1000, what is always allowed and almost never happens. Never true in products.
#[macro_export]
macro_rules! buggify {
    ($name:literal, $in_1000:literal) => {
        $crate::probe::is_whim($name, $in_1000)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_sites_has_whims_as_often_as_it_says_and_the_same_for_one_seed() {
        const SITES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let (mut active, mut had) = (0, 0);
        for seed in 0..200 {
            let of = |site: &&'static str| {
                (0..100).map(|_| draw_whim(site, 200)).filter(|is_whim| *is_whim).count()
            };
            let run = || {
                set_whims(Some(seed));
                HAS_WHIMS.store(false, Ordering::Relaxed); // other tests of this process must not have any
                SITES.iter().map(of).collect::<Vec<_>>()
            };
            let first = run();
            assert_eq!(first, run(), "seed {seed}");
            active += first.iter().filter(|count| **count > 0).count();
            had += first.iter().sum::<usize>();
            assert_eq!(whims().values().sum::<u64>() as usize, first.iter().sum::<usize>());
        }
        assert!((300..500).contains(&active), "{active} of 1600 sites");
        assert!((active * 18..active * 22).contains(&had), "{had} of {active} sites");
        assert!(!is_whim("a", 1000), "switched off");
    }

    #[test]
    fn a_mark_is_reached_once_a_run_and_again_in_the_next() {
        const NAME: &str = "a mark of this test";
        let pass = || mark!("a mark of this test");
        let times = || marks_reached().into_iter().filter(|mark| *mark == NAME).count();
        pass();
        pass();
        assert_eq!(times(), 1);
        forget_marks();
        assert_eq!(times(), 0);
        pass();
        assert_eq!(times(), 1);
    }
}
