//! Which CPUs this process may use, and how much of them a process has used.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::Error;

/// CPUs that the calling thread may use, ascending.
pub fn allowed() -> Result<Vec<usize>, Error> {
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(Error::io("reading the CPU affinity"))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Binds the calling thread to one CPU.
pub fn pin(cpu: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(cpu).map_err(Error::io("naming a CPU"))?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(Error::io(format!("binding a thread to CPU {cpu}")))
}

/// CPU time that all threads of a living process have used, exact to the moment (unlike `/proc/PID/schedstat`, which lags by a
/// tick for a thread that is running).
pub fn cpu_time(pid: u32) -> Result<Duration, Error> {
    let what = || format!("reading the CPU time of process {pid}");
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).map_err(Error::io(what()))?;
    Ok(Duration::from(clock_gettime(clock).map_err(Error::io(what()))?))
}

/// Voluntary and forced switches of all threads of a process.
pub fn context_switches(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).map(|text| switches(&text)).sum()
}

fn switches(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.ends_with("voluntary_ctxt_switches"))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_uses_cpu_time() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let mut sum = 0u64;
        while cpu_time(own).unwrap() < before + Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }

    #[test]
    fn both_kinds_of_switches_are_added() {
        assert_eq!(switches("Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n"), 12);
    }

    #[test]
    fn a_thread_can_be_pinned_to_each_allowed_cpu() {
        for cpu in allowed().unwrap() {
            std::thread::spawn(move || {
                pin(cpu).unwrap();
                assert_eq!(allowed().unwrap(), [cpu]);
            })
            .join()
            .unwrap();
        }
    }
}
