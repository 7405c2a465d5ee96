//! Which share of the samples goes to what.
//!
//! A stack belongs to one class. In kernel stacks the way in decides: giving up the core or sleeping is waiting, all else is the
//! kernel's. Otherwise the innermost frame that is a copy, or that begins with a crate of this repository, decides; what the
//! standard library does, and what only finds or probes a place in the region, belongs to whoever called it.

use crate::fold::Stacks;
use crate::names::path_of;

/// Classes, in the order of the table.
pub(crate) const CLASSES: [(Class, &str); 8] = [
    (Class::Waiting, "waiting"),
    (Class::Rings, "rings and lanes"),
    (Class::Requests, "requests"),
    (Class::Table, "table"),
    (Class::Copying, "copying"),
    (Class::Kernel, "kernel"),
    (Class::Bench, "bench's own"),
    (Class::Other, "other"),
];

/// What a sample's time went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Spinning, looking for work that is not there, yielding, sleeping.
    Waiting,
    /// Sending, taking and answering through rings and lanes, on either side.
    Rings,
    /// Encoding, decoding and carrying out requests.
    Requests,
    /// The table: hashing, finding, writing, memory.
    Table,
    /// Moving bytes.
    Copying,
    /// The kernel, but for waiting: faults, interrupts, waking others.
    Kernel,
    /// The benchmark: making keys, checking replies.
    Bench,
    /// What no name could be found for.
    Other,
}

/// Kernel functions that give the core up until something happens.
const KERNEL_WAITS: [&str; 4] = ["__x64_sys_sched_yield", "__arm64_sys_sched_yield", "__futex_wait", "futex_wait"];
/// Functions of the C library that do the same: the stack may end there.
const LIBRARY_WAITS: [&str; 3] = ["sched_yield", "__GI_sched_yield", "__sched_yield"];
const COPIES: [&str; 8] =
    ["racing::", "memcpy", "memmove", "__memcpy", "__memmove", "__GI_memcpy", "__GI_memmove", "core::ptr::copy"];
/// Functions that only look whether there is work or a reply.
const LOOKS: [&str; 15] = [
    "shmqueue::wait::",
    "shmqueue::port::Port::wait",
    "shmqueue::port::Port::spin",
    "shmqueue::port::Port::sleep",
    "shmqueue::port::Port::take_stock",
    "shmqueue::port::Port::is_crowded",
    "shmqueue::port::Port::is_answered",
    "shmqueue::engine::pace::",
    "shmqueue::engine::Engine::park",
    "shmqueue::engine::Engine::is_pending",
    "shmqueue::engine::Engine::anything_pending",
    "shmqueue::engine::Engine::cool_down",
    "shmqueue::engine::Engine::shares_cpu",
    "shmqueue::engine::heat::",
    "shmqueue::engine::Engine::is_surplus",
];
/// Functions of ours that belong to whoever called them: finding a place in the region, one look at it, one pause.
const TOOLS: [&str; 8] = [
    "shmqueue::sync::",
    "shmqueue::region::",
    "shmqueue::lane::request::RequestLane::is_published",
    "shmqueue::lane::reply::ReplyLane::is_answered",
    "shmqueue::lane::reply::tag",
    "shmqueue::engine::shard::Pass::request_lane",
    "shmqueue::engine::shard::Pass::lane",
    "shmqueue::engine::shard::Pass::ring",
];
const CRATES: [(&str, Class); 9] = [
    ("table::", Class::Table),
    ("rapidhash::", Class::Table),
    ("shmqueue::", Class::Rings),
    ("crossbeam_utils::", Class::Rings),
    ("protocol::", Class::Requests),
    ("server::", Class::Requests),
    ("shmtable::", Class::Requests),
    ("benchmark::", Class::Bench),
    ("bench_throughput::", Class::Bench),
];

/// The share of each class, in the order of [`CLASSES`]; they add up to 1.
pub(crate) fn of(stacks: &Stacks) -> [f64; CLASSES.len()] {
    let total = stacks.total().max(1) as f64;
    CLASSES.map(|(class, _)| {
        let of_class = stacks.iter().filter(|(stack, _)| classify(stack) == class);
        of_class.map(|(_, count)| count).sum::<u64>() as f64 / total
    })
}

/// The class of a stack, whose first frame is the thread's name.
fn classify(stack: &str) -> Class {
    let begins = |name: &str, list: &[&str]| list.iter().any(|word| name.starts_with(word));
    let mut in_kernel = false;
    let frames: Vec<&str> = stack.split(';').skip(1).collect();
    for frame in frames.iter().rev() {
        if let Some(name) = frame.strip_suffix("_[k]") {
            in_kernel = true;
            if begins(name, &KERNEL_WAITS) {
                return Class::Waiting;
            }
            continue;
        }
        let name = path_of(frame);
        if LIBRARY_WAITS.contains(&name) {
            return Class::Waiting;
        }
        if in_kernel {
            return Class::Kernel;
        }
        if begins(name, &COPIES) {
            return Class::Copying;
        }
        if begins(name, &LOOKS) {
            return Class::Waiting;
        }
        if begins(name, &TOOLS) {
            continue;
        }
        if let Some((_, class)) = CRATES.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            return *class;
        }
    }
    if in_kernel { Class::Kernel } else { Class::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_frame_of_ours_decides() {
        for (stack, class) in [
            ("worker;shmqueue::engine::Engine::run_worker;table::find;core::hint::black_box", Class::Table),
            ("worker;shmqueue::engine::Engine::run_worker;<server::Service as shmqueue::Handler>::process", Class::Requests),
            ("worker;shmqueue::engine::Engine::run_worker;shmqueue::engine::pace::Pace::keep_looking", Class::Waiting),
            ("worker;shmqueue::engine::shard::Pass::drain;core::sync::atomic::atomic_load", Class::Rings),
            ("bench;benchmark::load::work;shmtable::polled::poll;racing::copy", Class::Copying),
            ("bench;benchmark::load::work;shmqueue::port::Port::wait;core::hint::spin_loop", Class::Waiting),
            (
                "bench;shmqueue::port::Port::is_answered;shmqueue::lane::reply::ReplyLane::is_answered;core::a::load",
                Class::Waiting,
            ),
            ("worker;shmqueue::engine::shard::Pass::drain;shmqueue::lane::request::RequestLane::is_published", Class::Rings),
            ("worker;shmqueue::engine::pace::Pace::keep_looking;shmqueue::sync::spin_hint", Class::Waiting),
            ("bench;benchmark::load::work;<benchmark::ledger::Ledger>::check", Class::Bench),
            ("bench;__memcpy_avx512_unaligned_erms", Class::Copying),
            ("table::thread;[unknown]", Class::Other),
        ] {
            assert_eq!(classify(stack), class, "{stack}");
        }
    }

    #[test]
    fn the_way_into_the_kernel_decides() {
        for (stack, class) in [
            ("w;table::find;asm_exc_page_fault_[k];handle_mm_fault_[k]", Class::Kernel),
            ("w;sched_yield;do_syscall_64_[k];__x64_sys_sched_yield_[k];schedule_[k]", Class::Waiting),
            ("w;__GI_sched_yield;syscall_exit_[k]", Class::Waiting),
            ("w;__GI_sched_yield", Class::Waiting),
            ("w;shmqueue::wait::sleep;syscall;do_syscall_64_[k];futex_wait_[k]", Class::Waiting),
            ("w;shmqueue::wait::wake;syscall;do_syscall_64_[k];futex_wake_[k]", Class::Kernel),
            ("w;do_syscall_64_[k]", Class::Kernel),
        ] {
            assert_eq!(classify(stack), class, "{stack}");
        }
    }

    #[test]
    fn shares_count_samples_and_add_up() {
        let stacks = Stacks::read("w;table::find 6\nw;racing::copy 3\nw;[unknown] 1\n");
        let shares = of(&stacks);
        let share = |class| shares[CLASSES.iter().position(|(other, _)| *other == class).unwrap()];
        assert_eq!((share(Class::Table), share(Class::Copying), share(Class::Other)), (0.6, 0.3, 0.1));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
