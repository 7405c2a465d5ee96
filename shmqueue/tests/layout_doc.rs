//! The picture in `docs/layout.md` is checked against the structs: the layout is written once.
#![cfg(not(loom))]

use std::mem::{offset_of, size_of};

use shmqueue::layout::*;

macro_rules! rows {
    ($($name:ident: $($field:ident)+;)+) => {
        vec![$((stringify!($name), size_of::<$name>(), vec![$((stringify!($field), offset_of!($name, $field))),+])),+]
    };
}

#[test]
fn the_documented_layout_is_the_compiled_one() {
    let rows = rows! {
        Header: magic major minor abi uuid file_len shards clients lane_slots ring_cells features sections;
        ServerStatus: state server_pid incarnation threads started_ms server_cpus runnable max_value wants_hints awake counters client_tallies;
        ShardStatus: head cpu clients requests_total backlog recent_requests tallies;
        ClientStatus: generation attached position requests_total served_ms resized_at slots_before slots_after in_flight;
        ClaimsHead: attach_ticket;
        Doorbell: token;
        ClientClaim: word pid uid name;
        RequestRingHead: tail;
        ReplyRingHead: tail;
        RequestLaneHead: waiting cpu tallies hints;
        HintRing: tail words;
        ReplyLaneHead: hot complete;
    };
    let mut expected = String::new();
    for (name, size, fields) in rows {
        expected += &format!("| `{name}` | | {size} |\n");
        for (field, offset) in fields {
            expected += &format!("| | `{field}` | {offset} |\n");
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/layout.md");
    let document = std::fs::read_to_string(path).expect("docs/layout.md is part of the tree");
    let begin = document.find("<!-- structs -->\n").expect("the list's begin") + "<!-- structs -->\n".len();
    let end = document.find("<!-- /structs -->").expect("the list's end");
    let found = document[begin..end].lines().skip(2).map(|line| format!("{line}\n")).collect::<String>();
    assert_eq!(found, expected, "docs/layout.md differs from the structs; it should read:\n{expected}");
}

#[test]
fn sections_stand_in_the_documented_order() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/layout.md")).expect("the document");
    let order = ["HEADER", "STATUS", "CLAIMS", "REQUEST_RINGS", "REPLY_RINGS", "REQUEST_LANES", "REPLY_LANES", "EVENT_RING"];
    let mut last = 0;
    for name in order {
        let at = document.find(&format!("| {name} ")).unwrap_or_else(|| panic!("{name} is documented"));
        assert!(at > last, "{name} stands out of order");
        last = at;
    }
}
