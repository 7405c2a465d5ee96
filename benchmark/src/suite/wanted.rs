//! Figures that the project set itself, beside what the runs found: goal reached, just enough, or missed.

use serde_json::Value;

use super::Run;
use super::report::{of, section};
use crate::spread::Spread;

/// A ping-pong round trip below this means two hyperthreads of one core: a figure of two processes says nothing then.
const SIBLINGS_NS: f64 = 100.0;

/// Which side of a bound is good.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost,
    AtLeast,
}

/// A figure with what is wanted of it.
struct Wanted {
    benchmark: &'static str,
    figure: &'static str,
    /// Field of the run; its spread, where there is one, is called the same with `_spread`.
    field: &'static str,
    bound: Bound,
    must: f64,
    goal: f64,
    unit: &'static str,
    /// Whether it depends on two processes on cores of their own.
    two_processes: bool,
    /// The run's `writer`, where that tells figures apart.
    writer: Option<bool>,
}

const fn at_most(benchmark: &'static str, figure: &'static str, field: &'static str, must: f64, goal: f64) -> Wanted {
    let (bound, unit, two_processes, writer) = (Bound::AtMost, "×", false, None);
    Wanted { benchmark, figure, field, bound, must, goal, unit, two_processes, writer }
}

impl Wanted {
    const fn at_least(self) -> Self {
        Self { bound: Bound::AtLeast, ..self }
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    const fn two_processes(self) -> Self {
        Self { two_processes: true, ..self }
    }

    const fn writer(self, writer: bool) -> Self {
        Self { writer: Some(writer), ..self }
    }
}

const DIRECT: &str = "bench-direct";
const TABLE: &str = "bench-table";
const EXPIRY: &str = "bench-expiry";

/// All of them.
const WANTED: [Wanted; 16] = [
    at_most(DIRECT, "direct get over the best peer", "direct_ratio_best_peer", 0.9, 0.5).two_processes().writer(false),
    at_most(DIRECT, "beside a writer, over the best peer", "direct_ratio_best_peer", 0.85, 0.45).two_processes().writer(true),
    at_most(DIRECT, "batch of 16 gets over single ones", "direct_batch_ratio_single", 0.65, 0.4).writer(false),
    at_most(DIRECT, "two reading processes over one", "readers_scaling", 1.8, 1.95).at_least().two_processes().writer(false),
    at_most(TABLE, "insert over the best peer", "ratio_insert", 0.6, 0.35),
    at_most(TABLE, "update over the best peer", "ratio_update", 1.1, 0.7),
    at_most(TABLE, "delete over the best peer", "ratio_delete", 0.7, 0.35),
    at_most(TABLE, "overhead per item", "bytes_overhead_per_item", 34.0, 28.0).unit("bytes"),
    at_most(TABLE, "overhead per item after growing", "growth_bytes_overhead_per_item", 34.0, 28.0).unit("bytes"),
    at_most(TABLE, "growing: p99.9 per insert", "growth_p999_ns", 5000.0, 1500.0).unit("ns"),
    at_most(TABLE, "growing: longest insert beyond the idle loop", "growth_beyond_idle_ms", 0.5, 0.0).unit("ms"),
    at_most(TABLE, "growing over right-sized, mean", "ratio_growth_mean", 1.5, 1.2),
    at_most(EXPIRY, "sweep, per expired key", "ns_per_key", 50.0, 25.0).unit("ns"),
    at_most(EXPIRY, "other calls' p99.9, storm over calm", "ratio_op_p999", 2.0, 1.2).two_processes(),
    at_most(EXPIRY, "until all are gone, idle", "seconds_to_empty", 1.0, 1.0).unit("s"),
    at_most(EXPIRY, "until all are gone, loaded", "seconds_to_empty_loaded", 5.0, 5.0).unit("s"),
];

/// The section, or nothing when no run has any of the figures.
pub(crate) fn wanted(runs: &[Run]) -> String {
    let rows = WANTED.iter().flat_map(|wanted| {
        of(runs, wanted.benchmark)
            .filter(|(_, value)| wanted.writer.is_none_or(|writer| value["writer"] == writer))
            .filter_map(|(run, value)| row(wanted, run, value))
    });
    let head = ["figure", "run", "found (rounds)", "must", "goal", "reads"];
    section("What is wanted, and what was found", &head, rows.collect())
}

fn row(wanted: &Wanted, run: &Run, value: &Value) -> Option<Vec<String>> {
    let found = value[wanted.field].as_f64()?;
    let spread = serde_json::from_value::<Spread>(value[format!("{}_spread", wanted.field)].clone()).ok();
    let shown = match spread {
        Some(Spread { min, max, .. }) => format!("{} ({} to {}) {}", three(found), three(min), three(max), wanted.unit),
        None => format!("{} {}", three(found), wanted.unit),
    };
    let sign = if wanted.bound == Bound::AtMost { "≤" } else { "≥" };
    let bound = |bound: f64| format!("{sign} {}", three(bound));
    let void = wanted.two_processes && value["pingpong_rtt_ns"].as_f64().is_none_or(|ns| ns < SIBLINGS_NS);
    let reads = if void { "VOID: no two cores" } else { reads(wanted, found) };
    Some(vec![wanted.figure.into(), run.title.clone(), shown, bound(wanted.must), bound(wanted.goal), reads.into()])
}

fn reads(wanted: &Wanted, found: f64) -> &'static str {
    let reached = |bound: f64| match wanted.bound {
        Bound::AtMost => found <= bound,
        Bound::AtLeast => found >= bound,
    };
    match (reached(wanted.must), reached(wanted.goal)) {
        (_, true) => "goal",
        (true, false) => "must",
        (false, false) => "MISSED",
    }
}

/// A number in about three figures.
fn three(number: f64) -> String {
    let digits = if number.abs() >= 100.0 { 0 } else { 2 };
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text_of(value: Value) -> String {
        wanted(&[Run { title: "t".into(), command: "c".into(), outcome: Ok(value) }])
    }

    #[test]
    fn figures_reach_their_goal_are_enough_or_miss() {
        let spread = json!({ "median": 0.5, "min": 0.4, "max": 0.6 });
        let text = text_of(json!({
            "benchmark": TABLE, "ratio_insert": 0.35, "ratio_update": 0.71, "ratio_delete": 0.701, "ratio_delete_spread": spread,
        }));
        let line = |start: &str| text.lines().find(|line| line.contains(start)).unwrap_or_default().to_owned();
        assert!(line("insert over").contains("| ≤ 0.6 ") && line("insert over").contains("| goal"), "{text}");
        assert!(line("update over").contains("| must "), "{text}");
        assert!(line("delete over").contains("0.7 (0.4 to 0.6) ×") && line("delete over").contains("MISSED"), "{text}");
        assert!(!text.contains("overhead"), "a figure that the run has not: {text}");
    }

    #[test]
    fn more_may_be_better_and_siblings_make_void() {
        let run =
            |pingpong: f64| json!({ "benchmark": DIRECT, "writer": false, "readers_scaling": 1.9, "pingpong_rtt_ns": pingpong });
        assert!(text_of(run(300.0)).contains("| must "));
        assert!(text_of(run(60.0)).contains("VOID"));
        assert!(text_of(json!({ "benchmark": DIRECT, "writer": true, "readers_scaling": 1.9 })).is_empty());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.9, 1500.0, -0.1234, 0.0, 34.06].map(three), ["0.9", "1500", "-0.12", "0", "34.06"]);
    }
}
