//! `load` and `dump`: arbitrary bytes, word lists, both formats, broken pipes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};

use crate::commandline::Background;
use crate::daemon::Daemon;

/// Bytes without a pattern, the same in every run.
fn noise(state: &mut u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            // Marsaglia's xorshift.
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 32) as u8
        })
        .collect()
}

fn lines(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect()
}

#[test]
fn arbitrary_items_come_through_a_dump_and_a_load_in_either_format() {
    let (one, two) = (Daemon::start(&[]), Daemon::start(&[]));
    let mut state = 0x0005_eed0_f5ee_d5ee;
    let mut input = String::new();
    for index in 0..400 {
        let key = noise(&mut state, 1 + index % 90);
        let value = noise(&mut state, index * 7 % 3000);
        input += &format!("{:02x}\\x00{}\t{}\n", index % 251, escaped(&key), escaped(&value));
    }
    // The longest key and a long value.
    input += &format!("{}\t{}\n", escaped(&noise(&mut state, 1024)), escaped(&noise(&mut state, 1 << 20)));
    assert_eq!(one.fed(&["load", "-"], input.as_bytes()).text(), "401\n");
    let dump = one.client(&["dump"]).stdout;
    assert!(dump.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n')), "a dump is printable");
    assert_eq!(lines(&dump).len(), 401);
    assert_eq!(two.fed(&["load", "-"], &dump).text(), "401\n");
    assert!(lines(&two.client(&["dump"]).stdout) == lines(&dump), "tsv");
    assert_eq!(two.client(&["clear"]).text(), "401\n");
    let records = one.client(&["dump", "--format", "jsonl"]).stdout;
    assert_eq!(two.fed(&["load", "-"], &records).text(), "401\n");
    assert!(lines(&two.client(&["dump"]).stdout) == lines(&dump), "jsonl");
}

#[test]
fn a_word_list_comes_back_as_the_same_set() {
    let server = Daemon::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let (words, file) = match fs::read("/usr/share/dict/words") {
        Ok(words) => (words, "/usr/share/dict/words".to_owned()),
        Err(_) => {
            let words: Vec<u8> = (0..100_000).flat_map(|index| format!("wörd-{index}'s\n").into_bytes()).collect();
            let file = folder.path().join("words");
            fs::write(&file, &words).expect("written");
            (words, file.display().to_string())
        }
    };
    let words = lines(&words);
    assert_eq!(server.client(&["load", &file]).text(), format!("{}\n", words.len()));
    let dump = server.client(&["dump", "--format", "jsonl"]);
    let keys: BTreeSet<Vec<u8>> = dump
        .text()
        .lines()
        .map(|line| {
            let item: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
            assert_eq!(item["value"], "", "a word has an empty value");
            item["key"].as_str().expect("words are UTF-8").as_bytes().to_vec()
        })
        .collect();
    assert!(keys == words, "{} words became {} keys", words.len(), keys.len());
}

#[test]
fn raw_bytes_carriage_returns_and_missing_newlines_are_data() {
    let server = Daemon::start(&[]);
    assert_eq!(server.fed(&["load", "-"], b"caf\xc3\xa9\tol\xff\nword\r\nlast").text(), "3\n");
    assert_eq!(lines(&server.client(&["dump"]).stdout), lines(b"caf\\xc3\\xa9\tol\\xff\nword\\x0d\t\nlast\t\n"));
    assert_eq!(server.client(&["dump", "--prefix", "la"]).text(), "last\t\n");
    assert_eq!(server.fed(&["load", "-"], b"").text(), "0\n");
}

#[test]
fn a_refused_line_is_named_and_those_before_it_are_stored() {
    let server = Daemon::start(&["--max-value", "100B"]);
    let long_key = format!("a\nb\n{}\n", "k".repeat(1025));
    let long_value = format!("c\tv\nd\t{}\ne\n", "v".repeat(101));
    for (input, at) in [
        (&b"x\n\ny\n"[..], "line 2"),
        (b"x\ny\\q\n", "line 2"),
        (b"{\"key\":\"x\"}\n{\"key\":\"y\",\"ttl_ms\":\"5\"}\n", "line 2"),
        (b"{\"key\":\"x\"}\nnot json\n", "line 2"),
        (long_key.as_bytes(), "line 3"),
        (long_value.as_bytes(), "line 2"),
    ] {
        let answer = server.fed(&["load", "-"], input);
        assert!(answer.error(6).contains(at), "{answer:?}");
    }
    let stored = lines(&server.client(&["dump"]).stdout);
    for line in ["x\t", "a\t", "b\t", "c\tv"] {
        assert!(stored.contains(line.as_bytes()), "{line:?} is stored");
    }
    server.client(&["load", "/nonexistent"]).error(2);
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let server = Daemon::start(&[]);
    let items: String = (0..50_000).map(|index| format!("key-{index}\tvalue-{index}\n")).collect();
    assert_eq!(server.fed(&["load", "-"], items.as_bytes()).text(), "50000\n");
    let first_line = |mut client: Background| {
        let mut line = String::new();
        let mut stdout = BufReader::new(client.child().stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("read");
        drop(stdout);
        let answer = client.answer();
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "after {line:?}");
        line
    };
    assert!(first_line(server.background(&["dump"])).starts_with("key-"));
    assert!(first_line(server.background(&["stats", "--watch", "--interval", "1ms"])).starts_with("items "));
}
