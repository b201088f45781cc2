//! Violations of the rules of the wire in an open session.

use super::{
    ABORT_REQUEST, ABORT_RESPONSE, CONFIRM, FIRST, Head, LAST, MIDDLE, PING, PONG, REQUEST,
    RESPONSE, STREAM_CANCEL, STREAM_CREDIT, STREAM_END, STREAM_ITEM, WAIT, WELCOME, WHOLE, begun,
    call, call_with_streams, confirm_body, frame, framed, hello, message, stream_credit,
    stream_end, stream_item,
};

/// Records that break a rule, and a part of what their receiver says about it.
#[derive(Clone)]
pub(super) struct Offence {
    pub(super) rule: &'static str,
    pub(super) what: &'static str,
    pub(super) records: Vec<Vec<u8>>,
    /// Only a server can see it.
    pub(super) takes_a_server: bool,
}

fn offence<const N: usize>(
    rule: &'static str,
    what: &'static str,
    records: [Vec<u8>; N],
) -> Offence {
    Offence { rule, what, records: records.to_vec(), takes_a_server: false }
}

/// All of them.
pub(super) fn offences() -> Vec<Offence> {
    [headers(), lengths(), sizes(), order(), streams()].concat()
}

fn headers() -> Vec<Offence> {
    let ping = frame(PING, WHOLE, 1, &[]);
    let with = |at: usize, value: u8| {
        let mut bytes = ping.clone();
        bytes[at] = value;
        [bytes]
    };
    let (kind, flags, length) = ("frame kind", "frame flags", "length differs");
    vec![
        offence(kind, "an empty record", [vec![]]),
        offence(length, "half a header", [ping[..8].to_vec()]),
        offence(flags, "one byte", [vec![PING]]),
        offence(kind, "an unknown kind", with(0, 0x7F)),
        offence(kind, "kind 0", with(0, 0)),
        offence(flags, "a reserved flag", with(1, 0b111)),
        offence(flags, "a reserved byte", with(2, 1)),
        offence(flags, "another reserved byte", with(3, 0x80)),
        offence(flags, "a ping that is a chunk", with(1, FIRST)),
        offence(length, "a frame shorter than it says", [framed(REQUEST, WHOLE, 30, 5, &[0; 24])]),
        offence(length, "a frame longer than it says", [framed(REQUEST, WHOLE, 23, 5, &[0; 24])]),
        offence(length, "a frame of 4 GiB", [framed(REQUEST, WHOLE, u32::MAX, 5, &[0; 24])]),
        offence("a payload", "a ping with a payload", [frame(PING, WHOLE, 1, b"x")]),
    ]
}

fn declared(len: u32, sent: usize, flags: u8) -> [Vec<u8>; 1] {
    let head = Head { body_len: len, ..Head::default() };
    [frame(REQUEST, flags, 5, &head.with(&vec![b' '; sent]))]
}

/// A message of blobs alone: their table, and what is sent of them in the same chunk.
fn blobs(count: u32, lens: &[u64], sent: &[u8]) -> [Vec<u8>; 1] {
    let head = Head { blob_count: count, ..Head::default() };
    let table: Vec<u8> = lens.iter().flat_map(|len| len.to_le_bytes()).collect();
    [frame(REQUEST, WHOLE, 5, &head.with(&[&[7; 8], &table[..], sent].concat()))]
}

fn lengths() -> Vec<Offence> {
    let (length, short) = ("length differs", "shorter than its head");
    let then = |flags, rest: &[u8]| [begun(5, 9, 1), frame(REQUEST, flags, 5, rest)];
    vec![
        offence(short, "half a head", [frame(REQUEST, WHOLE, 5, &[0; 23])]),
        offence(short, "no head", [frame(REQUEST, FIRST, 5, &[])]),
        offence(length, "a last chunk too early", declared(10, 3, WHOLE)),
        offence(length, "a later last chunk too early", then(LAST, b"x")),
        offence(length, "a last chunk that is not marked", declared(3, 3, FIRST)),
        offence(length, "a later last chunk that is not marked", then(MIDDLE, b"01234567")),
        offence(length, "a longer body than declared", declared(2, 5, WHOLE)),
        offence(length, "more than was left of a body", then(LAST, b"0123456789")),
        offence(length, "an empty chunk", then(MIDDLE, b"")),
        offence(length, "a longer blob than declared", blobs(1, &[2], b"xyz")),
        offence(length, "a chunk across two sections", blobs(1, &[2], b"xy")),
    ]
}

fn sizes() -> Vec<Offence> {
    let large = "larger than max_message_size";
    vec![
        offence(large, "an enormous body", declared(u32::MAX, 0, FIRST)),
        offence(large, "an enormous blob", blobs(1, &[u64::MAX], b"")),
        offence(large, "enormous blobs", blobs(2, &[u64::MAX, u64::MAX], b"")),
        offence(large, "an enormous blob table", blobs(u32::MAX, &[], b"")),
        offence(large, "a table of many empty blobs", blobs(2 << 20, &[], b"")),
    ]
}

fn order() -> Vec<Offence> {
    let (begin, after) = ("had not begun", "after the handshake");
    let (unasked, unsent) = ("a call that is not waiting", "not being sent");
    let waiting = || call(3, WAIT, "null");
    let abort = |kind| frame(kind, WHOLE, 3, &[]);
    let for_servers = [
        offence("two calls with the same id", "one id twice", [waiting(), waiting()]),
        offence(unsent, "an abort of what is whole", [waiting(), abort(ABORT_REQUEST)]),
    ];
    let mut offences = vec![
        offence(begin, "a last chunk of nothing", [frame(REQUEST, LAST, 5, b"x")]),
        offence(begin, "a chunk of nothing", [frame(REQUEST, MIDDLE, 5, b"x")]),
        offence(begin, "another kind's", [begun(5, 9, 1), frame(RESPONSE, LAST, 5, b"x")]),
        offence("began twice", "a message begun twice", [begun(5, 9, 1), begun(5, 9, 1)]),
        offence(unasked, "an answer to nothing", [message(RESPONSE, 9, b"5")]),
        offence(unasked, "an answer to a nonsensical call", [message(RESPONSE, u64::MAX, b"5")]),
        offence(unasked, "a pong to nothing", [frame(PONG, WHOLE, 9, &[])]),
        offence(after, "another hello", [hello()]),
        offence(after, "another confirm", [message(CONFIRM, 0, &confirm_body())]),
        offence(after, "a welcome", [message(WELCOME, 0, b"")]),
        offence(unsent, "an abort of no request", [abort(ABORT_REQUEST)]),
        offence(unsent, "an abort of no answer", [abort(ABORT_RESPONSE)]),
    ];
    offences.extend(for_servers.map(|offence| Offence { takes_a_server: true, ..offence }));
    offences
}

fn streams() -> Vec<Offence> {
    let (not_open, never) = ("stream that is not open", "stream that never existed");
    let twice = "two streams with the same id";
    let open = |streams: &[u64]| call_with_streams(3, WAIT, "null", streams);
    let cancel = |id| frame(STREAM_CANCEL, WHOLE, id, &[]);
    let within = |kind, count: u16| {
        let head = Head { stream_count: count, ..Head::default() };
        let ids = (10..10 + u64::from(count)).map(u64::to_le_bytes);
        let table: Vec<u8> = ids.flat_map(|id| [&id[..], &[0; 4]].concat()).collect();
        frame(kind, WHOLE, 5, &head.with(&[&[0; 8], &table[..]].concat()))
    };
    let other = call_with_streams(4, WAIT, "null", &[5]);
    let extended = |kind, extension: &[u8]| {
        let head = Head { extension_len: extension.len() as u16, ..Head::default() };
        frame(kind, WHOLE, 5, &head.with(extension))
    };
    vec![
        offence(not_open, "an item of nothing", [stream_item(5, 1)]),
        offence(not_open, "an end of nothing", [stream_end(5, 0)]),
        offence(
            not_open,
            "an item behind the end",
            [open(&[5]), stream_end(5, 0), stream_item(5, 1)],
        ),
        offence(never, "credit for nothing", [stream_credit(0, 1, 1)]),
        offence(never, "a cancel of nothing", [cancel(0)]),
        offence("stream credit", "half a credit", [frame(STREAM_CREDIT, WHOLE, 0, &[0; 11])]),
        offence("stream credit", "a credit and more", [frame(STREAM_CREDIT, WHOLE, 0, &[0; 13])]),
        offence("a payload", "a cancel with a payload", [frame(STREAM_CANCEL, WHOLE, 0, b"x")]),
        offence("more streams", "65 streams in an item", [within(STREAM_ITEM, 65)]),
        offence("more streams", "a stream in an end", [open(&[5]), within(STREAM_END, 1)]),
        offence(not_open, "64 streams in an item of nothing", [within(STREAM_ITEM, 64)]),
        offence(
            "extension in a message",
            "an extension in an end",
            [open(&[5]), extended(STREAM_END, &[7, 0, 0, 0])],
        ),
        offence("message extension", "half an entry", [extended(REQUEST, &[7, 0, 2, 0, 1])]),
        offence(twice, "one stream twice in a message", [open(&[5, 5])]),
        offence("out of order", "an item too early", [open(&[5]), stream_item(5, 2)]),
        offence("out of order", "item 0", [open(&[5]), stream_item(5, 0)]),
        offence("the credit allows", "an item without credit", [open(&[5]), stream_item(5, 1)]),
        offence("unknown status", "an end of status 4", [open(&[5]), stream_end(5, 4)]),
        offence("unknown status", "an end of status 99", [open(&[5]), stream_end(5, 99)]),
        offence(twice, "one stream twice in two messages", [open(&[5]), other]),
    ]
}
