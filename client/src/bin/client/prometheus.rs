//! The counters as Prometheus reads them: its text exposition format, version 0.0.4.

use std::fmt::{Display, Write};

use shmtable::Stats;

/// The exposition text of a region's counters. A region's name needs no quoting in a label.
pub(crate) fn exposition(region: &str, stats: &Stats) -> String {
    let mut text = String::new();
    for (name, value) in &stats.values {
        metric(&mut text, name, help(name), [(format!("region=\"{region}\""), value)]);
    }
    let labels = |index: usize| format!("region=\"{region}\",shard=\"{index}\"");
    let shards = || stats.shards.iter().enumerate();
    let clients = shards().map(|(index, shard)| (labels(index), shard.clients));
    metric(&mut text, "shard_clients", "Clients attached to the shard.", clients);
    let requests = shards().map(|(index, shard)| (labels(index), shard.requests_total));
    metric(&mut text, "shard_requests_total", "Requests served on the shard.", requests);
    let backlog = shards().map(|(index, shard)| (labels(index), shard.backlog));
    metric(&mut text, "shard_backlog", "Lanes of the shard that waited after the last pass.", backlog);
    text
}

fn metric<V: Display>(text: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = (String, V)>) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    // Writing to memory cannot fail.
    let _ = writeln!(text, "# HELP shmtable_{name} {help}\n# TYPE shmtable_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "shmtable_{name}{{{labels}}} {value}");
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "items" => "Items in the table.",
        "buckets" => "Buckets of the table.",
        "memory_used_bytes" => "Committed bytes of the table.",
        "memory_limit_bytes" => "Most bytes that the table may commit.",
        "clients" => "Attached clients.",
        "shards" => "Shards of the region.",
        "requests_total" => "Requests served.",
        "hits_total" => "Reads through the server that found their key.",
        "misses_total" => "Reads through the server that did not find their key.",
        "direct_hits_total" => "Direct reads that found their key.",
        "direct_misses_total" => "Direct reads that did not find their key.",
        "direct_retries_total" => "Direct reads that had to be repeated.",
        "expired_total" => "Items removed because their time was over.",
        "evicted_total" => "Items removed to make room.",
        "full_total" => "Writes refused because the table was full.",
        "refused_total" => "Requests refused for their input.",
        "expiry_lag_seconds" => "How long the oldest expired item has been waiting to be removed.",
        "uptime_seconds" => "Time since the server became ready.",
        "layout_version" => "Version of the region's layout.",
        _ => "See `client stats`.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_announced_once_and_has_a_line_per_sample() {
        let mut text = String::new();
        metric(&mut text, "shard_requests_total", "Requests.", [("shard=\"0\"".to_owned(), 5), ("shard=\"1\"".to_owned(), 7)]);
        assert_eq!(
            text,
            "# HELP shmtable_shard_requests_total Requests.\n# TYPE shmtable_shard_requests_total counter\n\
             shmtable_shard_requests_total{shard=\"0\"} 5\nshmtable_shard_requests_total{shard=\"1\"} 7\n"
        );
    }

    #[test]
    fn gauges_and_counters_are_told_apart_by_name() {
        let mut text = String::new();
        metric(&mut text, "items", help("items"), [("region=\"r\"".to_owned(), 1)]);
        assert!(text.contains("# TYPE shmtable_items gauge\n"));
        assert_ne!(help("items"), help("unheard of"));
    }
}
