//! Models of the serving word (S1) and of a client slot's life (K1, K2):
//! `RUSTFLAGS="--cfg loom" cargo test --release -p shmqueue --test loom_claim`.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use shmqueue::claim::{self, Attach, ClaimState, Detach, Release};
use shmqueue::serving::Serving;
use shmqueue::sync::{AtomicU64, Ordering};

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Three workers, two tries each: what the word guards is touched by one at a time, and nobody's work is overlooked.
#[test]
fn what_a_serving_word_guards_is_its_holders_alone() {
    check(2, || {
        let shard = Arc::new((Serving::default(), UnsafeCell::new(0u32)));
        let pass = |shard: &(Serving, UnsafeCell<u32>), worker| {
            let Some(_held) = shard.0.claim(worker) else { return 0 };
            // SAFETY: the serving word is held; loom checks just that.
            shard.1.with_mut(|passes| unsafe { *passes += 1 });
            1
        };
        let workers = [1, 2].map(|worker| {
            let shard = shard.clone();
            thread::spawn(move || pass(&shard, worker) + pass(&shard, worker))
        });
        let own = pass(&shard, 0) + pass(&shard, 0);
        let passes = own + workers.map(|worker| worker.join().unwrap()).into_iter().sum::<u32>();
        assert!(passes >= 2, "nobody was refused by a free word");
        let held = shard.0.claim(0).expect("the word was given back");
        // SAFETY: as above.
        shard.1.with(|counted| assert_eq!(unsafe { *counted }, passes));
        drop(held);
    });
}

/// A slot: its claim word, the lane that goes with it, and the server's own note of what it has served.
struct Slot {
    claim: AtomicU64,
    /// Requests in the lane, written by the client without any ordering of its own but the claim's.
    lane: UnsafeCell<u32>,
}

impl Slot {
    fn new() -> Arc<Self> {
        Arc::new(Self { claim: AtomicU64::new(0), lane: UnsafeCell::new(0) })
    }
}

/// Two clients after one another in a slot that the server drains and wipes between them.
#[test]
fn a_slot_passes_from_client_to_server_to_client_with_its_lane() {
    check(4, || {
        let slot = Slot::new();
        let server = {
            let slot = slot.clone();
            thread::spawn(move || {
                let mut drained = 0;
                for _ in 0..2 {
                    let Some(found) = claim::load(&slot.claim) else { panic!("a word that nobody writes") };
                    if found.state == ClaimState::Detached {
                        // SAFETY: a detached slot's lane is the server's; loom checks just that.
                        drained += slot.lane.with_mut(|lane| std::mem::take(unsafe { &mut *lane }));
                        assert!(matches!(claim::release(&slot.claim, found.generation), Release::Clean(_)));
                    }
                }
                drained
            })
        };
        let mut sent = 0;
        for generation in 0..2 {
            // The slot's lock byte is free in between: one client at a time, which this thread stands for.
            let Attach::Attached(own) = claim::attach(&slot.claim, generation, 1) else { break };
            slot.lane.with_mut(|lane| {
                // SAFETY: an attached slot's lane is its client's.
                let lane = unsafe { &mut *lane };
                assert_eq!(*lane, 0, "a request of the slot's last client");
                *lane += 1;
            });
            sent += 1;
            assert_eq!(claim::detach(&slot.claim, own), Detach::Detached);
        }
        let drained = server.join().unwrap();
        // SAFETY: nobody else is left.
        assert_eq!(drained + slot.lane.with(|lane| unsafe { *lane }), sent, "a request of a detached client is lost");
    });
}

/// Two clients that both found the slot free: the claim is one's.
#[test]
fn of_two_clients_one_attaches_a_generation() {
    check(4, || {
        let slot = Slot::new();
        let attach = |slot: &Slot| {
            let Attach::Attached(own) = claim::attach(&slot.claim, 0, 1) else { return 0 };
            // SAFETY: an attached slot's lane is its client's; loom checks just that.
            slot.lane.with_mut(|lane| unsafe { *lane += 1 });
            assert_eq!(claim::detach(&slot.claim, own), Detach::Detached);
            1
        };
        let other = {
            let slot = slot.clone();
            thread::spawn(move || attach(&slot))
        };
        assert_eq!(attach(&slot) + other.join().unwrap(), 1);
        // Late comers of that generation are refused after the release as well.
        assert_eq!(claim::release(&slot.claim, 0), Release::Clean(claim::Claim::free(1)));
        assert_eq!(claim::attach(&slot.claim, 0, 1), Attach::Taken);
    });
}

/// When the server lets go of a slot.
#[derive(Clone, Copy, PartialEq)]
enum Drain {
    /// Only when the lane was empty after the claim said DETACHED.
    AfterTheClaim,
    /// When the claim says DETACHED after the lane was empty.
    BeforeTheClaim,
}

/// A client publishes a last request and detaches while the server finds its lane empty.
fn last_request(order: Drain) {
    check(4, move || {
        let (word, lane) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let Attach::Attached(own) = claim::attach(&word, 0, 1) else { panic!("a free slot was refused") };
        let client = {
            let (word, lane) = (word.clone(), lane.clone());
            thread::spawn(move || {
                lane.store(1, Ordering::Release);
                assert_eq!(claim::detach(&word, own), Detach::Detached);
            })
        };
        let left = || claim::load(&word).is_some_and(|claim| claim.state == ClaimState::Detached);
        let is_published = || lane.load(Ordering::Acquire) == 1;
        let release = match order {
            Drain::AfterTheClaim => left() && !is_published(),
            Drain::BeforeTheClaim => !is_published() && left(),
        };
        assert!(!release, "a slot was released with a request in its lane");
        client.join().unwrap();
    });
}

#[test]
fn a_slot_is_released_only_when_the_lane_was_empty_after_the_detachment() {
    last_request(Drain::AfterTheClaim);
}

#[test]
#[should_panic(expected = "a slot was released with a request in its lane")]
fn a_lane_looked_at_before_the_claim_may_have_a_request_by_then() {
    last_request(Drain::BeforeTheClaim);
}
