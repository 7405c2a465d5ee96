//! Loom models of the split beside lookups, deletes, inserts and the reuse of memory: `RUSTFLAGS="--cfg loom" cargo test --release
//! -p table --test loom_split`. Racing threads are all spawned, as in `loom_seqlock`.
#![cfg(loom)]

use loom::thread;
use table::model_split::SplitWorld;

/// Explores all orders with at most so many switches away from a thread that could go on, in a time that can be waited for.
fn model(switches: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(test);
}

/// Runs each on a thread of its own, then `after`.
fn race(world: &SplitWorld, acts: &[fn(&SplitWorld)]) {
    let threads: Vec<_> = acts
        .iter()
        .map(|&act| {
            let world = world.clone();
            thread::spawn(move || act(&world))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_key_that_a_split_moves_is_never_missed() {
    model(4, || {
        let world = SplitWorld::new(&[0, 1]);
        race(&world, &[SplitWorld::split, |world| assert_ne!(world.finds(1), Some(false))]);
        assert_eq!((world.finds(0), world.finds(1), world.places(0), world.places(1)), (Some(true), Some(true), 1, 1));
    });
}

#[test]
fn a_key_that_stays_is_never_missed() {
    model(4, || {
        // What moves leaves a hole in front of it.
        let world = SplitWorld::new(&[1, 2]);
        race(&world, &[SplitWorld::split, |world| assert_ne!(world.finds(2), Some(false))]);
        assert_eq!((world.finds(1), world.finds(2), world.places(1), world.places(2)), (Some(true), Some(true), 1, 1));
    });
}

#[test]
fn two_readers_beside_a_split_miss_nothing() {
    model(2, || {
        let world = SplitWorld::new(&[0, 1]);
        race(
            &world,
            &[
                SplitWorld::split,
                |world| assert_ne!(world.finds(1), Some(false)),
                |world| {
                    // Who has met the new bucket does not fall back behind it.
                    assert_ne!(world.finds(1), Some(false));
                    assert_ne!(world.finds(0), Some(false));
                },
            ],
        );
    });
}

#[test]
fn a_delete_beside_a_split_leaves_no_copy() {
    model(4, || {
        let world = SplitWorld::new(&[0, 1]);
        race(&world, &[SplitWorld::split, |world| world.remove(1)]);
        assert_eq!((world.finds(0), world.finds(1), world.places(1)), (Some(true), Some(false), 0));
    });
}

#[test]
fn an_insert_beside_a_split_lands_where_it_is_looked_for() {
    model(4, || {
        let world = SplitWorld::new(&[1]);
        race(&world, &[SplitWorld::split, |world| world.insert(3, 5, 9)]);
        assert_eq!((world.finds(1), world.finds(3), world.places(3)), (Some(true), Some(true), 1));
    });
}

/// A moved item is deleted and its memory serves another key: a reader that came by the old bucket gets the old value or none.
#[test]
fn memory_reused_after_a_move_is_never_read_as_the_old_item() {
    model(3, || {
        let world = SplitWorld::new(&[1]);
        race(
            &world,
            &[
                |world| {
                    world.split();
                    world.remove(1);
                    world.insert(2, 1, 9);
                },
                |world| assert!(world.read(1).is_none_or(|value| value == !1)),
            ],
        );
        assert_eq!((world.read(1), world.read(2)), (None, Some(!2)));
    });
}
