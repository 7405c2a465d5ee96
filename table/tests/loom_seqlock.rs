//! Loom models of the seqlock, the slot swap and the reuse of item memory: `RUSTFLAGS="--cfg loom" cargo test --release
//! -p table --test loom_seqlock`. The table's own lookup and lock code runs, on loom's atomics. Racing threads are all
//! spawned: of a race against the model's main thread loom 0.7 tries hardly any order.
#![cfg(loom)]

use loom::thread;
use table::model::World;

/// A writer replaces a key's item, and the freed memory serves the next one, while a reader looks the key up.
#[test]
fn a_reader_never_sees_a_torn_or_foreign_value_across_swap_free_and_reuse() {
    loom::model(|| {
        let world = World::new();
        world.swap(1, 10, 0);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                world.swap(1, 20, 1);
                // Block 0 was freed by that and is used again, for the other key.
                world.swap(2, 77, 0);
            })
        };
        let reader = {
            let world = world.clone();
            thread::spawn(move || {
                if let Some((version, value)) = world.read(1) {
                    assert!(value == [10, !10] || value == [20, !20], "version {version}: {value:?}");
                }
            })
        };
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(world.read(1).unwrap().1, [20, !20]);
        assert_eq!(world.read(2).unwrap().1, [77, !77]);
    });
}

/// The same for a reader that looks at the bucket's version alone, and not at the item's.
#[test]
fn the_version_of_the_bucket_vouches_for_the_bytes_of_its_items() {
    loom::model(|| {
        let world = World::new();
        world.swap(1, 10, 0);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                world.remove(1);
                world.swap(2, 77, 0);
            })
        };
        let reader = {
            let world = world.clone();
            thread::spawn(move || {
                assert!(world.read_by_bucket(1).is_none_or(|(_, value)| value == [10, !10]));
            })
        };
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A handle's item goes, and another one comes to stand in its slot at its place: never "unchanged" to who knows of it.
#[test]
fn a_handle_is_not_fooled_by_an_item_that_came_after() {
    loom::model(|| {
        let world = World::new();
        world.swap(1, 10, 0);
        let (item, _) = world.refer(1).unwrap();
        let (slot, word) = world.slot_of(1);
        let changed = loom::sync::Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let writer = {
            let (world, changed) = (world.clone(), changed.clone());
            thread::spawn(move || {
                // Whoever knows of the removal, which is told before the item is retired, may not find it unchanged.
                world.remove_and_tell(1, || changed.store(true, loom::sync::atomic::Ordering::Release));
                world.swap(1, 30, 0);
            })
        };
        let reader = {
            let (world, changed) = (world.clone(), changed.clone());
            thread::spawn(move || {
                let known = changed.load(loom::sync::atomic::Ordering::Acquire);
                assert!(!(world.is_unchanged(slot, word, item) && known));
            })
        };
        writer.join().unwrap();
        reader.join().unwrap();
        assert!(!world.is_unchanged(slot, word, item));
    });
}

/// A reader holds a reference that the server sent, the item dies and its memory is rewritten under the copy.
#[test]
fn a_copy_by_reference_is_the_item_or_nothing() {
    loom::model(|| {
        let world = World::new();
        world.swap(1, 10, 0);
        let (item, _) = world.refer(1).unwrap();
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                world.remove(1);
                world.swap(1, 30, 0);
            })
        };
        let reader = {
            let world = world.clone();
            thread::spawn(move || assert!(world.copy(item).is_none_or(|value| value == [10, !10])))
        };
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// The slots that a lookup saw are of one moment: a key on the move is not missed.
#[test]
fn a_key_that_moves_within_its_bucket_is_never_missed() {
    loom::model(|| {
        let world = World::new();
        world.swap(1, 10, 0);
        let writer = {
            let world = world.clone();
            thread::spawn(move || world.shift(1))
        };
        let reader = {
            let world = world.clone();
            thread::spawn(move || assert_ne!(world.finds(1), Some(false)))
        };
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(world.finds(1), Some(true));
    });
}

/// Two writers on one bucket: both changes are kept.
#[test]
fn two_writers_of_a_bucket_lose_nothing() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = world.clone();
            thread::spawn(move || world.swap(2, 5, 1))
        };
        let one = {
            let world = world.clone();
            thread::spawn(move || world.swap(1, 4, 0))
        };
        one.join().unwrap();
        other.join().unwrap();
        assert_eq!(world.read(1).unwrap().1, [4, !4]);
        assert_eq!(world.read(2).unwrap().1, [5, !5]);
    });
}

/// One worker frees, another reuses: the order between them comes from the heap's lock.
#[test]
fn memory_passed_between_workers_still_invalidates_stale_readers() {
    loom::model(|| {
        let world = World::new();
        world.swap(1, 10, 0);
        let (item, _) = world.refer(1).unwrap();
        let pool = loom::sync::Arc::new(loom::sync::Mutex::new(false));
        let freeing = {
            let (world, pool) = (world.clone(), pool.clone());
            thread::spawn(move || {
                world.remove(1);
                *pool.lock().unwrap() = true;
            })
        };
        let reusing = {
            let (world, pool) = (world.clone(), pool.clone());
            thread::spawn(move || {
                if *pool.lock().unwrap() {
                    world.swap(2, 30, 0);
                }
            })
        };
        let reader = {
            let world = world.clone();
            thread::spawn(move || assert!(world.copy(item).is_none_or(|value| value == [10, !10])))
        };
        reader.join().unwrap();
        freeing.join().unwrap();
        reusing.join().unwrap();
    });
}
