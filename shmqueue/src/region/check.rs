//! The one place where header bytes turn into a layout that the rest of the crate relies on.
//!
//! Invariants:
//! - **H1** The bytes are a private copy: what is checked is what is used.
//! - **H2** A [`CheckedHeader`] of this program's version holds exactly the layout that [`Layout::of`] computes from its shape.
//! - **H3** No byte pattern makes this panic.

use std::mem::offset_of;
use std::path::Path;

use crate::error::RegionError;
use crate::layout::{ABI, Header, LAYOUT_MAJOR, LAYOUT_MINOR, Layout, MAGIC, PAGE, SECTIONS, Section, SectionEntry, Shape};

/// A private copy of the first page.
pub(crate) type HeaderBytes = [u8; PAGE as usize];

/// Who asks: a server writes everywhere and must know all of a layout, a reader may be a minor version behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joiner {
    Server,
    Client,
}

/// What a header says, after it was found to be consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedHeader {
    layout: Layout,
    uuid: [u8; 16],
    minor: u16,
}

impl CheckedHeader {
    /// The header of a region that this program formats.
    pub(crate) fn new(layout: Layout, uuid: [u8; 16]) -> Self {
        Self { layout, uuid, minor: LAYOUT_MINOR }
    }

    /// All offsets.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Identity of the region, shared with its table.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Minor version of the layout.
    pub fn minor(&self) -> u16 {
        self.minor
    }

    /// The bytes of the first page, magic included.
    pub(crate) fn to_bytes(self) -> HeaderBytes {
        let mut bytes = [0; PAGE as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let Shape { shards, clients, lane_slots, ring_cells } = self.layout.shape;
        put(offset_of!(Header, magic), &MAGIC.to_ne_bytes());
        put(offset_of!(Header, major), &LAYOUT_MAJOR.to_ne_bytes());
        put(offset_of!(Header, minor), &self.minor.to_ne_bytes());
        put(offset_of!(Header, abi), &ABI.to_ne_bytes());
        put(offset_of!(Header, uuid), &self.uuid);
        put(offset_of!(Header, file_len), &self.layout.file_len.to_ne_bytes());
        put(offset_of!(Header, shards), &shards.to_ne_bytes());
        put(offset_of!(Header, clients), &clients.to_ne_bytes());
        put(offset_of!(Header, lane_slots), &lane_slots.to_ne_bytes());
        put(offset_of!(Header, ring_cells), &ring_cells.to_ne_bytes());
        for (index, entry) in self.layout.sections.iter().enumerate() {
            let at = entry_offset(index);
            put(at + offset_of!(SectionEntry, offset), &entry.offset.to_ne_bytes());
            put(at + offset_of!(SectionEntry, len), &entry.len.to_ne_bytes());
            put(at + offset_of!(SectionEntry, stride), &entry.stride.to_ne_bytes());
            put(at + offset_of!(SectionEntry, features), &entry.features.to_ne_bytes());
        }
        bytes
    }

    /// Checks a copied header of a file of `file_len` bytes.
    pub(crate) fn of(bytes: &HeaderBytes, file_len: u64, joiner: Joiner, path: &Path) -> Result<Self, RegionError> {
        let minor = identify(bytes, joiner, path)?;
        let layout = shape_of(bytes, path)?;
        let stated = u64_at(bytes, offset_of!(Header, file_len));
        let known = !is_newer(minor);
        if stated < layout.file_len || known && stated != layout.file_len {
            return Err(damaged(path, format!("file length {stated} in the header against {}", layout.file_len)));
        }
        if file_len < stated {
            return Err(RegionError::Truncated { path: path.to_path_buf(), found: file_len, expected: stated });
        }
        if file_len > stated {
            return Err(damaged(path, format!("{file_len} bytes in the file against {stated} in the header")));
        }
        check_directory(bytes, &layout, known, path)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[offset_of!(Header, uuid)..][..16]);
        Ok(Self { layout, uuid, minor })
    }
}

/// Magic, architecture, version and feature bits; gives the minor version.
fn identify(bytes: &HeaderBytes, joiner: Joiner, path: &Path) -> Result<u16, RegionError> {
    match u64_at(bytes, offset_of!(Header, magic)) {
        MAGIC => {}
        0 => return Err(RegionError::Unfinished { path: path.to_path_buf() }),
        _ => return Err(RegionError::Foreign { path: path.to_path_buf(), found: "another magic" }),
    }
    let abi = u32_at(bytes, offset_of!(Header, abi));
    if abi != ABI {
        return Err(RegionError::Abi { path: path.to_path_buf(), found: abi.into(), expected: ABI.into() });
    }
    let (major, minor) = (u16_at(bytes, offset_of!(Header, major)), u16_at(bytes, offset_of!(Header, minor)));
    if major != LAYOUT_MAJOR || joiner == Joiner::Server && is_newer(minor) {
        let expected = (LAYOUT_MAJOR, LAYOUT_MINOR);
        return Err(RegionError::Version { path: path.to_path_buf(), found: (major, minor), expected });
    }
    let features = u64_at(bytes, offset_of!(Header, features));
    if features != 0 {
        return Err(RegionError::Features { path: path.to_path_buf(), found: features });
    }
    Ok(minor)
}

/// Whether a region was formatted by a program of a newer minor version than this one.
fn is_newer(minor: u16) -> bool {
    minor > LAYOUT_MINOR
}

fn shape_of(bytes: &HeaderBytes, path: &Path) -> Result<Layout, RegionError> {
    let shape = Shape {
        shards: u32_at(bytes, offset_of!(Header, shards)),
        clients: u32_at(bytes, offset_of!(Header, clients)),
        lane_slots: u32_at(bytes, offset_of!(Header, lane_slots)),
        ring_cells: u32_at(bytes, offset_of!(Header, ring_cells)),
    };
    Layout::of(shape).ok_or_else(|| damaged(path, format!("shape {shape:?} against the documented ranges")))
}

/// Compares the directory with the computed one; of a newer minor version only the sections that we use.
fn check_directory(bytes: &HeaderBytes, layout: &Layout, known: bool, path: &Path) -> Result<(), RegionError> {
    for (index, expected) in layout.sections.iter().enumerate().take(SECTIONS) {
        let at = entry_offset(index);
        let found = SectionEntry {
            offset: u64_at(bytes, at + offset_of!(SectionEntry, offset)),
            len: u64_at(bytes, at + offset_of!(SectionEntry, len)),
            stride: u64_at(bytes, at + offset_of!(SectionEntry, stride)),
            features: u64_at(bytes, at + offset_of!(SectionEntry, features)),
        };
        if found.features != 0 {
            return Err(RegionError::Features { path: path.to_path_buf(), found: found.features });
        }
        let used = index < Section::EventRing as usize;
        if (known || used) && found != *expected {
            return Err(damaged(path, format!("section {index} as {found:?} against {expected:?}")));
        }
    }
    Ok(())
}

fn damaged(path: &Path, what: String) -> RegionError {
    RegionError::Damaged { path: path.to_path_buf(), what }
}

const fn entry_offset(index: usize) -> usize {
    offset_of!(Header, sections) + index * size_of::<SectionEntry>()
}

fn field<const N: usize>(bytes: &HeaderBytes, at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn u64_at(bytes: &HeaderBytes, at: usize) -> u64 {
    u64::from_ne_bytes(field(bytes, at))
}

fn u32_at(bytes: &HeaderBytes, at: usize) -> u32 {
    u32::from_ne_bytes(field(bytes, at))
}

fn u16_at(bytes: &HeaderBytes, at: usize) -> u16 {
    u16::from_ne_bytes(field(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> CheckedHeader {
        CheckedHeader::new(Layout::of(Shape::new(3, 40)).expect("a valid shape"), *b"0123456789abcdef")
    }

    fn check(bytes: &HeaderBytes, joiner: Joiner) -> Result<CheckedHeader, RegionError> {
        CheckedHeader::of(bytes, sample().layout.file_len, joiner, Path::new("r"))
    }

    #[test]
    fn what_is_formatted_is_accepted_and_says_the_same() {
        for joiner in [Joiner::Server, Joiner::Client] {
            assert_eq!(check(&sample().to_bytes(), joiner).expect("accepted"), sample());
        }
    }

    #[test]
    fn a_newer_minor_version_is_for_readers_only() {
        let newer = CheckedHeader { minor: LAYOUT_MINOR + 1, ..sample() }.to_bytes();
        assert!(matches!(check(&newer, Joiner::Server), Err(RegionError::Version { found, .. }) if found.1 == LAYOUT_MINOR + 1));
        assert_eq!(check(&newer, Joiner::Client).expect("accepted").layout(), sample().layout());
    }

    #[test]
    fn every_bit_of_the_header_is_checked_or_harmless() {
        let good = sample().to_bytes();
        for bit in 0..good.len() * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let at = bit / 8;
            let free = (16..32).contains(&at) || (64..128).contains(&at) || at >= size_of::<Header>();
            let minor = (10..12).contains(&at);
            match check(&bytes, Joiner::Client) {
                Ok(header) => {
                    assert!(free || minor, "byte {at} was not checked");
                    assert_eq!(header.layout(), sample().layout());
                }
                Err(_) => assert!(!free && !minor, "byte {at} is reserved but was refused"),
            }
            // A server knows all of an older minor version.
            let older = minor && u16_at(&bytes, 10) < LAYOUT_MINOR;
            assert_eq!(check(&bytes, Joiner::Server).is_ok(), free || older, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_accept_another_length(
            mut bytes in proptest::collection::vec(any::<u8>(), PAGE as usize),
            keep in 0usize..700,
            file_len in any::<u64>(),
        ) {
            bytes[..keep].copy_from_slice(&sample().to_bytes()[..keep]);
            let page: HeaderBytes = bytes.try_into().expect("a page");
            if let Ok(header) = CheckedHeader::of(&page, file_len, Joiner::Client, Path::new("r")) {
                prop_assert_eq!(header.layout().file_len, file_len);
            }
        }
    }
}
