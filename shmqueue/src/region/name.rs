//! The name of a region, and the two paths that follow from it.

use std::path::{Path, PathBuf};

use crate::error::RegionError;

/// Most characters of a name.
const MOST: usize = 64;

/// A checked name in a directory: `DIR/NAME.rings` and `DIR/NAME.table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionName {
    dir: PathBuf,
    name: String,
}

impl RegionName {
    /// Accepts 1 to 64 of `A-Za-z0-9_-`.
    pub fn new(dir: impl Into<PathBuf>, name: &str) -> Result<Self, RegionError> {
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > MOST || !name.bytes().all(usable) {
            return Err(RegionError::InvalidName { name: name.to_owned() });
        }
        Ok(Self { dir: dir.into(), name: name.to_owned() })
    }

    /// The name without directory and ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of both files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `DIR/NAME.rings`.
    pub fn rings_path(&self) -> PathBuf {
        self.dir.join(format!("{}.rings", self.name))
    }

    /// `DIR/NAME.table`.
    pub fn table_path(&self) -> PathBuf {
        self.dir.join(format!("{}.table", self.name))
    }

    /// The identifier of the rings for POSIX shared memory, where the directory is that of the system.
    pub(crate) fn shm_id(&self) -> Option<String> {
        (self.dir == Path::new("/dev/shm")).then(|| format!("/{}.rings", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_1_to_64_of_the_documented_characters() {
        for good in ["a", "A-b_9", &"x".repeat(64)] {
            assert!(RegionName::new("/d", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a.b", "ä", "a\0", &"x".repeat(65)] {
            assert!(matches!(RegionName::new("/d", bad), Err(RegionError::InvalidName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn paths_follow_from_the_name() {
        let name = RegionName::new("/dev/shm/", "kv").expect("a good name");
        assert_eq!(name.rings_path(), Path::new("/dev/shm/kv.rings"));
        assert_eq!(name.table_path(), Path::new("/dev/shm/kv.table"));
        assert_eq!(name.shm_id().as_deref(), Some("/kv.rings"));
        assert_eq!(RegionName::new("/srv", "kv").expect("a good name").shm_id(), None);
    }
}
