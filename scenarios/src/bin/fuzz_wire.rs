//! Fuzzes the decoders on stable Rust: damaged messages, every allocation counted.
//!
//! `cargo run --release -p dejaq-scenarios --bin fuzz_wire -- requests|peer|records --inputs N --seed S`
//!
//! Ends with an error on the first panic, and on the first input that allocates more than its bound;
//! the panic names the input, and the same seed finds it again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use dejaq_wire::fuzz::{FuzzReport, Meter, fuzz_peer, fuzz_records, fuzz_requests};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with a count of all bytes ever asked for.
struct Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe by its trait; every call is passed on as it came")]
// SAFETY: each method hands its arguments to the system's allocator and returns what it returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Allocations;

impl Meter for Allocations {
    fn measure<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let done = work();
        (done, ALLOCATED.load(Ordering::Relaxed) - before)
    }
}

struct Arguments {
    target: fn(u64, u64, &Allocations) -> FuzzReport,
    name: String,
    inputs: u64,
    seed: u64,
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let name = words.next()?;
    let target = match name.as_str() {
        "requests" => fuzz_requests::<Allocations>,
        "peer" => fuzz_peer::<Allocations>,
        "records" => fuzz_records::<Allocations>,
        _ => return None,
    };
    let mut arguments = Arguments { target, name, inputs: 1_000_000, seed: 1 };
    while let Some(option) = words.next() {
        let value = words.next()?.parse().ok()?;
        match option.as_str() {
            "--inputs" => arguments.inputs = value,
            "--seed" => arguments.seed = value,
            _ => return None,
        }
    }
    Some(arguments)
}

fn main() -> ExitCode {
    let Some(Arguments { target, name, inputs, seed }) = arguments() else {
        eprintln!("usage: fuzz_wire requests|peer|records [--inputs N] [--seed S]");
        return ExitCode::from(2);
    };
    let report = target(seed, inputs, &Allocations);
    println!(
        "{name}: seed {seed}, {} inputs of {} bytes, {} accepted, at most {} bytes allocated by one",
        report.inputs, report.bytes, report.accepted, report.most_allocated
    );
    ExitCode::SUCCESS
}
