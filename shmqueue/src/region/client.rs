//! A client's side of a region: sections mapped by right, and what they say.
//!
//! ```text
//! HEADER STATUS │ CLAIMS REQUEST_RINGS │ REPLY_RINGS │ REQUEST_LANES REPLY_LANES
//!     read      │     read, write      │    read     │   not mapped but for an attachment's own
//! ```
//!
//! A [`ClientRegion`] holds no lock, so that it stays valid in a fork's child; only an
//! [`Attachment`] is a claim on something.
//!
//! The atomics of the read-only sections must be loaded `Relaxed`, with an Acquire fence after the load where order
//! matters; a store to them kills the process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::attach::{self, Attachment};
use super::check::{CheckedHeader, Joiner};
use super::file::{FileId, Found, allow_page_size, len, look};
use super::map::Mapping;
use super::name::RegionName;
use crate::error::RegionError;
use crate::layout::{
    ClaimsHead, ClientClaim, ClientStatus, Doorbell, Layout, PAGE, RegionState, ReplyRingHead, RequestRingHead, Section,
    ServerStatus, ShardStatus,
};
use crate::lock;

/// A joined region. Cheap to clone: all clones share the mappings.
#[derive(Clone, Debug)]
pub struct ClientRegion {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    header: CheckedHeader,
    published: Mapping,
    writable: Mapping,
    replies: Mapping,
    file: OwnedFd,
    id: FileId,
    path: PathBuf,
}

impl ClientRegion {
    /// Joins a region that is [`RegionState::Ready`]; whether its server lives is another question, see
    /// [`Self::server_alive`].
    pub fn join(name: &RegionName) -> Result<Self, RegionError> {
        let path = name.rings_path();
        allow_page_size(&path)?;
        let file = super::open_rings(&path)?;
        match look(file.as_fd(), &path)? {
            Found::Formatted { .. } => {}
            Found::Forming { .. } => return Err(RegionError::State(RegionState::Forming)),
            Found::Unfinished => return Err(RegionError::Unfinished { path }),
            Found::Gone => return Err(RegionError::Stale { path }),
        }
        let found = len(&file, &path)?;
        if found < PAGE {
            return Err(RegionError::Truncated { path, found, expected: PAGE });
        }
        let page = Mapping::read_only(file.as_fd(), 0, PAGE, &path)?.copy_header();
        let header = CheckedHeader::of(&page, found, Joiner::Client, &path)?;
        let start = |section| header.layout().section(section).offset;
        let (claims, replies, lanes) = (start(Section::Claims), start(Section::ReplyRings), start(Section::RequestLanes));
        let published = Mapping::read_only(file.as_fd(), 0, claims, &path)?;
        let writable = Mapping::read_write(file.as_fd(), claims, replies - claims, &path)?;
        let replies = Mapping::read_only(file.as_fd(), replies, lanes - replies, &path)?;
        let id = FileId::of(&file, &path)?;
        let region = Self { inner: Arc::new(Inner { header, published, writable, replies, file, id, path }) };
        match region.state()? {
            RegionState::Ready => Ok(region),
            other => Err(RegionError::State(other)),
        }
    }

    /// Takes a free slot of the least contended shard, and maps its lanes.
    ///
    /// `client_name` is what the server's list of clients shows, cut to 32 bytes.
    pub fn attach(&self, client_name: &str) -> Result<Attachment, RegionError> {
        attach::attach(self, client_name)
    }

    /// The region's state as its server published it last.
    pub fn state(&self) -> Result<RegionState, RegionError> {
        let raw = self.status().state.load(Ordering::Relaxed);
        // ORDER(state): Acquire pairs with the Release in `ServerRegion::set_state`; a fence, because the page is read-only.
        fence(Ordering::Acquire);
        RegionState::from_raw(raw)
            .ok_or_else(|| RegionError::Damaged { path: self.inner.path.clone(), what: format!("state {raw} against 0 to 4") })
    }

    /// Whether a server holds the region. Where that cannot be told, none does.
    pub fn server_alive(&self) -> bool {
        matches!(lock::server_pid(&self.inner.file), Ok(Some(_)))
    }

    /// Whether somebody holds a client slot. Where that cannot be told, the slot counts as held.
    pub fn client_alive(&self, client: u32) -> bool {
        lock::client_held(&self.inner.file, client).unwrap_or(true)
    }

    /// Whether the path still names this region's file.
    pub fn is_current(&self) -> bool {
        self.inner.id.stands_at(&self.inner.path)
    }

    /// All offsets.
    pub fn layout(&self) -> &Layout {
        self.inner.header.layout()
    }

    /// The checked copy of the header.
    pub fn header(&self) -> &CheckedHeader {
        &self.inner.header
    }

    /// Path of the rings file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What the server says of itself; read-only.
    pub fn status(&self) -> &ServerStatus {
        self.inner.published.status()
    }

    /// What the server says of a shard; read-only. Panics, as all accessors here, on an index outside the region's shape.
    pub fn shard_status(&self, shard: u32) -> &ShardStatus {
        self.inner.published.shard_status(self.layout(), shard)
    }

    /// What the server says of a client slot; read-only.
    pub fn client_status(&self, client: u32) -> &ClientStatus {
        self.inner.published.client_status(self.layout(), client)
    }

    /// The head of the claims.
    pub fn claims_head(&self) -> &ClaimsHead {
        self.inner.writable.claims_head(self.layout())
    }

    /// A worker's doorbell.
    pub fn doorbell(&self, shard: u32) -> &Doorbell {
        self.inner.writable.doorbell(self.layout(), shard)
    }

    /// A client slot's claim.
    pub fn claim(&self, client: u32) -> &ClientClaim {
        self.inner.writable.claim(self.layout(), client)
    }

    /// A shard's request ring and its cells, one word each.
    pub fn request_ring(&self, shard: u32) -> (&RequestRingHead, &[AtomicU64]) {
        self.inner.writable.request_ring(self.layout(), shard)
    }

    /// A shard's reply ring and its cells, two words each; read-only.
    pub fn reply_ring(&self, shard: u32) -> (&ReplyRingHead, &[AtomicU64]) {
        self.inner.replies.reply_ring(self.layout(), shard)
    }

    pub(super) fn id(&self) -> FileId {
        self.inner.id
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }
}
