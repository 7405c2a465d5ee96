//! Requests and entries there and back, and bytes that no honest peer writes.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::{
    Condition, Entries, Entry, EntryValue, HEAD_MAX, Head, Kind, MAX_KEY, MAX_TTL_MS, Malformed, Request, Status, Ttl, decode,
    encode_append, encode_bucket, encode_chunk, encode_clear, encode_copy, encode_delete, encode_delete_step, encode_entry,
    encode_expire, encode_incr, encode_insert, encode_persist, encode_ping, encode_read, encode_scan, encode_transaction,
    encode_ttl, encoded_entry_len,
};

fn body(head: &Head, key: &[u8], value: &[u8]) -> Vec<u8> {
    [head.bytes(), key, value].concat()
}

/// Decodes as the server does: from a copy of the body's first bytes.
fn decoded<'a>(head: &Head, body: &'a [u8]) -> Result<Request<'a>, Malformed> {
    decode(head.kind as u8, head.flags, &body[..body.len().min(HEAD_MAX + 1)], body.len())
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Always),
        Just(Condition::IfAbsent),
        Just(Condition::IfPresent),
        any::<u64>().prop_map(Condition::IfVersion)
    ]
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 1..1000u64, Just(MAX_TTL_MS), 0..=MAX_TTL_MS].prop_map(Duration::from_millis)
}

fn ttl() -> impl Strategy<Value = Ttl> {
    prop_oneof![Just(Ttl::None), Just(Ttl::Keep), duration().prop_map(Ttl::For)]
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 1..40), vec(any::<u8>(), MAX_KEY..=MAX_KEY)]
}

proptest! {
    #[test]
    fn inserts_and_their_beginnings_come_back(
        key in key(), value in vec(any::<u8>(), 0..100), more in 0..1000usize, condition in condition(), ttl in ttl(),
    ) {
        let head = encode_insert(key.len(), value.len() + more, condition, ttl);
        let body = body(&head, &key, &value);
        let value_at = body.len() - value.len();
        let expected =
            Request::Insert { key: &key, condition, ttl, value_len: value.len() + more, value_at, here: value.len() };
        prop_assert_eq!(decoded(&head, &body), Ok(expected));
    }

    #[test]
    fn requests_with_a_key_come_back(
        key in key(), condition in condition(), by: i64, created in proptest::option::of(duration()), ttl in duration(),
        version: u64, offset: u32, len: u32, skip: u32,
    ) {
        let key = &key[..];
        for (head, expected) in [
            (encode_read(), Request::Read { key }),
            (encode_copy(version, offset, len), Request::Copy { key, version, offset, len }),
            (encode_delete(condition), Request::Delete { key, condition }),
            (encode_incr(by, created), Request::Incr { key, by, ttl: created }),
            (encode_bucket(skip), Request::Bucket { key, skip }),
            (encode_ttl(), Request::Ttl { key }),
            (encode_expire(ttl), Request::Expire { key, ttl }),
            (encode_persist(), Request::Persist { key }),
        ] {
            let body = body(&head, key, &[]);
            prop_assert_eq!(decoded(&head, &body), Ok(expected));
        }
    }

    #[test]
    fn the_other_requests_come_back(
        key in key(), bytes in vec(any::<u8>(), 1..100), cursor: u64, buckets: u32, skip: u32, offset in 0..1000usize,
    ) {
        let (len, here) = (bytes.len(), bytes.len());
        for (head, key, value, expected) in [
            (encode_ping(), &b""[..], &b""[..], Request::Ping),
            (encode_clear(), b"", b"", Request::Clear),
            (encode_transaction(), b"", &bytes, Request::Transaction),
            (encode_scan(cursor, buckets, skip), b"", b"", Request::Scan { cursor, buckets, skip }),
            (encode_delete_step(cursor, buckets), &key, b"", Request::DeleteStep { cursor, buckets, prefix: &key }),
            (encode_chunk(offset), b"", &bytes, Request::Chunk { offset, value_at: 8, here }),
            (encode_append(key.len(), len), &key, &bytes, Request::Append { key: &key, len, value_at: 8 + key.len(), here }),
        ] {
            let body = body(&head, key, value);
            prop_assert_eq!(decoded(&head, &body), Ok(expected));
        }
    }

    #[test]
    fn arbitrary_requests_are_read_or_refused(kind: u8, flags: u8, body in vec(any::<u8>(), 0..HEAD_MAX + 60), more in 0..4_000_000usize) {
        let front = &body[..body.len().min(HEAD_MAX + 1)];
        if let Ok(Request::Insert { key, value_at, here, value_len, .. }) = decode(kind, flags, front, body.len() + more) {
            prop_assert!(here <= value_len && value_at + here == body.len() + more);
            prop_assert!(key.len() <= front.len());
        }
    }

    #[test]
    fn a_request_that_is_cut_short_is_refused(
        condition in condition(), ttl in ttl(), by: i64, wait in duration(), key in key(), cut: prop::sample::Index,
    ) {
        for head in [
            encode_insert(key.len(), 0, condition, ttl),
            encode_delete(condition),
            encode_incr(by, Some(wait)),
            encode_expire(wait),
            encode_append(key.len(), 0),
            encode_scan(0, 1, 0),
            encode_bucket(0),
        ] {
            let fixed = head.bytes().len();
            if fixed > 0 {
                let body = &head.bytes()[..cut.index(fixed)];
                prop_assert!(decoded(&head, body).is_err(), "{:?} of {} bytes", head.kind, body.len());
            }
        }
    }

    #[test]
    fn entries_come_back(
        items in vec((key(), any::<u64>(), proptest::option::of(any::<u64>()), any::<u8>(), vec(any::<u8>(), 0..130), any::<bool>()), 0..6),
    ) {
        let entries: Vec<Entry<'_>> = items
            .iter()
            .map(|(key, version, ttl_ms, type_and_flags, value, inline)| Entry {
                key,
                version: *version,
                ttl_ms: *ttl_ms,
                type_and_flags: *type_and_flags,
                value: if *inline { EntryValue::Inline(value) } else { EntryValue::Reference { offset: !*version, len: value.len() } },
            })
            .collect();
        let mut bytes = Vec::new();
        for entry in &entries {
            let before = bytes.len();
            encode_entry(entry, &mut bytes);
            prop_assert_eq!(bytes.len() - before, encoded_entry_len(entry));
        }
        let back: Result<Vec<_>, _> = Entries::new(&bytes).collect();
        prop_assert_eq!(back, Ok(entries));
    }

    #[test]
    fn arbitrary_listings_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
        let entries: Vec<_> = Entries::new(&bytes).collect();
        prop_assert!(entries.iter().rev().skip(1).all(Result::is_ok), "a refusal ends the walk");
        prop_assert!(entries.len() <= bytes.len() / 16 + 1);
    }
}

#[test]
fn flags_that_a_kind_does_not_have_are_refused() {
    // Enough of a body for every kind: INSERT and APPEND find an empty key and 16 bytes of a value in it.
    let mut body = [0; 24];
    body[4] = 16;
    // Bit 2: a time to live, bit 3: the replaced item's; the low two: the condition.
    for (kind, known) in [
        (Kind::Ping, 0),
        (Kind::Read, 0),
        (Kind::Copy, 0),
        (Kind::Insert, 0b1111),
        (Kind::Chunk, 0),
        (Kind::Delete, 0b0011),
        (Kind::Incr, 0b0100),
        (Kind::Append, 0),
        (Kind::Scan, 0),
        (Kind::Bucket, 0),
        (Kind::DeleteStep, 0),
        (Kind::Transaction, 0),
        (Kind::Ttl, 0),
        (Kind::Expire, 0),
        (Kind::Persist, 0),
        (Kind::Clear, 0),
    ] {
        for flags in 0..=u8::MAX {
            let both = kind == Kind::Insert && flags & 0b1100 == 0b1100;
            let taken = decode(kind as u8, flags, &body, body.len()).is_ok();
            assert_eq!(taken, flags & !known == 0 && !both, "{kind:?} with flags {flags:#b}");
        }
    }
}

#[test]
fn numbers_of_kinds_and_statuses_are_what_the_table_says() {
    for (kind, number) in [(Kind::DeleteStep, 11), (Kind::Ttl, 13), (Kind::Expire, 14), (Kind::Persist, 15), (Kind::Clear, 16)] {
        assert_eq!((kind as u8, Kind::from_raw(number)), (number, Some(kind)));
    }
    for number in 0..=u8::MAX {
        assert!(Kind::from_raw(number).is_none_or(|kind| kind as u8 == number));
        assert!(Status::from_raw(number).is_none_or(|status| status as u8 == number));
    }
    for (status, number) in [(Status::RoomTooSmall, 23), (Status::Expiry, 24), (Status::ExpirySet, 25), (Status::Cleared, 26)] {
        assert_eq!(Status::from_raw(number), Some(status));
    }
}

#[test]
fn lengths_that_do_not_fit_the_body_are_refused() {
    let insert = |key_len: u32, value_len: u32, rest: usize| {
        let mut body = [key_len.to_le_bytes(), value_len.to_le_bytes()].concat();
        body.resize(8 + rest, b'x');
        decode(Kind::Insert as u8, 0, &body, body.len()).is_ok()
    };
    assert!(insert(3, 5, 8) && insert(3, 5, 4), "a whole value or its beginning");
    assert!(!insert(3, 5, 9), "more than the value");
    assert!(!insert(9, 0, 8), "less than the key");
    assert!(!insert(u32::MAX, u32::MAX, 8));
    // A key that is too long decodes, so that it is refused for its length.
    assert!(insert(2000, 0, 2000));
}
