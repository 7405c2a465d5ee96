//! Which spans to evacuate: the least bytes to move for a unit gained, or for a run of units in one place.
//!
//! Every look at a list is bounded; where the bounds hide a better choice, a worse one or none is made.

use crate::classes::{CLASSES, LARGE, UNIT, is_thrifty, least_units, size_of_class};
use crate::spans::{NONE, RUN, Spans, held_back, unit_entry};
use crate::spans_lists::BINS;

/// Classes whose best choices are weighed against each other.
const CLASSES_WEIGHED: usize = 4;
/// Spans of a class that are looked at.
const LOOK: usize = 256;
/// Free runs around which a window is weighed.
const WINDOWS: usize = 128;
/// Most bytes to move for a window, beside what it is to hold.
const WINDOW_BYTES: u64 = 1 << 20;
/// What moving a block costs beside its bytes, in bytes.
const PER_BLOCK: u64 = 256;

/// A span to retire from `cut` on.
#[derive(Clone, Copy)]
struct Choice {
    /// Bytes to move per unit gained.
    score: u64,
    gain: u64,
    id: u32,
    cut: u32,
}

/// Units in a row, and what stands there.
struct Window {
    first: u32,
    end: u32,
    cost: u64,
}

impl Spans {
    /// Retires something for the sake of `units` in a row (`u32::MAX`: of any); false if there is nothing that would help.
    pub(crate) fn choose_for(&mut self, units: u32) -> bool {
        let any = units == u32::MAX;
        let chosen = if any || self.pool.free_units() < self.reserve + u64::from(units) {
            self.choose(1, false) || (!any && self.choose(1, true))
        } else if self.pool.has_run(units) {
            false
        } else {
            let wide = u64::from(units);
            self.choose(wide, false) || self.choose_window(units) || self.choose(1, false) || self.choose(wide, true)
        };
        if !chosen {
            self.fruitless = (self.given, units);
        }
        chosen
    }

    /// Whether the last choice for no more than `units` was fruitless and nothing was given back since.
    pub(crate) fn is_fruitless(&self, units: u32) -> bool {
        self.fruitless.0 == self.given && units >= self.fruitless.1
    }

    /// Retires what gains units at the least cost, of a class that could spare much; false if no class has room enough
    /// beside what it holds back. `least` units are to come from it in a row.
    fn choose(&mut self, least: u64, wasteful: bool) -> bool {
        self.choices += 1;
        let mut classes: [(u64, usize); CLASSES] = std::array::from_fn(|class| {
            let spare = self.free_blocks[class].saturating_sub(held_back(class as u8));
            (spare * size_of_class(class), class)
        });
        classes.sort_unstable_by(|a, b| b.cmp(a));
        let (mut best, mut weighed): (Option<Choice>, usize) = (None, 0);
        for &(_, class) in classes.iter().take_while(|&&(bytes, _)| bytes > 0) {
            if let Some(choice) = self.best_of(class, least, wasteful) {
                weighed += 1;
                best = best.filter(|best| best.score <= choice.score).or(Some(choice));
                if weighed == CLASSES_WEIGHED {
                    break;
                }
            }
        }
        let Some(Choice { id, cut, .. }) = best else { return false };
        self.retire(id, cut, self.spans[id as usize].first, false);
        true
    }

    /// The best choice of a class, among a bounded number of its sparsest spans.
    fn best_of(&self, class: usize, least: u64, wasteful: bool) -> Option<Choice> {
        let spare = self.free_blocks[class] - held_back(class as u8);
        let mut sparse = [0; LOOK];
        let mut len = 0;
        let ids = (0..BINS).rev().flat_map(|bin| self.listed(class, bin)).take(LOOK);
        for (place, id) in sparse.iter_mut().zip(ids) {
            *place = id;
            len += 1;
        }
        let sparse = &mut sparse[..len];
        sparse.sort_unstable_by_key(|&id| self.spans[id as usize].first);
        let (mut below, mut best): (u64, Option<Choice>) = (0, None);
        for &id in sparse.iter() {
            let span = &self.spans[id as usize];
            if span.avoided_until <= self.choices {
                let whole = self.whole(id, spare).filter(|_| below >= u64::from(span.taken()));
                let whole = whole.filter(|choice| choice.gain >= least);
                for choice in [whole, self.tail(id, spare, least, wasteful)].into_iter().flatten() {
                    best = best.filter(|best| best.score <= choice.score).or(Some(choice));
                }
            }
            below += u64::from(span.free);
        }
        best
    }

    /// The whole span, if the class has room for its blocks elsewhere.
    fn whole(&self, id: u32, spare: u64) -> Option<Choice> {
        let span = &self.spans[id as usize];
        let size = size_of_class(usize::from(span.class));
        let cost = u64::from(span.taken()) * (size + PER_BLOCK);
        let waste = u64::from(span.units) * UNIT - u64::from(span.blocks) * size;
        let score = cost.saturating_sub(waste) / u64::from(span.units);
        (spare >= u64::from(span.blocks)).then_some(Choice { score, gain: u64::from(span.units), id, cut: 0 })
    }

    /// As many blocks from the span's end as it has free, the class can spare, and leave a span that wastes little.
    fn tail(&self, id: u32, spare: u64, least: u64, wasteful: bool) -> Option<Choice> {
        let span = &self.spans[id as usize];
        let (class, size) = (usize::from(span.class), size_of_class(usize::from(span.class)));
        let most = spare.min(u64::from(span.free)) as u32;
        let units_of = |cut: u32| (u64::from(cut) * size).div_ceil(UNIT);
        let cuts = (span.blocks - most..span.blocks).filter(|&cut| cut > 0);
        let cut = cuts
            .take_while(|&cut| u64::from(span.units) >= units_of(cut) + least)
            .find(|&cut| wasteful || is_thrifty(class, units_of(cut)))?;
        let gain = u64::from(span.units) - units_of(cut);
        let moved: u32 = (cut as usize / 64..span.bits.len())
            .map(|place| {
                let mask = if place == cut as usize / 64 { u64::MAX << (cut % 64) } else { u64::MAX };
                (span.bits[place] & mask).count_ones()
            })
            .sum::<u32>()
            .saturating_sub(span.bits.len() as u32 * 64 - span.blocks);
        Some(Choice { score: u64::from(moved) * (size + PER_BLOCK) / gain, gain, id, cut })
    }

    /// Whether the spans below have as many free blocks as this one has taken.
    fn has_room_below(&self, id: u32) -> bool {
        let span = &self.spans[id as usize];
        let mut wanted = span.taken();
        for other in (0..BINS).rev().flat_map(|bin| self.listed(usize::from(span.class), bin)).take(LOOK) {
            if wanted == 0 {
                break;
            }
            let other = &self.spans[other as usize];
            if other.first < span.first {
                wanted = wanted.saturating_sub(other.free);
            }
        }
        wanted == 0
    }

    /// Retires what stands between free units until `units` in a row are free; false if no such place is found.
    fn choose_window(&mut self, units: u32) -> bool {
        self.choices += 1;
        let mut best: Option<Window> = None;
        for (run, len) in self.pool.longest_first().take(WINDOWS) {
            for upward in [false, true] {
                let most = best.as_ref().map_or(u64::from(units) * UNIT + WINDOW_BYTES, |best| best.cost);
                if let Some(window) = self.extend(run, run + len, units, upward, most) {
                    best = Some(window);
                }
            }
        }
        let Some(window) = best else { return false };
        let mut spans = Vec::new();
        let mut unit = window.first;
        while unit < window.end {
            unit += match self.owner[unit as usize] {
                NONE => self.pool.run_at(unit).max(1),
                RUN => {
                    self.runs_to_move.push((unit, window.first));
                    unit_entry(&self.arena, self.offset(unit)).map_or(1, |entry| entry.units)
                }
                id => {
                    spans.push(id);
                    self.spans[id as usize].units
                }
            };
        }
        for id in spans {
            self.retire(id, 0, window.first, true);
        }
        true
    }

    /// Lengthens a free run over its neighbours on one side to `units`, at less than `most` bytes to move.
    fn extend(&self, first: u32, end: u32, units: u32, upward: bool, most: u64) -> Option<Window> {
        let mut window = Window { first, end, cost: 0 };
        while window.end - window.first < units {
            let unit = if upward { window.end } else { window.first.checked_sub(1)? };
            let owner = *self.owner.get(unit as usize)?;
            let len = match owner {
                NONE => self.pool.run_at(unit),
                RUN => unit_entry(&self.arena, self.offset(unit)).filter(|entry| entry.class == LARGE)?.units,
                id => {
                    let span = &self.spans[id as usize];
                    let free_elsewhere = self.pool.free_units().saturating_sub(u64::from(window.end - window.first));
                    // Where the free units lie singly, only small blocks can go there.
                    let spreads =
                        free_elsewhere >= u64::from(span.units) && self.pool.has_run(least_units(usize::from(span.class)) as u32);
                    let room = spreads || self.has_room_below(id);
                    if span.is_leaving() || span.avoided_until > self.choices || !room {
                        return None;
                    }
                    window.cost += u64::from(span.taken()) * (size_of_class(usize::from(span.class)) + PER_BLOCK);
                    span.units
                }
            };
            if owner == RUN {
                window.cost += u64::from(len) * UNIT;
            }
            if len == 0 || window.cost >= most {
                return None;
            }
            if upward {
                window.end += len;
            } else {
                window.first -= len;
            }
        }
        (window.cost < most).then_some(window)
    }
}
