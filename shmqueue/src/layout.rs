//! What rests where in `NAME.rings`: the only place where the layout is written.
//!
//! ```text
//! section        right in a client   written by       stride
//! HEADER         read                server, once     one page
//! STATUS         read                server           one page + 128 B per shard + 64 B per client
//! CLAIMS         read, write         clients          one page + 128 B per shard + 128 B per client
//! REQUEST_RINGS  read, write         clients          128 B + 8 B per cell, per shard
//! REPLY_RINGS    read                server           128 B + 16 B per cell, per shard
//! REQUEST_LANES  read, write (own)   the one client   one page + 64 B per slot, per client
//! REPLY_LANES    read (own)          server           one page + 32 B per slot, per client
//! EVENT_RING     read                server           reserved: length 0 until watch and invalidation need it
//! ```
//!
//! Sections start on page boundaries because rights are a property of a mapping. Only fixed-width integers rest here. A
//! reader treats every byte as untrusted: [`Layout::of`] computes all offsets from four small numbers, and a joiner refuses a
//! header whose directory says anything else.

use crate::sync::{AtomicU32, AtomicU64};

/// `SHMRINGS` in little-endian bytes; stored last when a region is formatted.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SHMRINGS");
/// Layouts of another major version cannot be joined.
pub const LAYOUT_MAJOR: u16 = 1;
/// Layouts of a newer minor version can be joined by readers of an older one.
pub const LAYOUT_MINOR: u16 = 1;
/// Byte order, pointer width and cache-line size that both sides must share: a foreign value means another architecture.
pub const ABI: u32 = 0x0140_0801;
/// Granularity of sections: the largest page size of the supported architectures that we format for.
pub const PAGE: u64 = 4096;
/// Most shards of a region.
pub const MAX_SHARDS: u32 = 256;
/// Most client slots of a region.
pub const MAX_CLIENTS: u32 = 4096;
/// Bytes of a request slot.
pub const REQUEST_SLOT: u64 = 64;
/// Bytes of a reply slot.
pub const REPLY_SLOT: u64 = 32;
/// Bytes of a request's body that rest in its first slot.
pub const FIRST_BODY: usize = 48;

/// Slots of its lanes that a client begins with; it asks for more when its window needs them. Few slots stay in the near caches.
pub const FIRST_SLOTS: u32 = 64;

/// Number of entries of the section directory.
pub const SECTIONS: usize = 16;

/// Index of a section in the directory.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table describes each")]
pub enum Section {
    Header = 0,
    Status = 1,
    Claims = 2,
    RequestRings = 3,
    ReplyRings = 4,
    RequestLanes = 5,
    ReplyLanes = 6,
    EventRing = 7,
}

/// One entry of the section directory: 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionEntry {
    /// Offset from the start of the file, a multiple of [`PAGE`].
    pub offset: u64,
    /// Length in bytes, a multiple of [`PAGE`].
    pub len: u64,
    /// Bytes from one element (shard, client) to the next.
    pub stride: u64,
    /// Bits a joiner must know to use the section; unknown bits make it refuse.
    pub features: u64,
}

/// The first page. Written by the server before `magic`, then never again while the region lives.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Header {
    /// [`MAGIC`], stored last with Release.
    pub magic: AtomicU64,
    /// [`LAYOUT_MAJOR`].
    pub major: u16,
    /// [`LAYOUT_MINOR`].
    pub minor: u16,
    /// [`ABI`].
    pub abi: u32,
    /// Identity of the region, shared with its table.
    pub uuid: [u8; 16],
    /// Length of the file in bytes.
    pub file_len: u64,
    /// Shards, 1 to [`MAX_SHARDS`].
    pub shards: u32,
    /// Client slots, 1 to [`MAX_CLIENTS`].
    pub clients: u32,
    /// Slots of each request lane and each reply lane, a power of two.
    pub lane_slots: u32,
    /// Cells of each ring, a power of two.
    pub ring_cells: u32,
    /// The whole layout's feature bits; unknown bits make a joiner refuse.
    pub features: u64,
    /// Reserved, zero.
    pub reserved: [u64; 8],
    /// The section directory.
    pub sections: [SectionEntry; SECTIONS],
}

/// What the server says of itself to all: the STATUS section's first page. Every field is published by the server and only
/// read by clients.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct ServerStatus {
    /// A [`RegionState`].
    pub state: AtomicU32,
    /// Process id of the serving process, in its own pid namespace.
    pub server_pid: AtomicU32,
    /// How many servers have served this region, this one included.
    pub incarnation: AtomicU32,
    /// Worker threads of this incarnation.
    pub threads: AtomicU32,
    /// CLOCK_BOOTTIME in ms when this incarnation became ready.
    pub started_ms: AtomicU64,
    /// CPUs that the server may use.
    pub server_cpus: AtomicU32,
    /// Clients that were served lately plus awake workers: what competes for the cores.
    pub runnable: AtomicU32,
    /// Largest value the server accepts, in bytes.
    pub max_value: AtomicU32,
    /// Whether the server wants to be told what clients read directly, see `hints`.
    pub wants_hints: AtomicU32,
    /// Reserved, zero.
    pub reserved: [u32; 4],
    _pad: [u64; 8],
    /// Count of awake workers, on a line of its own: clients that put a ring word look at it.
    pub awake: AwakeLine,
    /// Counters of the service, in the order that the server's protocol gives them.
    pub counters: [AtomicU64; 64],
    /// What clients counted themselves, see [`RequestLaneHead::tallies`]: sums over those that left, and over those that are here as of the
    /// last tick.
    pub client_tallies: [AtomicU64; 4],
    _pad2: [u64; 12],
}

/// The count of awake workers, alone on its pair of lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct AwakeLine {
    /// Written by workers only.
    pub workers: AtomicU32,
}

/// Per shard, in STATUS.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct ShardStatus {
    /// Published head of the request ring: words before it have been taken.
    pub head: AtomicU64,
    /// CPU on which the shard was last served.
    pub cpu: AtomicU32,
    /// Clients attached, as the server knows them.
    pub clients: AtomicU32,
    /// Requests served since the region was made.
    pub requests_total: AtomicU64,
    /// Lanes that waited in the run queue after the last pass.
    pub backlog: AtomicU32,
    /// Requests per second between the last two ticks, for the choice of a shard at attach.
    pub recent_requests: AtomicU32,
    /// What the handlers counted while they served this shard; the meaning is the protocol's.
    pub tallies: [AtomicU64; 4],
    _pad: [u64; 7],
}

/// Per client slot, in STATUS: what the server knows of it.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct ClientStatus {
    /// Generation whose lane the server serves or served last; the next attach uses the claim word's.
    pub generation: AtomicU32,
    /// 1 while the server counts the client as attached.
    pub attached: AtomicU32,
    /// Position up to which the server has consumed the request lane.
    pub position: AtomicU64,
    /// Requests served for this generation.
    pub requests_total: AtomicU64,
    /// CLOCK_BOOTTIME in ms of the last tick in which the lane was served.
    pub served_ms: AtomicU64,
    /// Position of the request from which on the lanes have `slots_after` slots in use; before it they have `slots_before`.
    pub resized_at: AtomicU64,
    /// Slots in use before `resized_at`; 0 stands for [`FIRST_SLOTS`].
    pub slots_before: AtomicU32,
    /// Slots in use after `resized_at`; 0 stands for [`FIRST_SLOTS`].
    pub slots_after: AtomicU32,
    /// Requests published and not yet served, as of the last tick.
    pub in_flight: AtomicU32,
    _pad: [u32; 3],
}

/// The CLAIMS section's first page.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct ClaimsHead {
    /// One ticket per attach: breaks ties between equally contended shards so that simultaneous attaches spread.
    pub attach_ticket: AtomicU32,
    _pad: [u32; 31],
}

/// Per shard, in CLAIMS: the word on which the worker of that index parks.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Doorbell {
    /// Raised by whoever rings; the futex word of the worker.
    pub token: AtomicU32,
    _pad: [u32; 31],
}

/// Per client slot, in CLAIMS.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct ClientClaim {
    /// Packed [`crate::claim::Claim`]: state, shard, generation.
    pub word: AtomicU64,
    /// Process id as the client sees it.
    pub pid: AtomicU32,
    /// User id as the client sees it.
    pub uid: AtomicU32,
    /// Name the client gave itself, bytes, zero-padded.
    pub name: [AtomicU64; 4],
    _pad: [u64; 10],
}

/// Head of a request ring; its cells follow.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct RequestRingHead {
    /// Advisory position of the next word; helped along by every producer.
    pub tail: AtomicU64,
    _pad: [u64; 15],
}

/// Head of a reply ring; its cells follow.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct ReplyRingHead {
    /// Position after the last published descriptor; its low half is the futex word of all clients of the shard.
    pub tail: AtomicU64,
    _pad: [u64; 15],
}

/// First page of a request lane, written by its client.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct RequestLaneHead {
    /// Nonzero while the client sleeps or is about to.
    pub waiting: AtomicU32,
    /// CPU on which the client last announced requests.
    pub cpu: AtomicU32,
    _pad: [u32; 30],
    /// What the client counts itself since it attached, on a line of its own; the meaning is the protocol's. The server believes
    /// differences that a client can have counted, no more.
    pub tallies: [AtomicU64; 4],
    _pad2: [u64; 12],
    /// What the client reads directly.
    pub hints: HintRing,
}

/// Words of a [`HintRing`].
pub const HINTS: usize = 128;

/// Hashes of keys that a client reads directly, in its request lane's head; see `hints`.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct HintRing {
    /// Hashes left since the slot was made.
    pub tail: AtomicU64,
    pub(crate) _pad: [u64; 15],
    /// The latest of them.
    pub words: [AtomicU64; HINTS],
}

/// First page of a reply lane, written by the server.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct ReplyLaneHead {
    /// Nonzero while a worker polls the request lane directly.
    pub hot: AtomicU32,
    _pad: [u32; 31],
    /// Everything before this position has been answered.
    pub complete: AtomicU64,
    _pad2: [u64; 15],
}

// The model checker's atomics are larger than the integers that rest in a region.
#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<SectionEntry>() == 32);
    assert!(size_of::<Doorbell>() == 128 && size_of::<ClientClaim>() == 128);
    assert!(size_of::<ClientStatus>() == 64 && size_of::<RequestRingHead>() == 128);
    assert!(size_of::<ReplyRingHead>() == 128);
    assert!(size_of::<Header>() as u64 <= PAGE && std::mem::offset_of!(Header, magic) == 0);
    assert!(std::mem::offset_of!(Header, uuid) == 16 && std::mem::offset_of!(Header, sections) == 128);
    assert!(size_of::<ServerStatus>() as u64 <= PAGE && std::mem::offset_of!(ServerStatus, awake) == 128);
    assert!(std::mem::offset_of!(ServerStatus, counters) == 256);
    assert!(size_of::<ShardStatus>() == 128 && size_of::<ClaimsHead>() as u64 <= PAGE);
    assert!(std::mem::offset_of!(ServerStatus, client_tallies) == 768 && std::mem::offset_of!(RequestLaneHead, tallies) == 128);
    assert!(size_of::<HintRing>() == 128 + 8 * HINTS && std::mem::offset_of!(HintRing, words) == 128);
    assert!(size_of::<RequestLaneHead>() as u64 <= PAGE && size_of::<ReplyLaneHead>() == 256);
    assert!(std::mem::offset_of!(ReplyLaneHead, complete) == 128);
};

/// States of a region, in `ServerStatus::state`.
///
/// ```text
/// FORMING ──▶ READY ──▶ DRAINING ──▶ CLOSED      (the file is unlinked after CLOSED)
///               │  ▲
///               │  └── a successor joins after a crash or `keep`
///               └────▶ SUPERSEDED                (another region has taken the name)
/// ```
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionState {
    /// Being formatted or recovered.
    Forming = 0,
    /// Serving.
    Ready = 1,
    /// The server is finishing what was sent; nothing new is served.
    Draining = 2,
    /// Served no more. A kept region goes from here to Forming again.
    Closed = 3,
    /// A new region has the name; this one is history.
    Superseded = 4,
}

impl RegionState {
    /// The state that a raw word stands for, or `None` for a value no server writes.
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Forming,
            1 => Self::Ready,
            2 => Self::Draining,
            3 => Self::Closed,
            4 => Self::Superseded,
            _ => return None,
        })
    }
}

/// The four numbers that decide a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Shards, 1 to [`MAX_SHARDS`].
    pub shards: u32,
    /// Client slots, 1 to [`MAX_CLIENTS`].
    pub clients: u32,
    /// Slots per lane, a power of two, 64 to 65,536.
    pub lane_slots: u32,
    /// Cells per ring, a power of two, at least twice the client slots.
    pub ring_cells: u32,
}

impl Shape {
    /// The shape of a region for so many shards and clients: lanes of 2,048 slots, rings that two words per client cannot fill.
    pub fn new(shards: u32, clients: u32) -> Self {
        let ring_cells = (2 * clients).next_power_of_two().max(512);
        Self { shards, clients, lane_slots: 2048, ring_cells }
    }

    /// Whether every number is within its documented range.
    pub fn is_valid(&self) -> bool {
        (1..=MAX_SHARDS).contains(&self.shards)
            && (1..=MAX_CLIENTS).contains(&self.clients)
            && self.lane_slots.is_power_of_two()
            && (64..=65_536).contains(&self.lane_slots)
            && self.ring_cells.is_power_of_two()
            && (2 * self.clients..=65_536).contains(&self.ring_cells)
    }
}

/// All offsets of a region of a given [`Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The numbers it was computed from.
    pub shape: Shape,
    /// The section directory as the header holds it.
    pub sections: [SectionEntry; SECTIONS],
    /// Length of the file in bytes.
    pub file_len: u64,
}

const fn pages(len: u64) -> u64 {
    len.div_ceil(PAGE) * PAGE
}

impl Layout {
    /// Computes the layout of a valid shape; `None` for one out of range.
    pub fn of(shape: Shape) -> Option<Self> {
        if !shape.is_valid() {
            return None;
        }
        let (shards, clients) = (u64::from(shape.shards), u64::from(shape.clients));
        let (cells, slots) = (u64::from(shape.ring_cells), u64::from(shape.lane_slots));
        let request_ring = pages(128 + 8 * cells);
        let reply_ring = pages(128 + 16 * cells);
        let request_lane = PAGE + REQUEST_SLOT * slots;
        let reply_lane = PAGE + REPLY_SLOT * slots;
        let parts = [
            (PAGE, 0),
            (pages(PAGE + 128 * shards + 64 * clients), 0),
            (pages(PAGE + 128 * shards + 128 * clients), 0),
            (request_ring * shards, request_ring),
            (reply_ring * shards, reply_ring),
            (request_lane * clients, request_lane),
            (reply_lane * clients, reply_lane),
            (0, 0),
        ];
        let mut sections = [SectionEntry::default(); SECTIONS];
        let mut offset = 0;
        for (entry, (len, stride)) in sections.iter_mut().zip(parts) {
            *entry = SectionEntry { offset, len, stride, features: 0 };
            offset += len;
        }
        Some(Self { shape, sections, file_len: offset })
    }

    /// The entry of one section.
    pub fn section(&self, section: Section) -> SectionEntry {
        self.sections[section as usize]
    }

    /// Bytes from the start of the file that must be backed before the region is formatted: all but the lanes, which are
    /// backed as clients attach.
    pub fn fixed_len(&self) -> u64 {
        self.section(Section::RequestLanes).offset
    }

    /// Offset of a shard's or client's element within a strided section, from the start of the file.
    pub fn element(&self, section: Section, index: u32) -> u64 {
        let entry = self.section(section);
        entry.offset + entry.stride * u64::from(index)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sections_are_page_aligned_disjoint_and_in_order() {
        for (shards, clients) in [(1, 1), (2, 256), (16, 17), (MAX_SHARDS, MAX_CLIENTS)] {
            let layout = Layout::of(Shape::new(shards, clients)).expect("valid shape");
            let mut end = 0;
            for entry in layout.sections.iter().take(8) {
                assert_eq!(entry.offset % PAGE, 0);
                assert_eq!(entry.len % PAGE, 0);
                assert_eq!(entry.offset, end);
                end = entry.offset + entry.len;
            }
            assert_eq!(end, layout.file_len);
        }
    }

    #[test]
    fn a_default_region_leaves_a_small_container_room() {
        let layout = Layout::of(Shape::new(2, 256)).expect("valid shape");
        assert!(layout.fixed_len() < 1 << 20, "fixed part is {} bytes", layout.fixed_len());
    }

    #[test]
    fn shapes_out_of_range_have_no_layout() {
        for shape in [
            Shape { shards: 0, ..Shape::new(1, 1) },
            Shape { clients: 0, ..Shape::new(1, 1) },
            Shape { lane_slots: 100, ..Shape::new(1, 1) },
            Shape { ring_cells: 2, ..Shape::new(1, 4) },
            Shape { shards: MAX_SHARDS + 1, ..Shape::new(1, 1) },
        ] {
            assert_eq!(Layout::of(shape), None);
        }
    }
}
