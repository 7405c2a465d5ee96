//! What only other processes show: deaths, forks, rights of mappings, limits of a process.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shmqueue::claim::{self, Claim, ClaimState};
use shmqueue::error::RegionError;
use shmqueue::layout::{RegionState, Shape};
use shmqueue::region::{ClientRegion, ServerRegion};

use crate::place::{Place, UUID};

/// Exit code of a child whose environment does not allow the test.
const SKIP: i32 = 77;

/// A forked process; killed and reaped when dropped.
struct Child(libc::pid_t);

impl Child {
    /// Runs `body` in a fork of this process, which ends with its result. glibc's allocator is usable there.
    fn run(body: impl FnOnce() -> i32) -> Self {
        // SAFETY: the child runs `body` only, prints nothing, and leaves by `_exit` even on a panic.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork failed");
        if pid == 0 {
            std::panic::set_hook(Box::new(|_| {}));
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        Self(pid)
    }

    fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: the pid is that of a child not yet reaped, the status is a local.
        assert_eq!(unsafe { libc::waitpid(self.0, &mut status, 0) }, self.0);
        std::mem::forget(self);
        status
    }

    fn kill(self) {
        // SAFETY: the pid is that of a child not yet reaped.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        assert_eq!(libc::WTERMSIG(self.wait()), libc::SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the pid is that of a child not yet reaped; its status is not wanted.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the array has room for both descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: both descriptors were just opened and are nobody else's.
    let own = |fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    (own(ends[0]), own(ends[1]))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let watchdog = Instant::now();
    while !condition() {
        assert!(watchdog.elapsed() < Duration::from_secs(60), "watchdog: {what}");
        std::thread::yield_now();
    }
}

fn pause_for_ever() -> i32 {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn free_of(region: &ServerRegion, index: u32) -> bool {
    matches!(claim::load(&region.claim(index).word), Some(Claim { state: ClaimState::Free, .. }))
}

#[test]
fn published_sections_are_read_only_in_clients() {
    let place = Place::in_shm();
    let server = place.server(1, 4);
    let client = place.client();
    let own = client.attach("reader").expect("attached");
    let dies: [&dyn Fn(); 5] = [
        &|| client.status().state.store(9, Ordering::Relaxed),
        &|| client.shard_status(0).head.store(9, Ordering::Relaxed),
        &|| client.reply_ring(0).1[0].store(9, Ordering::Relaxed),
        &|| own.reply_lane().0.hot.store(9, Ordering::Relaxed),
        &|| own.reply_lane().1[3].store(9, Ordering::Relaxed),
    ];
    for (index, store) in dies.iter().enumerate() {
        let status = Child::run(|| {
            store();
            0
        })
        .wait();
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "store {index}: {status:#x}");
    }
    let status = Child::run(|| {
        client.request_ring(0).1[0].store(9, Ordering::Relaxed);
        own.request_lane().1[3].store(9, Ordering::Relaxed);
        0
    })
    .wait();
    assert_eq!(status, 0);
    assert_eq!(server.request_lane(own.index()).1[3].load(Ordering::Relaxed), 9);
}

#[test]
fn a_live_server_is_named_and_a_killed_one_succeeded() {
    let place = Place::in_shm();
    let server = Child::run(|| {
        let _server = place.server(1, 4);
        pause_for_ever()
    });
    wait_until("the region is ready", || ClientRegion::join(&place.name).is_ok());
    let pid = u32::try_from(server.0).expect("a pid");
    for refused in [ServerRegion::join(&place.name).err(), ServerRegion::discard(&place.name).err()] {
        let error = refused.expect("refused");
        assert!(matches!(error, RegionError::Live { pid: found, .. } if found == pid), "{error}");
    }
    server.kill();
    assert!(!place.client().server_alive());
    assert_eq!(ServerRegion::join(&place.name).expect("joined").status().incarnation.load(Ordering::Relaxed), 2);
}

#[test]
fn a_dead_parent_looks_dead_while_forty_children_live() {
    let place = Place::in_shm();
    let server = place.server(4, 64);
    let client = place.client();
    let (mut said, say) = pipe();
    let (hold, release) = pipe();
    // In cells, so that a child can drop its own copy.
    let release = RefCell::new(Some(release));
    let parent = Child::run(|| {
        drop(release.take());
        let handle = RefCell::new(Some(client.attach("parent").expect("attached")));
        let index = handle.borrow().as_ref().expect("just put there").index();
        let mut children: Vec<_> = Vec::new();
        for _ in 0..40 {
            children.push(Child::run(|| {
                // A child that drops its copy of the parent's handle must not give the parent's slot back.
                assert!(handle.take().expect("inherited").forked());
                let own = client.attach("child").expect("attached");
                assert!(!own.forked() && own.index() != index);
                (&say).write_all(&[u8::try_from(own.index()).expect("below 64")]).expect("said");
                // Until the test closes its end, or ends.
                let _ = (&hold).read(&mut [0]);
                drop(own);
                0
            }));
        }
        (&say).write_all(&[255]).expect("said");
        std::mem::forget(children);
        pause_for_ever()
    });
    let mut slots = [0; 41];
    said.read_exact(&mut slots).expect("forty children and their parent");
    let children: Vec<u32> = slots.into_iter().filter(|&slot| slot != 255).map(u32::from).collect();
    let parents = (0..64).find(|index| !free_of(&server, *index) && !children.contains(index)).expect("the parent's slot");
    assert!(server.client_alive(parents));
    parent.kill();
    assert!(!server.client_alive(parents), "the dead parent looks alive");
    assert!(matches!(claim::load(&server.claim(parents).word), Some(Claim { state: ClaimState::Attached, .. })));
    assert!(children.iter().all(|&index| server.client_alive(index)), "a child died with its parent");
    drop((release.take(), hold));
    wait_until("all children are gone", || children.iter().all(|&index| !server.client_alive(index)));
}

#[test]
fn a_fork_beside_attaching_inherits_no_lock() {
    let place = Place::in_shm();
    let _server = place.server(1, 4);
    let client = place.client();
    let path = place.path();
    let open = || {
        let fds = std::fs::read_dir("/proc/self/fd").expect("the process's descriptors");
        fds.filter(|fd| std::fs::read_link(fd.as_ref().expect("an entry").path()).is_ok_and(|to| to == path)).count()
    };
    let alone = open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Slots are not drained here: once they are used up, a handle is still opened and locked in vain.
                drop(client.attach("churning"));
            }
        });
        // The server's lock is closed in a child, the descriptors of both mappings are not.
        let statuses: Vec<_> = (0..300).map(|_| Child::run(|| i32::from(open() != alone - 1)).wait()).collect();
        done.store(true, Ordering::Relaxed);
        attaching.join().expect("no panic");
        assert!(statuses.iter().all(|&status| status == 0), "{statuses:?}");
    });
}

#[test]
fn a_file_size_limit_is_an_error() {
    for place in [Place::in_shm(), Place::in_dir()] {
        let status = Child::run(|| {
            use nix::sys::resource::{Resource, setrlimit};
            // SAFETY: ignoring a signal installs no handler.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            setrlimit(Resource::RLIMIT_FSIZE, 64 << 10, 64 << 10).expect("a lower limit");
            let error = ServerRegion::create(&place.name, Shape::new(1, 4), 0o600, None, UUID).expect_err("refused");
            assert!(matches!(error, RegionError::NoMemory { available: 65_536, .. }));
            i32::from(place.path().exists())
        })
        .wait();
        assert_eq!(status, 0);
    }
}

#[test]
fn a_full_file_system_is_an_error_and_takes_no_slot() {
    let mount = Place::in_dir();
    let status = Child::run(|| {
        let dir = std::ffi::CString::new(mount.name.dir().as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: all strings end with a zero; the mount namespace is this child's own.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
                && libc::mount(c"none".as_ptr(), dir.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=512k".as_ptr().cast()) == 0
        };
        if !mounted {
            return SKIP;
        }
        let error = ServerRegion::create(&mount.name, Shape::new(64, 4), 0o600, None, UUID).expect_err("refused");
        assert!(matches!(error, RegionError::NoMemory { asked, available, .. } if available < asked && asked > 512 << 10));
        assert!(!mount.path().exists(), "the unusable file was left");
        let server = mount.server(1, 64);
        let client = mount.client();
        let mut held = Vec::new();
        let error = loop {
            match client.attach("hungry") {
                Ok(own) => held.push(own),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RegionError::NoMemory { .. }));
        let free = (0..64).filter(|&index| free_of(&server, index) && !server.client_alive(index)).count();
        assert_eq!(free + held.len(), 64, "a refused client kept its slot");
        assert_eq!(client.status().state.load(Ordering::Relaxed), RegionState::Ready as u32);
        0
    })
    .wait();
    match libc::WEXITSTATUS(status) {
        SKIP => println!("skipped: this user may not mount a small tmpfs"),
        _ => assert_eq!(status, 0),
    }
}
