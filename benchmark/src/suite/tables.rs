//! The report's sections on the table itself: operations and growth beside other maps and direct reads, one after the other and in
//! loops that overlap, keys that expire at once,
//! values that come and go in little room.

use serde_json::Value;

use super::Run;
use super::report::{number, of, range, rate, section};
use crate::peers;

/// A number without digits after its point.
fn whole(number: f64) -> String {
    format!("{number:.0}")
}

fn two(number: f64) -> String {
    format!("{number:.2}")
}

/// All of them.
pub(crate) fn sections(runs: &[Run]) -> String {
    operations(runs)
        + &overlapped(runs)
        + &growth(runs)
        + &direct(runs)
        + &direct_overlapped(runs)
        + &expiry(runs)
        + &churn(runs)
        + &evict(runs)
}

/// Operations that wait for one another, in maps that began small.
fn operations(runs: &[Run]) -> String {
    let rows = of(runs, "bench-table").flat_map(|(run, value)| {
        let figures = ["insert", "update", "get", "delete", "presized_insert", "presized_delete"];
        let titles = ["insert, growing", "update", "get", "delete", "insert, right-sized", "delete, right-sized"];
        figures.into_iter().zip(titles).map(|(figure, title)| {
            let mut row = vec![format!("{} {title}", run.title), range(value, &format!("{figure}_ns_spread"), whole)];
            row.extend(peers::NAMES.map(|peer| range(value, &format!("{peer}_{figure}_ns_spread"), whole)));
            row.push(range(value, &format!("ratio_{figure}_spread"), two));
            row
        })
    });
    let peers = peers::NAMES;
    let head = ["ns per operation (rounds)", "table", peers[0], peers[1], peers[2], peers[3], "over the best peer"];
    section("One operation after the other, beside other maps", &head, rows.collect())
}

/// The same, of loops of independent operations in warmed maps made for their keys.
fn overlapped(runs: &[Run]) -> String {
    let rows = of(runs, "bench-table").flat_map(|(run, value)| {
        ["insert", "update", "get", "delete"].map(|op| {
            let mut row = vec![format!("{} {op}", run.title), range(value, &format!("{op}_overlapped_ns_spread"), whole)];
            row.push(range(value, &format!("batch_{op}_ns_spread"), whole));
            row.extend(peers::NAMES.map(|peer| range(value, &format!("{peer}_{op}_overlapped_ns_spread"), whole)));
            row.push(range(value, &format!("ratio_{op}_overlapped_spread"), two));
            row.push(range(value, &format!("ratio_batch_{op}_spread"), two));
            row
        })
    });
    let peers = peers::NAMES;
    let head = [
        "ns per operation (rounds)",
        "table",
        "in batches",
        peers[0],
        peers[1],
        peers[2],
        peers[3],
        "over the best peer",
        "batches over it",
    ];
    section("Loops of independent operations, which overlap, in warmed right-sized maps", &head, rows.collect())
}

fn growth(runs: &[Run]) -> String {
    const MAPS: [(&str, &str); 6] = [
        ("table, from 10,000 buckets", "growth"),
        ("table, right-sized", "presized"),
        ("dashmap", "dashmap_growth"),
        ("papaya", "papaya_growth"),
        ("scc", "scc_growth"),
        ("rwlock", "rwlock_growth"),
    ];
    let row = |run: &Run, value: &Value, map: &str, prefix: &str| {
        let mut row = vec![format!("{} {map}", run.title)];
        row.extend(["mean", "p50", "p999", "max"].map(|which| number(value, &format!("{prefix}_{which}_ns"), 0)));
        row.push(number(value, &format!("{prefix}_preemptions"), 0));
        row
    };
    let rows = of(runs, "bench-table").filter(|(_, value)| value["growth_p999_ns"].is_number()).flat_map(|(run, value)| {
        let mut rows: Vec<_> = MAPS.iter().map(|(map, prefix)| row(run, value, map, prefix)).collect();
        let idle =
            [format!("{} idle loop", run.title), String::new(), String::new(), String::new(), number(value, "hiccup_max_ns", 0)];
        rows.push(idle.into());
        rows
    });
    section(
        "One insert after another while a map grows",
        &["ns per insert", "mean", "p50", "p99.9", "max", "preempted"],
        rows.collect(),
    )
}

/// Reads that wait for one another.
fn direct(runs: &[Run]) -> String {
    let row = |(run, value): (&Run, &Value)| {
        let mut row = vec![run.title.clone()];
        row.extend(["direct_ns", "handle_ns", "ring_ns"].map(|name| range(value, &format!("{name}_spread"), whole)));
        row.extend(peers::NAMES.map(|peer| range(value, &format!("{peer}_ns_spread"), whole)));
        row.push(range(value, "direct_ratio_best_peer_spread", two));
        row
    };
    let peers = peers::NAMES;
    let head = [
        "ns per get (rounds)",
        "direct",
        "by handle",
        "by the ring",
        peers[0],
        peers[1],
        peers[2],
        peers[3],
        "over the best peer",
    ];
    section("One direct read after the other, beside other maps", &head, of(runs, "bench-direct").map(row).collect())
}

/// The same, of loops of independent reads.
fn direct_overlapped(runs: &[Run]) -> String {
    let row = |(run, value): (&Run, &Value)| {
        let mut row = vec![run.title.clone()];
        row.extend(
            ["direct_overlapped_ns", "direct_batch_ns", "handle_overlapped_ns"]
                .map(|name| range(value, &format!("{name}_spread"), whole)),
        );
        row.extend(peers::NAMES.map(|peer| range(value, &format!("{peer}_overlapped_ns_spread"), whole)));
        row.extend([range(value, "direct_overlapped_ratio_best_peer_spread", two), number(value, "readers_scaling", 2)]);
        row
    };
    let peers = peers::NAMES;
    let head = [
        "ns per get (rounds)",
        "direct",
        "in batches",
        "by handle",
        peers[0],
        peers[1],
        peers[2],
        peers[3],
        "over the best peer",
        "two readers",
    ];
    section("Loops of independent direct reads, which overlap", &head, of(runs, "bench-direct").map(row).collect())
}

fn expiry(runs: &[Run]) -> String {
    let row = |(run, value): (&Run, &Value)| {
        let mut row = vec![run.title.clone(), rate(value, "keys"), range(value, "ns_per_key_spread", |ns| format!("{ns:.1}"))];
        row.push(number(value, "step_p999_ns", 0));
        row.extend(["op_p999_calm_ns_spread", "op_p999_storm_ns_spread"].map(|name| range(value, name, whole)));
        row.push(range(value, "ratio_op_p999_spread", two));
        row.extend(
            ["seconds_to_empty", "seconds_to_empty_calls", "seconds_to_empty_loaded"]
                .map(|name| range(value, &format!("{name}_spread"), two)),
        );
        row
    };
    let head = [
        "expiry",
        "keys",
        "ns per key",
        "step p99.9 ns",
        "call p99.9 calm, ns",
        "in the storm, ns",
        "ratio",
        "seconds to empty: idle",
        "with calls",
        "loaded",
    ];
    section("Keys that expire at once", &head, of(runs, "bench-expiry").map(row).collect())
}

fn churn(runs: &[Run]) -> String {
    let row = |(run, value): (&Run, &Value)| {
        let mut row = vec![run.title.clone(), rate(value, "ops")];
        row.extend(["ops_per_second_first", "ops_per_second_last"].map(|name| rate(value, name)));
        row.extend([number(value, "ratio", 2), rate(value, "live_class_bytes"), rate(value, "memory_limit_bytes")]);
        row
    };
    let head = ["churn", "operations", "ops/s first", "last", "ratio, machine's drift taken out", "live bytes", "limit"];
    section("Values of 16 B to 64 KiB in a table that is nearly full", &head, of(runs, "bench-churn").map(row).collect())
}

fn evict(runs: &[Run]) -> String {
    let row = |(run, value): (&Run, &Value)| {
        let mut row = vec![run.title.clone(), rate(value, "keys"), number(value, "capacity_ratio", 2)];
        row.extend(["hit_ratio", "lru_hit_ratio", "hit_ratio_ring", "hit_ratio_unhinted"].map(|name| number(value, name, 3)));
        row.extend([number(value, "hit_ratio_over_lru", 3), number(value, "full_total", 0)]);
        row
    };
    let head =
        ["hit ratio", "keys", "capacity", "direct readers", "LRU", "by the ring", "without hints", "over LRU", "refused as full"];
    section("A cache that evicts", &head, of(runs, "bench-evict").map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_show_what_the_runs_found_and_dashes_for_what_they_did_not() {
        let spread = json!({ "median": 100.0, "min": 90.0, "max": 110.0 });
        let run = |value| Run { title: "t".into(), command: "c".into(), outcome: Ok(value) };
        let runs = [
            run(
                json!({ "benchmark": "bench-table", "insert_ns_spread": spread, "growth_p999_ns": 1234.0, "hiccup_max_ns": 777.0,
                    "rwlock_get_overlapped_ns_spread": { "median": 55.0, "min": 50.0, "max": 60.0 },
                    "presized_insert_ns_spread": { "median": 66.0, "min": 60.0, "max": 70.0 } }),
            ),
            run(json!({ "benchmark": "bench-expiry", "keys": 10_000_000, "ns_per_key_spread": spread })),
            run(json!({ "benchmark": "bench-direct", "direct_ns_spread": spread,
                "scc_overlapped_ns_spread": { "median": 44.0, "min": 40.0, "max": 50.0 } })),
            run(json!({ "benchmark": "bench-churn", "ops": 5_000_000, "ratio": 0.987 })),
        ];
        let text = sections(&runs);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert!(line("| t insert").contains("100 (90 to 110)") && line("| t delete").contains('–'), "{text}");
        assert!(line("| t table, from").contains("1234") && line("| t idle loop").contains("777"), "{text}");
        assert!(text.contains("10.00 M") && text.contains("100.0 (90.0 to 110.0)"), "{text}");
        assert!(text.contains("| 5.00 M ") && text.contains("| 0.99 "), "{text}");
        assert!(
            overlapped(&runs).contains("| 55 (50 to 60) ") && direct_overlapped(&runs).contains("| 44 (40 to 50) "),
            "{text}"
        );
        assert!(line("| t insert, right-sized").contains("66 (60 to 70)"), "{text}");
        assert!(sections(&[]).is_empty());
        assert!(growth(&runs[1..]).is_empty());
    }
}
