//! Loom models of the deadlines that lead the sweep: `RUSTFLAGS="--cfg loom" cargo test --release -p table --test loom_deadlines`. After
//! any race each item is led to by its group's deadline and by what the sweep waits for.
#![cfg(loom)]

use loom::thread;
use table::model_deadlines::DeadlineWorld;

const NEVER: u64 = u64::MAX;

/// Runs the acts on a thread each, in all orders with at most so many switches away from one that could go on; then checks.
fn race(switches: usize, world: fn() -> DeadlineWorld, acts: &'static [fn(&DeadlineWorld)]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(move || {
        let world = world();
        let threads: Vec<_> = acts
            .iter()
            .map(|&act| {
                let world = world.clone();
                thread::spawn(move || act(&world))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.check();
    });
}

#[test]
fn an_insert_beside_a_round_that_passes_its_group_over() {
    race(4, || DeadlineWorld::new(0, [NEVER, NEVER], NEVER), &[|world| world.insert(100), |world| world.sweep(10)]);
    // What the sweep waited for is earlier than the item, but nothing any more once the round has begun.
    race(4, || DeadlineWorld::new(0, [NEVER, NEVER], 5), &[|world| world.insert(100), |world| world.sweep(10)]);
}

#[test]
fn an_insert_beside_a_sweep_of_its_bucket() {
    race(4, || DeadlineWorld::new(0, [5, NEVER], 5), &[|world| world.insert(100), |world| world.sweep(10)]);
}

#[test]
fn a_new_expiry_beside_a_sweep_that_finds_the_old_one() {
    race(4, || DeadlineWorld::new(200, [5, NEVER], 5), &[|world| world.insert(100), |world| world.sweep(10)]);
    race(4, || DeadlineWorld::new(7, [7, NEVER], 7), &[|world| world.insert(100), |world| world.sweep(10)]);
}

#[test]
fn a_split_beside_a_sweep_of_either_group() {
    race(4, || DeadlineWorld::new(100, [5, NEVER], 5), &[|world| world.split(), |world| world.sweep(10)]);
    race(4, || DeadlineWorld::new(100, [100, 5], 5), &[|world| world.split(), |world| world.sweep(10)]);
    race(3, || DeadlineWorld::new(100, [5, 5], 5), &[|world| world.split(), |world| world.sweep(10)]);
}

#[test]
fn a_split_and_an_insert_beside_a_sweep() {
    race(
        3,
        || DeadlineWorld::new(100, [5, NEVER], 5),
        &[
            |world| {
                world.split();
                world.insert(50);
            },
            |world| world.sweep(10),
        ],
    );
    race(
        3,
        || DeadlineWorld::new(0, [5, NEVER], 5),
        &[
            |world| {
                world.insert(50);
                world.split();
            },
            |world| world.sweep(10),
        ],
    );
}

/// Two rounds, the second at a time that the first one's leavings are due.
#[test]
fn a_split_beside_two_rounds() {
    race(
        3,
        || DeadlineWorld::new(100, [5, 5], 5),
        &[
            |world| world.split(),
            |world| {
                world.sweep(10);
                world.sweep(60);
            },
        ],
    );
}
