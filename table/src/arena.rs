//! The section with the offsets of its parts, checked once: what all algorithms work on.

use crate::layout::{Header, LINE, WorkerRecord};
use crate::section::Section;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::words::BucketCount;
use std::mem::{offset_of, size_of};

/// A section whose directory was validated; the offsets are private copies.
#[derive(Clone)]
pub(crate) struct Arena {
    pub(crate) section: Section,
    pub(crate) workers: u64,
    pub(crate) deadlines: u64,
    pub(crate) class_map: u64,
    pub(crate) buckets: u64,
    /// Buckets that fit the reserved range.
    pub(crate) max_buckets: u64,
    pub(crate) heap_start: u64,
    /// End of the reserved range.
    pub(crate) heap_end: u64,
}

impl Arena {
    /// The bucket count word.
    #[inline]
    pub(crate) fn bucket_count(&self) -> BucketCount {
        // ORDER(bucket_count): Acquire pairs with the Release in `split`: who counts a bucket sees its line locked or filled.
        BucketCount(self.section.word(offset_of!(Header, bucket_count) as u64).load(Acquire))
    }

    /// Items of a lower version are gone.
    #[inline]
    pub(crate) fn version_floor(&self) -> u64 {
        // ORDER(version_floor): Relaxed: a lone bound; what a clear needs beyond it is ordered by `next_version`, see `clear`.
        self.section.word(offset_of!(Header, version_floor) as u64).load(Relaxed)
    }

    /// Offset of a bucket's line.
    #[inline]
    pub(crate) fn bucket(&self, index: u64) -> u64 {
        self.buckets + index * LINE
    }

    #[inline]
    pub(crate) fn record(&self, worker: u32) -> u64 {
        self.workers + u64::from(worker) * size_of::<WorkerRecord>() as u64
    }
}
