//! A worker's sense of time: when to publish, when to look again, when to lie down, and on which CPU to run.

use std::time::{Duration, Instant};

use crate::wait::{self, WaitMode};

use super::{Engine, EngineConfig};

/// Length of a tick, in which active clients are counted.
const TICK: Duration = Duration::from_millis(1);
/// How long an adaptive worker spins on a free core before it lies down.
const SPIN: Duration = Duration::from_micros(50);
/// Yields of an adaptive worker without a free core before it lies down.
const YIELDS: u32 = 6;
/// Stay of an oversubscribed worker on one CPU: it takes more than its share of the one it runs on, so it takes turns.
const STAY: Duration = Duration::from_millis(3);
/// Looks between two looks at the clock.
const LOOKS: u32 = 16;

/// See the module.
pub(super) struct Pace {
    mode: WaitMode,
    cpus: Vec<usize>,
    epoch: Instant,
    now: Duration,
    looks: u32,
    tick: u32,
    /// When the current idle stretch was first noticed.
    idle_since: Option<Duration>,
    yields: u32,
    moved: Duration,
    seat: Option<usize>,
}

impl Pace {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Self {
            mode: config.wait,
            cpus: config.cpus.clone(),
            epoch: Instant::now(),
            now: Duration::ZERO,
            looks: 0,
            tick: 0,
            idle_since: None,
            yields: 0,
            moved: Duration::ZERO,
            seat: None,
        }
    }

    /// Looks at the clock now and then; a new tick is published. Returns the current tick.
    #[inline]
    pub(super) fn tick(&mut self, engine: &Engine) -> u32 {
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS) {
            self.look_at_clock(engine);
        }
        self.tick
    }

    fn look_at_clock(&mut self, engine: &Engine) {
        self.now = self.epoch.elapsed();
        let tick = (self.now.as_nanos() / TICK.as_nanos()) as u32;
        if tick == self.tick {
            return;
        }
        self.tick = tick;
        engine.publish_runnable(tick);
        let runnable = engine.region.status().runnable.load(crate::sync::Ordering::Relaxed);
        self.take_turns(runnable);
    }

    /// An oversubscribed worker moves to another CPU from time to time, so that the clients of none starve.
    fn take_turns(&mut self, runnable: u32) {
        if runnable as usize <= self.cpus.len() || self.cpus.len() < 2 {
            if self.seat.take().is_some() {
                wait::set_affinity(&self.cpus);
            }
            return;
        }
        if self.seat.is_none() || self.now - self.moved >= STAY {
            let seat = self.seat.map_or(0, |seat| (seat + 1) % self.cpus.len());
            wait::set_affinity(&self.cpus[seat..=seat]);
            (self.seat, self.moved) = (Some(seat), self.now);
        }
    }

    /// A sweep found work.
    #[inline]
    pub(super) fn worked(&mut self) {
        self.idle_since = None;
        self.yields = 0;
    }

    /// A sweep found nothing: whether to look again (after a pause, or after others had the core) or to lie down.
    pub(super) fn keep_looking(&mut self, engine: &Engine) -> bool {
        match self.mode {
            WaitMode::Block => return false,
            WaitMode::Spin => {
                crate::sync::spin_hint();
                return true;
            }
            WaitMode::Adaptive => {}
        }
        let runnable = engine.region.status().runnable.load(crate::sync::Ordering::Relaxed);
        if runnable as usize <= self.cpus.len() {
            crate::sync::spin_hint();
            let Some(since) = self.idle_since else {
                self.now = self.epoch.elapsed();
                self.idle_since = Some(self.now);
                return true;
            };
            if !self.looks.is_multiple_of(LOOKS) {
                return true;
            }
            if engine.shares_cpu() {
                self.make_way();
            }
            return self.now.saturating_sub(since) < SPIN;
        }
        self.yields += 1;
        if self.yields <= YIELDS {
            std::thread::yield_now();
            return true;
        }
        false
    }

    /// The one client that could send runs on this CPU: moves to another one, which the kernel would do some ms later, or yields.
    fn make_way(&mut self) {
        let here = wait::current_cpu() as usize;
        let elsewhere: Vec<usize> = self.cpus.iter().copied().filter(|cpu| *cpu != here).collect();
        if elsewhere.is_empty() || self.now.saturating_sub(self.moved) < TICK {
            std::thread::yield_now();
            return;
        }
        self.moved = self.now;
        wait::set_affinity(&elsewhere);
        wait::set_affinity(&self.cpus);
    }

    /// The worker lies down: it leaves its seat, and looks at the clock as soon as it is up again.
    pub(super) fn rest(&mut self) {
        self.worked();
        self.looks = LOOKS - 1;
        if self.seat.take().is_some() {
            wait::set_affinity(&self.cpus);
        }
    }
}
