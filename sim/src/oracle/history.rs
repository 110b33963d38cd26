//! What clients saw: the only evidence that the oracle accepts.
//!
//! Owns: the operation model of CORRECTNESS.md 2.1 and its JSON-lines form, so that one judge sits in both worlds
//! (simulated clients, and real clients against real processes). Promises: nothing of a node's inside is in here.
//! Leaves out: judging (see the sibling modules). Written by `workload` and by `ci`; read by [`super::judge`].
//! Times are nanoseconds of one clock that no fault touches.

use serde::{Deserialize, Serialize};

/// A partition by its number in [`History::partitions`].
pub type Part = usize;

/// Which acknowledgement a send asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acks {
    /// No reply at all.
    None,
    /// The leader's append.
    Leader,
    /// Everything the topic's durability promises.
    All,
}

/// What became of a send, over all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Acknowledged. The offset is missing where the protocol gives none (acks=0, DUPLICATE_SEQUENCE_NUMBER).
    Ok {
        /// The record's offset as the reply told it.
        offset: Option<i64>,
    },
    /// Every attempt ended with an error that proves that nothing was appended.
    Fail,
    /// Anything else: it may have happened, or may still happen.
    Info,
}

/// One record that a consumer was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its offset.
    pub offset: i64,
    /// The unique number that the workload put into its value.
    pub value: u64,
    /// A checksum over key, value, headers and (when the client set it) timestamp.
    pub digest: u32,
}

/// What became of an admin request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// It was carried out.
    Ok,
    /// It was refused, and nothing was done.
    No,
    /// Anything else.
    Maybe,
}

/// A topic as an admin client was shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSeen {
    /// Its id in hex; zeros where nobody told.
    pub id: String,
    /// How many partitions.
    pub partitions: i32,
    /// The setting that the workload alters.
    pub value: i64,
}

/// What an admin client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminAct {
    /// A new topic.
    Create {
        /// How many partitions.
        partitions: i32,
        /// Its setting.
        value: i64,
        /// The id that the answer named; zeros if there was none.
        id: String,
    },
    /// The end of the topic.
    Delete,
    /// Another value of the setting.
    Set {
        /// The value.
        value: i64,
    },
    /// More partitions.
    Grow {
        /// How many then.
        partitions: i32,
    },
    /// How it stands.
    Look {
        /// What was shown; `None`: there is no such topic.
        found: Option<TopicSeen>,
    },
}

/// A request about a topic's metadata. A topic belongs to one client, which asks one thing at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminOp {
    /// The topic's name.
    pub topic: String,
    /// What was asked.
    pub act: AdminAct,
    /// The answer.
    pub told: Told,
    /// When it was asked.
    pub begun: u64,
    /// When the answer, or its lack, was known.
    pub done: u64,
}

/// What a member of a group did, or was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupAct {
    /// It was told that these partitions are its own, all of them, from now on.
    Assigned {
        /// The partitions.
        parts: Vec<Part>,
        /// Whether the group speaks the classic protocol, in which all members have one generation.
        classic: bool,
    },
    /// It gave these partitions up, by its own will or because it was told to.
    Revoked {
        /// The partitions.
        parts: Vec<Part>,
    },
    /// It asked to commit these offsets.
    Commit {
        /// Partition and offset.
        offsets: Vec<(Part, i64)>,
    },
    /// It asked where the group stands.
    Fetched {
        /// Partition and the answer; `None`: nothing is committed.
        offsets: Vec<(Part, Option<i64>)>,
    },
}

/// A step of a member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOp {
    /// The consumer, the same number as in its polls.
    pub process: u32,
    /// The group.
    pub group: String,
    /// The generation or member epoch that it acted under, or was told.
    pub generation: i32,
    /// What.
    pub act: GroupAct,
    /// The answer.
    pub told: Told,
    /// When it was asked.
    pub begun: u64,
    /// When the answer, or its lack, was known.
    pub done: u64,
}

/// What a transactional producer asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnAct {
    /// Its sends from now on belong to a new transaction.
    Begin,
    /// Where a group stands if this transaction is committed.
    Offsets {
        /// The group.
        group: String,
        /// Partition and offset.
        offsets: Vec<(Part, i64)>,
    },
    /// The end of the transaction: all of it.
    Commit,
    /// The end of the transaction: none of it.
    Abort,
}

/// A step of a transactional producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnOp {
    /// The producer session, the same number as in its sends.
    pub process: u32,
    /// What.
    pub act: TxnAct,
    /// The answer. `No` means that the transaction is certainly not committed by this.
    pub told: Told,
    /// When it was asked.
    pub begun: u64,
    /// When the answer, or its lack, was known.
    pub done: u64,
}

fn no_epoch() -> i32 {
    -1
}

/// One event of a history, in the order of `done` (or of `begun` for what never ended).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A record was sent.
    Send(SendOp),
    /// A consumer asked for records by assignment, from a position that it held.
    Poll(PollOp),
    /// A consumer moved its position by its own will.
    Seek {
        /// The consumer.
        process: u32,
        /// Where.
        part: Part,
        /// The new position.
        offset: i64,
    },
    /// ListOffsets(latest) answered.
    EndOffset {
        /// Where.
        part: Part,
        /// The answer.
        offset: i64,
        /// When it was asked.
        begun: u64,
        /// When it was answered; 0 if that was not noted.
        #[serde(default)]
        done: u64,
        /// The leader epoch in the answer; -1 is none.
        #[serde(default = "no_epoch")]
        epoch: i32,
        /// A newer leader epoch was committed by the time of the answer: who answered could not know that yet, and may have
        /// told of an end that is over (REP-3: there are no leases).
        #[serde(default)]
        superseded: bool,
    },
    /// An admin client asked for something.
    Admin(AdminOp),
    /// How a consumer reads; told before its first poll. Without it a consumer reads everything, and for itself.
    Consumer {
        /// The consumer.
        process: u32,
        /// Whether it reads committed records only.
        read_committed: bool,
        /// The group whose offsets it goes by; a group that has committed nothing begins at the start of the log.
        group: Option<String>,
    },
    /// A member of a group did something.
    Group(GroupOp),
    /// A transactional producer did something.
    Txn(TxnOp),
    /// What a record that is sent next is about, in a compacted partition.
    Keyed {
        /// Its value.
        value: u64,
        /// The number of its key.
        key: u64,
        /// Whether it is a delete marker.
        deletes: bool,
    },
    /// A record was made from another one that a member of a group had read: one for each, if all goes well.
    Derived {
        /// The group.
        group: String,
        /// The value that was read.
        from: u64,
        /// The value that was sent.
        value: u64,
    },
    /// A record that is sent next is one side of a transfer: the amounts of one transfer, which is in one transaction, add up
    /// to nothing.
    Moved {
        /// Its value.
        value: u64,
        /// The number of the transfer.
        transfer: u64,
        /// What it adds.
        amount: i64,
    },
    /// The final read once more, by a fresh consumer that reads committed records only.
    DrainedCommitted {
        /// Where.
        part: Part,
        /// What was there.
        records: Vec<Seen>,
    },
    /// A fetch of committed records told how far everything is replicated, and how far everything is decided.
    Stable {
        /// Where.
        part: Part,
        /// The watermark.
        watermark: i64,
        /// The last stable offset.
        stable: i64,
    },
    /// The transactions of the final log.
    Ended {
        /// Where.
        part: Part,
        /// Of each the offset of its first record and of its marker.
        txns: Vec<(i64, i64)>,
    },
    /// The log start was moved by will (DeleteRecords, or retention that the workload drove): below it, silence is no loss.
    Trimmed {
        /// Where.
        part: Part,
        /// The highest start that may have come into force.
        to: i64,
    },
    /// Every copy of these offsets was destroyed on purpose (rot): they need not be readable, but must not be wrong.
    Destroyed {
        /// Where.
        part: Part,
        /// The first offset.
        from: i64,
        /// The last offset.
        last: i64,
    },
    /// The cluster told of an election that may have lost something, and everything of this partition from an offset on was given up
    /// with it: what was acknowledged there before may be gone, and the offsets are used again.
    GivenUp {
        /// Where.
        part: Part,
        /// Where the log of the new leader ended.
        from: i64,
        /// When it was told.
        at: u64,
    },
    /// Memory was lost on every copy of everything at this moment. What was not promised durable may be gone.
    PowerCut {
        /// When.
        at: u64,
    },
    /// The final read: every record in `[start, end)` was asked for by a fresh consumer after all faults.
    Drained {
        /// Where.
        part: Part,
        /// The earliest offset then.
        start: i64,
        /// The end then.
        end: i64,
        /// What was there.
        records: Vec<Seen>,
    },
}

/// A send, from the call to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOp {
    /// The producer session: one producer id and epoch. A restarted producer is another process.
    pub process: u32,
    /// Where.
    pub part: Part,
    /// The unique number in its value.
    pub value: u64,
    /// See [`Seen::digest`].
    pub digest: u32,
    /// What acknowledgement was asked for.
    pub acks: Acks,
    /// Whether the session promises no duplicate and no reordering (an idempotent producer).
    pub idempotent: bool,
    /// How often the client sent it.
    pub attempts: u32,
    /// When it was called.
    pub begun: u64,
    /// When the outcome was known.
    pub done: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// A poll of one partition by a consumer with an assigned position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollOp {
    /// The consumer.
    pub process: u32,
    /// Where.
    pub part: Part,
    /// The position it asked from.
    pub from: i64,
    /// What it was given.
    pub records: Vec<Seen>,
    /// The position that it holds afterwards.
    pub next: i64,
    /// Whether the broker said that `from` is out of range.
    pub out_of_range: bool,
    /// When it was called.
    pub begun: u64,
    /// When it returned.
    pub done: u64,
}

/// What is known of a partition beside the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// For messages: `topic-index`.
    pub name: String,
    /// Whether an acks=all reply promises to survive a power cut (`durability=durable`).
    pub durable: bool,
    /// Whether it has more than one copy, so that an acknowledgement of the leader alone promises nothing for long.
    #[serde(default)]
    pub replicated: bool,
    /// Whether only the newest record of each key must stay.
    #[serde(default)]
    pub compacted: Option<Compacted>,
}

/// What a compacted partition may lose beside what was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// Whether the time of a delete marker can be over within the run (`delete.retention.ms`).
    pub markers_go: bool,
}

/// A whole history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The partitions, by [`Part`].
    pub partitions: Vec<PartInfo>,
    /// The events.
    pub events: Vec<Event>,
}

/// Why a history file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct BadHistory {
    line: usize,
    cause: serde_json::Error,
}

impl History {
    /// One JSON object a line: first the list of partitions, then the events.
    #[must_use]
    pub fn to_json_lines(&self) -> String {
        let line = |json: Result<String, serde_json::Error>| json.expect("plain data has a JSON form") + "\n";
        let mut text = line(serde_json::to_string(&self.partitions));
        self.events.iter().for_each(|event| text += &line(serde_json::to_string(event)));
        text
    }

    /// Reads what [`History::to_json_lines`] wrote.
    ///
    /// # Errors
    /// The first line that is not of the form, with its number.
    pub fn from_json_lines(text: &str) -> Result<History, BadHistory> {
        let mut history = History::default();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let bad = |cause| BadHistory { line: number + 1, cause };
            if number == 0 {
                history.partitions = serde_json::from_str(line).map_err(bad)?;
            } else {
                history.events.push(serde_json::from_str(line).map_err(bad)?);
            }
        }
        Ok(history)
    }
}
