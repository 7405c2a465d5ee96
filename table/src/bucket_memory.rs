//! Memory for buckets and their groups' deadlines, committed ahead of the splits that need it.
//!
//! B1: what `committed` says of a part is backed; it is stored after the memory is. B2: a bucket counts as backed when its line and its
//! group's deadline are.

use crate::layout::{GROUP, LINE, PAGE, Part};
use crate::store::Store;

/// Buckets that are kept ahead at most.
const AHEAD: u64 = 1 << 16;

impl Store {
    /// Whether a bucket has memory; if not, a writer commits a little itself unless somebody is at it.
    #[inline]
    pub(crate) fn backs_bucket(&self, index: u64) -> bool {
        let backed = self.backed_buckets();
        if index + index / 128 >= backed && self.can_grow() {
            self.wake_committer();
        }
        index < backed || self.back_buckets_now(index)
    }

    /// Buckets that have memory.
    #[inline]
    fn backed_buckets(&self) -> u64 {
        self.committed(Part::Buckets) / LINE
    }

    /// The same for who cannot do without: waits for whoever is committing.
    pub(crate) fn backs_bucket_by_now(&self, index: u64) -> bool {
        index < self.backed_buckets() || {
            let _growing = self.growing();
            index < self.backed_buckets() || (self.commit_buckets() && index < self.backed_buckets())
        }
    }

    #[cold]
    fn back_buckets_now(&self, index: u64) -> bool {
        let Some(_growing) = self.try_growing() else { return false };
        index < self.backed_buckets() || (self.commit_buckets() && index < self.backed_buckets())
    }

    /// Keeps a stretch of buckets committed ahead of the splits; whether it committed any. The caller holds `growing`.
    pub(crate) fn buckets_ahead(&self) -> bool {
        let buckets = self.arena.bucket_count().buckets();
        // A table that has not grown keeps what it started with.
        let ahead = (buckets / 32).clamp(PAGE / LINE, AHEAD);
        self.backed_buckets() < buckets + ahead && self.commit_buckets()
    }

    /// Commits the next step of buckets with their deadlines, within the limit. The caller holds `growing`.
    fn commit_buckets(&self) -> bool {
        let (lines_end, deadlines_end) = (self.committed(Part::Buckets), self.committed(Part::Deadlines));
        let most = self.arena.max_buckets * LINE;
        let len = self.step(lines_end, PAGE).min(most - lines_end);
        let groups = ((lines_end + len) / LINE).div_ceil(GROUP);
        let deadlines = (groups * 8).next_multiple_of(PAGE).saturating_sub(deadlines_end);
        if len == 0 || self.used() + len + deadlines > self.spendable() {
            return false;
        }
        if deadlines > 0 && !self.commit_range(Part::Deadlines, self.arena.deadlines, deadlines_end, deadlines) {
            return false;
        }
        self.commit_range(Part::Buckets, self.arena.buckets, lines_end, len)
    }

    /// Commits the next range of a part and says so in the directory (B1).
    fn commit_range(&self, part: Part, base: u64, end: u64, len: u64) -> bool {
        let done = self.back(base + end, len);
        if done {
            self.publish(part, end + len);
        }
        done
    }
}
