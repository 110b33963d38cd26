//! What can go wrong, as values.
//!
//! Owns: [`Fault`]. Leaves out: making it happen (see `nemesis`). Source: CORRECTNESS.md 0.4.

/// One kind of mishap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and a restart after a while.
    Kill,
    /// The power fails at any instant; what was not synced is lost, kept or garbled by sectors.
    PowerCut,
    /// As [`Fault::PowerCut`], again before the recovery is through.
    PowerCutTwice,
    /// A graceful stop and start.
    Restart,
    /// The process stands still for a while.
    Pause,
    /// The clients cannot reach the broker, or its answers do not come back.
    CutOff,
    /// All connections to the broker are reset.
    Reset,
    /// Syncs and reads take long.
    SlowDisk,
    /// One sync fails; the process is restarted a while after.
    FailedSync,
    /// One append fails half way; the process is restarted a while after.
    FailedWrite,
    /// Some reads fail for a while.
    FailedReads,
    /// The disk is full for a while.
    DiskFull,
    /// As [`Fault::DiskFull`], with room for some bytes at most: not even a new start of a log fits.
    DiskBrim,
    /// The wall clock jumps, forward or back.
    ClockStep,
    /// One byte of a log rots below what is durable.
    Rot,
    /// One sector of what a sync covered keeps its old content, or lands in another file.
    LyingDisk,
    /// The log start is moved by DeleteRecords.
    Trim,
    /// The oldest segment of a partition holds what belongs to another partition.
    Misplaced,
    /// A start after a graceful stop ends early; meanwhile the side file of a log that nobody opened since may rot.
    FalseStart,
    /// The power of all brokers fails at once.
    PowerCutAll,
    /// A broker cannot reach its peers, or they it, or both; clients reach all of them.
    Isolate,
    /// The links of a broker to its peers are cut one by one and mended in another order.
    Swizzle,
    /// The metadata log is gone or damaged at a start, and put back after the broker was asked to start without it.
    MetadataLost,
    /// An operator moves a partition to other brokers, or takes a move back.
    Reassign,
    /// An operator begins to empty a broker, or stops that.
    Drain,
    /// An operator changes who votes in the quorum.
    Voters,
    /// A broker's disk is replaced by an empty one; once in a story.
    Wipe,
    /// A broker that does not vote comes back with an older copy of its disk, made after a clean stop; once in a story.
    PutBack,
    /// A leader is cut off from its peers, but not from its clients, until another one leads (S01, S03, S04, S08, S20).
    Depose,
    /// A follower begins anew while its leader, which cannot reach the controller, asks to let it in (S14).
    Bounce,
    /// A replica is taken away and given back behind the back of its leader (S59).
    Readd,
    /// Three voters are cut from each other so that an entry of an older epoch gets a majority, and is overwritten (S33).
    Overwrite,
    /// A broker that was never there comes, with an empty disk: what all hold is levelled (S63).
    Join,
    /// A follower is down while more is committed without it; the leader ends before the other member hears of that (S12).
    Straggle,
}
