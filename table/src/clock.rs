//! The region's clock: milliseconds of the boot clock since the region was made, the same for every process of the host.
//!
//! Expiry follows it, so a stepped wall clock changes nothing and a suspended machine's time counts. The epoch lies one
//! millisecond before the making, so that the clock never says 0.

use crate::words::MAX_EXPIRY;
use rustix::time::{ClockId, clock_gettime};

/// When an item is to be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// At this time of the region's clock, in milliseconds; brought within 1 to [`MAX_EXPIRY`].
    At(u64),
    /// When the item that is replaced would have been; never, where none is.
    Keep,
}

impl Expiry {
    /// The word for an item header where `kept` is the expiry of the item that is replaced.
    #[inline]
    pub(crate) fn word(self, kept: u64) -> u64 {
        match self {
            Expiry::Never => 0,
            Expiry::At(ms) => ms.clamp(1, MAX_EXPIRY),
            Expiry::Keep => kept,
        }
    }
}

/// Milliseconds of the boot clock.
fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// The epoch of a region that is made now.
pub(crate) fn new_epoch() -> u64 {
    boot_ms().saturating_sub(1)
}

/// Tells a region's time.
#[derive(Clone, Copy, Debug)]
pub struct RegionClock {
    epoch: u64,
}

impl RegionClock {
    pub(crate) fn new(epoch: u64) -> RegionClock {
        RegionClock { epoch }
    }

    /// Milliseconds since the region's epoch; costs a call into the vDSO.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        boot_ms().saturating_sub(self.epoch)
    }
}
