//! What followers of partitions say to their leaders: one conversation a pair of brokers, about what changed.
//!
//! Owns: the fetch and its answer. Promises: a position names everything before it
//! (offset and epoch of the last record), so that a leader sees by looking whether the logs agree (KIP-101, KIP-595);
//! batches travel behind the head and are not copied; a conversation that lost a word is begun anew, never guessed.
//! Leaves out: what to do about them (`replica` of the node), connections.
//!
//! ```text
//!  follower ── ReplicaFetch (round n: positions that changed, places that went) ──► leader   waits for records
//!           ── ReplicaFetch (round n + 1: synced up to here) ──►   ends the wait of round n, waits itself
//!           ◄── ReplicaFetched: batches │ diverged │ below │ refused │ let go ──
//! ```
//!
//! Decided: a message is of version 2 only where it says what version 1 cannot (a follower lost records, its leader lets it go), so
//! that what is hot is written once and in one form. A leader of version 1 lets nobody go.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Ask, Body, Parts, PeerError};
use crate::ids::{BrokerEpoch, LeaderEpoch, Offset, PartitionId, TopicId};

/// Most partitions in one message.
pub const MAX_PLACES: usize = 100_000;

/// Names a partition for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The life of its topic.
    pub topic: TopicId,
    /// Its index.
    pub partition: PartitionId,
}

/// How far a follower is with one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which partition.
    pub place: Place,
    /// The leader epoch that it follows in.
    pub epoch: LeaderEpoch,
    /// The end of its log, where it wants to read on.
    pub end: Offset,
    /// Epoch of the last record before `end`; [`LeaderEpoch::NONE`] if there is none.
    pub last_epoch: LeaderEpoch,
    /// Everything below survives a power cut there; at most `end`.
    pub durable: Offset,
    /// What lies behind `end` is damaged there, and the leader's copy cannot be put in its place: the follower wants to cut its
    /// log at `end`, and waits until its leader lets it go ([`Found::LetGo`]). From version 2 on.
    #[serde(skip)]
    pub lost: bool,
}

/// Asks for what is behind the follower's positions, and tells them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFetch {
    /// The life of the follower.
    pub broker_epoch: BrokerEpoch,
    /// Drawn by the follower when it begins a conversation.
    pub session: u64,
    /// 0 begins a conversation and names every partition; then it counts up.
    pub round: u64,
    /// How long to wait for the first record.
    pub max_wait_ms: u32,
    /// Bytes of batches in the answer, but for one batch that is larger.
    pub max_bytes: u32,
    /// Positions that are new or changed; at most [`MAX_PLACES`].
    pub changed: Vec<Standing>,
    /// Partitions that are not followed any more; before `changed`, so that one may go and come again.
    pub gone: Vec<Place>,
}

/// Whether a conversation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Talk {
    /// It does.
    On,
    /// The leader does not know it: begin a new one.
    Unknown,
    /// The leader knows of a later life of the follower.
    StaleBroker,
}

/// Answers [`ReplicaFetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaFetched {
    /// Whether the conversation goes on.
    pub talk: Talk,
    /// Partitions with news; at most [`MAX_PLACES`].
    pub news: Vec<News>,
}

/// What is new of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Which.
    pub place: Place,
    /// The leader epoch that the answer belongs to.
    pub epoch: LeaderEpoch,
    /// The position that it answers.
    pub at: Offset,
    /// Epoch of the last record before `at`, as asked: with it the position names one log, and an answer that is late is
    /// told by looking.
    pub last_epoch: LeaderEpoch,
    /// End of what the leader shows to readers.
    pub watermark: Offset,
    /// First offset of the leader's log.
    pub start: Offset,
    /// What was found behind `at`.
    pub found: Found,
}

/// What is behind a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Whole batches; none if only the offsets changed.
    Batches(Bytes),
    /// The logs part: the leader's largest epoch that is not above the follower's last one, and where it ends there.
    Diverged {
        /// The epoch.
        epoch: LeaderEpoch,
        /// Its end.
        end: Offset,
    },
    /// The position is before the leader's log: begin at this offset, where a batch of the leader begins.
    Below {
        /// At most `start`.
        base: Offset,
    },
    /// Nothing.
    Refused(Why),
    /// Nobody counts on the follower, and nobody will on account of what it told before: it may cut at the position at which it
    /// told that it lost what lies behind. From version 2 on.
    LetGo,
}

/// Why a leader tells nothing of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It does not lead it.
    NotLeader,
    /// It leads in a later epoch.
    FencedEpoch,
    /// It does not know that epoch yet.
    UnknownEpoch,
    /// It cannot read there.
    Unreadable,
}

/// The postcard part of [`ReplicaFetched`]; the batches follow in the order of the news.
#[derive(Serialize, Deserialize)]
struct Head {
    talk: Talk,
    news: Vec<NewsHead>,
}

#[derive(Serialize, Deserialize)]
struct NewsHead {
    place: Place,
    epoch: LeaderEpoch,
    at: Offset,
    last_epoch: LeaderEpoch,
    watermark: Offset,
    start: Offset,
    found: FoundHead,
}

#[derive(Serialize, Deserialize)]
enum FoundHead {
    Batches { bytes: u32 },
    Diverged { epoch: LeaderEpoch, end: Offset },
    Below { base: Offset },
    Refused(Why),
    LetGo,
}

/// [`ReplicaFetch`] in version 2: as in version 1, then which of `changed` lost something.
type FetchAndLost = (ReplicaFetch, Vec<u32>);

fn bounded(lists: &[usize]) -> Result<(), PeerError> {
    match lists.iter().find(|length| **length > MAX_PLACES) {
        Some(length) => Err(PeerError::TooMany(*length)),
        None => Ok(()),
    }
}

impl Body for ReplicaFetch {
    const TAG: u16 = 0x0201;
    const VERSION: u16 = 2;

    fn into_parts(self) -> Result<Parts, PeerError> {
        if !self.tells_loss() {
            return self.first_version();
        }
        bounded(&[self.changed.len(), self.gone.len()])?;
        let lost =
            (0..).zip(&self.changed).filter_map(|(at, standing)| standing.lost.then_some(at)).collect();
        let body: FetchAndLost = (self, lost);
        Parts::with_tail::<ReplicaFetch>(&body, Vec::new())
    }

    fn older(&self) -> Result<Option<Parts>, PeerError> {
        if self.tells_loss() { self.first_version().map(Some) } else { Ok(None) }
    }

    fn from_parts(parts: Parts) -> Result<ReplicaFetch, PeerError> {
        let (mut fetch, lost): FetchAndLost = match parts.version {
            1 => (parts.into_older_plain::<ReplicaFetch, ReplicaFetch>(1)?, Vec::new()),
            _ => match parts.into_head_and_tail::<ReplicaFetch, FetchAndLost>()? {
                (body, tail) if tail.is_empty() => body,
                _ => return Err(PeerError::Damaged { tag: Self::TAG }),
            },
        };
        bounded(&[fetch.changed.len(), fetch.gone.len(), lost.len()])?;
        for at in lost {
            let standing = fetch.changed.get_mut(at as usize);
            standing.ok_or(PeerError::Damaged { tag: Self::TAG })?.lost = true;
        }
        let is_sound = |at: &Standing| at.durable <= at.end && at.durable.is_valid() && at.epoch.is_valid();
        if fetch.changed.iter().all(is_sound) {
            Ok(fetch)
        } else {
            Err(PeerError::Damaged { tag: Self::TAG })
        }
    }
}

impl ReplicaFetch {
    fn tells_loss(&self) -> bool {
        self.changed.iter().any(|standing| standing.lost)
    }

    fn first_version(&self) -> Result<Parts, PeerError> {
        bounded(&[self.changed.len(), self.gone.len()])?;
        Parts::older_plain::<ReplicaFetch>(1, self)
    }
}

impl Body for ReplicaFetched {
    const TAG: u16 = 0x0281;
    const VERSION: u16 = 2;

    fn into_parts(self) -> Result<Parts, PeerError> {
        bounded(&[self.news.len()])?;
        let mut tail = Vec::new();
        let mut news = Vec::with_capacity(self.news.len());
        for one in self.news {
            let found = match one.found {
                Found::Batches(batches) => {
                    let bytes = u32::try_from(batches.len())
                        .map_err(|_| PeerError::TooLong { bytes: batches.len() })?;
                    tail.push(batches);
                    FoundHead::Batches { bytes }
                }
                Found::Diverged { epoch, end } => FoundHead::Diverged { epoch, end },
                Found::Below { base } => FoundHead::Below { base },
                Found::Refused(why) => FoundHead::Refused(why),
                Found::LetGo => FoundHead::LetGo,
            };
            let News { place, epoch, at, last_epoch, watermark, start, .. } = one;
            news.push(NewsHead { place, epoch, at, last_epoch, watermark, start, found });
        }
        let lets_go = news.iter().any(|one| matches!(one.found, FoundHead::LetGo));
        let parts = Parts::with_tail::<ReplicaFetched>(&Head { talk: self.talk, news }, tail)?;
        Ok(Parts { version: if lets_go { 2 } else { 1 }, ..parts })
    }

    fn from_parts(parts: Parts) -> Result<ReplicaFetched, PeerError> {
        let version = parts.version;
        // Both versions are read alike; what the first one does not know is looked for.
        let parts = if version == 1 { Parts { version: Self::VERSION, ..parts } } else { parts };
        let (head, mut tail) = parts.into_head_and_tail::<ReplicaFetched, Head>()?;
        bounded(&[head.news.len()])?;
        let damaged = PeerError::Damaged { tag: Self::TAG };
        let mut news = Vec::with_capacity(head.news.len());
        for one in head.news {
            let found = match one.found {
                FoundHead::Batches { bytes } if bytes as usize <= tail.len() => {
                    Found::Batches(tail.split_to(bytes as usize))
                }
                FoundHead::Batches { .. } => return Err(damaged),
                FoundHead::Diverged { epoch, end } => Found::Diverged { epoch, end },
                FoundHead::Below { base } => Found::Below { base },
                FoundHead::Refused(why) => Found::Refused(why),
                FoundHead::LetGo if version > 1 => Found::LetGo,
                FoundHead::LetGo => return Err(damaged),
            };
            let NewsHead { place, epoch, at, last_epoch, watermark, start, .. } = one;
            news.push(News { place, epoch, at, last_epoch, watermark, start, found });
        }
        if tail.is_empty() { Ok(ReplicaFetched { talk: head.talk, news }) } else { Err(damaged) }
    }
}

impl Ask for ReplicaFetch {
    type Answer = ReplicaFetched;
    /// A conversation counts its rounds: a copy would be refused.
    const REPEATABLE: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::level_of;

    fn place(partition: i32) -> Place {
        Place { topic: TopicId([7; 16]), partition: PartitionId(partition) }
    }

    fn news(partition: i32, found: Found) -> News {
        let (watermark, start) = (Offset(9), Offset(1));
        let (epoch, last_epoch) = (LeaderEpoch(3), LeaderEpoch(2));
        News { place: place(partition), epoch, at: Offset(5), last_epoch, watermark, start, found }
    }

    /// As it arrives: one chunk of tail.
    fn received(parts: Parts) -> Parts {
        let tail: Bytes = parts.tail.concat().into();
        Parts { tail: if tail.is_empty() { vec![] } else { vec![tail] }, ..parts }
    }

    #[test]
    fn an_answer_comes_back_as_it_went_with_every_batch_where_it_belongs() {
        let answer = ReplicaFetched {
            talk: Talk::On,
            news: vec![
                news(0, Found::Batches(Bytes::from_static(b"one"))),
                news(1, Found::Diverged { epoch: LeaderEpoch(2), end: Offset(4) }),
                news(2, Found::Batches(Bytes::new())),
                news(3, Found::Batches(Bytes::from_static(b"two!"))),
                news(4, Found::Below { base: Offset(1) }),
                news(5, Found::Refused(Why::UnknownEpoch)),
            ],
        };
        let parts = received(answer.clone().into_parts().expect("short"));
        assert_eq!(ReplicaFetched::from_parts(parts.clone()), Ok(answer));
        let cut = Parts { tail: vec![parts.tail[0].slice(1..)], ..parts.clone() };
        let longer = Parts { tail: vec![[&parts.tail[0][..], b"x"].concat().into()], ..parts };
        for wrong in [cut, longer] {
            assert_eq!(ReplicaFetched::from_parts(wrong), Err(PeerError::Damaged { tag: 0x0281 }));
        }
    }

    #[test]
    fn a_position_that_is_durable_beyond_its_end_is_refused() {
        let at = |durable| Standing {
            place: place(0),
            epoch: LeaderEpoch(0),
            end: Offset(5),
            last_epoch: LeaderEpoch::NONE,
            durable: Offset(durable),
            lost: false,
        };
        let fetch = |durable| fetch(vec![at(durable)]);
        let back = |durable| ReplicaFetch::from_parts(fetch(durable).into_parts().expect("short"));
        assert_eq!(back(5), Ok(fetch(5)));
        assert_eq!(back(6), Err(PeerError::Damaged { tag: 0x0201 }));
    }

    fn fetch(changed: Vec<Standing>) -> ReplicaFetch {
        let (broker_epoch, max_wait_ms, max_bytes, gone) = (BrokerEpoch(1), 500, 1, vec![place(1)]);
        ReplicaFetch { broker_epoch, session: 1, round: 0, max_wait_ms, max_bytes, changed, gone }
    }

    #[test]
    fn what_only_level_2_knows_is_of_version_2_and_nothing_else_is() {
        let at = |partition, lost| Standing {
            place: place(partition),
            epoch: LeaderEpoch(0),
            end: Offset(5),
            last_epoch: LeaderEpoch::NONE,
            durable: Offset(5),
            lost,
        };
        let (told, whole) = (fetch(vec![at(0, false), at(1, true)]), fetch(vec![at(0, false), at(1, false)]));
        let parts = told.clone().into_parts().expect("short");
        assert_eq!((parts.version, level_of(parts.tag, parts.version)), (2, 2));
        assert_eq!(ReplicaFetch::from_parts(parts), Ok(told.clone()));
        let older = told.older().expect("short").expect("there is an older version");
        assert_eq!((older.version, level_of(older.tag, older.version)), (1, 1));
        assert_eq!(ReplicaFetch::from_parts(older.clone()), Ok(whole.clone()), "an older leader is not told");
        assert_eq!(whole.clone().into_parts(), Ok(older));
        assert_eq!(whole.older(), Ok(None));
        let none = (whole, vec![9_u32]);
        let wrong = Parts::with_tail::<ReplicaFetch>(&none, Vec::new()).expect("short");
        assert_eq!(ReplicaFetch::from_parts(wrong), Err(PeerError::Damaged { tag: 0x0201 }), "no such place");

        let answer = |found| ReplicaFetched { talk: Talk::On, news: vec![news(0, found)] };
        let parts = answer(Found::LetGo).into_parts().expect("short");
        assert_eq!((parts.version, level_of(parts.tag, parts.version)), (2, 2));
        assert_eq!(ReplicaFetched::from_parts(parts.clone()), Ok(answer(Found::LetGo)));
        let first = ReplicaFetched::from_parts(Parts { version: 1, ..parts });
        assert_eq!(first, Err(PeerError::Damaged { tag: 0x0281 }));
        assert_eq!(answer(Found::Refused(Why::NotLeader)).into_parts().expect("short").version, 1);
    }
}
