//! The atomics and locks that the protocol is written over: the standard ones, or loom's under `cfg(loom)`.
//!
//! Everything that two threads can touch goes through these names, so that the model checker sees it.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
