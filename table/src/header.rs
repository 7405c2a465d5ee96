//! The header page: written by format with the magic last, and turned into trusted values by one function.
//!
//! H1: nothing of a header is used before `read` has checked it; afterwards only the private copies are.

use crate::classes::UNIT;
use crate::clock::new_epoch;
use crate::geometry::Geometry;
use crate::hashing::HASH_VERSION;
use crate::layout::{
    ABI, Header, KNOWN_INCOMPATIBLE, LAYOUT_MAJOR, LAYOUT_MINOR, LINE, MAGIC, MAX_WORKERS, PAGE, PARTS, Part, PartEntry,
    WorkerRecord, committed_word, part_entry,
};
use crate::section::Section;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::words::{BucketCount, MAX_VALUE};
use std::mem::{offset_of, size_of};
use thiserror::Error;

/// Why a section cannot be joined.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// No table, or one whose formatting was not finished.
    #[error("joining table failed: found magic {found:#018x} against {expected:#018x}; start the server with --fresh")]
    NotATable {
        /// The first word.
        found: u64,
        /// The magic.
        expected: u64,
    },
    /// A layout of another major version.
    #[error(
        "joining table failed: found layout {found_major}.{found_minor} against {major}.{minor}; use the matching version, or --fresh to discard the table"
    )]
    Layout {
        /// Major version in the header.
        found_major: u32,
        /// Minor version in the header.
        found_minor: u32,
        /// Our major version.
        major: u32,
        /// Our minor version.
        minor: u32,
    },
    /// Written by a machine of another kind, or with features that we do not know.
    #[error(
        "joining table failed: found {what} {found:#x} against {expected:#x}; use the matching version, or --fresh to discard the table"
    )]
    Incompatible {
        /// Which word.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What we know.
        expected: u64,
    },
    /// Shorter than its header says.
    #[error(
        "joining table failed: found {found} bytes against {expected} in its header; the file was truncated, start the server with --fresh"
    )]
    Truncated {
        /// Length of the mapping.
        found: u64,
        /// Length in the header.
        expected: u64,
    },
    /// The base address is not aligned to a cache line.
    #[error("joining table failed: found base address {found:#x} against a multiple of 64; map it page-aligned")]
    Alignment {
        /// The address.
        found: usize,
    },
    /// A word of the header that no table has.
    #[error(
        "joining table failed: found {what} {found} against {expected}; the header is damaged, start the server with --fresh"
    )]
    Damaged {
        /// Which word.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The nearest value that would do.
        expected: u64,
    },
}

/// The checked contents of a header.
pub(crate) struct Identity {
    pub(crate) geometry: Geometry,
    pub(crate) seed: u64,
    pub(crate) uuid: [u8; 16],
    /// Committed bytes of deadlines, class map, buckets and heap.
    pub(crate) committed: [u64; PARTS],
}

fn word(section: &Section, at: usize) -> u64 {
    section.word(at as u64).load(Relaxed)
}

/// Writes everything but the magic.
pub(crate) fn write(section: &Section, geometry: &Geometry, seed: u64, uuid: [u8; 16]) {
    let store = |at: usize, value: u64| section.word(at as u64).store(value, Relaxed);
    store(offset_of!(Header, layout), u64::from(LAYOUT_MAJOR) << 32 | u64::from(LAYOUT_MINOR));
    store(offset_of!(Header, abi), ABI);
    store(offset_of!(Header, file_len), geometry.file_len());
    let (low, high) = uuid_words(uuid);
    store(offset_of!(Header, uuid), low);
    store(offset_of!(Header, uuid) + 8, high);
    store(offset_of!(Header, seed), seed);
    store(offset_of!(Header, hash_and_len), PAGE << 32 | u64::from(HASH_VERSION));
    store(offset_of!(Header, max_value), u64::from(geometry.max_value));
    store(offset_of!(Header, bucket_count), BucketCount::new(geometry.level, 0).0);
    store(offset_of!(Header, memory_limit), geometry.memory_limit);
    store(offset_of!(Header, epoch), new_epoch());
    store(offset_of!(Header, next_version), 1);
    let committed = geometry.initial_commit();
    for (place, &(offset, len)) in geometry.parts.iter().enumerate() {
        let entry = offset_of!(Header, parts) + place * size_of::<PartEntry>();
        store(entry + offset_of!(PartEntry, kind_and_features), place as u64 + 1);
        store(entry + offset_of!(PartEntry, offset), offset);
        store(entry + offset_of!(PartEntry, len), len);
    }
    let parts = [Part::Deadlines, Part::ClassMap, Part::Buckets, Part::Heap];
    store(committed_word(Part::Workers) as usize, geometry.parts[Part::Workers as usize].1);
    for (part, (_, len)) in parts.into_iter().zip(&committed[1..]) {
        store(committed_word(part) as usize, *len);
    }
}

/// Makes the table joinable.
pub(crate) fn seal(section: &Section) {
    // ORDER(magic): Release pairs with the Acquire in `read`: whoever sees the magic sees the header.
    section.word(offset_of!(Header, magic) as u64).store(MAGIC, Release);
}

fn uuid_words(uuid: [u8; 16]) -> (u64, u64) {
    let value = u128::from_le_bytes(uuid);
    (value as u64, (value >> 64) as u64)
}

fn check(what: &'static str, found: u64, expected: u64, holds: bool) -> Result<(), JoinError> {
    if holds { Ok(()) } else { Err(JoinError::Damaged { what, found, expected }) }
}

/// Reads each word of the header once and checks it against the others and the mapping's length.
pub(crate) fn read(section: &Section, len: u64) -> Result<Identity, JoinError> {
    if len < PAGE {
        return Err(JoinError::Truncated { found: len, expected: PAGE });
    }
    // ORDER(magic): Acquire pairs with the Release in `seal`.
    let magic = section.word(offset_of!(Header, magic) as u64).load(Acquire);
    if magic != MAGIC {
        return Err(JoinError::NotATable { found: magic, expected: MAGIC });
    }
    let layout = word(section, offset_of!(Header, layout));
    if (layout >> 32) as u32 != LAYOUT_MAJOR {
        let (found_major, found_minor) = ((layout >> 32) as u32, layout as u32);
        return Err(JoinError::Layout { found_major, found_minor, major: LAYOUT_MAJOR, minor: LAYOUT_MINOR });
    }
    for (what, at, expected) in [
        ("abi", offset_of!(Header, abi), ABI),
        ("hash version", offset_of!(Header, hash_and_len), PAGE << 32 | u64::from(HASH_VERSION)),
    ] {
        let found = word(section, at);
        if found != expected {
            return Err(JoinError::Incompatible { what, found, expected });
        }
    }
    let features = word(section, offset_of!(Header, features_incompatible));
    if features & !KNOWN_INCOMPATIBLE != 0 {
        return Err(JoinError::Incompatible { what: "features", found: features, expected: KNOWN_INCOMPATIBLE });
    }
    let file_len = word(section, offset_of!(Header, file_len));
    if file_len > len {
        return Err(JoinError::Truncated { found: len, expected: file_len });
    }
    let (parts, committed) = read_parts(section, file_len)?;
    let max_value = word(section, offset_of!(Header, max_value));
    check("value limit", max_value, u64::from(MAX_VALUE), max_value <= u64::from(MAX_VALUE))?;
    let count = BucketCount(word(section, offset_of!(Header, bucket_count)));
    let most = committed[Part::Buckets as usize] / LINE;
    let fits = count.level() < 36 && count.split() < 1 << count.level() && count.buckets() <= most;
    check("bucket count", count.0, most, fits)?;
    let (low, high) = (word(section, offset_of!(Header, uuid)), word(section, offset_of!(Header, uuid) + 8));
    let geometry = Geometry {
        parts,
        memory_limit: word(section, offset_of!(Header, memory_limit)),
        level: count.level(),
        max_value: max_value as u32,
    };
    let uuid = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    Ok(Identity { geometry, seed: word(section, offset_of!(Header, seed)), uuid, committed })
}

type Parts = ([(u64, u64); PARTS], [u64; PARTS]);

/// The directory: parts in file order, apart, inside the file, large enough for what is in them.
fn read_parts(section: &Section, file_len: u64) -> Result<Parts, JoinError> {
    let (mut parts, mut committed) = ([(0, 0); PARTS], [0; PARTS]);
    let mut end = PAGE;
    let all = [Part::Workers, Part::Redo, Part::Deadlines, Part::ClassMap, Part::Buckets, Part::Heap];
    for (place, part) in all.into_iter().enumerate() {
        let entry = part_entry(part) as usize;
        let kind = word(section, entry + offset_of!(PartEntry, kind_and_features));
        check("part kind", kind, place as u64 + 1, kind == place as u64 + 1)?;
        let offset = word(section, entry + offset_of!(PartEntry, offset));
        let len = word(section, entry + offset_of!(PartEntry, len));
        // ORDER(committed): Acquire pairs with the Release in `Store::commit_step`.
        let backed = section.word(committed_word(part)).load(Acquire);
        check("part offset", offset, end, offset >= end && offset.is_multiple_of(PAGE) && offset <= file_len)?;
        check("part length", len, file_len - offset, len <= file_len - offset)?;
        check("committed length", backed, len, backed <= len)?;
        (parts[place], committed[place]) = ((offset, len), backed);
        end = offset + len;
    }
    let len = |part: Part| parts[part as usize].1;
    let heap = committed[Part::Heap as usize];
    let records = u64::from(MAX_WORKERS) * size_of::<WorkerRecord>() as u64;
    check("worker records", len(Part::Workers), records, len(Part::Workers) >= records)?;
    check("heap length", len(Part::Heap), UNIT, len(Part::Heap) % UNIT == 0 && heap % UNIT == 0)?;
    let map = committed[Part::ClassMap as usize];
    check("class map length", map, heap / UNIT * 8, map >= heap / UNIT * 8)?;
    let (groups, lines) = (committed[Part::Deadlines as usize] / 8, committed[Part::Buckets as usize] / LINE);
    check("group deadlines", groups, lines.div_ceil(64), groups * 64 >= lines.min(len(Part::Buckets) / LINE))?;
    Ok((parts, committed))
}
