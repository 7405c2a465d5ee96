//! The binaries on the table itself, small: they end well, verify, and print every field of the contract.
//!
//! They start the server that was built beside them; `make test` builds all binaries before.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a binary and returns what it printed on its last line.
fn run(binary: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(binary);
    let output = command.args(arguments).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("started");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}: {text}", output.status);
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON on the last line")
}

fn has_numbers(found: &Value, names: &[&str]) {
    for name in names {
        assert!(found[name].is_number(), "{name}: {found}");
    }
    assert_eq!(found["errors"], 0, "{found}");
}

#[test]
fn bench_table_has_its_fields() {
    let sizes = ["--keys", "5000", "--workers", "2", "--rounds", "1", "--growth-keys", "20000"];
    let found = run(env!("CARGO_BIN_EXE_bench-table"), &sizes);
    has_numbers(
        &found,
        &["insert_ns", "update_ns", "delete_ns", "get_ns", "batch_insert_ns", "dashmap_insert_ns", "papaya_update_ns"],
    );
    has_numbers(&found, &["scc_delete_ns", "rwlock_insert_ns", "ratio_insert", "bytes_overhead_per_item", "clock_ns"]);
    has_numbers(&found, &["get_overlapped_ns", "rwlock_get_overlapped_ns", "presized_insert_ns", "scc_presized_insert_ns"]);
    has_numbers(&found, &["growth_p999_ns", "growth_max_ns", "hiccup_max_ns", "growth_mean_ns", "presized_mean_ns"]);
}

#[test]
fn bench_direct_has_its_fields() {
    let found = run(env!("CARGO_BIN_EXE_bench-direct"), &["--keys", "5000", "--seconds", "0.2", "--rounds", "1"]);
    for figure in ["direct", "handle", "handle_direct", "dashmap", "papaya", "scc", "rwlock"] {
        has_numbers(&found, &[&format!("{figure}_ns"), &format!("{figure}_overlapped_ns")]);
    }
    has_numbers(&found, &["direct_batch_ns", "ring_ns", "direct_ratio_best_peer", "direct_overlapped_ratio_best_peer"]);
    has_numbers(&found, &["direct_batch_ratio_single", "direct_batch_ratio_overlapped"]);
    assert!(found["best_peer"].is_string() && found["best_peer_overlapped"].is_string(), "{found}");
}

#[test]
fn bench_expiry_has_its_fields() {
    let found = run(env!("CARGO_BIN_EXE_bench-expiry"), &["--keys", "5000", "--rounds", "1", "--storms", "1"]);
    has_numbers(&found, &["ns_per_key", "step_p999_ns", "op_p999_calm_ns", "op_p999_storm_ns", "seconds_to_empty"]);
    has_numbers(&found, &["seconds_to_empty_loaded", "lag_seconds_max", "memory_growth_bytes"]);
    assert!(found["ops_calm"].as_u64().is_some_and(|calls| calls > 0), "{found}");
}
