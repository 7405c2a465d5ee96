//! Signals that end a command which runs until told to stop.
//!
//! The first SIGINT or SIGTERM asks the command to end cleanly: it finishes what it has begun and prints its last line. A second
//! one, for a command that is stuck on the way out, ends the process at once. Commands that do not call [`Stop::on_signals`] keep the
//! system's default.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{Timespec, nanosleep};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::Failure;

/// The wish that the command ends.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A wish that nobody ever has: the command ends by itself.
    pub(crate) fn never() -> Self {
        Self(Arc::default())
    }

    /// Catches SIGINT and SIGTERM from here on.
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        let wish = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first handler acts on a wish that an earlier signal left.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&wish))
                .and_then(|_| flag::register(signal, Arc::clone(&wish)))
                .map_err(Failure::io("catching signals failed"))?;
        }
        Ok(Self(wish))
    }

    /// Whether the wish has been spoken.
    #[inline]
    pub(crate) fn asked(&self) -> bool {
        // The flag carries no other data, so Relaxed is enough.
        self.0.load(Ordering::Relaxed)
    }

    /// Lets `interval` pass between two displays, or less when the wish is spoken.
    pub(crate) fn pause(&self, interval: Duration) {
        let end = Instant::now() + interval;
        // A signal that comes just before the sleep does not interrupt it: slices bound what that costs.
        while !self.asked() {
            let left = end.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            if left.is_zero() {
                return;
            }
            let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() });
        }
    }
}
