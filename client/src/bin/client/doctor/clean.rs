//! Removing what a dead server left, with no window in which a server that comes back loses its files.
//!
//! The rings go first, by `ServerRegion::discard`, which takes the server's lock. A table is only removed while this process
//! holds the name: by rings of its own, made exclusively and locked, so that a server that starts meanwhile sees the name taken
//! instead of adopting a table that is about to go.
//!
//! CRASH: a death in between leaves a table alone, or rings without a magic beside it; the next `--clean` removes either.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use shmqueue::error::RegionError;
use shmqueue::lock::{LockFile, Taken};
use shmqueue::region::{RegionName, ServerRegion};

use super::Finding;
use super::examine::{Pair, Rings, Table};

/// Removes the files of a pair that was judged removable, and says how that went.
pub(super) fn remove(dir: &Path, pair: &Pair) -> Finding {
    let name = pair.name.name();
    let result = discard(&pair.name, &pair.rings).and_then(|()| match pair.table {
        Table::Missing => Ok(()),
        _ => remove_table(&pair.name),
    });
    match result {
        Ok(()) => Finding::fine("removed", name, format!("what its server left in {}", dir.display())),
        Err(RegionError::Live { pid, .. }) => Finding::fine("ok", name, format!("server {pid} has come back; left alone")),
        Err(error) => Finding::problem("failed", name, error.to_string(), "try again as the user who owns the files"),
    }
}

fn discard(name: &RegionName, rings: &Rings) -> Result<(), RegionError> {
    if *rings == Rings::Missing {
        return Ok(());
    }
    match ServerRegion::discard(name) {
        Err(RegionError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn remove_table(name: &RegionName) -> Result<(), RegionError> {
    let path = name.rings_path();
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| RegionError::Io { what, path, source }
    };
    let made = match File::options().write(true).create_new(true).mode(0o600).open(&path) {
        // Somebody took the name: what stands there now is not what was judged.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(RegionError::Exists { path }),
        made => made.and_then(|file| file.metadata()).map_err(failed("creating", &path))?,
    };
    let lock = LockFile::open(&path)?;
    // If this process stood still between making and locking, a server may have put its own file in the place.
    let still_ours = || fs::symlink_metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (made.dev(), made.ino()));
    if lock.try_server(&path)? == Taken::No || !still_ours() {
        return Err(RegionError::Exists { path });
    }
    let removed = match fs::remove_file(name.table_path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("removing", &name.table_path())),
    };
    // The name goes last, while it is still locked.
    removed.and(fs::remove_file(&path).map_err(failed("removing", &path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(dir: &Path) -> RegionName {
        RegionName::new(dir, "kv").expect("a usable name")
    }

    fn pair(name: &RegionName, rings: Rings, table: Table) -> Pair {
        Pair { name: name.clone(), rings, rings_mode: None, table, table_mode: None }
    }

    #[test]
    fn a_table_alone_is_removed_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = region(dir.path());
        fs::write(name.table_path(), b"shmtable").expect("written");
        let finding = remove(dir.path(), &pair(&name, Rings::Missing, Table::Formatted));
        assert_eq!((finding.status, finding.is_problem()), ("removed", false));
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
    }

    #[test]
    fn a_name_that_somebody_took_meanwhile_keeps_its_table() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = region(dir.path());
        fs::write(name.table_path(), b"shmtable").expect("written");
        fs::write(name.rings_path(), b"").expect("written");
        let finding = remove(dir.path(), &pair(&name, Rings::Missing, Table::Formatted));
        assert_eq!(finding.status, "failed");
        assert!(name.table_path().exists() && name.rings_path().exists());
    }

    #[test]
    fn rings_that_a_server_holds_are_left_with_their_table() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = region(dir.path());
        fs::write(name.table_path(), b"shmtable").expect("written");
        fs::write(name.rings_path(), b"").expect("written");
        let lock = LockFile::open(&name.rings_path()).expect("opens");
        assert_eq!(lock.try_server(&name.rings_path()).expect("locks"), Taken::Yes);
        let finding = remove(dir.path(), &pair(&name, Rings::Dead, Table::Formatted));
        assert_eq!((finding.status, finding.is_problem()), ("ok", false));
        assert!(name.table_path().exists() && name.rings_path().exists());
    }
}
