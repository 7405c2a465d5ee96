//! Shared-memory region, request and response rings, waiting and ownership for shmtable.
//!
//! This crate knows nothing of tables: it moves opaque requests from the lanes of many client processes to the worker
//! threads of one server, and opaque replies back.

#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[cfg(not(loom))]
pub mod aligned_map;
pub mod claim;
pub mod doorbell;
#[cfg(not(loom))]
pub mod engine;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
pub mod fork;
mod hints;
pub mod lane;
pub mod layout;
#[cfg(not(loom))]
pub mod lock;
#[cfg(not(loom))]
pub mod port;
#[cfg(not(loom))]
pub mod region;
pub mod reply_ring;
pub mod ring;
pub mod serving;
#[cfg(not(loom))]
pub mod sigbus;
pub mod sync;
#[cfg(not(loom))]
pub mod wait;
