//! How much memory the table may take when `--memory` does not say: the smaller of half the free shared memory and half of what
//! the control group leaves. The other half stays for the rings, the clients and whoever else uses that memory.

use std::path::Path;

use crate::cgroup::Cgroup;
use crate::exit::ServerError;

/// The most that a table can address; see [`table::Geometry`].
const MOST: u64 = 256 << 30;

/// Tables of a lower limit do without huge pages.
pub(crate) const HUGE_FROM: u64 = 64 << 20;

/// What the default is computed from; tests make their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Available {
    /// Bytes free in the file system of the region; `None` where it has no limit of its own.
    pub(crate) shared: Option<u64>,
    /// Bytes that the control group still grants; `None` without a limit.
    pub(crate) cgroup: Option<u64>,
    /// Bytes of the machine's memory that are free or can be freed.
    pub(crate) machine: u64,
}

impl Available {
    /// What there is for files in `dir`.
    pub(crate) fn find(dir: &Path, cgroup: &Cgroup) -> Result<Self, ServerError> {
        Ok(Self { shared: free_shared(dir)?, cgroup: cgroup.memory_headroom(), machine: machine_available(Path::new("/")) })
    }

    /// The tightest of all limits. Where neither the file system nor a group sets one, the machine's memory does.
    pub(crate) fn shared_or_group(&self) -> u64 {
        [self.shared, self.cgroup].into_iter().flatten().min().unwrap_or(self.machine)
    }

    /// The default of `--memory`.
    pub(crate) fn default_limit(&self) -> u64 {
        (self.shared_or_group() / 2).min(MOST)
    }
}

/// Bytes free in the file system of `dir`; `None` for a tmpfs without a limit, which reports no blocks at all.
pub(crate) fn free_shared(dir: &Path) -> Result<Option<u64>, ServerError> {
    let stat = nix::sys::statvfs::statvfs(dir).map_err(|source| ServerError::Io {
        what: format!("cannot look at the directory {}", dir.display()),
        source: source.into(),
        remedy: "; mount it, or name another with --dir",
    })?;
    Ok((stat.blocks() > 0).then(|| stat.blocks_available() * stat.fragment_size()))
}

/// The kernel's estimate of the memory that can be had without swapping.
fn machine_available(root: &Path) -> u64 {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::tree;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_smaller_half_decides() {
        let all = Available { shared: Some(64 * MIB), cgroup: Some(1024 * MIB), machine: 9 * MIB };
        assert_eq!(all.default_limit(), 32 * MIB);
        assert_eq!(Available { cgroup: Some(40 * MIB), ..all }.default_limit(), 20 * MIB);
        assert_eq!(Available { cgroup: None, ..all }.default_limit(), 32 * MIB);
        assert_eq!(Available { shared: None, cgroup: Some(6 * MIB), ..all }.default_limit(), 3 * MIB);
    }

    #[test]
    fn without_any_limit_the_machine_decides() {
        assert_eq!(Available { shared: None, cgroup: None, machine: 100 }.default_limit(), 50);
    }

    #[test]
    fn the_machine_is_read_in_bytes() {
        let root = tree(&[("proc/meminfo", "MemTotal:       16 kB\nMemAvailable:    8 kB\n")]);
        assert_eq!(machine_available(root.path()), 8192);
        assert_eq!(machine_available(Path::new("/nonexistent")), 0);
    }

    #[test]
    fn a_missing_directory_is_an_error_with_a_remedy() {
        let error = free_shared(Path::new("/nonexistent/dir")).expect_err("missing").to_string();
        assert!(error.contains("/nonexistent/dir") && error.contains("--dir"), "{error}");
    }
}
