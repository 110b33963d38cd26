//! The bytes of one file: as processes see them, as they are on the platter, and the changes between the two.
//!
//! Owns: [`Content`], the order of unsynced changes, and what a power cut makes of them ([`CrashMode`]).
//! Promises: a byte that is durable and that no unsynced change covers survives everything. A sector is written
//! whole or, in the harshest mode, up to a byte; which sectors, in which of their versions, is drawn freely.
//! Leaves out: names (see `tree`).
//!
//! ```text
//! durable  |AAAAAAAA|AAAA            changes:  write B at 12 .. 30, cut to 20, write C at 20 .. 28
//! cached   |AAAAAAAA|AAAABBBB|BBBBCCCC|CCCC
//! crash     each sector: any of its versions;  length: durable, after any change, or a sector end between
//! ```

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::random::{below, chance};

/// Bytes that a device writes at once.
pub const SECTOR: u64 = 512;

/// What a power cut makes of changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// All of them are lost.
    Lose,
    /// All of them are kept.
    Keep,
    /// The first of them are kept, in the order of the calls, the last one up to any byte.
    Prefix,
    /// Any subset of sectors and of names, each in any version that it had; what never arrived reads as zeros.
    Subset,
    /// As [`CrashMode::Subset`]; sectors may also be torn inside, and what never arrived may read as garbage.
    Garbage,
}

impl CrashMode {
    /// Draws a mode; the harsh ones are more likely.
    #[must_use]
    pub fn draw(rng: &mut ChaCha8Rng) -> CrashMode {
        match below(rng, 8) {
            0 => CrashMode::Lose,
            1 => CrashMode::Keep,
            2 => CrashMode::Prefix,
            3 | 4 => CrashMode::Subset,
            _ => CrashMode::Garbage,
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, parts: Vec<Bytes>, len: u64 },
    Cut { len: u64 },
}

/// Bytes that were damaged in silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scar {
    pub at: u64,
    /// What should stand there.
    pub was: Vec<u8>,
    /// What stood there right after.
    pub is: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Changes that are not durable, oldest first. Numbered from `first`.
    changes: VecDeque<Change>,
    first: u64,
    unsynced: u64,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(super) fn cached(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// Bytes of unsynced writes.
    pub(super) fn unsynced(&self) -> u64 {
        self.unsynced
    }

    /// The number of the next change: a sync that starts now covers all changes before it.
    pub(super) fn mark(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    pub(super) fn write(&mut self, at: u64, parts: &[Bytes]) {
        assert!(at <= self.len(), "a write at {at} leaves a hole behind {}", self.len());
        let mut end = at as usize;
        for part in parts {
            put(&mut self.cached, end as u64, part);
            end += part.len();
        }
        let len = end as u64 - at;
        if len > 0 {
            self.unsynced += len;
            self.changes.push_back(Change::Write { at, parts: parts.to_vec(), len });
        }
    }

    pub(super) fn cut(&mut self, len: u64) {
        assert!(len <= self.len(), "a truncation to {len} extends {}", self.len());
        self.cached.truncate(len as usize);
        self.changes.push_back(Change::Cut { len });
    }

    /// Makes the changes before `mark` durable.
    pub(super) fn settle(&mut self, mark: u64) {
        while self.first < mark {
            let Some(change) = self.changes.pop_front() else { break };
            self.first += 1;
            self.apply(&change);
        }
        self.first = self.first.max(mark);
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { at, parts, len } => {
                self.unsynced -= len;
                let mut at = *at;
                for part in parts {
                    put(&mut self.durable, at, part);
                    at += part.len() as u64;
                }
            }
            Change::Cut { len } => self.durable.truncate(*len as usize),
        }
    }

    /// What a failed sync of the changes before `mark` leaves: they count as written, and any of them is not.
    /// `evict` drops the cached pages with them, if nothing was written since.
    pub(super) fn lose(&mut self, mark: u64, rng: &mut ChaCha8Rng, evict: bool) {
        let later =
            self.changes.split_off((mark.saturating_sub(self.first) as usize).min(self.changes.len()));
        self.durable = self.crashed(rng, CrashMode::Subset, &[]);
        self.first += self.changes.len() as u64;
        self.changes = later;
        self.unsynced = self.changes.iter().map(Change::written).sum();
        if evict && self.changes.is_empty() {
            let len = self.cached.len();
            self.cached.clone_from(&self.durable);
            self.cached.resize(len, 0);
        }
    }

    /// A sector that an unsynced write before `mark` touches, drawn; what a lost or misdirected write strikes.
    pub(super) fn unsynced_sector(&self, mark: u64, rng: &mut ChaCha8Rng) -> Option<u64> {
        let covered = mark.saturating_sub(self.first) as usize;
        let writes: Vec<(u64, u64)> =
            self.changes.iter().take(covered).filter_map(Change::sectors_written).collect();
        if writes.is_empty() {
            return None;
        }
        let (start, end) = writes[below(rng, writes.len() as u64) as usize];
        Some(start + below(rng, end - start))
    }

    /// The durable bytes of a sector, short at the end of the file.
    pub(super) fn sector(&self, sector: u64) -> Vec<u8> {
        let start = (sector * SECTOR).min(self.durable.len() as u64) as usize;
        let end = ((sector + 1) * SECTOR).min(self.durable.len() as u64) as usize;
        self.durable[start..end].to_vec()
    }

    /// Overwrites a sector on the platter and in the cache, as far as the file is durable (what was written behind
    /// is dirty in the cache, so nobody reads it from the platter); zeros where `bytes` are short. Returns where,
    /// what should stand there, and what stands there now; `None` if nothing changed.
    pub(super) fn overwrite_sector(&mut self, sector: u64, bytes: &[u8]) -> Option<Scar> {
        let mut whole = bytes.to_vec();
        whole.resize(SECTOR as usize, 0);
        self.overwrite(sector * SECTOR, &whole)
    }

    /// The same for any run of bytes.
    pub(super) fn overwrite(&mut self, at: u64, bytes: &[u8]) -> Option<Scar> {
        let end = self.durable.len().min(self.cached.len());
        let start = (at as usize).min(end);
        let end = (start + bytes.len()).min(end);
        let was = self.cached[start..end].to_vec();
        let is = bytes[..end - start].to_vec();
        for image in [&mut self.durable, &mut self.cached] {
            image[start..end].copy_from_slice(&is);
        }
        (was != is).then_some(Scar { at: start as u64, was, is })
    }

    pub(super) fn flip(&mut self, at: u64, mask: u8) -> Option<Scar> {
        let place = at as usize;
        let byte = self.cached.get_mut(place)?;
        let was = *byte;
        *byte ^= mask;
        if let Some(byte) = self.durable.get_mut(place) {
            *byte ^= mask;
        }
        (mask != 0).then(|| Scar { at, was: vec![was], is: vec![was ^ mask] })
    }

    /// The power is cut: what is on the platter now is all there is. `stale` are sectors of other files.
    pub(super) fn crash(&mut self, rng: &mut ChaCha8Rng, mode: CrashMode, stale: &[Vec<u8>]) {
        self.durable = self.crashed(rng, mode, stale);
        self.cached.clone_from(&self.durable);
        self.first = self.mark();
        self.changes.clear();
        self.unsynced = 0;
    }

    /// All content is durable as it is.
    pub(super) fn keep(&mut self) {
        self.durable.clone_from(&self.cached);
        self.first = self.mark();
        self.changes.clear();
        self.unsynced = 0;
    }

    fn crashed(&self, rng: &mut ChaCha8Rng, mode: CrashMode, stale: &[Vec<u8>]) -> Vec<u8> {
        if self.changes.is_empty() {
            return self.durable.clone();
        }
        match mode {
            CrashMode::Lose => self.durable.clone(),
            CrashMode::Keep => self.replayed(self.changes.len(), None),
            CrashMode::Prefix => {
                let whole = below(rng, self.changes.len() as u64 + 1) as usize;
                let torn = self.changes.get(whole).map(|change| below(rng, change.written() + 1));
                self.replayed(whole, torn)
            }
            CrashMode::Subset => self.scattered(rng, false, stale),
            CrashMode::Garbage => self.scattered(rng, true, stale),
        }
    }

    /// The platter after the first `whole` changes and `torn` bytes of the next.
    fn replayed(&self, whole: usize, torn: Option<u64>) -> Vec<u8> {
        let mut image = self.durable.clone();
        for (index, change) in self.changes.iter().enumerate().take(whole + 1) {
            let budget = if index < whole { u64::MAX } else { torn.unwrap_or(0) };
            match change {
                Change::Write { at, parts, .. } => {
                    let (mut at, mut budget) = (*at, budget);
                    for part in parts {
                        let take = budget.min(part.len() as u64);
                        put(&mut image, at, &part[..take as usize]);
                        at += take;
                        budget -= take;
                    }
                }
                Change::Cut { len } if index < whole => image.truncate(*len as usize),
                Change::Cut { .. } => {}
            }
        }
        image
    }

    fn scattered(&self, rng: &mut ChaCha8Rng, garbage: bool, stale: &[Vec<u8>]) -> Vec<u8> {
        let fate = Fate::draw(rng);
        let durable_len = self.durable.len() as u64;
        let lengths = self.lengths();
        let longest = lengths.iter().copied().max().unwrap_or(durable_len);
        let len = fate.pick_length(rng, durable_len, self.len(), &lengths);
        // How many of the changes that touch a sector reach it; and a byte at which the last of them is torn.
        let sectors = longest.div_ceil(SECTOR) as usize;
        let mut touches = vec![0u32; sectors];
        self.each_touch(longest, |sector, _| touches[sector] += 1);
        let mut kept = vec![0u32; sectors];
        let mut torn = vec![SECTOR; sectors];
        for sector in 0..sectors {
            if touches[sector] > 0 {
                kept[sector] = fate.versions_kept(rng, sector as u64 * SECTOR, touches[sector]);
                if garbage && kept[sector] > 0 && chance(rng, 100_000) {
                    torn[sector] = below(rng, SECTOR);
                }
            }
        }
        let mut image = self.durable.clone();
        image.resize(longest as usize, 0);
        let mut seen = vec![0u32; sectors];
        self.each_touch(longest, |sector, change| {
            seen[sector] += 1;
            if seen[sector] <= kept[sector] {
                let bytes = if seen[sector] == kept[sector] { torn[sector] } else { SECTOR };
                change.apply_to_sector(&mut image, sector as u64, bytes);
            }
        });
        if garbage {
            for sector in 0..sectors {
                if kept[sector] < touches[sector] && chance(rng, 500_000) {
                    spoil(rng, &mut image, sector as u64, durable_len, stale);
                }
            }
        }
        image.truncate(len as usize);
        image
    }

    /// Every length that the file may have after a crash.
    fn lengths(&self) -> BTreeSet<u64> {
        let mut len = self.durable.len() as u64;
        let mut lengths = BTreeSet::from([len]);
        for change in &self.changes {
            let before = len;
            match change {
                Change::Write { at, len: written, .. } => len = len.max(at + written),
                Change::Cut { len: cut } => len = *cut,
            }
            // A file grows and shrinks block by block.
            let first_boundary = before.min(len).next_multiple_of(SECTOR);
            lengths.extend((first_boundary..before.max(len)).step_by(SECTOR as usize));
            lengths.insert(len);
        }
        lengths
    }

    /// Calls `visit` for each sector that each change touches, in the order of the changes.
    fn each_touch(&self, longest: u64, mut visit: impl FnMut(usize, &Change)) {
        let mut len = self.durable.len() as u64;
        for change in &self.changes {
            let (start, end) = match change {
                Change::Write { at, len: written, .. } => {
                    len = len.max(at + written);
                    (*at, at + written)
                }
                Change::Cut { len: cut } => {
                    let before = std::mem::replace(&mut len, *cut);
                    (*cut, before)
                }
            };
            assert!(end <= longest, "a change ends at {end}, behind the longest {longest}");
            for sector in start / SECTOR..end.div_ceil(SECTOR) {
                visit(sector as usize, change);
            }
        }
    }
}

impl Change {
    fn written(&self) -> u64 {
        match self {
            Change::Write { len, .. } => *len,
            Change::Cut { .. } => 0,
        }
    }

    fn sectors_written(&self) -> Option<(u64, u64)> {
        match self {
            Change::Write { at, len, .. } => Some((at / SECTOR, (at + len).div_ceil(SECTOR))),
            Change::Cut { .. } => None,
        }
    }

    /// Applies the part of this change that lies in the first `bytes` bytes of `sector`.
    fn apply_to_sector(&self, image: &mut [u8], sector: u64, bytes: u64) {
        let (start, end) = (sector * SECTOR, (sector * SECTOR + bytes).min(image.len() as u64));
        match self {
            Change::Write { at, parts, .. } => {
                let mut at = *at;
                for part in parts {
                    let (from, to) = (at.max(start), (at + part.len() as u64).min(end));
                    if from < to {
                        let source = &part[(from - at) as usize..(to - at) as usize];
                        image[from as usize..to as usize].copy_from_slice(source);
                    }
                    at += part.len() as u64;
                }
            }
            Change::Cut { len } => {
                let from = (*len).max(start);
                if from < end {
                    image[from as usize..end as usize].fill(0);
                }
            }
        }
    }
}

/// How the sectors of one file fare together: independent draws alone would almost never leave a long write whole.
enum Fate {
    /// All reach the platter up to a byte position, none behind it.
    Until(u64),
    /// Each on its own, so often in a million.
    Each(u32),
}

impl Fate {
    fn draw(rng: &mut ChaCha8Rng) -> Fate {
        match below(rng, 6) {
            0 => Fate::Until(0),
            1 => Fate::Until(u64::MAX),
            2 => {
                let magnitude = below(rng, 24);
                Fate::Until(below(rng, 1 << magnitude))
            }
            3 => Fate::Each(900_000),
            _ => Fate::Each(500_000),
        }
    }

    fn versions_kept(&self, rng: &mut ChaCha8Rng, at: u64, touches: u32) -> u32 {
        match self {
            Fate::Until(end) if at < *end => touches,
            Fate::Until(_) => 0,
            Fate::Each(ppm) if chance(rng, *ppm) => 1 + below(rng, u64::from(touches)) as u32,
            Fate::Each(_) => 0,
        }
    }

    fn pick_length(&self, rng: &mut ChaCha8Rng, durable: u64, cached: u64, all: &BTreeSet<u64>) -> u64 {
        match below(rng, 4) {
            0 => durable,
            1 => cached,
            _ => all.iter().nth(below(rng, all.len() as u64) as usize).copied().unwrap_or(durable),
        }
    }
}

/// Fills the never-durable bytes of a sector with something else than zeros.
fn spoil(rng: &mut ChaCha8Rng, image: &mut [u8], sector: u64, durable_len: u64, stale: &[Vec<u8>]) {
    let start = (sector * SECTOR).max(durable_len).min(image.len() as u64) as usize;
    let end = ((sector + 1) * SECTOR).min(image.len() as u64) as usize;
    if start >= end {
        return;
    }
    if !stale.is_empty() && chance(rng, 500_000) {
        let old = &stale[below(rng, stale.len() as u64) as usize];
        let offset = start - (sector * SECTOR) as usize;
        for (i, byte) in image[start..end].iter_mut().enumerate() {
            *byte = old.get(offset + i).copied().unwrap_or(0);
        }
    } else {
        rng.fill_bytes(&mut image[start..end]);
    }
}

/// Writes `bytes` at `at`, growing the image; a gap is zeros.
fn put(image: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = at as usize;
    if image.len() < at {
        image.resize(at, 0);
    }
    let overlap = bytes.len().min(image.len() - at);
    image[at..at + overlap].copy_from_slice(&bytes[..overlap]);
    image.extend_from_slice(&bytes[overlap..]);
}
