//! Decoding takes memory in proportion to the bytes that came, however they lie about lengths.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use dejaq_wire::fuzz::{Meter, fuzz_peer, fuzz_records, fuzz_requests, message_bound};
use dejaq_wire::kafka::metadata::MetadataRequest;
use dejaq_wire::kafka::produce::ProduceRequest;
use dejaq_wire::kafka::{Malformed, Request, Room};

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator with a count per thread, since tests run side by side.
struct Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe by its trait; every call is passed on as it came")]
// SAFETY: each method hands its arguments to the system's allocator and returns what it returns; the
// count is a plain cell without a destructor, so that touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + size);
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
        let before = ALLOCATED.get();
        let done = work();
        (done, ALLOCATED.get() - before)
    }
}

#[test]
fn damaged_requests_and_responses_stay_within_16_times_their_size() {
    let report = fuzz_requests(1, 20_000, &Allocations);
    assert!(report.accepted > 2_000 && report.accepted < 18_000, "{report:?}");
}

#[test]
fn damaged_peer_messages_stay_within_16_times_their_size() {
    let report = fuzz_peer(1, 20_000, &Allocations);
    assert!(report.accepted > 2_000 && report.accepted < 18_000, "{report:?}");
}

#[test]
fn damaged_batches_stay_within_the_limit_that_is_passed_in() {
    let report = fuzz_records(1, 3_000, &Allocations);
    assert!(report.accepted > 100 && report.accepted < 2_900, "{report:?}");
}

#[test]
fn a_packet_of_twenty_bytes_that_claims_two_billion_topics_reserves_nothing() {
    let body = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (decoded, allocated) = Allocations.measure(|| MetadataRequest::decode(1, body));
    let reason = decoded.expect_err("they are not there").reason;
    assert_eq!(reason, Malformed::Truncated { needed: i32::MAX as usize, left: 12 });
    assert!(allocated < 100, "{allocated}");
}

#[test]
fn a_megabyte_of_empty_topics_is_refused_before_it_becomes_fifty() {
    // Each topic takes two bytes on the wire, an empty name and no partitions, and over 60 in memory.
    let mut body = vec![0; 1 << 20];
    let count = [0xff, 0xff, 0x1f]; // 2^19 - 2, after no transactional id, acks -1 and a timeout of 0
    body[1..3].copy_from_slice(&[0xff, 0xff]);
    body[7..10].copy_from_slice(&count);
    let bytes = body.len();
    let (decoded, allocated) = Allocations.measure(|| ProduceRequest::decode(9, body.into()));
    let reason = decoded.expect_err("too much").reason;
    assert!(matches!(reason, Malformed::TooMuchMemory { count: 524_286, .. }), "{reason}");
    assert!(allocated <= message_bound(bytes), "{allocated}");
}

#[test]
fn a_caller_may_allow_less_than_the_size_earns_and_is_told_what_was_taken() {
    // One topic `t` with 300 partitions of null records, six bytes each.
    let mut body = vec![0, 0xff, 0xff, 0, 0, 0, 0, 2, 2, b't', 0xad, 2];
    body.extend_from_slice(&[0; 300 * 6]);
    body.extend_from_slice(&[0, 0]);
    let body = Bytes::from(body);
    let decode = |most| ProduceRequest::decode_within(9, body.clone(), most);
    let (request, took) = decode(Room { bytes: 1 << 20, elements: 301 }).expect("it fits");
    assert_eq!((request.topic_data[0].partition_data.len(), took.elements), (300, 301));
    assert!(took.bytes > 300 * 32 && took.bytes <= message_bound(body.len()), "{took:?}");
    for (bytes, elements) in [(1 << 20, 300), (took.bytes - 1, 301)] {
        let reason = decode(Room { bytes, elements }).expect_err("one less").reason;
        assert!(matches!(reason, Malformed::TooMuchMemory { .. }), "{reason}");
    }
    assert_eq!(decode(took).expect("just enough").1, took);
}
