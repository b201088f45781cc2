//! A client whose bytes the test writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use witrpc::transport::Channel;
use witrpc::{Load, WitClient, WitServer, WitServerBuilder};

use super::offences::{Offence, offences};
use super::{
    ABORT_REQUEST, ACCEPT, ADD, BLOCK, CANCEL, CONFIRM, CREDIT, DIVIDE, FIRST, GOODBYE, HELLO,
    Head, LAST, MIDDLE, OPEN, OVERLOADED, PING, PONG, REFUSE, REQUEST, RESPONSE, Raw, UNAUTHORIZED,
    VERSION, WAIT, WELCOME, WHOLE, begun, call, call_with_streams, confirm_body, frame, hello,
    hello_body, limits, message,
};
use crate::contract::CalcClient;
use crate::fixture::{Fixture, eventually};

raw![
    a_client_can_be_played_by_hand,
    what_is_merely_wrong_is_answered,
    a_call_that_comes_too_late_is_refused_as_the_client_knows_it,
    a_call_that_the_client_may_not_make_is_refused_as_the_client_knows_it,
    a_broken_rule_ends_its_own_connection_only,
    a_broken_limit_ends_its_own_connection_only,
    a_broken_handshake_ends_its_own_connection_only,
    what_does_not_fit_is_refused_with_a_reason,
    a_client_that_says_nothing_is_let_go,
    a_client_that_asks_and_never_reads_is_let_go,
    a_client_that_calls_and_never_reads_is_let_go,
    nothing_is_served_after_a_goodbye,
    a_cancel_may_come_at_any_time,
    an_abort_is_acknowledged,
];

/// A server, and an ordinary client of it that must not notice anything.
pub(super) struct Bystander {
    pub(super) server: WitServer,
    client: WitClient,
    calc: CalcClient,
}

impl Bystander {
    pub(super) async fn new(
        fixture: &Fixture,
        set: impl FnOnce(WitServerBuilder) -> WitServerBuilder,
    ) -> Self {
        let server = set(fixture.server_builder()).build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        let calc = client.get_service();
        Self { server, client, calc }
    }

    /// It is the only one left, and is answered as ever.
    pub(super) async fn is_unharmed(&self, after: &str) {
        assert_eq!(self.calc.add(2, 2).await.unwrap(), 4, "after {after}");
        eventually(after, || self.server.client_count() == 1).await;
        eventually(after, || self.server.load() == [Load::default()]).await;
        assert_eq!(self.client.load(), Load::default(), "after {after}");
    }

    /// Sends what breaks a rule; the server must say which.
    async fn provoke(&self, fixture: &Fixture, rule: &str, what: &str, records: &[Vec<u8>]) {
        let mut raw = Raw::open_client(fixture).await;
        for record in records {
            raw.push(record).await;
        }
        raw.publish();
        let farewell = raw.farewell().await.unwrap_or_else(|| panic!("no farewell: {what}"));
        assert!(farewell.contains(rule), "{what}: {farewell}");
        self.is_unharmed(what).await;
    }
}

async fn a_client_can_be_played_by_hand(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let mut raw = Raw::open_client(&fixture).await;
    raw.send(&call(7, ADD, "[2,3]")).await;
    let answer = raw.recv().await.unwrap();
    assert_eq!((answer.kind, answer.id), (RESPONSE, 7));
    assert_eq!(answer.message(), (0, &b"5"[..]));
    raw.send(&frame(PING, WHOLE, 99, &[])).await;
    let pong = raw.recv().await.unwrap();
    assert_eq!((pong.kind, pong.id, pong.payload), (PONG, 99, vec![]));
    // In chunks, with a ping in between.
    let whole = Head::of(b"[20,22]").with(b"[20,22]");
    raw.send(&frame(REQUEST, FIRST, 8, &whole[..24])).await;
    raw.send(&frame(REQUEST, MIDDLE, 8, &whole[24..27])).await;
    raw.send(&frame(PING, WHOLE, 100, &[])).await;
    assert_eq!(raw.recv().await.unwrap().kind, PONG);
    raw.send(&frame(REQUEST, LAST, 8, &whole[27..])).await;
    assert_eq!(raw.recv().await.unwrap().message(), (0, &b"42"[..]));
    // More credit than there can be use for.
    raw.send(&frame(CREDIT, WHOLE, u64::MAX, &[])).await;
    raw.send(&frame(CREDIT, WHOLE, u64::MAX, &[])).await;
    raw.send(&call(9, ADD, "[1,1]")).await;
    assert_eq!(raw.recv().await.unwrap().id, 9);
    drop(raw);
    bystander.is_unharmed("a client that left without a word").await;
}

async fn what_is_merely_wrong_is_answered(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let mut raw = Raw::open_client(&fixture).await;
    let no_service = Head { selector: 77, ..Head::default() };
    let expired = Head { stamp: 1, ..Head::of(b"[1,2]") };
    let blob = Head { blob_count: 1, ..Head::of(b"[1,2]") };
    let with_blob = [&blob.with(b"[1,2]")[..], &[7; 8], &[0; 8]].concat();
    let extended = Head { extension_len: 11, ..Head::of(b"[1,2]") };
    for (request, status) in [
        (frame(REQUEST, WHOLE, 1, &no_service.with(b"")), 5),
        (call(2, 999, ""), 5),
        (call(3, ADD, "[1]"), 6),
        (call(4, ADD, "nonsense"), 6),
        (call(5, ADD, ""), 6),
        (call(6, ADD, "[2147483647,1]"), 1),
        (frame(REQUEST, WHOLE, 7, &expired.with(b"[1,2]")), 4),
        // A blob that no argument refers to: a newer contract may have more fields than ours.
        (frame(REQUEST, WHOLE, 8, &with_blob), 0),
        // What no feature in force says anything about.
        (frame(REQUEST, WHOLE, 9, &extended.with(b"[1,2]\x07\0\x03\0abc\x08\0\0\0")), 0),
    ] {
        let id = u64::from(request[8]);
        raw.send(&request).await;
        let answer = raw.recv().await.unwrap();
        assert_eq!((answer.kind, answer.id), (RESPONSE, id));
        assert_eq!(answer.message().0, status, "of request {id}");
    }
    drop(raw);
    bystander.is_unharmed("wrong requests").await;
}

/// An older client would take the status of a refusal for a broken rule.
async fn a_call_that_comes_too_late_is_refused_as_the_client_knows_it(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let expired = Head { stamp: 1, ..Head::of(b"[1,2]") };
    for (features, status, body) in
        [(&[][..], 4, &[][..]), (&["unheard of", OVERLOADED], 9, &[0; 16])]
    {
        let mut raw = Raw::client(&fixture).await.opened(features).await;
        raw.send(&frame(REQUEST, WHOLE, 7, &expired.with(b"[1,2]"))).await;
        let answer = raw.recv().await.unwrap();
        assert_eq!((answer.kind, answer.id, answer.message()), (RESPONSE, 7, (status, body)));
        raw.send(&call(7, ADD, "[2,3]")).await;
        assert_eq!(raw.recv().await.unwrap().message(), (0, &b"5"[..]));
    }
    bystander.is_unharmed("late calls").await;
}

async fn a_call_that_the_client_may_not_make_is_refused_as_the_client_knows_it(
    fixture: Arc<Fixture>,
) {
    let authorizer = |_: &witrpc::Peer, _: &str, method: &str| {
        if method == "divide" { Err("no divisions") } else { Ok(()) }
    };
    let bystander = Bystander::new(&fixture, |builder| builder.with_authorizer(authorizer)).await;
    for (features, status, body) in [
        (&[][..], 6, "unauthorized: no divisions"),
        (&["unheard of", UNAUTHORIZED], 10, "no divisions"),
    ] {
        let mut raw = Raw::client(&fixture).await.opened(features).await;
        raw.send(&call(7, DIVIDE, "[2,0]")).await;
        let answer = raw.recv().await.unwrap();
        let expected = (RESPONSE, 7, (status, body.as_bytes()));
        assert_eq!((answer.kind, answer.id, answer.message()), expected);
        raw.send(&call(7, ADD, "[2,3]")).await;
        assert_eq!(raw.recv().await.unwrap().message(), (0, &b"5"[..]));
    }
    bystander.is_unharmed("calls that are refused").await;
}

/// This client does not withdraw its call at its deadline, as others do. The runtime has one thread for blocking work.
#[test]
fn a_handler_does_not_begin_after_its_deadline() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    let fixture = Fixture::memory();
    runtime.block_on(async {
        let bystander = Bystander::new(&fixture, |builder| builder).await;
        let mut raw = Raw::client(&fixture).await.opened(&[OVERLOADED]).await;
        raw.send(&call(1, BLOCK, "[300]")).await;
        let until = (raw.channel.clock)() + 100_000_000;
        let head = Head { member: BLOCK, stamp: until, ..Head::of(b"[0]") };
        raw.send(&frame(REQUEST, WHOLE, 2, &head.with(b"[0]"))).await;
        let answer = raw.recv().await.unwrap();
        assert_eq!((answer.id, answer.message().0), (1, 0));
        let answer = raw.recv().await.unwrap();
        let (status, body) = answer.message();
        assert_eq!((answer.id, status), (2, 9));
        assert_eq!(body[..8], [0; 8], "something was left of its time");
        drop(raw);
        bystander.is_unharmed("a call that waited too long").await;
    });
}

async fn a_broken_rule_ends_its_own_connection_only(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    for Offence { rule, what, records, .. } in offences() {
        bystander.provoke(&fixture, rule, what, &records).await;
    }
    // The same with work under way.
    for Offence { rule, what, mut records, .. } in offences().into_iter().step_by(5) {
        records.insert(0, call(1000, WAIT, "null"));
        records.insert(1, begun(1001, 100, 10));
        bystander.provoke(&fixture, rule, what, &records).await;
    }
    let waiting = &fixture.calculator.0.waiting;
    let waiting = || waiting.load(std::sync::atomic::Ordering::SeqCst) == 0;
    eventually("no handler is left", waiting).await;
}

async fn a_broken_limit_ends_its_own_connection_only(fixture: Arc<Fixture>) {
    let set = |builder: WitServerBuilder| {
        builder.with_max_message_size(1000).with_max_buffered(2000).with_max_in_flight(3)
    };
    let bystander = Bystander::new(&fixture, set).await;
    let large = "larger than max_message_size";
    bystander.provoke(&fixture, large, "1001 bytes", &[begun(1, 1001, 10)]).await;
    let head = Head { blob_count: 1, ..Head::of(&[b' '; 500]) };
    let rest = [&[b' '; 500][..], &[7; 8], &437_u64.to_le_bytes()].concat();
    let with_blob = frame(REQUEST, FIRST, 1, &head.with(&rest));
    bystander.provoke(&fixture, large, "500, a blob's 64 and its 437", &[with_blob]).await;
    let with_streams = call_with_streams(1, WAIT, "null", &[1, 2]);
    bystander.provoke(&fixture, large, "two streams of 512 each", &[with_streams]).await;
    let three = [begun(1, 1000, 1), begun(2, 1000, 1), begun(3, 1, 0)];
    let credit = "more bytes of messages than the credit allows";
    bystander.provoke(&fixture, credit, "2001 bytes", &three).await;
    let calls: Vec<_> = (0..4).map(|id| call(id, WAIT, "null")).collect();
    let in_flight = "more calls in flight than max_in_flight allows";
    bystander.provoke(&fixture, in_flight, "four of three calls", &calls).await;
    let parts: Vec<_> = (0..5).map(|id| begun(id, 9, 1)).collect();
    let at_a_time = "more incomplete messages";
    bystander.provoke(&fixture, at_a_time, "many messages", &parts).await;
    // Within the limits, over and over: the credit comes back.
    let mut raw = Raw::open_client(&fixture).await;
    for id in 0..50 {
        let arguments = format!("[1,{}1]", " ".repeat(995));
        assert_eq!(arguments.len(), 1000);
        raw.send(&call(id, ADD, &arguments)).await;
        let mut answer = raw.recv().await.unwrap();
        while answer.kind == CREDIT {
            answer = raw.recv().await.unwrap();
        }
        assert_eq!(answer.message(), (0, &b"2"[..]));
    }
    drop(raw);
    bystander.is_unharmed("calls within the limits").await;
}

/// What cannot be the beginning of a handshake.
fn false_starts() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let hello_of = |body: &[u8]| vec![message(HELLO, 0, body)];
    let good = hello_body(VERSION, "json");
    let blob = Head { blob_count: 1, ..Head::of(&good) };
    let with_blob = [&blob.with(&good)[..], &[0; 8]].concat();
    let large = |body_len| {
        let head = Head { body_len, ..Head::default() };
        vec![frame(HELLO, FIRST, 0, &head.with(b""))]
    };
    let part = |kind, id| {
        let head = Head { body_len: 9, ..Head::default() };
        frame(kind, FIRST, id, &head.with(b"x"))
    };
    vec![
        ("a request first", vec![call(1, OPEN, "[1]")]),
        ("a ping first", vec![frame(PING, WHOLE, 1, &[])]),
        ("an answer first", vec![message(RESPONSE, 1, b"5")]),
        ("a confirm first", vec![message(CONFIRM, 0, &confirm_body())]),
        ("a welcome first", vec![message(WELCOME, 0, b"")]),
        ("a goodbye first", vec![frame(GOODBYE, WHOLE, 0, b"bye")]),
        ("an empty record first", vec![vec![]]),
        ("an unknown kind first", vec![frame(0x7F, WHOLE, 0, &[])]),
        ("an empty hello", hello_of(b"")),
        ("half a hello", hello_of(&good[..good.len() - 5])),
        ("a hello and more", hello_of(&[&good[..], b"x"].concat())),
        ("a hello with a blob", vec![frame(HELLO, WHOLE, 0, &with_blob)]),
        ("an oversized hello", large(70_000)),
        ("an enormous hello", large(u32::MAX)),
        ("two hellos at a time", vec![part(HELLO, 1), part(HELLO, 2)]),
        ("two kinds at a time", vec![part(HELLO, 1), part(CONFIRM, 1)]),
        ("one in the other", vec![part(HELLO, 1), hello()]),
    ]
}

/// What cannot follow a hello.
fn false_confirmations() -> Vec<(&'static str, Vec<u8>)> {
    let confirm = |body: &[u8]| message(CONFIRM, 0, body);
    let limited = |message_size, buffered, in_flight| {
        confirm(&[&limits(message_size, buffered, in_flight)[..], &[0; 16]].concat())
    };
    vec![
        ("a hello again", hello()),
        ("a request before the end", call(1, OPEN, "[1]")),
        ("an empty confirm", confirm(b"")),
        ("half a confirm", confirm(&confirm_body()[..30])),
        ("a confirm and more", confirm(&[&confirm_body()[..], b"x"].concat())),
        ("services that are not there", confirm(&[&confirm_body()[..32], &[9, 0, 0, 0]].concat())),
        ("limits of nothing", limited(0, 0, 0)),
        ("no calls in flight", limited(10, 10, 0)),
        ("less buffer than message", limited(10, 9, 1)),
        ("limits beyond all", limited(u64::MAX, u64::MAX, u32::MAX)),
    ]
}

async fn a_broken_handshake_ends_its_own_connection_only(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    for (what, records) in false_starts() {
        let mut raw = Raw::client(&fixture).await;
        for record in &records {
            raw.push(record).await;
        }
        raw.publish();
        assert!(raw.farewell().await.is_some(), "{what}");
        bystander.is_unharmed(what).await;
    }
    for (what, record) in false_confirmations() {
        let mut raw = Raw::client(&fixture).await;
        raw.send(&hello()).await;
        assert_eq!(raw.recv().await.unwrap().kind, ACCEPT, "{what}");
        raw.send(&record).await;
        assert!(raw.farewell().await.is_some(), "{what}");
        bystander.is_unharmed(what).await;
    }
    assert_eq!(fixture.calculator.0.gate.available_permits(), 0, "a request was served");
}

async fn what_does_not_fit_is_refused_with_a_reason(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    for (body, words) in [
        (hello_body(77, "json"), ["77", "version"]),
        // Of another version only the version is read.
        (3_u32.to_le_bytes().to_vec(), ["3", "version"]),
        (1_u32.to_le_bytes().to_vec(), ["1", "version"]),
        (hello_body(VERSION, "yaml"), ["\"yaml\"", "\"json\""]),
    ] {
        let mut raw = Raw::client(&fixture).await;
        raw.send(&message(HELLO, 0, &body)).await;
        let refusal = raw.recv().await.unwrap();
        assert_eq!(refusal.kind, REFUSE);
        let (code, reason) = refusal.message();
        let reason = std::str::from_utf8(reason).unwrap();
        assert_eq!(code, 1, "{reason}");
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
        assert_eq!(raw.farewell().await, None);
        bystander.is_unharmed(reason).await;
    }
}

async fn a_client_that_says_nothing_is_let_go(fixture: Arc<Fixture>) {
    // Short, but every other client's handshake has to be done in it.
    let set = |builder: WitServerBuilder| builder.with_handshake_timeout(Duration::from_secs(1));
    let bystander = Bystander::new(&fixture, set).await;
    let silent = Raw::client(&fixture).await;
    let mut hesitant = Raw::client(&fixture).await;
    hesitant.send(&hello()).await;
    assert_eq!(hesitant.recv().await.unwrap().kind, ACCEPT);
    for mut late in [silent, hesitant] {
        let farewell = late.farewell().await.unwrap();
        assert!(farewell.contains("with_handshake_timeout"), "{farewell}");
    }
    bystander.is_unharmed("silence").await;
}

/// On one thread, which the server, its other clients and their callers share.
mod one_thread {
    #[test]
    fn a_client_that_hangs_up_and_writes_on_keeps_nobody_waiting() {
        use crate::fixture::{Fixture, Flavor, run};
        let fixture = Fixture::memory();
        run(Flavor::CurrentThread, fixture, super::a_client_that_hangs_up_and_writes_on);
    }
}

async fn a_client_that_hangs_up_and_writes_on(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let raw = Raw::open_client(&fixture).await;
    let Channel { mut sender, receiver, waiter, .. } = raw.channel;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let cancel = frame(CANCEL, WHOLE, 7, &[]);
            while !stop.load(Ordering::Relaxed) {
                sender.try_push(&cancel, &[], 0).unwrap();
                sender.publish().unwrap();
            }
        }
    });
    drop(waiter);
    // While it goes on, and its server has taken what was there.
    for _ in 0..100 {
        assert_eq!(bystander.calc.add(2, 2).await.unwrap(), 4);
    }
    bystander.is_unharmed("a client that hung up").await;
    assert!(!writing.is_finished());
    stop.store(true, Ordering::Relaxed);
    writing.join().unwrap();
    drop(receiver);
}

async fn a_client_that_asks_and_never_reads_is_let_go(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let mut raw = Raw::open_client(&fixture).await;
    let mut asked = 0_u64;
    while !raw.is_gone().await {
        raw.send(&frame(PING, WHOLE, asked, &[])).await;
        asked += 1;
        assert!(asked < 1_000_000, "the server remembers every ping");
    }
    assert!(asked > 4096, "gone after {asked}");
    bystander.is_unharmed("unread pongs").await;
}

/// Whatever it announces: an answer that has not left is one that it cannot have read.
async fn a_client_that_calls_and_never_reads_is_let_go(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder.with_max_in_flight(10)).await;
    let mut body = limits((1 << 31) - 1, u64::MAX, u32::MAX);
    body.extend_from_slice(&[0; 12]);
    let calls = |id| vec![call(id, ADD, "[1,1]")];
    let aborts = |id| vec![begun(id, 100, 7), frame(ABORT_REQUEST, WHOLE, id, &[])];
    for records in [&calls as &dyn Fn(u64) -> Vec<Vec<u8>>, &aborts] {
        let mut raw = Raw::client(&fixture).await;
        raw.send(&hello()).await;
        raw.send(&message(CONFIRM, 0, &body)).await;
        let mut made = 0_u64;
        while !raw.is_gone().await {
            for record in records(made) {
                raw.send(&record).await;
            }
            made += 1;
            assert!(made < 200_000, "the server remembers every answer");
        }
        bystander.is_unharmed("unread answers").await;
    }
}

async fn nothing_is_served_after_a_goodbye(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let mut raw = Raw::open_client(&fixture).await;
    raw.push(&call(1, OPEN, "[1]")).await;
    raw.push(&frame(GOODBYE, WHOLE, 0, b"so long")).await;
    raw.push(&call(2, OPEN, "[10]")).await;
    raw.push(&[0xFF; 40]).await;
    raw.publish();
    assert_eq!(raw.farewell().await, None);
    bystander.is_unharmed("a goodbye").await;
    assert_eq!(fixture.calculator.0.gate.available_permits(), 1, "what came before, and no more");
}

async fn a_cancel_may_come_at_any_time(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let mut raw = Raw::open_client(&fixture).await;
    // Of what was never asked, of what is answered, of what runs.
    raw.send(&frame(CANCEL, WHOLE, 77, &[])).await;
    raw.send(&call(1, ADD, "[1,1]")).await;
    assert_eq!(raw.recv().await.unwrap().message(), (0, &b"2"[..]));
    raw.send(&frame(CANCEL, WHOLE, 1, &[])).await;
    raw.send(&call(2, WAIT, "null")).await;
    raw.send(&frame(CANCEL, WHOLE, 2, &[])).await;
    let answer = raw.recv().await.unwrap();
    assert_eq!((answer.kind, answer.id, answer.message().0), (RESPONSE, 2, 3));
    // The id is free again.
    raw.send(&call(2, ADD, "[2,1]")).await;
    assert_eq!(raw.recv().await.unwrap().message(), (0, &b"3"[..]));
    drop(raw);
    bystander.is_unharmed("cancels").await;
}

async fn an_abort_is_acknowledged(fixture: Arc<Fixture>) {
    let bystander = Bystander::new(&fixture, |builder| builder).await;
    let mut raw = Raw::open_client(&fixture).await;
    for id in 0..3 {
        raw.send(&begun(id, 100, 7)).await;
    }
    raw.send(&frame(ABORT_REQUEST, WHOLE, 1, &[])).await;
    let answer = raw.recv().await.unwrap();
    assert_eq!((answer.kind, answer.id, answer.message().0), (RESPONSE, 1, 3));
    eventually("two are left", || {
        bystander.server.load().iter().map(|load| load.partial_messages).sum::<usize>() == 2
    })
    .await;
    drop(raw);
    bystander.is_unharmed("an abort").await;
}
