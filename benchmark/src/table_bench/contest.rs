//! The maps side by side, round by round: each in fresh maps that grow, and in maps made for their keys that serve all rounds.

use super::growth::SMALL;
use super::race::{OPS, OneByOne, Op, Round, Share, round};
use crate::chain::{Chained, Link, Overlapped};
use crate::ours::{Grouped, Ours};
use crate::peers::{DashMap, Map, Papaya, Peer, RwLocked, Scc};
use crate::spread::Spread;
use crate::{Error, peers};

/// How operations are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each waits for the one before, in a map that is new in each round and made for few keys.
    Fresh,
    /// Each waits for the one before, in a map made for its keys that was used before.
    Presized,
    /// Nobody waits, in a map made for its keys that was used before.
    Overlapped,
    /// The same, in groups as the server's workers make them.
    Batch,
}

impl Way {
    /// What is measured: what a growing map does not differ in is left out, but for what empties the map again.
    fn ops(self) -> &'static [Op] {
        match self {
            Way::Presized => &[Op::Insert, Op::Delete],
            _ => &OPS,
        }
    }

    /// Name of a figure of the map, without its unit.
    fn figure(self, map: &str, op: Op) -> String {
        let op = op.name();
        match self {
            Way::Fresh => format!("{map}{op}"),
            Way::Presized => format!("{map}presized_{op}"),
            Way::Overlapped => format!("{map}{op}_overlapped"),
            Way::Batch => format!("{map}batch_{op}"),
        }
    }

    /// What peers do where we do this: they have no groups.
    fn of_peers(self) -> Way {
        if self == Way::Batch { Way::Overlapped } else { self }
    }
}

/// Runs a round with these keys and the values of this stamp.
type RunRound<'a> = dyn Fn(&[Share], u32) -> Result<Round, Error> + 'a;

/// A map in one of the ways.
struct Entrant<'a> {
    /// As its figures begin: nothing for ours.
    map: String,
    way: Way,
    round: Box<RunRound<'a>>,
    rounds: Vec<Round>,
}

impl<'a> Entrant<'a> {
    fn new(map: &str, way: Way, round: impl Fn(&[Share], u32) -> Result<Round, Error> + 'a) -> Self {
        Self { map: map.into(), way, round: Box::new(round), rounds: Vec::new() }
    }

    fn times(&self, op: Op) -> Vec<f64> {
        self.rounds.iter().map(|round| round.ns[op as usize]).collect()
    }
}

/// One round of operations by single calls.
fn run<L: Link>(map: &impl Map, way: Way, link: impl Fn() -> L + Sync, shares: &[Share], stamp: u32) -> Result<Round, Error> {
    round(|| OneByOne(map.handle(), link()), way.ops(), shares, stamp)
}

fn enter_ours<'a>(entrants: &mut Vec<Entrant<'a>>, keys: u32, presized: &'a Ours) {
    entrants.push(Entrant::new("", Way::Fresh, move |shares, stamp| {
        let table = Ours::new(SMALL, keys.into())?;
        table.private().while_committing(|| run(&table, Way::Fresh, Chained::new, shares, stamp))
    }));
    entrants.push(Entrant::new("", Way::Presized, |shares, stamp| {
        presized.private().while_committing(|| run(presized, Way::Presized, Chained::new, shares, stamp))
    }));
    entrants.push(Entrant::new("", Way::Overlapped, |shares, stamp| {
        presized.private().while_committing(|| run(presized, Way::Overlapped, || Overlapped, shares, stamp))
    }));
    entrants.push(Entrant::new("", Way::Batch, |shares, stamp| {
        presized.private().while_committing(|| round(|| Grouped(presized.handle()), Way::Batch.ops(), shares, stamp))
    }));
}

fn enter<'a, P: Peer>(entrants: &mut Vec<Entrant<'a>>, presized: &'a P) {
    let name = format!("{}_", P::NAME);
    entrants.push(Entrant::new(&name, Way::Fresh, |shares, stamp| {
        run(&P::with_capacity(SMALL as usize), Way::Fresh, Chained::new, shares, stamp)
    }));
    entrants.push(Entrant::new(&name, Way::Presized, |shares, stamp| run(presized, Way::Presized, Chained::new, shares, stamp)));
    entrants
        .push(Entrant::new(&name, Way::Overlapped, |shares, stamp| run(presized, Way::Overlapped, || Overlapped, shares, stamp)));
}

/// What the rounds found.
#[derive(Default)]
pub(crate) struct Contest {
    /// By the names of the figures.
    pub(crate) spreads: Vec<(String, Spread)>,
    /// Wrong answers.
    pub(crate) errors: u64,
}

impl Contest {
    /// Runs so many rounds of all maps, each begun by another, and `between` after each. Before them comes one that warms up the
    /// maps that are kept: their allocators have their memory then.
    pub(crate) fn run(
        keys: u32,
        workers: u32,
        buckets: u64,
        rounds: u32,
        mut between: impl FnMut() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let shares = Share::deal(keys, workers);
        let (ours, room) = (Ours::new(buckets, keys.into())?, keys as usize);
        let (dashmap, papaya) = (DashMap::with_capacity(room), Papaya::with_capacity(room));
        let (scc, rwlock) = (Scc::with_capacity(room), RwLocked::with_capacity(room));
        let mut entrants = Vec::new();
        enter_ours(&mut entrants, keys, &ours);
        enter(&mut entrants, &dashmap);
        enter(&mut entrants, &papaya);
        enter(&mut entrants, &scc);
        enter(&mut entrants, &rwlock);
        let (many, mut found) = (entrants.len(), Self::default());
        // What is kept is warm after one round in either way.
        for entrant in entrants.iter().filter(|entrant| entrant.way == Way::Overlapped) {
            found.errors += (entrant.round)(&shares, 0)?.errors;
        }
        for number in 1..=rounds {
            for turn in 0..many {
                let entrant = &mut entrants[(turn + number as usize) % many];
                let took = (entrant.round)(&shares, number)?;
                found.errors += took.errors;
                entrant.rounds.push(took);
            }
            between()?;
        }
        found.judge(&entrants);
        Ok(found)
    }

    fn judge(&mut self, entrants: &[Entrant<'_>]) {
        for entrant in entrants {
            for &op in entrant.way.ops() {
                let (times, figure) = (entrant.times(op), entrant.way.figure(&entrant.map, op));
                if entrant.map.is_empty() {
                    let ratio = Spread::of_ratios(&times, &fastest(entrants, entrant.way.of_peers(), op));
                    self.spreads.push((format!("ratio_{figure}"), ratio));
                }
                self.spreads.push((format!("{figure}_ns"), Spread::of(&times)));
            }
        }
    }
}

/// The fastest peer of each round.
fn fastest(entrants: &[Entrant<'_>], way: Way, op: Op) -> Vec<f64> {
    let peers = entrants.iter().filter(|entrant| entrant.way == way && !entrant.map.is_empty());
    let times: Vec<_> = peers.map(|peer| peer.times(op)).collect();
    let rounds = times.iter().map(Vec::len).min().unwrap_or(0);
    (0..rounds).map(|round| times.iter().map(|times| times[round]).fold(f64::INFINITY, f64::min)).collect()
}

/// Lines for a person: name of the row, and the figures of a way, ours and the peers'.
pub(crate) fn rows() -> Vec<(String, Vec<String>, String)> {
    let ways = [Way::Fresh, Way::Presized, Way::Overlapped, Way::Batch];
    let row = |way: Way, op: Op| {
        let peers = peers::NAMES.map(|peer| format!("{}_ns", way.of_peers().figure(&format!("{peer}_"), op)));
        let ours = way.figure("", op);
        (ours.clone(), [format!("{ours}_ns")].into_iter().chain(peers).collect(), format!("ratio_{ours}"))
    };
    ways.into_iter().flat_map(|way| way.ops().iter().map(move |&op| row(way, op))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_peer_is_chosen_round_by_round_and_of_the_same_way() {
        let entrant = |map: &str, way: Way, ns: [f64; 2]| Entrant {
            rounds: ns.map(|ns| Round { ns: [ns; OPS.len()], errors: 0 }).into(),
            ..Entrant::new(map, way, |_, _| Error::failed("not run"))
        };
        let entrants = [
            entrant("", Way::Fresh, [1.0, 1.0]),
            entrant("a_", Way::Fresh, [5.0, 9.0]),
            entrant("a_", Way::Overlapped, [2.0, 2.0]),
            entrant("b_", Way::Fresh, [7.0, 8.0]),
        ];
        assert_eq!(fastest(&entrants, Way::Fresh, Op::Get), [5.0, 8.0]);
        assert!(fastest(&entrants, Way::Presized, Op::Get).is_empty());
    }

    #[test]
    fn groups_are_judged_by_loops_that_overlap() {
        let batch = rows().into_iter().find(|(name, ..)| name == "batch_get").expect("a row");
        assert_eq!(batch.1[..2], ["batch_get_ns", "dashmap_get_overlapped_ns"]);
        let insert = rows().into_iter().find(|(name, ..)| name == "presized_insert").expect("a row");
        assert_eq!((insert.1[4].as_str(), insert.2.as_str()), ("rwlock_presized_insert_ns", "ratio_presized_insert"));
    }
}
