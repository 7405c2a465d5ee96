//! One benchmark at a time on a machine: a file lock that the kernel drops with the process.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::Error;

const NAME: &str = "shmtable-bench.lock";

/// Held while measuring.
pub struct Exclusive {
    _lock: Flock<File>,
}

impl Exclusive {
    /// Waits until no other benchmark measures on this machine.
    pub fn take() -> Result<Self, Error> {
        Self::take_at(&std::env::temp_dir().join(NAME))
    }

    fn take_at(path: &Path) -> Result<Self, Error> {
        match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => eprintln!("another benchmark is measuring; waiting for it to end"),
            Err((_, error)) => return Err(refused(path)(error)),
        }
        match Flock::lock(open(path)?, FlockArg::LockExclusive) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, error)) => Err(refused(path)(error)),
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    // Whoever may read the file may lock it, so that users do not need each other's write permission.
    File::open(path)
        .or_else(|_| OpenOptions::new().create(true).truncate(false).write(true).open(path))
        .map_err(Error::io(format!("opening the benchmark lock {}", path.display())))
}

fn refused(path: &Path) -> impl FnOnce(Errno) -> Error {
    Error::io(format!("locking {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_benchmark_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Exclusive::take_at(&path).unwrap();
        assert!(Flock::lock(open(&path).unwrap(), FlockArg::LockExclusiveNonblock).is_err());
        let second = std::thread::spawn({
            let path = path.clone();
            move || Exclusive::take_at(&path).map(|_| ())
        });
        drop(first);
        second.join().unwrap().unwrap();
        assert!(Flock::lock(open(&path).unwrap(), FlockArg::LockExclusiveNonblock).is_ok());
    }
}
