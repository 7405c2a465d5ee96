//! Regions of a test's own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use shmqueue::layout::{RegionState, Shape};
use shmqueue::region::{ClientRegion, RegionName, ServerRegion};

pub(crate) const UUID: [u8; 16] = *b"region-test-uuid";
/// A name nobody else uses, whose file is removed at the end.
pub(crate) struct Place {
    pub(crate) name: RegionName,
    _dir: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn in_shm() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("region-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { name: RegionName::new("/dev/shm", &unique).expect("a good name"), _dir: None }
    }

    pub(crate) fn in_dir() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { name: RegionName::new(dir.path(), "kv").expect("a good name"), _dir: Some(dir) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.name.rings_path()
    }

    pub(crate) fn server(&self, shards: u32, clients: u32) -> ServerRegion {
        let server = ServerRegion::create(&self.name, Shape::new(shards, clients), 0o600, None, UUID).expect("created");
        server.set_state(RegionState::Ready);
        server
    }

    pub(crate) fn client(&self) -> ClientRegion {
        ClientRegion::join(&self.name).expect("joined")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}
