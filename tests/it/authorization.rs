//! Which clients are admitted, and what a rejected client is told: access tokens that both sides know, tokens that are sent and
//! validated, and encryption that both sides must have.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;
use witrpc::prelude::*;
use witrpc::{
    CipherError, CipherPair, Encryptor, Error, KeyAgreement, Opener, Role, Sealer, Secret,
};

use crate::contract::{CalcClient, WordsServer};
use crate::fixture::{Fixture, GUARD, Security, TOKEN, eventually};

/// Makes tests over both transports, in clear and encrypted; the tests set the tokens.
macro_rules! both {
    ($($test:ident),* $(,)?) => {
        crate::instances::instance!(memory, memory, Json, None, MultiThread, $($test),*);
        crate::instances::instance!(memory_encrypted, memory, Json, Encrypted, CurrentThread, $($test),*);
        crate::instances::instance!(mmf, mmf, Json, None, CurrentThread, $($test),*);
        crate::instances::instance!(mmf_encrypted, mmf, Json, Encrypted, MultiThread, $($test),*);
    };
}

both![
    other_tokens_are_refused_and_disturb_nobody,
    a_token_that_only_the_client_has_is_refused,
    the_log_tells_which_process_was_turned_away,
    encryption_on_one_side_is_refused_naming_the_side,
    two_encryptors_do_not_fit,
    an_encryptor_of_ones_own_carries_calls,
    the_provider_is_asked_again_at_every_connect,
    the_validator_says_who_calls,
    what_the_validator_says_reaches_the_client,
    a_validator_that_hangs_meets_the_deadline,
    an_empty_provided_token_is_refused,
    a_provider_that_fails_fails_the_connect,
    a_validator_or_a_provider_that_panics_turns_its_own_client_away,
];

async fn serving(
    fixture: &Fixture,
    set: impl FnOnce(WitServerBuilder) -> WitServerBuilder,
) -> WitServer {
    let server = set(fixture.server_builder()).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    server
}

fn client(fixture: &Fixture, set: impl FnOnce(WitClientBuilder) -> WitClientBuilder) -> WitClient {
    set(fixture.client_builder()).build().unwrap()
}

/// The error that a client meets, well before its time is up.
async fn refused(client: &WitClient) -> Error {
    let began = Instant::now();
    let error = client.connect(GUARD).await.unwrap_err();
    assert!(began.elapsed() < GUARD / 4, "it waited for {:?}", began.elapsed());
    assert!(!client.is_connected());
    error
}

async fn unauthorized(client: &WitClient) -> String {
    match refused(client).await {
        Error::Unauthorized(text) => text,
        other => panic!("{other:?}"),
    }
}

async fn incompatible(client: &WitClient) -> String {
    match refused(client).await {
        Error::Incompatible(text) => text,
        other => panic!("{other:?}"),
    }
}

async fn sums_up(client: &WitClient) {
    assert_eq!(client.get_service::<CalcClient>().add(20, 22).await.unwrap(), 42);
}

async fn other_tokens_are_refused_and_disturb_nobody(fixture: Arc<Fixture>) {
    let server = serving(&fixture, |server| server.with_access_token(TOKEN)).await;
    let right = client(&fixture, |client| client.with_access_token(TOKEN));
    right.connect(GUARD).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let calling = tokio::spawn({
        let (calc, over) = (right.get_service::<CalcClient>(), Arc::clone(&over));
        async move {
            let mut calls = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(calc.add(calls, 1).await.unwrap(), calls + 1);
                calls += 1;
                tokio::task::yield_now().await;
            }
            calls
        }
    });
    let nearly = &TOKEN[..TOKEN.len() - 1];
    let longer = format!("{TOKEN} ");
    for wrong in [Some("wrong"), Some(nearly), Some(&longer), None] {
        let wrong = client(&fixture, |client| match wrong {
            Some(token) => client.with_access_token(token),
            None => client,
        });
        let (text, late) = tokio::join!(unauthorized(&wrong), async {
            let late = client(&fixture, |client| client.with_access_token(TOKEN));
            late.connect(GUARD).await.unwrap();
            late
        });
        assert!(text.contains("token"), "{text}");
        assert!(!text.contains(TOKEN), "{text}");
        let call = wrong.get_service::<CalcClient>().add(1, 1).await.unwrap_err();
        assert!(matches!(call, Error::NotConnected { .. }), "{call}");
        sums_up(&late).await;
        late.disconnect().await;
    }
    over.store(true, Ordering::Relaxed);
    assert!(calling.await.unwrap() > 0);
    sums_up(&right).await;
    eventually("only it is left", || server.client_count() == 1).await;
}

async fn a_token_that_only_the_client_has_is_refused(fixture: Arc<Fixture>) {
    let _server = fixture.server().await;
    let text = unauthorized(&client(&fixture, |client| client.with_access_token(TOKEN))).await;
    assert!(text.contains("without_authorization()") && text.contains("with_access_token"));
    sums_up(&fixture.client().await).await;
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// The one line with `what`; waits for it.
    async fn line(&self, what: &str) -> String {
        let find = || {
            let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            log.lines().find(|line| line.contains(what)).map(str::to_owned)
        };
        eventually(what, || find().is_some()).await;
        find().unwrap()
    }
}

async fn the_log_tells_which_process_was_turned_away(fixture: Arc<Fixture>) {
    if !crate::fixture::alone() {
        return;
    }
    let log = Log::default();
    // Of this thread only: so the server has a runtime here, whatever the other tests do.
    let (own, writer) = (Arc::clone(&fixture), log.clone());
    let served = Arc::new(tokio::sync::Notify::new());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn({
        let served = Arc::clone(&served);
        move || {
            let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
            let _here = subscriber.set_default();
            crate::fixture::block_on(crate::fixture::Flavor::CurrentThread, async {
                let _server = serving(&own, |server| server.with_access_token(TOKEN)).await;
                served.notify_one();
                stopped.await.unwrap();
            });
        }
    });
    served.notified().await;
    unauthorized(&client(&fixture, |client| client.with_access_token("wrong"))).await;
    let line = log.line("refused a client").await;
    assert!(line.contains("WARN") && line.contains("unauthorized"), "{line}");
    if fixture.has_processes() {
        assert!(line.contains(&format!("process={}", std::process::id())), "{line}");
    }
    assert!(!line.contains(TOKEN) && !line.contains("wrong"), "{line}");
    stop.send(()).unwrap();
    thread.join().unwrap();
}

async fn encryption_on_one_side_is_refused_naming_the_side(fixture: Arc<Fixture>) {
    let encrypted = fixture.security == Security::Encrypted;
    let _server = fixture.server().await;
    let other = client(&fixture, |client| {
        if encrypted { client.without_encryption() } else { client.with_encryption() }
    });
    let text = incompatible(&other).await;
    let advice = if encrypted {
        "add with_encryption() to the client, or remove it from the server"
    } else {
        "add with_encryption() to the server, or remove it from the client"
    };
    assert!(text.contains(advice), "{text}");
    sums_up(&fixture.client().await).await;
}

/// An encryption of a user's own, which keeps nothing secret: each byte is inverted, and a sum over header and
/// payload, with a running number, stands behind.
#[derive(Debug)]
struct Toy(&'static str);

impl Encryptor for Toy {
    fn name(&self) -> &str {
        self.0
    }

    fn begin(
        &self,
        _role: Role,
        prologue: &[u8],
        _secret: Option<&Secret>,
    ) -> Result<Box<dyn KeyAgreement>, CipherError> {
        Ok(Box::new(ToyAgreement(prologue.iter().map(|byte| u64::from(*byte)).sum())))
    }
}

struct ToyAgreement(u64);

impl KeyAgreement for ToyAgreement {
    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), CipherError> {
        out.extend_from_slice(b"toy");
        Ok(())
    }

    fn read(&mut self, message: &[u8]) -> Result<(), CipherError> {
        if message == b"toy" { Ok(()) } else { Err(CipherError::new("no toy")) }
    }

    fn finish(self: Box<Self>) -> Result<Option<CipherPair>, CipherError> {
        let (sealer, opener) = (Box::new(ToyHalf(self.0)), Box::new(ToyHalf(self.0)));
        Ok(Some(CipherPair { sealer, opener }))
    }
}

struct ToyHalf(u64);

impl ToyHalf {
    fn sum(&mut self, header: &[u8], payload: &[u8]) -> [u8; 8] {
        self.0 += 1;
        let bytes = header.iter().chain(payload);
        bytes.fold(self.0, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte)).to_le_bytes()
    }
}

impl Sealer for ToyHalf {
    fn overhead(&self) -> usize {
        8
    }

    fn seal(&mut self, header: &[u8], payload: &mut Vec<u8>) -> Result<(), CipherError> {
        payload.iter_mut().for_each(|byte| *byte = !*byte);
        let sum = self.sum(header, payload);
        payload.extend_from_slice(&sum);
        Ok(())
    }
}

impl Opener for ToyHalf {
    fn overhead(&self) -> usize {
        8
    }

    fn open(
        &mut self,
        header: &[u8],
        payload: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), CipherError> {
        let sum = payload.split_off(payload.len() - 8);
        if self.sum(header, &payload[from..]) != *sum {
            return Err(CipherError::new("the sum is another"));
        }
        payload[from..].iter_mut().for_each(|byte| *byte = !*byte);
        Ok(())
    }
}

async fn two_encryptors_do_not_fit(fixture: Arc<Fixture>) {
    let _server = serving(&fixture, |server| server.with_encryptor(Toy("toy"))).await;
    for other in [
        client(&fixture, |client| client.with_encryption()),
        client(&fixture, |client| client.with_encryptor(Toy("another toy"))),
    ] {
        let text = incompatible(&other).await;
        assert!(text.contains("\"toy\"") && text.contains("the same encryptor"), "{text}");
    }
}

async fn an_encryptor_of_ones_own_carries_calls(fixture: Arc<Fixture>) {
    let token = |token: &str| Ok::<_, String>(token.to_owned());
    let _server = serving(&fixture, |server| {
        server
            .with_encryptor(Toy("toy"))
            .with_access_token_validator(move |given: String| token(&given))
    })
    .await;
    let client = client(&fixture, |client| {
        client.with_encryptor(Toy("toy")).with_access_token_provider(|| async { Ok(TOKEN) })
    });
    client.connect(GUARD).await.unwrap();
    let calc = client.get_service::<CalcClient>();
    for len in [0, 1, 1000, 300_000] {
        let text = "t".repeat(len);
        assert_eq!(calc.echo(text.clone()).await.unwrap(), text);
    }
    let answers = (0..50).map(|i| (i, tokio::spawn(calc.add(i, 1))));
    for (i, answer) in answers.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap().unwrap(), i + 1);
    }
}

/// A service whose methods ask who calls.
#[witrpc::service]
pub(crate) trait Door {
    async fn caller(&self) -> witrpc::Result<Option<User>>;
    async fn something_else(&self) -> witrpc::Result<bool>;
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct User {
    name: String,
}

struct Porter;

impl Door for Porter {
    async fn caller(&self) -> witrpc::Result<Option<User>> {
        let before = CallContext::current().identity::<User>();
        tokio::task::yield_now().await;
        assert_eq!(CallContext::current().identity::<User>(), before);
        Ok(before.map(|user| (*user).clone()))
    }

    async fn something_else(&self) -> witrpc::Result<bool> {
        Ok(CallContext::current().identity::<u8>().is_some())
    }
}

fn user(token: &str) -> Result<User, String> {
    let name = token.strip_prefix("user:").ok_or_else(|| "no user has this token".to_owned())?;
    Ok(User { name: name.to_owned() })
}

/// A server whose validator is a future or not.
async fn with_users(fixture: &Fixture, at_once: bool) -> WitServer {
    serving(fixture, |server| {
        let server = server.with_encryption().with_service(DoorServer::new(Porter));
        if at_once {
            return server.with_access_token_validator(|token: String| user(&token));
        }
        server.with_access_token_validator(|token: String| async move {
            tokio::task::yield_now().await;
            user(&token)
        })
    })
    .await
}

fn with_token(fixture: &Fixture, token: &str) -> WitClient {
    let token = token.to_owned();
    client(fixture, |client| {
        client.with_encryption().with_access_token_provider(move || {
            let token = token.clone();
            async move { Ok(token) }
        })
    })
}

async fn the_provider_is_asked_again_at_every_connect(fixture: Arc<Fixture>) {
    let _server = with_users(&fixture, false).await;
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let client = client(&fixture, |client| {
        client.with_encryption().with_access_token_provider(move || {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            async move { Ok(format!("user:{number}")) }
        })
    });
    assert_eq!(asked.load(Ordering::SeqCst), 0, "not before there is a connection");
    let door = client.get_service::<DoorClient>();
    for number in 0..3 {
        client.reconnect(GUARD).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), number + 1);
        let user = door.caller().await.unwrap().unwrap();
        assert_eq!(user.name, number.to_string());
    }
}

async fn the_validator_says_who_calls(fixture: Arc<Fixture>) {
    for at_once in [true, false] {
        let server = with_users(&fixture, at_once).await;
        let (ada, bob) = (with_token(&fixture, "user:ada"), with_token(&fixture, "user:bob"));
        for (client, name) in [(&ada, "ada"), (&bob, "bob")] {
            client.connect(GUARD).await.unwrap();
            let door = client.get_service::<DoorClient>();
            assert_eq!(door.caller().await.unwrap().unwrap().name, name);
            assert!(!door.something_else().await.unwrap(), "an identity of another type");
        }
        drop(server);
    }
    let _server = serving(&fixture, |server| server.with_service(DoorServer::new(Porter))).await;
    let client = fixture.client().await;
    let caller = client.get_service::<DoorClient>().caller().await.unwrap();
    assert_eq!(caller, None, "nobody said who it is");
}

async fn what_the_validator_says_reaches_the_client(fixture: Arc<Fixture>) {
    for at_once in [true, false] {
        let server = with_users(&fixture, at_once).await;
        let right = with_token(&fixture, "user:ada");
        right.connect(GUARD).await.unwrap();
        let text = unauthorized(&with_token(&fixture, "nobody")).await;
        assert_eq!(text, "no user has this token");
        sums_up(&right).await;
        // The other schemes do not fit, whatever they prove.
        for other in [
            client(&fixture, |client| client.with_encryption().with_access_token("user:ada")),
            client(&fixture, |client| client.with_encryption()),
        ] {
            let text = unauthorized(&other).await;
            assert!(text.contains("with_access_token_validator"), "{text}");
        }
        drop(server);
    }
}

async fn a_validator_that_hangs_meets_the_deadline(fixture: Arc<Fixture>) {
    let deadline = Duration::from_millis(700);
    let server = serving(&fixture, |server| {
        server.with_encryption().with_handshake_timeout(deadline).with_access_token_validator(
            |token: String| async move {
                if token == "slow" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, String>(())
            },
        )
    })
    .await;
    let right = with_token(&fixture, "quick");
    right.connect(GUARD).await.unwrap();
    let began = Instant::now();
    let slow = with_token(&fixture, "slow");
    let (error, ()) = tokio::join!(refused(&slow), async {
        let late = with_token(&fixture, "quick");
        late.connect(GUARD).await.unwrap();
        sums_up(&late).await;
        sums_up(&right).await;
    });
    assert!(matches!(error, Error::Closed { maybe_executed: false, .. }), "{error:?}");
    assert!(began.elapsed() >= deadline);
    eventually("only the first is left", || server.client_count() == 1).await;
    sums_up(&right).await;
}

async fn an_empty_provided_token_is_refused(fixture: Arc<Fixture>) {
    let asked = Arc::new(AtomicBool::new(false));
    let validator = Arc::clone(&asked);
    let _server = serving(&fixture, |server| {
        server.with_encryption().with_access_token_validator(move |_: String| {
            validator.store(true, Ordering::SeqCst);
            Ok::<_, String>(())
        })
    })
    .await;
    unauthorized(&with_token(&fixture, "")).await;
    assert!(!asked.load(Ordering::SeqCst), "the validator is not asked about nothing");
    with_token(&fixture, "x").connect(GUARD).await.unwrap();
}

async fn a_provider_that_fails_fails_the_connect(fixture: Arc<Fixture>) {
    let server = with_users(&fixture, false).await;
    let client = client(&fixture, |client| {
        client
            .with_encryption()
            .with_access_token_provider(|| async { Err::<String, _>(Error::fault("no keychain")) })
    });
    let error = refused(&client).await;
    assert!(error.to_string().contains("no keychain"), "{error}");
    assert_eq!(server.client_count(), 0);
}

async fn a_validator_or_a_provider_that_panics_turns_its_own_client_away(fixture: Arc<Fixture>) {
    for at_once in [true, false] {
        let server = serving(&fixture, |server| {
            let server = server.with_encryption();
            if at_once {
                return server.with_access_token_validator(|token: String| {
                    assert_ne!(token, "bad", "a secret detail");
                    Ok::<_, String>(())
                });
            }
            server.with_access_token_validator(|token: String| async move {
                tokio::task::yield_now().await;
                assert_ne!(token, "bad", "a secret detail");
                Ok::<_, String>(())
            })
        })
        .await;
        let good = with_token(&fixture, "good");
        good.connect(GUARD).await.unwrap();
        let text = unauthorized(&with_token(&fixture, "bad")).await;
        assert!(text.contains("validator panicked") && !text.contains("detail"), "{text}");
        sums_up(&good).await;
        let client = client(&fixture, |client| {
            client.with_encryption().with_access_token_provider(|| async {
                if CallContext::try_current().is_none() {
                    panic!("no keychain");
                }
                Ok("good")
            })
        });
        let text = unauthorized(&client).await;
        assert!(text.contains("no keychain"), "{text}");
        sums_up(&good).await;
        drop(server);
    }
}

#[test]
fn settings_that_protect_nothing_are_refused_at_build() {
    let fixture = Fixture::memory();
    let fault = |error: Error, setting: &str, advice: &str| {
        let text = error.to_string();
        assert!(text.contains(setting) && text.contains(advice), "{text}");
    };
    let client = fixture.client_builder().with_access_token_provider(|| async { Ok("t") });
    fault(client.build().unwrap_err(), "with_access_token_provider", "add .with_encryption()");
    let client = fixture
        .client_builder()
        .with_encryption()
        .with_access_token_provider(|| async { Ok("t") })
        .without_encryption();
    fault(client.build().unwrap_err(), "with_access_token_provider", "add .with_encryption()");
    let server =
        || fixture.bare_server_builder().with_service(WordsServer::new(fixture.calculator.clone()));
    let validated = server().with_access_token_validator(|_: String| Ok::<_, String>(()));
    fault(validated.build().unwrap_err(), "with_access_token_validator", "add .with_encryption()");
    for empty in [server(), server().with_encryption()] {
        fault(empty.with_access_token("").build().unwrap_err(), "with_access_token", "empty");
    }
    for client in [fixture.client_builder(), fixture.client_builder().with_encryption()] {
        fault(client.with_access_token("").build().unwrap_err(), "with_access_token", "empty");
    }
    // Whatever was said last counts.
    server().with_access_token("").without_authorization().build().unwrap();
    let last = server().with_encryption().with_access_token("").with_access_token(TOKEN);
    assert!(!format!("{last:?}").contains(TOKEN));
    last.build().unwrap();
}
