//! The region's file `NAME.rings`: creating, joining, mapping, attaching.
//!
//! ```text
//!   RegionName ──▶ ServerRegion::create ─┐                        ┌─▶ ClientRegion::join ──▶ attach ──▶ Attachment
//!              └─▶ ServerRegion::join  ──┴─▶ NAME.rings ──────────┘   (sections by right)            (own lanes)
//! ```
//!
//! Life of the file: *create* makes it exclusively, takes the server's lock, commits the fixed part, formats, and stores the
//! magic last. *join* opens what is there, decides who is alive by the locks alone, and turns the untrusted header into a
//! checked layout in one place (`check`). Mapping is apart from both (`map`), and a client maps each section with no more
//! right than it needs.
//!
//! Invariants:
//! - **G1** Whoever holds the server's lock on the file that the path names is the region's server; nobody else formats,
//!   changes the state or unlinks it.
//! - **G2** The magic is stored after everything else, so that a file with it is wholly formatted.
//! - **G3** Nothing is computed from header bytes but through `check`; the layout in use is this process's own copy.
//! - **G4** No range is touched before it is committed by `fallocate`, and no committed range is given back while the region lives.
//! - **G5** A lane is mapped by the one client that holds its slot and by the server.
//!
//! CRASH: a server that dies while formatting leaves a file without magic and without lock; [`ServerRegion::discard`] removes
//! it. One that dies later leaves a region that the next server joins.
//!
//! Packages: in `/dev/shm` the `shared_memory` crate makes and opens the server's mapping. It cannot open a path outside
//! `/dev/shm`, map read-only or map a part of a file, nor give its descriptor to lock, commit or set a mode; for these
//! `memmap2` and a descriptor of our own serve.

mod attach;
mod check;
mod client;
mod file;
mod map;
mod name;
mod server;

pub use attach::Attachment;
pub use check::CheckedHeader;
pub use client::ClientRegion;
pub(crate) use file::open_rings;
pub use name::RegionName;
pub use server::ServerRegion;
