//! Which processors the server may use: `--cpus`, the affinity it was started with, and the control group's quota.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::exit::ServerError;

/// Processors of this process, and how many of them it can keep busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus {
    /// The processors' numbers, ascending.
    pub(crate) allowed: Vec<usize>,
    /// How many of them the quota pays for, at least one.
    pub(crate) usable: usize,
}

impl Cpus {
    /// Binds the process to `wanted` (if given) and finds what it may use from now on. Threads inherit the binding, so this
    /// comes before the first of them.
    pub(crate) fn settle(wanted: Option<&[usize]>, cgroup: &Cgroup) -> Result<Self, ServerError> {
        let before = affinity()?;
        let allowed = match wanted {
            None => before,
            Some(wanted) => {
                if let Some(missing) = wanted.iter().find(|cpu| !before.contains(cpu)) {
                    return Err(ServerError::Usage(format!(
                        "cannot use processor {missing} of --cpus: found {} for this process; name some of those",
                        format_list(&before)
                    )));
                }
                bind(wanted)?;
                wanted.to_vec()
            }
        };
        let usable = usable(allowed.len(), cgroup.cpu_quota());
        Ok(Self { allowed, usable })
    }
}

impl Cpus {
    /// The processors for the engine, which takes each of them for one that it can keep busy. Under a quota that pays for fewer
    /// than there are, these are some of them, and not the same ones in every process of the machine.
    pub(crate) fn for_engine(&self) -> Vec<usize> {
        let first = std::process::id() as usize % self.allowed.len().max(1);
        let mut some: Vec<usize> = self
            .allowed
            .iter()
            .cycle()
            .skip(if self.usable < self.allowed.len() { first } else { 0 })
            .take(self.usable)
            .copied()
            .collect();
        some.sort_unstable();
        some
    }
}

/// How many of `allowed` processors a quota pays for: a part of one counts as one.
fn usable(allowed: usize, quota: Option<f64>) -> usize {
    let paid = quota.map_or(usize::MAX, |quota| quota.ceil() as usize);
    allowed.min(paid).max(1)
}

/// Reads a list of processors as `taskset` and cpuset files write it: `0-3,8`. Ascending, each once.
pub(crate) fn parse_list(text: &str) -> Result<Vec<usize>, String> {
    const EXPECTED: &str = "expected numbers and ranges such as 0-3,8";
    let number = |part: &str| match part.parse::<usize>() {
        Ok(cpu) if cpu < CpuSet::count() => Ok(cpu),
        Ok(cpu) => Err(format!("processor {cpu} is beyond the last possible one, {}", CpuSet::count() - 1)),
        Err(_) => Err(format!("found `{part}`, {EXPECTED}")),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("the range `{part}` runs backwards, {EXPECTED}"));
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// Writes a list that [`parse_list`] reads.
pub(crate) fn format_list(cpus: &[usize]) -> String {
    let mut parts = Vec::new();
    for run in cpus.chunk_by(|a, b| a + 1 == *b) {
        match run {
            [one] => parts.push(one.to_string()),
            [first, .., last] => parts.push(format!("{first}-{last}")),
            [] => {}
        }
    }
    parts.join(",")
}

fn affinity() -> Result<Vec<usize>, ServerError> {
    let set =
        sched_getaffinity(Pid::from_raw(0)).map_err(|source| ServerError::io("cannot read the processor affinity", source))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

fn bind(cpus: &[usize]) -> Result<(), ServerError> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).map_err(|source| ServerError::io("cannot name a processor", source))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|source| ServerError::io("cannot bind to the processors of --cpus", source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_in_order_and_once() {
        assert_eq!(parse_list("0"), Ok(vec![0]));
        assert_eq!(parse_list("8,0-3,2"), Ok(vec![0, 1, 2, 3, 8]));
    }

    #[test]
    fn lists_that_name_nothing_are_refused() {
        for text in ["", ",", "0,", "a", "0-", "-1", "3-1", "0-99999999", "99999999"] {
            assert!(parse_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_quota_caps_the_usable_processors() {
        assert_eq!(usable(8, None), 8);
        assert_eq!(usable(8, Some(1.5)), 2);
        assert_eq!(usable(2, Some(16.0)), 2);
        assert_eq!(usable(2, Some(0.1)), 1);
    }

    #[test]
    fn the_engine_gets_as_many_processors_as_can_be_kept_busy() {
        let all = Cpus { allowed: vec![1, 3, 5], usable: 3 };
        assert_eq!(all.for_engine(), [1, 3, 5]);
        let some = Cpus { usable: 2, ..all }.for_engine();
        assert_eq!(some.len(), 2);
        assert!(some[0] < some[1] && some.iter().all(|cpu| [1, 3, 5].contains(cpu)));
    }

    #[test]
    fn a_processor_that_is_not_ours_is_named() {
        let error = Cpus::settle(Some(&[CpuSet::count() - 1]), &Cgroup::of_self(std::path::Path::new("/nonexistent")));
        let error = error.expect_err("no machine has that many").to_string();
        assert!(error.contains(&format!("processor {}", CpuSet::count() - 1)), "{error}");
    }

    proptest! {
        #[test]
        fn a_written_list_reads_back(cpus in prop::collection::btree_set(0usize..CpuSet::count(), 1..40)) {
            let cpus: Vec<usize> = cpus.into_iter().collect();
            prop_assert_eq!(parse_list(&format_list(&cpus)), Ok(cpus));
        }
    }
}
