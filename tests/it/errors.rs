//! The texts of errors: they give the right hint, name the setting, and are readable. Also: time limits of operations that take little
//! time.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, Serializer, SerializerError};

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, SerializerKind, run, runtime};

/// Its content is read once the tag is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Named { name: String },
    Numbered { places: BTreeMap<u32, u8> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Numbered(BTreeMap<u32, u8>),
    Named(String),
}

/// A field that is not always there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sparse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maybe: Option<u8>,
    name: String,
}

type Pairs = BTreeMap<(u8, u8), u8>;

#[witrpc::service]
trait Shapes {
    async fn tagged(&self, value: Tagged) -> witrpc::Result<Tagged>;
    async fn untagged(&self, value: Untagged) -> witrpc::Result<Untagged>;
    async fn sparse(&self, value: Sparse) -> witrpc::Result<Sparse>;
    async fn take_pairs(&self, pairs: Pairs) -> witrpc::Result<()>;
    async fn give_pairs(&self) -> witrpc::Result<Pairs>;
    async fn take_number(&self, number: f64) -> witrpc::Result<()>;
    async fn give_number(&self) -> witrpc::Result<f64>;
    async fn stream_numbers(&self) -> witrpc::Result<Streaming<f64>>;
    async fn stream_tagged(&self) -> witrpc::Result<Streaming<Tagged>>;
}

struct Shaper;

fn named() -> Tagged {
    Tagged::Named { name: "a".to_owned() }
}

impl Shapes for Shaper {
    async fn tagged(&self, value: Tagged) -> witrpc::Result<Tagged> {
        Ok(value)
    }
    async fn untagged(&self, value: Untagged) -> witrpc::Result<Untagged> {
        Ok(value)
    }
    async fn sparse(&self, value: Sparse) -> witrpc::Result<Sparse> {
        Ok(value)
    }
    async fn take_pairs(&self, _pairs: Pairs) -> witrpc::Result<()> {
        Ok(())
    }
    async fn give_pairs(&self) -> witrpc::Result<Pairs> {
        Ok(BTreeMap::from([((1, 2), 3)]))
    }
    async fn take_number(&self, _number: f64) -> witrpc::Result<()> {
        Ok(())
    }
    async fn give_number(&self) -> witrpc::Result<f64> {
        Ok(f64::NAN)
    }
    async fn stream_numbers(&self) -> witrpc::Result<Streaming<f64>> {
        Ok(Streaming::iter([1.0, f64::NAN]))
    }
    async fn stream_tagged(&self) -> witrpc::Result<Streaming<Tagged>> {
        Ok(Streaming::iter([named()]))
    }
}

const ADVICE: &str = "check that both sides have the same types";

/// Over both transports; with a client of the service, and how its messages look.
fn with_shapes<F: Future<Output = ()>>(
    serializer: SerializerKind,
    test: impl Fn(ShapesClient) -> F,
) {
    for mut fixture in [Fixture::memory(), Fixture::mmf()] {
        fixture.serializer = serializer;
        let test = &test;
        run(Flavor::MultiThread, fixture, |fixture| async move {
            let builder = fixture.server_builder().with_service(ShapesServer::new(Shaper));
            let server = builder.build().unwrap();
            server.start_waiting_for_connection().await.unwrap();
            let client = fixture.client().await;
            test(client.get_service()).await;
        });
    }
}

/// An error of one side or of the other says the same of the format and of what to do.
fn assert_says<T: std::fmt::Debug>(result: Result<T, Error>, says: &[&str], says_not: &[&str]) {
    let text = result.unwrap_err().to_string();
    assert!(says.iter().all(|part| text.contains(part)), "{text} lacks one of {says:?}");
    assert!(!says_not.iter().any(|part| text.contains(part)), "{text} has one of {says_not:?}");
}

#[test]
fn a_type_that_postcard_cannot_read_is_told_so() {
    let says = ["postcard", "#[serde(tag)]", "with_json()"];
    with_shapes(SerializerKind::Postcard, |shapes| async move {
        // Refused by the server, as arguments; and by the client, as a stream's item.
        assert_says(shapes.tagged(named()).await, &says, &[ADVICE, "peer"]);
        assert_says(shapes.untagged(Untagged::Named(String::new())).await, &says, &[ADVICE]);
        let mut items = shapes.stream_tagged().await.unwrap();
        assert_says(items.next().await.unwrap(), &says, &[ADVICE, "peer"]);
        assert_says(shapes.sparse(Sparse::default()).await, &["skip_serializing_if"], &["peer"]);
    });
}

#[test]
fn keys_that_json_cannot_have_are_told_so() {
    with_shapes(SerializerKind::Json, |shapes| async move {
        let says = ["json", "list of pairs", "with_message_pack()"];
        let pairs = BTreeMap::from([((1, 2), 3)]);
        assert_says(shapes.take_pairs(pairs).await, &says, &[ADVICE]);
        assert_says(shapes.give_pairs().await, &says, &[ADVICE, "peer"]);
        let says = ["json", "keys Strings", "with_message_pack()"];
        let numbered = BTreeMap::from([(1, 2)]);
        let tagged = Tagged::Numbered { places: numbered.clone() };
        assert_says(shapes.tagged(tagged).await, &says, &["peer"]);
        assert_says(shapes.untagged(Untagged::Numbered(numbered)).await, &says, &["peer"]);
    });
    with_shapes(SerializerKind::MessagePack, |shapes| async move {
        let numbered = BTreeMap::from([(1, 2)]);
        let tagged = Tagged::Numbered { places: numbered.clone() };
        assert_eq!(shapes.tagged(tagged.clone()).await.unwrap(), tagged);
        let untagged = Untagged::Numbered(numbered);
        assert_eq!(shapes.untagged(untagged.clone()).await.unwrap(), untagged);
        assert_eq!(shapes.give_pairs().await.unwrap().len(), 1);
        assert_says(shapes.sparse(Sparse::default()).await, &["skip_serializing_if"], &["peer"]);
    });
}

#[test]
fn a_number_that_json_has_not_is_refused_by_its_sender() {
    with_shapes(SerializerKind::Json, |shapes| async move {
        let says = ["cannot serialize", "json", "NaN"];
        assert_says(shapes.take_number(f64::NAN).await, &says, &[ADVICE]);
        assert_says(shapes.give_number().await, &says, &[ADVICE, "peer"]);
        let mut items = shapes.stream_numbers().await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), 1.0);
        assert_says(items.next().await.unwrap(), &says, &[ADVICE, "peer"]);
    });
}

/// JSON as somebody else writes it.
struct OtherJson;

impl Serializer for OtherJson {
    fn name(&self) -> &'static str {
        "other-json"
    }
    fn serialize<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), SerializerError> {
        serde_json::to_writer(out, value).map_err(SerializerError::new)
    }
    fn deserialize<T: DeserializeOwned + 'static>(&self, b: &[u8]) -> Result<T, SerializerError> {
        serde_json::from_slice(b).map_err(SerializerError::new)
    }
}

#[test]
fn an_error_of_the_servers_serializer_names_it() {
    run(Flavor::MultiThread, Fixture::memory(), |fixture| async move {
        let builder = fixture.server_builder().with_serializer(OtherJson);
        let server = builder.with_service(ShapesServer::new(Shaper)).build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let builder = fixture.client_builder().with_serializer(OtherJson);
        let client = builder.build().unwrap();
        client.connect(GUARD).await.unwrap();
        let shapes: ShapesClient = client.get_service();
        assert_says(shapes.take_number(f64::NAN).await, &["other-json", ADVICE], &["peer"]);
        assert_says(shapes.give_pairs().await, &["other-json"], &["peer"]);
    });
}

#[test]
fn debug_says_what_display_says() {
    let errors = [
        Error::config("with_size", 1, "give more"),
        Error::Cancelled,
        Error::TimedOut { after: Duration::from_nanos(1_234_567_890) },
        Error::fault("one \"two\" \\ three"),
        Error::Closed { reason: CloseReason::PeerGone, maybe_executed: true },
    ];
    for error in errors {
        assert_eq!(format!("{error:?}"), error.to_string());
    }
    let timed_out = Error::TimedOut { after: Duration::from_nanos(1_234_567_890) };
    assert!(timed_out.to_string().starts_with("no answer within 1.23s; "), "{timed_out}");
    assert_eq!(format!("{timed_out:#?}"), format!("TimedOut: {timed_out}"));
    let overloaded = |left, wait| {
        let [left, wait] = [left, wait].map(Duration::from_millis);
        Error::Overloaded { method: "Calc.add".to_owned(), left, wait }.to_string()
    };
    for (left, wait, why) in [
        (0, 0, "the deadline passed before the call could begin"),
        (0, 40, "the deadline passed before the call could begin"),
        (30, 40, "calls wait about 40ms, and this one had 30ms left"),
        (30, 0, "the call had only 30ms left"),
    ] {
        let text = overloaded(left, wait);
        assert!(
            text.starts_with(&format!("the callee of Calc.add is overloaded: {why}; ")),
            "{text}"
        );
        assert!(text.ends_with(" (the call was not executed)"), "{text}");
    }
    // It goes into logs.
    assert_eq!(format!("{:?}", Error::fault("a\nb\u{1b}[0m")), "a\\nb\\u{1b}[0m");
}

#[test]
#[should_panic(expected = "call it in the handler and pass the context on")]
fn the_context_of_no_call_says_what_to_do() {
    drop(witrpc::CallContext::current());
}

/// A server whose runtime stands still after the client has connected.
#[test]
fn ping_and_describe_end_at_their_time_limits() {
    const SHORT: Duration = Duration::from_millis(5);
    for fixture in [Fixture::memory(), Fixture::mmf()] {
        run(Flavor::MultiThread, fixture, |fixture| async move {
            let (stop, mut stopped) = tokio::sync::mpsc::channel::<()>(1);
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            let (end, ended) = mpsc::channel::<()>();
            let here = Arc::clone(&fixture);
            let thread = std::thread::spawn(move || {
                let runtime = runtime(Flavor::CurrentThread);
                let _server = runtime.block_on(async {
                    let server = here.server().await;
                    ready.send(()).unwrap();
                    stopped.recv().await;
                    server
                });
                drop(stopped);
                ended.recv().unwrap_err();
            });
            is_ready.await.unwrap();
            let of_the_client = fixture.client_builder().with_timeout(SHORT).build().unwrap();
            of_the_client.connect(GUARD).await.unwrap();
            let client = fixture.client().await;
            client.ping().with_timeout(GUARD).await.unwrap();
            assert_eq!(client.describe().with_timeout(GUARD).await.unwrap().services.len(), 2);
            stop.send(()).await.unwrap();
            stop.closed().await;
            let timed_out = |error| matches!(error, Error::TimedOut { after: SHORT });
            assert!(timed_out(of_the_client.ping().await.unwrap_err()));
            assert!(timed_out(of_the_client.describe().await.unwrap_err()));
            assert!(timed_out(client.ping().with_timeout(SHORT).await.unwrap_err()));
            assert!(timed_out(client.describe().with_timeout(SHORT).await.unwrap_err()));
            let calc: CalcClient = client.get_service();
            assert!(timed_out(calc.add(1, 2).with_timeout(SHORT).await.unwrap_err()));
            drop(end);
            thread.join().unwrap();
        });
    }
}
