//! What the control groups of this process leave it: memory and processor time.
//!
//! A limit may sit on any ancestor, so every figure is the smallest over the path from the process's own group to the root of
//! the mounted hierarchy. Version 2 is looked at first; where the controller is mounted as version 1, its files are read. All
//! paths start at a root that tests replace by a directory of their own. A file that is missing or unreadable means no limit:
//! a server outside containers has none.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups of one process.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    memory: Option<Hierarchy>,
    cpu: Option<Hierarchy>,
}

/// One mounted hierarchy and the process's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// The process's own group, at or below `mount`.
    group: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// The groups of the calling process, seen from the file system at `root`.
    pub(crate) fn of_self(root: &Path) -> Self {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
        let find = |controller| {
            // A version 2 hierarchy without the controller (hybrid set-ups mount it empty) has none of its files.
            let unified = hierarchy(root, &groups, &mounts, None).filter(|found| found.has(controller));
            unified.or_else(|| hierarchy(root, &groups, &mounts, Some(controller)))
        };
        Self { memory: find("memory"), cpu: find("cpu") }
    }

    /// Groups without any limit.
    pub(crate) fn none() -> Self {
        Self { memory: None, cpu: None }
    }

    /// Bytes that may still be charged before a limit is hit; `None` without a limit. Pages of files that nobody used lately
    /// count as free: the kernel drops them before it refuses.
    pub(crate) fn memory_headroom(&self) -> Option<u64> {
        let hierarchy = self.memory.as_ref()?;
        hierarchy.levels().filter_map(|group| level_headroom(group, hierarchy.unified)).min()
    }

    /// Processors' worth of time that the process may use; `None` without a quota.
    pub(crate) fn cpu_quota(&self) -> Option<f64> {
        let hierarchy = self.cpu.as_ref()?;
        hierarchy.levels().filter_map(|group| level_quota(group, hierarchy.unified)).min_by(f64::total_cmp)
    }
}

impl Hierarchy {
    /// The groups from the process's own up to the mounted root.
    fn levels(&self) -> impl Iterator<Item = &Path> {
        self.group.ancestors().take_while(|group| group.starts_with(&self.mount))
    }

    fn has(&self, controller: &str) -> bool {
        self.levels().any(|group| {
            let listed = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
            listed.split_whitespace().any(|name| name == controller)
        })
    }
}

/// Finds the hierarchy of a version 1 controller, or with `None` that of version 2.
fn hierarchy(root: &Path, groups: &str, mounts: &str, controller: Option<&str>) -> Option<Hierarchy> {
    // Lines are `id:controller,controller:/path`; version 2's list is empty.
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match controller {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => names.is_empty(),
        };
        found.then_some(path)
    })?;
    let (shown, mount) = mounts.lines().find_map(|line| mount_of(line, controller))?;
    let mount = root.join(mount.trim_start_matches('/'));
    // The mount shows the hierarchy from `shown` downwards. A path outside of it (another cgroup namespace) cannot be walked:
    // the mount itself is the best there is.
    let below = Path::new(path).strip_prefix(shown).ok().filter(|below| !below.starts_with(".."));
    let group = below.map_or_else(|| mount.clone(), |below| mount.join(below));
    Some(Hierarchy { group, mount, unified: controller.is_none() })
}

/// The shown root and the mount point of a line of mountinfo that mounts the hierarchy looked for.
fn mount_of<'a>(line: &'a str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split_whitespace();
    let (name, _source, options) = (kind.next()?, kind.next()?, kind.next().unwrap_or_default());
    let found = match controller {
        Some(controller) => name == "cgroup" && options.split(',').any(|option| option == controller),
        None => name == "cgroup2",
    };
    let mut fields = mount.split_whitespace().skip(3);
    let (shown, point) = (fields.next()?, fields.next()?);
    found.then_some((shown, point))
}

/// The headroom under one group's own limit.
fn level_headroom(group: &Path, unified: bool) -> Option<u64> {
    let (limits, used): (&[&str], _) = match unified {
        true => (&["memory.max", "memory.high"], "memory.current"),
        false => (&["memory.limit_in_bytes"], "memory.usage_in_bytes"),
    };
    // Version 1 writes "no limit" as the largest number of whole pages, version 2 as `max`.
    let limit = limits.iter().filter_map(|name| number(&group.join(name))).filter(|&limit| limit < 1 << 60).min()?;
    let used = number(&group.join(used))?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let field = if unified { "inactive_file" } else { "total_inactive_file" };
    let reclaimable = stat.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
}

/// The processors under one group's own quota.
fn level_quota(group: &Path, unified: bool) -> Option<f64> {
    let (quota, period) = if unified {
        let text = fs::read_to_string(group.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
    } else {
        (number(&group.join("cpu.cfs_quota_us"))? as f64, number(&group.join("cpu.cfs_period_us"))? as f64)
    };
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// The number that a file holds; `None` for a missing file and for words such as `max` and `-1`.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes `files` (path below the root, contents) into a new directory.
    pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("directory");
            fs::write(path, text).expect("file");
        }
        root
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "36 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      37 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      38 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_2_takes_the_tightest_level_of_the_path() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "900000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "5\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
        ]);
        let cgroup = Cgroup::of_self(root.path());
        assert_eq!(cgroup.memory_headroom(), Some(100_000));
        assert_eq!(cgroup.cpu_quota(), Some(1.5));
    }

    #[test]
    fn unused_file_pages_count_as_free() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "900\n"),
            ("sys/fs/cgroup/memory.stat", "anon 100\ninactive_anon 3\ninactive_file 500\n"),
        ]);
        assert_eq!(Cgroup::of_self(root.path()).memory_headroom(), Some(600));
    }

    #[test]
    fn a_mount_that_shows_a_part_of_the_hierarchy_is_walked_from_there() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/docker/abc/inner\n"),
            ("proc/self/mountinfo", "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
            ("sys/fs/cgroup/memory.max", "4096\n"),
            ("sys/fs/cgroup/memory.current", "96\n"),
            ("sys/fs/cgroup/inner/memory.max", "max\n"),
        ]);
        assert_eq!(Cgroup::of_self(root.path()).memory_headroom(), Some(4000));
    }

    #[test]
    fn a_path_outside_the_mount_falls_back_to_the_mount() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/../sibling\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
            ("sys/fs/cgroup/memory.max", "50\n"),
            ("sys/fs/cgroup/memory.current", "20\n"),
        ]);
        assert_eq!(Cgroup::of_self(root.path()).memory_headroom(), Some(30));
    }

    #[test]
    fn version_1_is_read_where_version_2_has_no_controller() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/unified/cgroup.controllers", "\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
            ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3000\n"),
            ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000\n"),
            ("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n"),
        ]);
        let cgroup = Cgroup::of_self(root.path());
        assert_eq!(cgroup.memory_headroom(), Some(2000));
        assert_eq!(cgroup.cpu_quota(), Some(2.0));
    }

    #[test]
    fn without_limits_there_is_no_figure() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/\n3:cpu,cpuacct:/\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        let cgroup = Cgroup::of_self(root.path());
        assert_eq!(cgroup.memory_headroom(), None);
        assert_eq!(cgroup.cpu_quota(), None);
        assert_eq!(Cgroup::of_self(Path::new("/nonexistent")).memory_headroom(), None);
    }
}
