//! A server whose bytes the test writes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use witrpc::transport::Listener;
use witrpc::{CloseReason, Error, Load, RetryPolicy, WitClient};

use super::offences::{Offence, offences};
use super::{
    ABORT_RESPONSE, ACCEPT, ADD, CONFIRM, FIRST, GOODBYE, Head, LAST, OVERLOADED, PING, PONG,
    REFUSE, REQUEST, RESPONSE, Raw, WELCOME, WHOLE, call, confirm_body, frame, hello, limits,
    message,
};
use crate::contract::CalcClient;
use crate::fixture::{Fixture, GUARD, TOKEN, eventually, poll_once};

raw![
    a_server_that_breaks_a_rule_ends_the_connection,
    a_server_that_breaks_the_handshake_is_not_connected_to,
    a_server_that_does_not_know_the_token_is_not_connected_to,
    a_refusal_is_the_connects_error,
    a_server_that_breaks_off_or_says_nothing_is_given_up,
    a_server_may_say_goodbye_at_any_time,
    a_wrong_answer_is_its_calls_error,
    a_refused_call_is_retried_if_the_policy_says_so,
    an_answer_to_what_has_not_been_sent_ends_the_connection,
    a_ping_is_answered_by_a_pong_only,
    a_late_frame_reaches_nobody,
    a_server_that_calls_its_client_is_told,
    a_server_that_calls_and_never_reads_is_let_go,
];

/// What a real server with our services says to welcome a client.
pub(super) async fn real_welcome() -> Vec<u8> {
    let fixture = Fixture::memory();
    let _server = fixture.server().await;
    let mut raw = Raw::client(&fixture).await;
    raw.send(&hello()).await;
    assert_eq!(raw.recv().await.unwrap().kind, ACCEPT);
    raw.send(&message(CONFIRM, 0, &confirm_body())).await;
    raw.recv().await.unwrap().message().1.to_vec()
}

/// A client whose server is played by hand.
struct Played {
    client: WitClient,
    calc: CalcClient,
    raw: Raw,
}

impl Played {
    async fn new(fixture: &Fixture, listener: &mut Box<dyn Listener>, welcome: &[u8]) -> Self {
        let client = fixture.client_builder().build().unwrap();
        let (connected, raw) =
            tokio::join!(client.connect(GUARD), Raw::open_server(listener, welcome));
        connected.unwrap();
        Self { calc: client.get_service(), client, raw }
    }

    /// Has a call made, and returns it and its id.
    async fn called(&mut self) -> (JoinHandle<witrpc::Result<i32>>, u64) {
        let call = tokio::spawn(self.calc.add(1, 1));
        let request = self.raw.recv().await.unwrap();
        assert_eq!(request.kind, REQUEST);
        (call, request.id)
    }

    /// Sends what breaks a rule; the client must say which, and end.
    async fn ends(
        mut self,
        call: JoinHandle<witrpc::Result<i32>>,
        (rule, what): (&str, &str),
        records: &[Vec<u8>],
    ) {
        for record in records {
            self.raw.push(record).await;
        }
        self.raw.publish();
        let error = timeout(GUARD / 2, call).await.expect("the call hangs").unwrap().unwrap_err();
        let Error::Closed { reason: CloseReason::Failed(text), maybe_executed: true } = &error
        else {
            panic!("{what}: {error:?}")
        };
        assert!(text.contains(rule), "{what}: {text}");
        let farewell = self.raw.farewell().await.unwrap_or_else(|| panic!("no farewell: {what}"));
        assert!(farewell.contains(rule), "{what}: {farewell}");
        assert!(!self.client.is_connected());
        let later = self.calc.add(1, 1).await.unwrap_err();
        assert!(later.is_surely_not_executed(), "{what}: {later}");
        eventually("nothing is left", || self.client.load() == Load::default()).await;
    }
}

fn response(id: u64, status: u16, body: &[u8]) -> Vec<u8> {
    let head = Head { selector: status, ..Head::of(body) };
    frame(RESPONSE, WHOLE, id, &head.with(body))
}

/// Answers to call `id` that break a rule.
fn false_answers(id: u64) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let enormous = Head { body_len: 1 << 31, ..Head::default() }.with(b"");
    vec![
        ("not waiting", "to another call", response(id + 1, 0, b"5")),
        ("not waiting", "to another generation", response(id + (1 << 32), 0, b"5")),
        ("not waiting", "to another ping", frame(PONG, WHOLE, id + 1, &[])),
        ("not waiting", "as to a ping", frame(PONG, WHOLE, id, &[])),
        ("unknown response status", "of status 9", response(id, 9, b"")),
        ("unknown response status", "of status 65535", response(id, u16::MAX, b"5")),
        ("not being sent", "aborted", frame(ABORT_RESPONSE, WHOLE, id, &[])),
        ("larger than", "of two gigabytes", frame(RESPONSE, FIRST, id, &enormous)),
    ]
}

async fn a_server_that_breaks_a_rule_ends_the_connection(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    for which in 0..false_answers(0).len() {
        let mut played = Played::new(&fixture, &mut listener, &welcome).await;
        let (call, id) = played.called().await;
        let (rule, what, record) = false_answers(id).swap_remove(which);
        played.ends(call, (rule, what), &[record]).await;
    }
    for Offence { rule, what, records, .. } in
        offences().into_iter().filter(|offence| !offence.takes_a_server)
    {
        let mut played = Played::new(&fixture, &mut listener, &welcome).await;
        let (call, _id) = played.called().await;
        played.ends(call, (rule, what), &records).await;
    }
    // A real server in its place, and all is well.
    drop(listener);
    let _server = fixture.server().await;
    let client = fixture.client().await;
    assert_eq!(client.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
}

/// What no server may say where its welcome is due.
fn false_welcomes(welcome: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let of = |body: &[u8]| message(WELCOME, 0, body);
    let enormous = Head { body_len: 1 << 30, ..Head::default() }.with(b"");
    vec![
        ("an empty welcome", of(b"")),
        ("half a welcome", of(&welcome[..welcome.len() / 2])),
        ("a welcome and more", of(&[welcome, b"x"].concat())),
        ("a welcome of 4 billion services", of(&[&welcome[..20], &[0xFF; 4]].concat())),
        ("limits of nothing", of(&[0; 24])),
        ("another accept", message(ACCEPT, 0, b"")),
        ("an answer", response(0, 0, b"5")),
        ("an enormous welcome", frame(WELCOME, FIRST, 0, &enormous)),
        ("nonsense", vec![0xFF; 40]),
    ]
}

async fn a_server_that_breaks_the_handshake_is_not_connected_to(fixture: Arc<Fixture>) {
    let mut listener = fixture.server_transport().listen().await.unwrap();
    for (what, record) in false_welcomes(&real_welcome().await) {
        let client = fixture.client_builder().build().unwrap();
        let play = async {
            let mut raw = Raw::server(&mut listener).await;
            raw.accepts().await;
            raw.send(&record).await;
            raw.farewell().await
        };
        let (connected, _) = tokio::join!(client.connect(GUARD), play);
        let error = connected.unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{what}: {error:?}");
        assert!(!client.is_connected());
    }
}

/// The client's token is not lost: it has sent a proof over what this server said, which is good for nothing else.
async fn a_server_that_does_not_know_the_token_is_not_connected_to(fixture: Arc<Fixture>) {
    let mut listener = fixture.server_transport().listen().await.unwrap();
    for what in ["nothing", "zeros", "the client's own proof", "half of that"] {
        let client = fixture.client_builder().with_access_token(TOKEN).build().unwrap();
        let play = async {
            let mut raw = Raw::server(&mut listener).await;
            let confirm = raw.accepts().await;
            // Behind the limits and the clock.
            let proof = &confirm.message().1[20 + 8..][..4 + 32];
            assert_eq!(proof[..4], 32_u32.to_le_bytes());
            let proof = match what {
                "nothing" => vec![0; 4],
                "zeros" => [&proof[..4], &[0; 32]].concat(),
                "the client's own proof" => proof.to_vec(),
                _ => [&16_u32.to_le_bytes()[..], &proof[4..20]].concat(),
            };
            let limits = limits(1 << 20, 2 << 20, 100);
            let welcome = [&limits[..], &proof, &0_u32.to_le_bytes()].concat();
            raw.send(&message(WELCOME, 0, &welcome)).await;
            raw.farewell().await
        };
        let (connected, _) = tokio::join!(client.connect(GUARD), play);
        let error = connected.unwrap_err();
        let Error::Unauthorized(text) = &error else { panic!("{what}: {error:?}") };
        assert!(text.contains("does not know the client's access token"), "{what}: {text}");
        assert!(!client.is_connected());
    }
}

async fn a_refusal_is_the_connects_error(fixture: Arc<Fixture>) {
    let mut listener = fixture.server_transport().listen().await.unwrap();
    for (code, unauthorized) in [(1, false), (2, true), (77, false)] {
        let client = fixture.client_builder().build().unwrap();
        let head = Head { selector: code, ..Head::of(b"go away") };
        let play = async {
            let mut raw = Raw::server(&mut listener).await;
            raw.send(&frame(REFUSE, WHOLE, 0, &head.with(b"go away"))).await;
            raw.farewell().await
        };
        let (connected, _) = tokio::join!(client.connect(GUARD), play);
        match connected.unwrap_err() {
            Error::Unauthorized(text) => assert!(unauthorized && text == "go away"),
            Error::Incompatible(text) => assert!(!unauthorized && text == "go away"),
            error => panic!("{code}: {error}"),
        }
    }
}

async fn a_server_that_breaks_off_or_says_nothing_is_given_up(fixture: Arc<Fixture>) {
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let client = fixture.client_builder().build().unwrap();
    // One that breaks off has died, for all that the client knows: it tries again, until its time is up.
    let (broken, time) = (AtomicU32::new(0), Duration::from_millis(200));
    let play = async {
        loop {
            let mut raw = Raw::server(&mut listener).await;
            raw.accepts().await;
            broken.fetch_add(1, Ordering::SeqCst);
        }
    };
    let error = tokio::select! {
        connected = client.connect(time) => connected.unwrap_err(),
        () = play => unreachable!("it never ends"),
    };
    let surely_not = error.is_surely_not_executed() || matches!(error, Error::TimedOut { .. });
    assert!(surely_not, "{error:?}");
    assert!(broken.load(Ordering::SeqCst) > 1, "it tried once");
    // What the client has left behind is not for the next.
    drop(listener);
    let mut listener = fixture.server_transport().listen().await.unwrap();
    // One that says why is believed.
    let play = async {
        let mut raw = Raw::server(&mut listener).await;
        raw.accepts().await;
        raw.send(&frame(GOODBYE, WHOLE, 0, b"so long")).await;
        raw.farewell().await
    };
    let (connected, _) = tokio::join!(client.connect(GUARD), play);
    let error = connected.unwrap_err();
    assert!(
        matches!(&error, Error::Closed { reason: CloseReason::Peer(text), .. } if text == "so long")
    );
    let (connected, raw) =
        tokio::join!(client.connect(Duration::from_secs(1)), Raw::server(&mut listener));
    let error = connected.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    drop(raw);
}

async fn a_server_may_say_goodbye_at_any_time(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    let (call, id) = played.called().await;
    // In the middle of an answer, and followed by its rest.
    let whole = Head::of(b"12").with(b"12");
    played.raw.push(&frame(RESPONSE, FIRST, id, &whole[..25])).await;
    played.raw.push(&frame(GOODBYE, WHOLE, 0, b"so long")).await;
    played.raw.push(&frame(RESPONSE, LAST, id, &whole[25..])).await;
    played.raw.publish();
    let error = call.await.unwrap().unwrap_err();
    let Error::Closed { reason: CloseReason::Peer(text), maybe_executed: true } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(text, "so long");
    assert_eq!(played.raw.farewell().await, None);
    // Without a word, and with one that is no text.
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    let (call, _) = played.called().await;
    drop(played.raw);
    let error = call.await.unwrap().unwrap_err();
    let gone = CloseReason::PeerGone;
    assert!(
        matches!(&error, Error::Closed { reason, maybe_executed: true } if *reason == gone),
        "{error:?}"
    );
    played = Played::new(&fixture, &mut listener, &welcome).await;
    let (call, _) = played.called().await;
    played.raw.send(&frame(GOODBYE, WHOLE, 0, &[0xFF; 500])).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Closed { reason: CloseReason::Peer(_), .. }), "{error:?}");
}

async fn a_wrong_answer_is_its_calls_error(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    for (status, body) in [(0, &b"nonsense"[..]), (0, b""), (1, b"nonsense"), (8, b""), (5, b"x")] {
        let (call, id) = played.called().await;
        played.raw.send(&response(id, status, body)).await;
        let error = call.await.unwrap().unwrap_err();
        match status {
            0 | 1 => assert!(matches!(error, Error::Deserialize { .. }), "{error:?}"),
            5 => assert!(matches!(error, Error::Protocol(_)), "{error:?}"),
            _ => assert!(matches!(error, Error::TooLarge { .. }), "{error:?}"),
        }
    }
    let (call, id) = played.called().await;
    played.raw.send(&response(id, 0, b"42")).await;
    assert_eq!(call.await.unwrap().unwrap(), 42);
    // A pong where an answer is due is no value either.
    let (call, id) = played.called().await;
    played.raw.send(&frame(PONG, WHOLE, id, &[])).await;
    assert!(call.await.unwrap().is_err());
    assert_eq!(played.client.load(), Load::default());
}

async fn a_ping_is_answered_by_a_pong_only(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    let client = played.client.clone();
    let pinging = tokio::spawn(async move { client.ping().await });
    let ping = played.raw.recv().await.unwrap();
    assert_eq!(ping.kind, PING);
    played.raw.send(&response(ping.id, 0, b"5")).await;
    let error = timeout(GUARD / 2, pinging).await.expect("it hangs").unwrap().unwrap_err();
    assert!(error.to_string().contains("not waiting"), "{error}");
}

/// A server that reads nothing, and knows which ids its client gives to calls: it could have one made after the other, each of
/// which stays in the client's queue.
async fn a_refused_call_is_retried_if_the_policy_says_so(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let refusal = [5_000_000_u64.to_le_bytes(), 7_000_000_u64.to_le_bytes()].concat();
    let policy = RetryPolicy::default().with_fixed_delay(Duration::from_millis(1));
    let overloaded = |error: &Error| matches!(error, Error::Overloaded { .. });
    for (policy, retried) in
        [(policy.clone(), false), (policy.with_attempts(2).with_errors(overloaded), true)]
    {
        let client = fixture.client_builder().with_retry_policy(|_| policy).build().unwrap();
        let play = async {
            let mut raw = Raw::server(&mut listener).await;
            raw.accepts_with(&[OVERLOADED]).await;
            raw.send(&message(WELCOME, 0, &welcome)).await;
            raw
        };
        let (connected, raw) = tokio::join!(client.connect(GUARD), play);
        connected.unwrap();
        let mut played = Played { calc: client.get_service(), client, raw };
        let (call, id) = played.called().await;
        played.raw.send(&response(id, 9, &refusal)).await;
        if retried {
            let next = played.raw.recv().await.unwrap();
            assert_eq!(next.kind, REQUEST);
            played.raw.send(&response(next.id, 0, b"42")).await;
            assert_eq!(call.await.unwrap().unwrap(), 42);
        } else {
            let error = call.await.unwrap().unwrap_err();
            assert!(error.is_surely_not_executed(), "{error:?}");
            let Error::Overloaded { method, left, wait } = &error else { panic!("{error:?}") };
            let millis = [left, wait].map(Duration::as_millis);
            assert_eq!((method.as_str(), millis), ("Calc.add", [5, 7]));
        }
        assert_eq!(played.client.load(), Load::default());
    }
}

async fn an_answer_to_what_has_not_been_sent_ends_the_connection(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    for ping in [false, true] {
        let mut played = Played::new(&fixture, &mut listener, &welcome).await;
        let text = "w".repeat(8 << 10);
        let mut calls = Vec::new();
        while played.client.load().queued_bytes == 0 {
            let (calc, text) = (played.calc.clone(), text.clone());
            calls.push(tokio::spawn(async move { calc.echo(text).await }));
            eventually("it is made", || played.client.load().calls == calls.len()).await;
        }
        if ping {
            // As many as do not fit where a call did not.
            for _ in 0..1000 {
                let client = played.client.clone();
                calls.push(tokio::spawn(async move { client.ping().await.map(|_| String::new()) }));
            }
            eventually("they are made", || played.client.load().calls == calls.len()).await;
        }
        // The first call has slot 0, the next one slot 1.
        let last = calls.len() as u64 - 1;
        let answer = response(last, 0, b"\"w\"");
        played.raw.send(&if ping { frame(PONG, WHOLE, last, &[]) } else { answer }).await;
        for call in calls {
            let error = timeout(GUARD / 2, call).await.expect("it hangs").unwrap().unwrap_err();
            assert!(error.to_string().contains("has not been sent"), "ping: {ping}: {error}");
        }
        eventually("nothing is left", || played.client.load() == Load::default()).await;
    }
}

async fn a_late_frame_reaches_nobody(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    let (call, id) = played.called().await;
    let mut raw = played.raw;
    let reconnect = played.client.reconnect(GUARD);
    let (reconnected, mut second) =
        tokio::join!(reconnect, Raw::open_server(&mut listener, &welcome));
    reconnected.unwrap();
    let lost = call.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Closed { reason: CloseReason::Local, .. }), "{lost:?}");
    assert_eq!(raw.farewell().await.as_deref(), Some("the client disconnected"));
    // The answer to the old call, on the old connection, while the new one has a call of the same id.
    let mut call = tokio::spawn(played.calc.add(1, 1));
    let request = second.recv().await.unwrap();
    assert_eq!(request.id, id, "a new connection begins anew");
    raw.send(&response(id, 0, b"666")).await;
    raw.send(&[0xFF; 40]).await;
    second.send(&frame(PING, WHOLE, 1, &[])).await;
    assert_eq!(second.recv().await.unwrap().kind, PONG);
    assert!(poll_once(Pin::new(&mut call)).is_pending());
    second.send(&response(id, 0, b"42")).await;
    assert_eq!(call.await.unwrap().unwrap(), 42);
    // After a disconnect there is no connection at all.
    played.client.disconnect().await;
    assert_eq!(second.farewell().await.as_deref(), Some("the client disconnected"));
    second.send(&response(id, 0, b"666")).await;
    assert_eq!(played.client.load(), Load::default());
}

async fn a_server_that_calls_its_client_is_told(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    let (answer, id) = played.called().await;
    for other in 100..200 {
        played.raw.send(&call(other, ADD, "[1,1]")).await;
        let told = played.raw.recv().await.unwrap();
        assert_eq!((told.kind, told.id, told.message().0), (RESPONSE, other, 5));
    }
    played.raw.send(&response(id, 0, b"2")).await;
    assert_eq!(answer.await.unwrap().unwrap(), 2);
}

async fn a_server_that_calls_and_never_reads_is_let_go(fixture: Arc<Fixture>) {
    let welcome = [&limits(100, 100, 10)[..], &real_welcome().await[20..]].concat();
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let mut played = Played::new(&fixture, &mut listener, &welcome).await;
    let mut waiting = Box::pin(played.calc.add(1, 1));
    // Whoever waits for an answer takes requests in, and has to mind the limit too.
    let watching = tokio::spawn(async move {
        let mut most = 0;
        while poll_once(waiting.as_mut()).is_pending() {
            most = most.max(played.client.load().handlers);
            tokio::task::yield_now().await;
        }
        most
    });
    let mut sent = 0;
    while !played.raw.is_gone().await {
        played.raw.send(&call(sent, ADD, "[1,1]")).await;
        sent += 1;
        assert!(sent < 1_000_000, "the client remembers every request");
    }
    let most = watching.await.unwrap();
    assert!(most <= 1024, "{most} requests at a time");
}
