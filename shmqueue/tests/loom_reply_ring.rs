//! Model of the broadcast reply ring (B1, B2): `RUSTFLAGS="--cfg loom" cargo test --release -p shmqueue --test loom_reply_ring`.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use shmqueue::reply_ring::{Heard, ReplyRing};
use shmqueue::sync::AtomicU64;

const US: u16 = 7;
const OTHER: u16 = 9;
/// Most descriptors that a model publishes.
const REPLIES: usize = 4;

struct Memory {
    tail: AtomicU64,
    cells: [AtomicU64; 4],
    /// Stands for the reply lanes: what the descriptor of this position announces, without any ordering of its own.
    replies: [UnsafeCell<u64>; REPLIES],
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            tail: AtomicU64::new(0),
            cells: std::array::from_fn(|_| AtomicU64::new(0)),
            replies: std::array::from_fn(|_| UnsafeCell::new(0)),
        })
    }

    /// Two descriptors: a writer laps a reader with its third.
    fn ring(&self) -> ReplyRing<'_> {
        ReplyRing::new(&self.tail, &self.cells)
    }

    /// A reply for `client` and its descriptor, which says "complete up to position + 1".
    fn answer(&self, position: u64, client: u16) {
        // SAFETY: only the writer touches a reply that has not been announced; loom checks just that.
        self.replies[position as usize].with_mut(|reply| unsafe { *reply = 100 + position });
        self.ring().write(position, client, position + 1);
    }

    fn check_replies(&self, complete: u64) {
        for position in 0..complete {
            // SAFETY: announced replies change no more.
            self.replies[position as usize].with(|reply| assert_eq!(unsafe { *reply }, 100 + position, "not yet there"));
        }
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Every descriptor is ours and says its position: what a follower hears must be the last one before the tail it has reached.
#[test]
fn a_lapped_follower_never_takes_a_descriptor_for_another() {
    check(4, || {
        let memory = Memory::new();
        let writer = {
            let memory = memory.clone();
            thread::spawn(move || {
                for position in 0..REPLIES as u64 {
                    memory.answer(position, US);
                    memory.ring().publish(position + 1);
                }
            })
        };
        let mut cursor = 0;
        for _ in 0..2 {
            let before = cursor;
            match memory.ring().follow(&mut cursor, US) {
                Heard::Complete(complete) => {
                    assert_eq!(complete, cursor, "a descriptor of another position");
                    memory.check_replies(complete);
                }
                Heard::Nothing => assert_eq!(cursor, before, "descriptors for us were passed over"),
                Heard::Lapped => assert!(cursor > before),
            }
        }
        writer.join().unwrap();
    });
}

/// Descriptors of several clients under one tail store, as a pass writes them.
#[test]
fn a_follower_hears_of_nothing_before_the_tail_and_of_nobody_elses() {
    check(4, || {
        let memory = Memory::new();
        let writer = {
            let memory = memory.clone();
            thread::spawn(move || {
                memory.answer(0, US);
                memory.answer(1, OTHER);
                memory.ring().publish(2);
                memory.answer(2, OTHER);
                memory.ring().publish(3);
            })
        };
        let mut cursor = 0;
        match memory.ring().follow(&mut cursor, US) {
            Heard::Complete(complete) => {
                assert_eq!(complete, 1, "another client's descriptor");
                assert!(cursor >= 2, "heard before the tail was stored");
                memory.check_replies(1);
            }
            Heard::Nothing => assert_eq!(cursor, 0, "our descriptor was passed over"),
            Heard::Lapped => assert!(cursor > 0),
        }
        writer.join().unwrap();
        match memory.ring().follow(&mut cursor, US) {
            // The first descriptor is under the third, if it was not heard before.
            Heard::Lapped => assert_eq!(cursor, 3),
            Heard::Nothing => assert_eq!(cursor, 3),
            Heard::Complete(_) => panic!("the descriptor that spoke of us has been overwritten or heard"),
        }
    });
}
