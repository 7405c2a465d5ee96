//! The atomics every algorithm of this crate is written over.
//!
//! Under `--cfg loom` they are loom's, so that the very code that runs on the region is what the model checker explores;
//! otherwise they are the standard library's, which have the layout of the integers that rest in the region.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor (or the model checker) that the caller is in a spin loop.
#[inline]
pub fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
