//! Peers whose texts contain control characters. The texts are escaped in errors and in the log.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use witrpc::prelude::*;
use witrpc::transport::Listener;
use witrpc::{CloseReason, Error, EventError};

use super::{
    ACCEPT, CONFIRM, EVENT_END, GOODBYE, Head, MARKER, REFUSE, RESPONSE, Raw, STREAM_CREDIT,
    STREAM_END, SUBSCRIBE, VERSION, WELCOME, WHOLE, call, confirm_body, frame, hello, hello_body,
    limits, message, text,
};
use crate::fixture::{Fixture, Flavor, GUARD, alone, eventually, run};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Colour {
    Red,
}

#[witrpc::service]
pub(crate) trait Page {
    async fn colour(&self) -> witrpc::Result<Colour>;
    async fn paint(&self, colour: Colour) -> witrpc::Result<()>;
    async fn panics(&self, text: String) -> witrpc::Result<()>;
    /// Asks the caller for its colour.
    async fn ask(&self) -> witrpc::Result<()>;
    async fn lines(&self) -> witrpc::Result<Streaming<u32>>;
    #[event]
    fn turned(&self) -> &Event<u32>;
}

/// Places of its methods.
const PAINT: u16 = 1;
const PANICS: u16 = 2;
const ASK: u16 = 3;

#[derive(Default)]
struct Book {
    turned: Event<u32>,
}

impl Page for Book {
    async fn colour(&self) -> witrpc::Result<Colour> {
        Ok(Colour::Red)
    }

    async fn paint(&self, _colour: Colour) -> witrpc::Result<()> {
        Ok(())
    }

    async fn panics(&self, text: String) -> witrpc::Result<()> {
        panic!("{text}")
    }

    async fn ask(&self) -> witrpc::Result<()> {
        let peer = CallContext::current().peer().get_service::<PageClient>();
        Err(peer.colour().await.unwrap_err())
    }

    async fn lines(&self) -> witrpc::Result<Streaming<u32>> {
        Err(Error::fault("there are none"))
    }

    fn turned(&self) -> &Event<u32> {
        &self.turned
    }
}

/// A false line of a log, in red, and a change of direction.
const EVIL: &str = "bye\r\n2026-01-01 INFO all is well\u{1b}[31m\u{9b}2J\u{202e}";
/// How it is to be seen.
const SHOWN: &str = "bye\\r\\n2026-01-01 INFO all is well\\u{1b}[31m\\u{9b}2J\\u{202e}";

/// All that was logged: what subscribers get to write as it is.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{}={value:?}", field.name()).unwrap();
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, _id: &Id, _context: Context<'_, S>) {
        attributes.record(&mut self.clone());
    }

    fn on_record(&self, _span: &Id, values: &Record<'_>, _context: Context<'_, S>) {
        values.record(&mut self.clone());
    }

    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        event.record(&mut self.clone());
    }
}

impl Log {
    /// The same, and the peer's text is in it.
    fn shows_the_text(&self, what: &str) {
        let log = self.take(what);
        assert!(log.contains(SHOWN), "{what}: {log}");
    }

    /// What was logged since, which a terminal shows as it is.
    fn take(&self, what: &str) -> String {
        let log = std::mem::take(&mut *self.0.lock().unwrap());
        is_tame(what, &log.replace('\n', ""));
        log
    }
}

fn is_tame(what: &str, text: &str) {
    let wild = |c: char| c.is_control() || c == '\u{202e}';
    assert!(!text.contains(wild), "{what}: {text:?}");
}

fn shows_the_text(what: &str, error: &impl ToString) {
    let shown = error.to_string();
    is_tame(what, &shown);
    assert!(shown.contains(SHOWN), "{what}: {shown}");
}

/// In a process of its own, on one thread: so its log has all.
fn logged<F: Future<Output = ()>>(test: impl FnOnce(Arc<Fixture>, Log) -> F) {
    if !alone() {
        return;
    }
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    run(Flavor::CurrentThread, Fixture::mmf(), |fixture| test(fixture, log));
}

fn evil_message(kind: u8, id: u64, selector: u16) -> Vec<u8> {
    let head = Head { selector, ..Head::of(EVIL.as_bytes()) };
    frame(kind, WHOLE, id, &head.with(EVIL.as_bytes()))
}

/// A service of this name with one method and one event, of this name and signature each.
fn catalog(service: &str, member: &str) -> Vec<u8> {
    let mut bytes = 1_u32.to_le_bytes().to_vec();
    text(&mut bytes, service.as_bytes());
    for _ in 0..2 {
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        text(&mut bytes, member.as_bytes());
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes.extend_from_slice(&8_u64.to_le_bytes());
        text(&mut bytes, EVIL.as_bytes());
    }
    bytes
}

fn welcome(service: &str, member: &str) -> Vec<u8> {
    let mut body = limits(1 << 20, 2 << 20, 100);
    text(&mut body, b"");
    body.extend_from_slice(&catalog(service, member));
    body
}

/// What a real server of the contract says to welcome a client.
async fn real_welcome() -> Vec<u8> {
    let fixture = Fixture::memory();
    let server = fixture.bare_server_builder().with_service(PageServer::new(Book::default()));
    let server = server.build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let mut raw = Raw::client(&fixture).await;
    raw.send(&hello()).await;
    assert_eq!(raw.recv().await.unwrap().kind, ACCEPT);
    raw.send(&message(CONFIRM, 0, &confirm_body())).await;
    raw.recv().await.unwrap().message().1.to_vec()
}

/// A client that is let in with this welcome, and the server's end.
async fn played(
    fixture: &Fixture,
    listener: &mut Box<dyn Listener>,
    welcome: &[u8],
) -> (WitClient, PageClient, Raw) {
    let client = fixture.client_builder().build().unwrap();
    let (connected, raw) = tokio::join!(client.connect(GUARD), Raw::open_server(listener, welcome));
    connected.unwrap();
    (client.clone(), client.get_service(), raw)
}

#[test]
fn a_server_that_lets_nobody_in_says_why_and_no_more() {
    logged(|fixture, _log| async move {
        let mut listener = fixture.server_transport().listen().await.unwrap();
        for last_word in [
            evil_message(REFUSE, 0, 1),
            evil_message(REFUSE, 0, 2),
            frame(GOODBYE, WHOLE, 0, EVIL.as_bytes()),
        ] {
            let client = fixture.client_builder().build().unwrap();
            let play = async {
                let mut raw = Raw::server(&mut listener).await;
                raw.send(&last_word).await;
                raw.farewell().await
            };
            let (connected, _) = tokio::join!(client.connect(GUARD), play);
            shows_the_text("the connect", &connected.unwrap_err());
        }
    });
}

#[test]
fn a_catalog_is_shown_and_compared_as_it_is() {
    logged(|fixture, log| async move {
        let mut listener = fixture.server_transport().listen().await.unwrap();
        for (service, member, what) in [
            (EVIL, EVIL, "no such service"),
            ("Page", EVIL, "no such method"),
            ("Page", "colour", "a method of another signature"),
            ("Page", "turned", "an event of another signature"),
        ] {
            let welcome = welcome(service, member);
            let (_client, page, _raw) = played(&fixture, &mut listener, &welcome).await;
            shows_the_text(what, &page.colour().await.unwrap_err());
            log.shows_the_text(what);
            let refused = page.turned().subscribe().next().await.unwrap().unwrap_err();
            shows_the_text(what, &refused);
        }
    });
}

#[test]
fn what_answers_say_is_shown_and_values_are_as_they_were_sent() {
    logged(|fixture, log| async move {
        let mut listener = fixture.server_transport().listen().await.unwrap();
        let (_client, page, mut raw) = played(&fixture, &mut listener, &real_welcome().await).await;
        for status in [2, 6, 7] {
            let (answer, ()) = tokio::join!(page.colour(), async {
                let id = raw.recv().await.unwrap().id;
                raw.send(&evil_message(RESPONSE, id, status)).await;
            });
            shows_the_text("an answer", &answer.unwrap_err());
            log.shows_the_text("an answer");
        }
        let value = serde_json::to_string(EVIL).unwrap();
        for status in [0, 1] {
            let (answer, ()) = tokio::join!(page.colour(), async {
                let id = raw.recv().await.unwrap().id;
                let head = Head { selector: status, ..Head::of(value.as_bytes()) };
                raw.send(&frame(RESPONSE, WHOLE, id, &head.with(value.as_bytes()))).await;
            });
            match answer.unwrap_err() {
                Error::Fault { message } => assert_eq!((status, &*message), (1, EVIL)),
                error => {
                    assert_eq!(status, 0);
                    shows_the_text("a value of no colour", &error);
                    log.shows_the_text("a value of no colour");
                }
            }
            log.take("a value");
        }
    });
}

#[test]
fn the_ends_of_streams_subscriptions_and_connections_are_shown() {
    logged(|fixture, log| async move {
        let mut listener = fixture.server_transport().listen().await.unwrap();
        let (client, page, mut raw) = played(&fixture, &mut listener, &real_welcome().await).await;
        for (number, status) in [(0_u64, 2), (1, 7), (2, 1)] {
            let (lines, ()) = tokio::join!(page.lines(), async {
                let id = raw.recv().await.unwrap().id;
                let body = format!("\"stream:{MARKER:016x}:0\"");
                let head = Head { stream_count: 1, ..Head::of(body.as_bytes()) };
                let table = [number.to_le_bytes().as_slice(), &[0; 4]].concat();
                let entry = [body.as_bytes(), &MARKER.to_le_bytes(), &table].concat();
                raw.send(&frame(RESPONSE, WHOLE, id, &head.with(&entry))).await;
            });
            let mut lines = lines.unwrap();
            let (end, ()) = tokio::join!(lines.next(), async {
                while raw.recv().await.unwrap().kind != STREAM_CREDIT {}
                raw.send(&evil_message(STREAM_END, number, status)).await;
            });
            match end.unwrap().unwrap_err() {
                Error::Fault { message } => assert_eq!((status, &*message), (1, EVIL)),
                error => shows_the_text("a stream's end", &error),
            }
        }
        let mut turned = page.turned().subscribe();
        let (end, ()) = tokio::join!(turned.next(), async {
            let subscribe = loop {
                let frame = raw.recv().await.unwrap();
                if frame.kind == SUBSCRIBE {
                    break frame;
                }
            };
            raw.send(&frame(EVENT_END, WHOLE, subscribe.id, EVIL.as_bytes())).await;
        });
        let end = end.unwrap().unwrap_err();
        assert!(matches!(end, EventError::Refused(_)), "{end:?}");
        shows_the_text("a subscription's end", &end);
        let (answer, ()) = tokio::join!(page.colour(), async {
            raw.recv().await.unwrap();
            raw.send(&frame(GOODBYE, WHOLE, 0, EVIL.as_bytes())).await;
        });
        let error = answer.unwrap_err();
        let Error::Closed { reason: CloseReason::Peer(reason), .. } = &error else {
            panic!("{error:?}")
        };
        shows_the_text("a goodbye", reason);
        shows_the_text("a goodbye", &error);
        raw.farewell().await;
        eventually("it has ended", || !client.is_connected()).await;
        log.shows_the_text("a goodbye");
    });
}

#[test]
fn what_a_client_says_is_shown_at_the_server() {
    logged(|fixture, log| async move {
        let builder = fixture.bare_server_builder();
        let server = builder.with_service(PageServer::new(Book::default())).build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let mut raw = Raw::client(&fixture).await;
        raw.send(&message(super::HELLO, 0, &hello_body(VERSION, EVIL))).await;
        let refusal = raw.recv().await.unwrap();
        assert_eq!(refusal.kind, REFUSE);
        shows_the_text("a refusal", &str::from_utf8(refusal.message().1).unwrap());
        raw.farewell().await;
        log.shows_the_text("a refusal");

        // One that offers what it has no name for.
        let mut raw = Raw::client(&fixture).await;
        raw.send(&hello()).await;
        assert_eq!(raw.recv().await.unwrap().kind, ACCEPT);
        let mut confirm = confirm_body();
        confirm.truncate(confirm.len() - 4);
        confirm.extend_from_slice(&catalog("Page", EVIL));
        raw.send(&message(CONFIRM, 0, &confirm)).await;
        assert_eq!(raw.recv().await.unwrap().kind, WELCOME);
        let evil = serde_json::to_string(&[EVIL]).unwrap();
        for (request, status, what) in [
            (call(1, PAINT, &evil), 6, "arguments"),
            (call(2, PANICS, &evil), 2, "a panic"),
            (call(3, ASK, "null"), 1, "a catalog"),
        ] {
            raw.send(&request).await;
            let answer = raw.recv().await.unwrap();
            assert_eq!((answer.kind, answer.message().0), (RESPONSE, status), "{what}");
            let text = str::from_utf8(answer.message().1).unwrap();
            match status {
                // A panic's message is sent as it is; whoever shows it escapes it.
                2 => log.shows_the_text(what),
                1 => shows_the_text(what, &serde_json::from_str::<String>(text).unwrap()),
                _ => shows_the_text(what, &text),
            }
        }
        raw.send(&frame(GOODBYE, WHOLE, 0, EVIL.as_bytes())).await;
        eventually("it has left", || server.client_count() == 0).await;
        tokio::task::yield_now().await;
        log.shows_the_text("a goodbye");
    });
}
