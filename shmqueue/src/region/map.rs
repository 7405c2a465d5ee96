//! A mapped part of a rings file, and typed references into it.
//!
//! Invariants:
//! - **M1** A reference points wholly into the mapping, is aligned, and lives no longer than it.
//! - **M2** Only types that are made of atomics (and padding that nobody reads) are handed out as references.
//! - **M3** A mapping made read-only is never stored to: the caller's accessors give it only to code that loads. Loads there are
//!   `Relaxed`, followed by an Acquire fence where order matters, because an atomic access to read-only memory is defined for
//!   no other ordering.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use memmap2::{MmapOptions, MmapRaw};
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::check::HeaderBytes;
use super::file::refused;
use crate::error::RegionError;
use crate::layout::{
    ClaimsHead, ClientClaim, ClientStatus, Doorbell, Layout, PAGE, ReplyLaneHead, ReplyRingHead, RequestLaneHead,
    RequestRingHead, Section, ServerStatus, ShardStatus,
};
use crate::sigbus::{Guarded, Part};
use crate::sync::{AtomicU64, Ordering, fence};

/// Bytes before the cells of a ring.
const RING_HEAD: u64 = 128;

/// Types that may be referenced in a mapping.
///
/// # Safety
/// Every bit pattern is a value, every field that is ever accessed is atomic, and the type has no destructor.
unsafe trait InRegion {}
// SAFETY: (all) structs of atomics and of padding that nobody accesses; see `layout`.
unsafe impl InRegion for ServerStatus {}
// SAFETY: as above.
unsafe impl InRegion for ShardStatus {}
// SAFETY: as above.
unsafe impl InRegion for ClientStatus {}
// SAFETY: as above.
unsafe impl InRegion for ClaimsHead {}
// SAFETY: as above.
unsafe impl InRegion for Doorbell {}
// SAFETY: as above.
unsafe impl InRegion for ClientClaim {}
// SAFETY: as above.
unsafe impl InRegion for RequestRingHead {}
// SAFETY: as above.
unsafe impl InRegion for ReplyRingHead {}
// SAFETY: as above.
unsafe impl InRegion for RequestLaneHead {}
// SAFETY: as above.
unsafe impl InRegion for ReplyLaneHead {}
// SAFETY: an atomic.
unsafe impl InRegion for AtomicU64 {}

/// Who unmaps.
enum Keep {
    Shm(#[allow(dead_code, reason = "its drop unmaps")] Shmem),
    Mmap(#[allow(dead_code, reason = "its drop unmaps")] MmapRaw),
}

/// A mapped range of a rings file.
pub(crate) struct Mapping {
    base: *mut u8,
    /// Offset in the file of `base`.
    start: u64,
    len: u64,
    /// Dropped before the memory is unmapped.
    _guarded: Guarded,
    _keep: Keep,
}

// SAFETY: the range stays mapped while the value lives, whatever thread drops it, and is accessed only through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("start", &self.start).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Mapping {
    /// Maps `len` bytes from `start` for reading only.
    pub(crate) fn read_only(fd: BorrowedFd<'_>, start: u64, len: u64, path: &Path) -> Result<Self, RegionError> {
        let map = options(start, len, path)?.map_raw_read_only(fd.as_raw_fd());
        Ok(Self::of_mmap(map.map_err(|error| refused("mapping", path, error))?, start))
    }

    /// Maps `len` bytes from `start` for reading and writing.
    pub(crate) fn read_write(fd: BorrowedFd<'_>, start: u64, len: u64, path: &Path) -> Result<Self, RegionError> {
        let map = options(start, len, path)?.map_raw(fd.as_raw_fd());
        Ok(Self::of_mmap(map.map_err(|error| refused("mapping", path, error))?, start))
    }

    /// Creates the POSIX shared memory object `id` exclusively and maps it; `None` if it exists.
    pub(crate) fn create_shm(id: &str, len: u64, path: &Path) -> Result<Option<Self>, RegionError> {
        let size = usize::try_from(len).map_err(|_| too_long(path))?;
        match ShmemConf::new().os_id(id).size(size).create() {
            Ok(mut shm) => {
                // The object outlives this process unless `ServerRegion::unlink` is called: its users decide, not this handle.
                shm.set_owner(false);
                Ok(Some(Self::of_shm(shm)))
            }
            Err(ShmemError::MappingIdExists) => Ok(None),
            Err(error) => Err(of_shmem(error, "creating", len, path)),
        }
    }

    /// Maps all of the POSIX shared memory object `id`.
    pub(crate) fn open_shm(id: &str, path: &Path) -> Result<Self, RegionError> {
        let shm = ShmemConf::new().os_id(id).open().map_err(|error| of_shmem(error, "mapping", 0, path))?;
        Ok(Self::of_shm(shm))
    }

    fn of_shm(shm: Shmem) -> Self {
        Self::new(shm.as_ptr(), 0, shm.len() as u64, Keep::Shm(shm))
    }

    fn of_mmap(map: MmapRaw, start: u64) -> Self {
        Self::new(map.as_mut_ptr(), start, map.len() as u64, Keep::Mmap(map))
    }

    fn new(base: *mut u8, start: u64, len: u64, keep: Keep) -> Self {
        Self { base, start, len, _guarded: Guarded::enter(base, len, Part::Rings), _keep: keep }
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The address of the byte at `offset` of the file.
    ///
    /// # Panics
    /// If `len` bytes from there are not mapped or not aligned: the layout was checked, so that this is a bug of this crate.
    fn address(&self, offset: u64, len: u64, align: usize) -> *mut u8 {
        let at = offset.checked_sub(self.start).filter(|at| at.checked_add(len).is_some_and(|end| end <= self.len));
        let at = at.expect("invariant M1: a reference lies within its mapping");
        let address = self.base.wrapping_add(at as usize);
        assert!((address as usize).is_multiple_of(align), "invariant M1: a reference is aligned");
        address
    }

    fn at<T: InRegion>(&self, offset: u64) -> &T {
        let address = self.address(offset, size_of::<T>() as u64, align_of::<T>());
        // SAFETY: in bounds and aligned, mapped while `self` lives (M1); the type allows shared access to any bytes (M2).
        unsafe { &*address.cast::<T>() }
    }

    fn words(&self, offset: u64, count: u64) -> &[AtomicU64] {
        let address = self.address(offset, count * 8, align_of::<AtomicU64>());
        // SAFETY: as in `at`, for `count` words.
        unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), count as usize) }
    }

    /// The first page, as words.
    pub(crate) fn header_words(&self) -> &[AtomicU64] {
        self.words(0, PAGE / 8)
    }

    /// A private copy of the first page.
    pub(crate) fn copy_header(&self) -> HeaderBytes {
        let words = self.header_words();
        let mut bytes = [0; PAGE as usize];
        let magic = words[0].load(Ordering::Relaxed);
        // ORDER(magic): Acquire pairs with the Release of the magic in `ServerRegion::create`: the rest of the page stands. A
        // fence after a Relaxed load, because the page may be mapped read-only (M3).
        fence(Ordering::Acquire);
        bytes[..8].copy_from_slice(&magic.to_ne_bytes());
        for (word, chunk) in words.iter().zip(bytes.chunks_exact_mut(8)).skip(1) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes
    }

    pub(crate) fn status(&self) -> &ServerStatus {
        self.at(PAGE)
    }

    pub(crate) fn shard_status(&self, layout: &Layout, shard: u32) -> &ShardStatus {
        check_index(shard, layout.shape.shards);
        self.at(layout.section(Section::Status).offset + PAGE + 128 * u64::from(shard))
    }

    pub(crate) fn client_status(&self, layout: &Layout, client: u32) -> &ClientStatus {
        check_index(client, layout.shape.clients);
        let shards = 128 * u64::from(layout.shape.shards);
        self.at(layout.section(Section::Status).offset + PAGE + shards + 64 * u64::from(client))
    }

    pub(crate) fn claims_head(&self, layout: &Layout) -> &ClaimsHead {
        self.at(layout.section(Section::Claims).offset)
    }

    pub(crate) fn doorbell(&self, layout: &Layout, shard: u32) -> &Doorbell {
        check_index(shard, layout.shape.shards);
        self.at(layout.section(Section::Claims).offset + PAGE + 128 * u64::from(shard))
    }

    pub(crate) fn claim(&self, layout: &Layout, client: u32) -> &ClientClaim {
        check_index(client, layout.shape.clients);
        let before = 128 * (u64::from(layout.shape.shards) + u64::from(client));
        self.at(layout.section(Section::Claims).offset + PAGE + before)
    }

    pub(crate) fn request_ring(&self, layout: &Layout, shard: u32) -> (&RequestRingHead, &[AtomicU64]) {
        check_index(shard, layout.shape.shards);
        let at = layout.element(Section::RequestRings, shard);
        (self.at(at), self.words(at + RING_HEAD, layout.shape.ring_cells.into()))
    }

    pub(crate) fn reply_ring(&self, layout: &Layout, shard: u32) -> (&ReplyRingHead, &[AtomicU64]) {
        check_index(shard, layout.shape.shards);
        let at = layout.element(Section::ReplyRings, shard);
        (self.at(at), self.words(at + RING_HEAD, 2 * u64::from(layout.shape.ring_cells)))
    }

    pub(crate) fn request_lane(&self, layout: &Layout, client: u32) -> (&RequestLaneHead, &[AtomicU64]) {
        check_index(client, layout.shape.clients);
        let at = layout.element(Section::RequestLanes, client);
        (self.at(at), self.words(at + PAGE, 8 * u64::from(layout.shape.lane_slots)))
    }

    pub(crate) fn reply_lane(&self, layout: &Layout, client: u32) -> (&ReplyLaneHead, &[AtomicU64]) {
        check_index(client, layout.shape.clients);
        let at = layout.element(Section::ReplyLanes, client);
        (self.at(at), self.words(at + PAGE, 4 * u64::from(layout.shape.lane_slots)))
    }
}

fn check_index(index: u32, count: u32) {
    assert!(index < count, "invariant M1: index {index} is below {count}");
}

fn options(start: u64, len: u64, path: &Path) -> Result<MmapOptions, RegionError> {
    let mut options = MmapOptions::new();
    options.offset(start).len(usize::try_from(len).map_err(|_| too_long(path))?);
    Ok(options)
}

fn too_long(path: &Path) -> RegionError {
    refused("mapping", path, io::Error::from_raw_os_error(libc::EFBIG))
}

fn of_shmem(error: ShmemError, what: &'static str, asked: u64, path: &Path) -> RegionError {
    use ShmemError::{MapCreateFailed, MapOpenFailed, UnknownOsError};
    match error {
        MapCreateFailed(errno) | MapOpenFailed(errno) | UnknownOsError(errno) => {
            let errno = errno as i32;
            if errno == libc::EFBIG || errno == libc::ENOMEM {
                return RegionError::NoMemory { asked, available: 0, path: path.to_path_buf() };
            }
            refused(what, path, io::Error::from_raw_os_error(errno))
        }
        other => refused(what, path, io::Error::other(other)),
    }
}
