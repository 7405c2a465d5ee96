//! Region files as servers, clients and damaged disks leave them: creating, joining, attaching, discarding.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Barrier;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use shmqueue::claim::{self, ClaimState, Release};
use shmqueue::error::RegionError;
use shmqueue::layout::{LAYOUT_MAJOR, PAGE, RegionState, Shape};
use shmqueue::region::{ClientRegion, RegionName, ServerRegion};

use place::{Place, UUID};

#[path = "region/place.rs"]
mod place;
#[path = "region/processes.rs"]
mod processes;

#[test]
fn a_region_is_created_joined_and_left() {
    for place in [Place::in_shm(), Place::in_dir()] {
        let server = ServerRegion::create(&place.name, Shape::new(2, 8), 0o640, None, UUID).expect("created");
        assert!(matches!(ClientRegion::join(&place.name), Err(RegionError::State(RegionState::Forming))));
        server.set_state(RegionState::Ready);
        let mode = std::fs::metadata(place.path()).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let client = place.client();
        assert_eq!(client.header(), server.header());
        assert_eq!(client.header().uuid(), UUID);
        assert!(client.server_alive() && client.is_current() && server.exists_at_path());

        server.status().max_value.store(77, Ordering::Relaxed);
        assert_eq!(client.status().max_value.load(Ordering::Relaxed), 77);
        server.reply_ring(1).1[5].store(6, Ordering::Relaxed);
        assert_eq!(client.reply_ring(1).1[5].load(Ordering::Relaxed), 6);
        client.request_ring(1).1[9].store(7, Ordering::Relaxed);
        assert_eq!(server.request_ring(1).1[9].load(Ordering::Relaxed), 7);

        drop(server);
        assert!(!client.server_alive() && client.is_current());
        let successor = ServerRegion::join(&place.name).expect("joined");
        assert_eq!(successor.status().incarnation.load(Ordering::Relaxed), 2);
        assert_eq!(client.state().expect("a state"), RegionState::Forming);
        successor.unlink().expect("unlinked");
        assert!(!client.is_current() && !place.path().exists());
        assert!(matches!(successor.unlink(), Err(RegionError::Stale { .. })));
        assert!(matches!(ClientRegion::join(&place.name), Err(RegionError::NotFound { .. })));
        assert!(matches!(client.attach("late"), Err(RegionError::NotFound { .. })));
    }
}

#[test]
fn of_simultaneous_servers_exactly_one_wins() {
    for place in [Place::in_shm(), Place::in_dir()] {
        type Act = fn(&RegionName) -> Result<ServerRegion, RegionError>;
        let create: Act = |name| ServerRegion::create(name, Shape::new(1, 4), 0o600, None, UUID);
        for act in [create, ServerRegion::join] {
            let barrier = Barrier::new(6);
            let results: Vec<_> = std::thread::scope(|scope| {
                let race = || {
                    barrier.wait();
                    act(&place.name)
                };
                let racers: Vec<_> = (0..6).map(|_| scope.spawn(race)).collect();
                racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
            for error in results.into_iter().filter_map(Result::err) {
                assert!(matches!(error, RegionError::Live { pid, .. } if pid == std::process::id()), "{error}");
            }
        }
        assert!(matches!(create(&place.name), Err(RegionError::Exists { .. })));
    }
}

#[test]
fn discarding_tells_those_who_have_the_old_region() {
    let place = Place::in_shm();
    drop(place.server(1, 4));
    let client = place.client();
    ServerRegion::discard(&place.name).expect("discarded");
    assert_eq!(client.state().expect("a state"), RegionState::Superseded);
    let _new = place.server(1, 4);
    assert!(!client.is_current());
    assert!(matches!(client.attach("late"), Err(RegionError::Stale { .. })));
    assert!(matches!(ServerRegion::discard(&Place::in_shm().name), Err(RegionError::NotFound { .. })));
}

#[test]
fn a_region_whose_server_died_while_formatting_is_recognised() {
    for place in [Place::in_shm(), Place::in_dir()] {
        for len in [0, 100, 1 << 20] {
            File::create(place.path()).expect("a file").set_len(len).expect("sized");
            assert!(matches!(ClientRegion::join(&place.name), Err(RegionError::Unfinished { .. })));
            assert!(matches!(ServerRegion::join(&place.name), Err(RegionError::Unfinished { .. })));
            let created = ServerRegion::create(&place.name, Shape::new(1, 1), 0o600, None, UUID);
            assert!(matches!(created, Err(RegionError::Unfinished { .. })));
            ServerRegion::discard(&place.name).expect("discarded");
            assert!(!place.path().exists());
        }
    }
}

#[test]
fn what_is_no_region_is_refused_and_left_alone() {
    let place = Place::in_dir();
    let refused = |what: &str| {
        let results = [
            ClientRegion::join(&place.name).err(),
            ServerRegion::join(&place.name).err(),
            ServerRegion::discard(&place.name).err(),
            ServerRegion::create(&place.name, Shape::new(1, 1), 0o600, None, UUID).err(),
        ];
        for error in results {
            assert!(matches!(error, Some(RegionError::Foreign { .. })), "{what}: {error:?}");
        }
        std::fs::symlink_metadata(place.path()).expect("still there");
    };
    for content in [&b"x"[..], b"a text", &[7; 8192]] {
        std::fs::write(place.path(), content).expect("written");
        refused("a file");
    }
    std::fs::remove_file(place.path()).expect("removed");
    std::os::unix::fs::symlink("/dev/null", place.path()).expect("linked");
    refused("a link");
    std::fs::remove_file(place.path()).expect("removed");
    nix::unistd::mkfifo(&place.path(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    refused("a pipe");
    std::fs::remove_file(place.path()).expect("removed");
    std::fs::create_dir(place.path()).expect("a directory");
    refused("a directory");
}

#[test]
fn truncation_at_every_section_is_found() {
    for place in [Place::in_shm(), Place::in_dir()] {
        let layout = *place.server(2, 4).layout();
        let file = OpenOptions::new().write(true).open(place.path()).expect("opened");
        let ends = layout.sections.iter().map(|entry| entry.offset + entry.len).filter(|&end| end > 0);
        let mut lens: Vec<u64> = ends.flat_map(|end| [end, end - 1]).chain([PAGE / 2, 8]).collect();
        lens.sort_unstable_by_key(|&len| std::cmp::Reverse(len));
        for len in lens.into_iter().filter(|&len| len < layout.file_len) {
            file.set_len(len).expect("truncated");
            for error in [ClientRegion::join(&place.name).err(), ServerRegion::join(&place.name).err()] {
                assert!(matches!(error, Some(RegionError::Truncated { found, .. }) if found == len), "{len}: {error:?}");
            }
        }
        file.set_len(layout.file_len + PAGE).expect("enlarged");
        assert!(ServerRegion::join(&place.name).is_err());
        ServerRegion::discard(&place.name).expect("discarded");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn damaged_headers_are_refused_or_harmless(flips in proptest::collection::vec((0..2 * PAGE, 1u8..), 1..4)) {
        thread_local! {
            static REGION: (Place, Vec<u8>) = {
                let place = Place::in_shm();
                drop(place.server(2, 4));
                let pages = std::fs::read(place.path()).expect("read")[..2 * PAGE as usize].to_vec();
                (place, pages)
            };
        }
        REGION.with(|(place, good)| {
            let file = OpenOptions::new().write(true).open(place.path()).expect("opened");
            let mut pages = good.clone();
            for &(at, mask) in &flips {
                // Every other flip goes to the bytes that mean something.
                pages[if mask % 2 == 0 { at % 640 } else { at } as usize] ^= mask;
            }
            file.write_all_at(&pages, 0).expect("written");
            let client = ClientRegion::join(&place.name).map(|region| *region.layout());
            let server = ServerRegion::join(&place.name).map(|region| *region.layout());
            file.write_all_at(good, 0).expect("restored");
            let expected = *ServerRegion::join(&place.name).expect("joined").layout();
            file.write_all_at(good, 0).expect("restored");
            for layout in [client, server].into_iter().flatten() {
                prop_assert_eq!(layout, expected);
            }
            Ok(())
        })?;
    }
}

#[test]
fn other_versions_and_unknown_features_are_named() {
    let place = Place::in_shm();
    drop(place.server(1, 4));
    let file = OpenOptions::new().write(true).open(place.path()).expect("opened");
    file.write_all_at(&(LAYOUT_MAJOR + 1).to_ne_bytes(), 8).expect("written");
    let error = ClientRegion::join(&place.name).expect_err("refused");
    assert!(matches!(error, RegionError::Version { found, .. } if found.0 == LAYOUT_MAJOR + 1));
    let text = error.to_string();
    assert!(text.contains("has layout 2.1, this program speaks 1.1; restart the server"), "{text}");
    file.write_all_at(&LAYOUT_MAJOR.to_ne_bytes(), 8).expect("written");
    let features = std::mem::offset_of!(shmqueue::layout::Header, features) as u64;
    file.write_all_at(&[1], features).expect("written");
    assert!(matches!(ServerRegion::join(&place.name), Err(RegionError::Features { found: 1, .. })));
    ServerRegion::discard(&place.name).expect("a damaged region can be discarded");
}

#[test]
fn slots_are_used_up_given_back_and_used_again() {
    let place = Place::in_shm();
    let server = place.server(2, 4);
    let client = place.client();
    for round in 0..50 {
        let held: Vec<_> =
            (0..4).map(|_| client.attach("a client with a näme of more than 32 bytes").expect("attached")).collect();
        assert!(matches!(client.attach("fifth"), Err(RegionError::NoSlot { clients: 4 })));
        assert!(held.iter().all(|own| own.generation() == round && server.client_alive(own.index())));
        assert_eq!(held.iter().filter(|own| own.shard() == 0).count(), 2);
        assert_eq!(server.claim(held[0].index()).pid.load(Ordering::Relaxed), std::process::id());
        assert_eq!(server.claim(held[0].index()).name[0].load(Ordering::Relaxed), u64::from_le_bytes(*b"a client"));
        drop(held);
        for index in 0..4 {
            let claim = claim::load(&server.claim(index).word).expect("decodable");
            assert_eq!((claim.state, claim.generation), (ClaimState::Detached, round));
            assert!(!server.client_alive(index));
            server.commit_lane(index).expect("committed");
            assert!(matches!(claim::release(&server.claim(index).word, round), Release::Clean(_)));
        }
    }
}

#[test]
fn simultaneous_attaches_spread_over_equal_shards() {
    let place = Place::in_shm();
    let server = place.server(16, 64);
    let client = place.client();
    for _ in 0..20 {
        let barrier = Barrier::new(16);
        let held: Vec<_> = std::thread::scope(|scope| {
            let attach = || {
                barrier.wait();
                client.attach("one of sixteen").expect("attached")
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(attach)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut shards: Vec<_> = held.iter().map(|own| own.shard()).collect();
        shards.sort_unstable();
        assert_eq!(shards, (0..16).collect::<Vec<_>>());
        for own in held {
            let (index, generation) = (own.index(), own.generation());
            drop(own);
            let _ = claim::release(&server.claim(index).word, generation);
        }
    }
    server.shard_status(3).recent_requests.store(1000, Ordering::Relaxed);
    let held: Vec<_> = (0..15).map(|_| client.attach("not on a busy shard").expect("attached")).collect();
    assert!(held.iter().all(|own| own.shard() != 3));
    assert_eq!(client.attach("the last").expect("attached").shard(), 3);
}
