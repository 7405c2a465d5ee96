//! The section's layout, written once. The structs are never instantiated or referenced in place: they give sizes
//! and offsets, and every access goes through [`crate::section::Section::word`] at such an offset.
//!
//! ```text
//! 0         header: identity, section directory, hot words          (all written by format, hot words later)
//! 4096      worker records, 128 bytes each: intent | counters        (each by its one worker)
//!           redo lists, 4096 bytes each                              (multi-key operations; committed when used)
//!           group deadlines, 8 bytes per 64 buckets                  (workers, by atomic maximum, see `sweep`)
//!           class map, 8 bytes per unit of the heap                  (workers, under the heap's lock)
//!           buckets, 64 bytes each, range reserved for growth        (workers, under the bucket's version)
//!           heap, units of 16 KiB, range reserved for the limit      (workers: what they allocated)
//! ```
//!
//! L1: the magic is stored last by format; without it nothing else is believed. L2: identity words and the directory
//! (but for `committed`) never change after format. L3: `committed` only grows, and is stored after the memory is backed.

use std::mem::{align_of, offset_of, size_of};

/// "shmtable" in little-endian bytes.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"shmtable");
/// Major version of the layout: another one cannot be joined.
pub const LAYOUT_MAJOR: u32 = 2;
/// Minor version: a higher one may be joined unless an incompatible feature bit says otherwise.
pub const LAYOUT_MINOR: u32 = 0;
/// What the words assume: little endian, 8-byte words, 64-byte lines, 16 KiB units.
pub(crate) const ABI: u64 = 0x0102_0840_4000_0001;
/// Most writers of one table.
pub const MAX_WORKERS: u32 = 256;
/// Buckets that share one minimum deadline.
pub(crate) const GROUP: u64 = 64;
/// Overflow lines that may hang on one bucket.
pub(crate) const CHAIN_CAP: u32 = 16;
/// Slots of a line.
pub(crate) const SLOTS: u64 = 7;
pub(crate) const LINE: u64 = size_of::<Line>() as u64;
pub(crate) const PAGE: u64 = 4096;
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// Feature bits that a reader must know. None exists yet.
pub(crate) const KNOWN_INCOMPATIBLE: u64 = 0;

/// Entries of the section directory, by their place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Part {
    Workers = 0,
    Redo = 1,
    Deadlines = 2,
    ClassMap = 3,
    Buckets = 4,
    Heap = 5,
}

/// Parts in use.
pub(crate) const PARTS: usize = 6;

/// One entry of the section directory.
#[repr(C)]
pub(crate) struct PartEntry {
    /// Number of the kind (place + 1) in the low half, feature bits of the part in the high half.
    pub(crate) kind_and_features: u64,
    pub(crate) offset: u64,
    /// Reserved length.
    pub(crate) len: u64,
    /// Bytes from `offset` on that are backed with memory; 0 for a part that is committed piecewise.
    pub(crate) committed: u64,
}

/// The first page.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: u64,
    /// Major in the high half, minor in the low half.
    pub(crate) layout: u64,
    pub(crate) abi: u64,
    pub(crate) file_len: u64,
    pub(crate) uuid: [u64; 2],
    pub(crate) seed: u64,
    /// Hash version in the low half, length of this header in the high half.
    pub(crate) hash_and_len: u64,
    pub(crate) features_compatible: u64,
    pub(crate) features_incompatible: u64,
    /// Longest value accepted.
    pub(crate) max_value: u64,
    /// State of the region, see [`crate::RegionState`].
    pub(crate) state: u64,
    /// Milliseconds of the boot clock that the region calls 0, see [`crate::clock`].
    pub(crate) epoch: u64,
    pub(crate) reserved: [u64; 3],
    pub(crate) parts: [PartEntry; 16],
    /// Bucket count word; read with every operation, written by growth only.
    pub(crate) bucket_count: u64,
    /// Items of a lower version are gone: raised by a lazy clear.
    pub(crate) version_floor: u64,
    pub(crate) memory_limit: u64,
    /// Items that clears found linked and that may still be, less what the workers' `cleared` counters say of them.
    pub(crate) cleared: u64,
    pub(crate) pad_count: [u64; 4],
    /// Next version not yet handed to a worker; written once per block of versions.
    pub(crate) next_version: u64,
    pub(crate) pad_version: [u64; 7],
    pub(crate) pad: [u64; 416],
}

/// What a worker is about to do, see [`crate::intent`].
#[repr(C)]
pub(crate) struct Intent {
    /// 0: nothing under way. Else the effect's kind in the low byte and the version above.
    pub(crate) state: u64,
    /// Shard in the low half, client in the high half.
    pub(crate) asker: u64,
    /// Generation of the client's slot.
    pub(crate) generation: u64,
    pub(crate) position: u64,
    /// Offset of the slot word.
    pub(crate) slot: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
    pub(crate) value: u64,
}

/// Counters of a worker, written by it alone; sums over the workers are the table's.
#[repr(C)]
pub(crate) struct Counters {
    /// Items linked less items unlinked by this worker (wraps below zero; the sum does not).
    pub(crate) items: u64,
    pub(crate) overflow_lines: u64,
    pub(crate) full: u64,
    pub(crate) chain_full: u64,
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
    /// Items below the version floor that were unlinked.
    pub(crate) cleared: u64,
    pub(crate) reserved: u64,
}

/// A worker's two lines.
#[repr(C)]
pub(crate) struct WorkerRecord {
    pub(crate) intent: Intent,
    pub(crate) counters: Counters,
}

/// One store of a redo list.
#[repr(C)]
pub(crate) struct RedoEntry {
    pub(crate) slot: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
}

/// A worker's redo list for operations on several keys, see [`crate::redo`].
#[repr(C)]
pub(crate) struct RedoList {
    /// 0: not committed. Else the number of entries to store.
    pub(crate) commit: u64,
    pub(crate) asker: u64,
    pub(crate) generation: u64,
    pub(crate) position: u64,
    pub(crate) entries: [RedoEntry; 168],
    /// Of the answer: the highest version that is stored, and what the asker is told besides.
    pub(crate) version: u64,
    pub(crate) value: u64,
    pub(crate) pad: [u64; 2],
}

/// A bucket, or (with a mark in place of the version) an overflow line.
#[repr(C)]
pub(crate) struct Line {
    pub(crate) version: u64,
    pub(crate) slots: [u64; 7],
}

const _: () = {
    assert!(size_of::<Header>() == 4096 && align_of::<Header>() == 8);
    assert!(offset_of!(Header, magic) == 0);
    assert!(offset_of!(Header, layout) == 8);
    assert!(offset_of!(Header, abi) == 16);
    assert!(offset_of!(Header, file_len) == 24);
    assert!(offset_of!(Header, uuid) == 32);
    assert!(offset_of!(Header, seed) == 48);
    assert!(offset_of!(Header, hash_and_len) == 56);
    assert!(offset_of!(Header, features_compatible) == 64);
    assert!(offset_of!(Header, features_incompatible) == 72);
    assert!(offset_of!(Header, max_value) == 80);
    assert!(offset_of!(Header, state) == 88);
    assert!(offset_of!(Header, epoch) == 96);
    assert!(offset_of!(Header, parts) == 128);
    assert!(offset_of!(Header, bucket_count) == 640);
    assert!(offset_of!(Header, version_floor) == 648);
    assert!(offset_of!(Header, memory_limit) == 656);
    assert!(offset_of!(Header, next_version) == 704);
    assert!(size_of::<PartEntry>() == 32);
    assert!(size_of::<Intent>() == 64 && offset_of!(Intent, state) == 0);
    assert!(offset_of!(Intent, slot) == 32 && offset_of!(Intent, value) == 56);
    assert!(size_of::<Counters>() == 64);
    assert!(size_of::<WorkerRecord>() == 128 && offset_of!(WorkerRecord, counters) == 64);
    assert!(size_of::<RedoEntry>() == 24);
    assert!(size_of::<RedoList>() == 4096 && offset_of!(RedoList, entries) == 32);
    assert!(offset_of!(RedoList, version) == 4064 && offset_of!(RedoList, value) == 4072);
    assert!(size_of::<Line>() == 64 && offset_of!(Line, slots) == 8);
};

/// Offset of a part's directory entry.
pub(crate) const fn part_entry(part: Part) -> u64 {
    (offset_of!(Header, parts) + part as usize * size_of::<PartEntry>()) as u64
}

/// Offset of the word that says how much of a part is committed.
pub(crate) const fn committed_word(part: Part) -> u64 {
    part_entry(part) + offset_of!(PartEntry, committed) as u64
}

/// Bytes of all worker records.
pub(crate) const WORKERS_LEN: u64 = MAX_WORKERS as u64 * size_of::<WorkerRecord>() as u64;
