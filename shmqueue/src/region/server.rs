//! The server's side of a region: creating, joining, the whole file mapped read-write.
//!
//! Creation, step by step, and what a death between the steps leaves (CRASH):
//!
//! | step                                   | a death after it leaves                                   | repaired by            |
//! |----------------------------------------|-----------------------------------------------------------|------------------------|
//! | 1 create exclusively, whole length     | a sparse file, no magic, no lock                          | `discard`              |
//! | 2 take the server's lock, commit, mark | the same, with memory                                     | `discard`              |
//! | 3 mode, group, header, status          | the same                                                  | `discard`              |
//! | 4 magic (Release)                      | a region in state Forming, all slots free                 | the next `join`        |
//! | 5 `set_state(Ready)`                   | a region of a dead server                                 | the next `join`        |
//!
//! Between 1 and 2 another process may lock or discard the file: after step 2 the creator checks that the path names the file
//! it has locked, and that this is the file it has mapped (a mark written through one is read through the other).

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::stat::Mode;

use super::check::{CheckedHeader, Joiner};
use super::file::{FileId, Found, allow_len, allow_page_size, commit, len, look, refused};
use super::map::Mapping;
use super::name::RegionName;
use crate::error::RegionError;
use crate::layout::{
    ClaimsHead, ClientClaim, ClientStatus, Doorbell, LAYOUT_MAJOR, Layout, MAGIC, PAGE, RegionState, ReplyLaneHead,
    ReplyRingHead, RequestLaneHead, RequestRingHead, Section, ServerStatus, Shape, ShardStatus,
};
use crate::lock::{self, LockFile, Taken};

/// How often creating or joining starts over because the path came to name another file meanwhile.
const ATTEMPTS: u32 = 16;
/// Word of the first page that carries the creator's mark until the region is formatted.
const MARK_WORD: usize = 1;
static MARKS: AtomicU32 = AtomicU32::new(0);

/// A region held by its server: the lock is held while this lives, and all of the file is mapped.
///
/// It may be shared by threads. In a fork's child it is invalid: see [`Self::forked`].
#[derive(Debug)]
pub struct ServerRegion {
    header: CheckedHeader,
    map: Mapping,
    lock: LockFile,
    id: FileId,
    path: PathBuf,
}

impl ServerRegion {
    /// Creates and formats a region exclusively; its state is [`RegionState::Forming`] until the caller sets another.
    ///
    /// `mode` and `gid` are those of the file, whatever the umask. Lanes are committed as clients attach.
    pub fn create(name: &RegionName, shape: Shape, mode: u32, gid: Option<u32>, uuid: [u8; 16]) -> Result<Self, RegionError> {
        let path = name.rings_path();
        let Shape { shards, clients, lane_slots, ring_cells } = shape;
        let layout = Layout::of(shape).ok_or(RegionError::InvalidShape { shards, clients, lane_slots, ring_cells })?;
        allow_page_size(&path)?;
        allow_len(layout.file_len, &path)?;
        for _ in 0..ATTEMPTS {
            let Some(map) = make(name, layout.file_len, &path)? else {
                match existing(&path)? {
                    Some(error) => return Err(error),
                    None => continue,
                }
            };
            let Some(region) = Self::own(map, CheckedHeader::new(layout, uuid), &path)? else { continue };
            return match region.format(mode, gid) {
                Ok(()) => Ok(region),
                Err(error) => {
                    // Nobody could join a file without magic, so that nobody loses it.
                    let _ = region.unlink();
                    Err(error)
                }
            };
        }
        Err(RegionError::Stale { path })
    }

    /// Joins the region of a dead server, or of one that kept it on exit: takes its place, with state
    /// [`RegionState::Forming`] and the next incarnation.
    pub fn join(name: &RegionName) -> Result<Self, RegionError> {
        let path = name.rings_path();
        allow_page_size(&path)?;
        for _ in 0..ATTEMPTS {
            let lock = LockFile::open(&path)?;
            match look(lock.fd()?, &path)? {
                Found::Formatted { live: None } => {}
                Found::Formatted { live: Some(pid) } | Found::Forming { live: pid } => {
                    return Err(RegionError::Live { path, pid });
                }
                Found::Unfinished => return Err(RegionError::Unfinished { path }),
                Found::Gone => continue,
            }
            let Some(id) = take(&lock, &path)? else { continue };
            let found = len(lock.fd()?, &path)?;
            if found < PAGE {
                return Err(RegionError::Truncated { path, found, expected: PAGE });
            }
            let map = match name.shm_id() {
                Some(shm) => Mapping::open_shm(&shm, &path)?,
                None => Mapping::read_write(lock.fd()?, 0, found, &path)?,
            };
            // The name was opened a second time for the map: by now it must still name the file that is locked.
            if !id.stands_at(&path) {
                continue;
            }
            let header = CheckedHeader::of(&map.copy_header(), map.len(), Joiner::Server, &path)?;
            let region = Self { header, map, lock, id, path };
            region.succeed()?;
            return Ok(region);
        }
        Err(RegionError::Stale { path })
    }

    /// Removes the rings file of a region without a live server, telling those who still have it mapped by
    /// [`RegionState::Superseded`]. Refuses a live region and a file that is no region.
    pub fn discard(name: &RegionName) -> Result<(), RegionError> {
        let path = name.rings_path();
        for _ in 0..ATTEMPTS {
            let lock = LockFile::open(&path)?;
            let formatted = match look(lock.fd()?, &path)? {
                Found::Formatted { live: Some(pid) } | Found::Forming { live: pid } => {
                    return Err(RegionError::Live { path, pid });
                }
                Found::Formatted { live: None } => true,
                Found::Unfinished => false,
                Found::Gone => continue,
            };
            let Some(id) = take(&lock, &path)? else { continue };
            if formatted && len(lock.fd()?, &path)? >= 2 * PAGE {
                supersede(lock.fd()?, &path)?;
            }
            return unlink(id, &path);
        }
        Err(RegionError::Stale { path })
    }

    /// Locks the file that was just made; `None` if somebody else has it, or the path names another file.
    fn own(map: Mapping, header: CheckedHeader, path: &Path) -> Result<Option<Self>, RegionError> {
        let lock = match LockFile::open(path) {
            Err(RegionError::NotFound { .. }) => return Ok(None),
            opened => opened?,
        };
        let Some(id) = take(&lock, path)? else { return Ok(None) };
        let region = Self { header, map, lock, id, path: path.to_path_buf() };
        let committed = commit(region.lock.fd()?, 0, region.layout().fixed_len(), path);
        if let Err(error) = committed {
            // CRASH: a death here leaves the file for `discard`. The lock is ours and the file carries no magic.
            let _ = region.unlink();
            return Err(error);
        }
        let mark = u64::from(std::process::id()) << 32 | u64::from(MARKS.fetch_add(1, Ordering::Relaxed)) | 1 << 31;
        region.map.header_words()[MARK_WORD].store(mark, Ordering::Relaxed);
        let mut read = [0; 8];
        let at = 8 * MARK_WORD as u64;
        rustix::io::pread(region.lock.fd()?, &mut read, at).map_err(|errno| refused("reading", path, errno))?;
        Ok((u64::from_ne_bytes(read) == mark).then_some(region))
    }

    fn format(&self, mode: u32, gid: Option<u32>) -> Result<(), RegionError> {
        let fd = self.lock.fd()?;
        if let Some(gid) = gid {
            nix::unistd::fchown(fd, None, Some(gid.into())).map_err(|errno| refused("giving a group to", &self.path, errno))?;
        }
        // After creation, because the umask cuts the mode that creation is given.
        nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode & 0o777))
            .map_err(|errno| refused("setting the mode of", &self.path, errno))?;
        let words = self.map.header_words();
        for (word, bytes) in words.iter().zip(self.header.to_bytes().as_chunks().0).skip(1) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        let status = self.status();
        status.server_pid.store(std::process::id(), Ordering::Relaxed);
        status.incarnation.store(1, Ordering::Relaxed);
        status.state.store(RegionState::Forming as u32, Ordering::Relaxed);
        // ORDER(magic): Release pairs with the Acquire of every joiner (`Mapping::copy_header`): whoever sees it sees the rest (G2).
        words[0].store(MAGIC, Ordering::Release);
        Ok(())
    }

    /// Takes over from the last server.
    fn succeed(&self) -> Result<(), RegionError> {
        commit(self.lock.fd()?, 0, self.layout().fixed_len(), &self.path)?;
        let status = self.status();
        let state = status.state.load(Ordering::Relaxed);
        match RegionState::from_raw(state) {
            // CRASH: the last server died between superseding and unlinking; `discard` finishes that.
            Some(RegionState::Superseded) => return Err(RegionError::State(RegionState::Superseded)),
            Some(_) => {}
            None => {
                let what = format!("state {state} against 0 to 4");
                return Err(RegionError::Damaged { path: self.path.clone(), what });
            }
        }
        status.server_pid.store(std::process::id(), Ordering::Relaxed);
        self.set_state(RegionState::Forming);
        status.incarnation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// All offsets.
    pub fn layout(&self) -> &Layout {
        self.header.layout()
    }

    /// The checked copy of the header.
    pub fn header(&self) -> &CheckedHeader {
        &self.header
    }

    /// Path of the rings file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the server says of itself to all.
    pub fn status(&self) -> &ServerStatus {
        self.map.status()
    }

    /// What the server says of a shard. Panics, as all accessors here, on an index outside the region's shape.
    pub fn shard_status(&self, shard: u32) -> &ShardStatus {
        self.map.shard_status(self.layout(), shard)
    }

    /// What the server says of a client slot.
    pub fn client_status(&self, client: u32) -> &ClientStatus {
        self.map.client_status(self.layout(), client)
    }

    /// The head of the claims. Clients can write it: a hint.
    pub fn claims_head(&self) -> &ClaimsHead {
        self.map.claims_head(self.layout())
    }

    /// A worker's doorbell. Clients can write it: a hint.
    pub fn doorbell(&self, shard: u32) -> &Doorbell {
        self.map.doorbell(self.layout(), shard)
    }

    /// A client slot's claim. Clients can write it: a hint, see [`crate::claim::load`].
    pub fn claim(&self, client: u32) -> &ClientClaim {
        self.map.claim(self.layout(), client)
    }

    /// A shard's request ring and its cells, one word each.
    pub fn request_ring(&self, shard: u32) -> (&RequestRingHead, &[AtomicU64]) {
        self.map.request_ring(self.layout(), shard)
    }

    /// A shard's reply ring and its cells, two words each.
    pub fn reply_ring(&self, shard: u32) -> (&ReplyRingHead, &[AtomicU64]) {
        self.map.reply_ring(self.layout(), shard)
    }

    /// A client's request lane and its slots, eight words each. Commit it first, see [`Self::commit_lane`].
    pub fn request_lane(&self, client: u32) -> (&RequestLaneHead, &[AtomicU64]) {
        self.map.request_lane(self.layout(), client)
    }

    /// A client's reply lane and its slots, four words each. Commit it first, see [`Self::commit_lane`].
    pub fn reply_lane(&self, client: u32) -> (&ReplyLaneHead, &[AtomicU64]) {
        self.map.reply_lane(self.layout(), client)
    }

    /// Backs both lanes of a client with memory. The client does so before it attaches, but its word is not trusted.
    pub fn commit_lane(&self, client: u32) -> Result<(), RegionError> {
        commit_lanes(self.lock.fd()?, self.layout(), client, &self.path)
    }

    /// Whether somebody holds a client slot. Where that cannot be told, the slot counts as held.
    pub fn client_alive(&self, client: u32) -> bool {
        match self.lock.fd() {
            Ok(fd) => lock::client_held(fd, client).unwrap_or(true),
            Err(_) => true,
        }
    }

    /// Whether this handle was inherited over a fork and is the parent's.
    #[inline]
    pub fn forked(&self) -> bool {
        self.lock.forked()
    }

    /// Publishes the region's state.
    pub fn set_state(&self, state: RegionState) {
        // ORDER(state): Release pairs with the Acquire fence after the clients' load of the state: what was prepared stands.
        self.status().state.store(state as u32, Ordering::Release);
    }

    /// Whether the path still names this region's file.
    pub fn exists_at_path(&self) -> bool {
        self.id.stands_at(&self.path)
    }

    /// Removes the name, if it still names this region's file; the memory goes when the last user unmaps it.
    pub fn unlink(&self) -> Result<(), RegionError> {
        if self.forked() {
            return Err(RegionError::Forked);
        }
        unlink(self.id, &self.path)
    }
}

/// Makes the file with its whole length; `None` if something stands at the path.
fn make(name: &RegionName, len: u64, path: &Path) -> Result<Option<Mapping>, RegionError> {
    if let Some(shm) = name.shm_id() {
        return Mapping::create_shm(&shm, len, path);
    }
    let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags).open(path);
    let file = match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
        made => made.map_err(|error| refused("creating", path, error))?,
    };
    let mapped = file.set_len(len).map_err(|error| refused("sizing", path, error));
    let mapped = mapped.and_then(|()| Mapping::read_write(file.as_fd(), 0, len, path));
    if mapped.is_err() && FileId::of(&file, path).is_ok_and(|id| id.stands_at(path)) {
        let _ = std::fs::remove_file(path);
    }
    mapped.map(Some)
}

/// Why a region cannot be created over what stands at the path; `None` if nothing stands there any more.
fn existing(path: &Path) -> Result<Option<RegionError>, RegionError> {
    let fd = match super::open_rings(path) {
        Err(RegionError::NotFound { .. }) => return Ok(None),
        opened => opened?,
    };
    let path = path.to_path_buf();
    Ok(match look(fd.as_fd(), &path)? {
        Found::Formatted { live: Some(pid) } | Found::Forming { live: pid } => Some(RegionError::Live { path, pid }),
        Found::Formatted { live: None } => Some(RegionError::Exists { path }),
        Found::Unfinished => Some(RegionError::Unfinished { path }),
        Found::Gone => None,
    })
}

/// Takes the server's lock on a file that the path names; `None` if it must be looked at again.
fn take(lock: &LockFile, path: &Path) -> Result<Option<FileId>, RegionError> {
    let id = FileId::of(lock.fd()?, path)?;
    if lock.try_server(path)? == Taken::No {
        return match lock::server_pid(lock.fd()?).map_err(|errno| refused("asking for the lock of", path, errno))? {
            Some(pid) => Err(RegionError::Live { path: path.to_path_buf(), pid }),
            None => Ok(None),
        };
    }
    Ok(id.stands_at(path).then_some(id))
}

/// Tells those who have an old region mapped that it is history. The state's place is the same in all minor versions.
fn supersede(fd: BorrowedFd<'_>, path: &Path) -> Result<(), RegionError> {
    let map = Mapping::read_write(fd, 0, 2 * PAGE, path)?;
    let header = map.copy_header();
    let major = u16::from_ne_bytes([header[8], header[9]]);
    if major == LAYOUT_MAJOR {
        // The page may be a hole in a damaged file.
        commit(fd, 0, 2 * PAGE, path)?;
        // ORDER(state): Release as in `set_state`.
        map.status().state.store(RegionState::Superseded as u32, Ordering::Release);
    }
    Ok(())
}

/// Removes the name of a file whose server's lock the caller holds. A name that somebody moved elsewhere is left alone.
fn unlink(id: FileId, path: &Path) -> Result<(), RegionError> {
    if !id.stands_at(path) {
        return Err(RegionError::Stale { path: path.to_path_buf() });
    }
    std::fs::remove_file(path).map_err(|error| refused("removing", path, error))
}

/// Backs both lanes of a client.
pub(super) fn commit_lanes(fd: BorrowedFd<'_>, layout: &Layout, client: u32, path: &Path) -> Result<(), RegionError> {
    assert!(client < layout.shape.clients, "invariant M1: client {client} is below {}", layout.shape.clients);
    for section in [Section::RequestLanes, Section::ReplyLanes] {
        commit(fd, layout.element(section, client), layout.section(section).stride, path)?;
    }
    Ok(())
}
