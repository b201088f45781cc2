//! What a peer that was admitted may do: calls and subscriptions that an authorizer refuses, tokens that are withdrawn, and what the
//! system proves about a peer.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use witrpc::prelude::*;
use witrpc::{CallContext, CloseReason, Error, Peer};

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, eventually, run};

/// Makes tests over both transports, encrypted, as tokens are sent.
macro_rules! both {
    ($($test:ident),* $(,)?) => {
        crate::instances::instance!(memory, memory, Json, Encrypted, CurrentThread, $($test),*);
        crate::instances::instance!(mmf, mmf, Json, Encrypted, MultiThread, $($test),*);
    };
}

both![
    only_the_refused_call_fails,
    a_subscription_is_refused_like_a_call,
    an_authorizer_that_panics_refuses,
    a_client_refuses_calls_of_its_server,
    a_token_that_is_withdrawn_ends_its_connections,
    a_validation_that_hangs_ends_its_connection,
    clients_are_disconnected_by_their_identity,
];

#[witrpc::service]
pub(crate) trait Vault {
    async fn look(&self) -> witrpc::Result<u32>;
    async fn open(&self) -> witrpc::Result<u32>;
    #[witrpc(blocking)]
    async fn drill(&self) -> witrpc::Result<u32>;
    async fn wait(&self) -> witrpc::Result<()>;
    /// Opens the caller's own vault.
    async fn open_yours(&self) -> witrpc::Result<u32>;
    /// The process and the user of the caller, as the system proves them.
    async fn who(&self) -> witrpc::Result<(Option<u32>, Option<u32>)>;
    #[event]
    fn opened(&self) -> &Event<u32>;
    #[event]
    fn looked(&self) -> &Event<u32>;
}

#[derive(Clone, Default)]
struct Guarded {
    executed: Arc<AtomicU32>,
    opened: Event<u32>,
    looked: Event<u32>,
}

impl Vault for Guarded {
    async fn look(&self) -> witrpc::Result<u32> {
        self.looked.raise(1)?;
        Ok(1)
    }

    async fn open(&self) -> witrpc::Result<u32> {
        self.executed.fetch_add(1, Ordering::SeqCst);
        self.opened.raise(2)?;
        Ok(2)
    }

    async fn drill(&self) -> witrpc::Result<u32> {
        self.open().await
    }

    async fn wait(&self) -> witrpc::Result<()> {
        std::future::pending().await
    }

    async fn open_yours(&self) -> witrpc::Result<u32> {
        let vault: VaultClient = CallContext::current().peer().get_service();
        vault.open().await
    }

    async fn who(&self) -> witrpc::Result<(Option<u32>, Option<u32>)> {
        let caller = CallContext::current().peer().credentials();
        Ok((caller.process_id, caller.user_id))
    }

    fn opened(&self) -> &Event<u32> {
        &self.opened
    }

    fn looked(&self) -> &Event<u32> {
        &self.looked
    }
}

/// Only `ada` may open the vault, and learn that it was opened.
fn policy(peer: &Peer, service: &str, member: &str) -> Result<(), &'static str> {
    let is_ada = peer.identity::<String>().is_some_and(|name| *name == "ada");
    match (service, member) {
        ("Vault", "open" | "drill" | "opened") if !is_ada => Err("only ada opens it"),
        _ => Ok(()),
    }
}

/// A server whose clients send their names as tokens, and a handle to what it has done.
async fn guarded(
    fixture: &Fixture,
    set: impl FnOnce(WitServerBuilder) -> WitServerBuilder,
) -> (WitServer, Guarded) {
    let vault = Guarded::default();
    let builder = fixture.server_builder().with_service(VaultServer::new(vault.clone()));
    let builder = builder.with_access_token_validator(|name: String| Ok::<_, String>(name));
    let server = set(builder).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    (server, vault)
}

async fn called(fixture: &Fixture, name: &'static str) -> WitClient {
    let builder = fixture.client_builder();
    let builder = builder.with_access_token_provider(move || async move { Ok(name) });
    let client = builder.build().unwrap();
    client.connect(GUARD).await.unwrap();
    client
}

fn is_refused(error: &Error, text: &str) {
    assert!(matches!(error, Error::Unauthorized(told) if told == text), "{error:?}");
    assert!(error.is_surely_not_executed());
}

async fn only_the_refused_call_fails(fixture: Arc<Fixture>) {
    let (_server, vault) = guarded(&fixture, |server| server.with_authorizer(policy)).await;
    let (ada, eve) = (called(&fixture, "ada").await, called(&fixture, "eve").await);
    let [adas, eves] = [&ada, &eve].map(WitClient::get_service::<VaultClient>);
    let waiting = tokio::spawn(async move { eves.wait().await });
    let eves: VaultClient = eve.get_service();
    for _ in 0..3 {
        is_refused(&eves.open().await.unwrap_err(), "Vault.open: only ada opens it");
        is_refused(&eves.drill().await.unwrap_err(), "Vault.drill: only ada opens it");
        assert_eq!(vault.executed.load(Ordering::SeqCst), 0);
        assert_eq!(eves.look().await.unwrap(), 1, "the connection goes on");
        assert_eq!(eve.get_service::<CalcClient>().add(1, 2).await.unwrap(), 3);
    }
    assert_eq!((adas.open().await.unwrap(), adas.drill().await.unwrap()), (2, 2));
    assert_eq!(vault.executed.load(Ordering::SeqCst), 2);
    assert!(!waiting.is_finished());
    waiting.abort();
}

async fn a_subscription_is_refused_like_a_call(fixture: Arc<Fixture>) {
    let (_server, _) = guarded(&fixture, |server| server.with_authorizer(policy)).await;
    let (ada, eve) = (called(&fixture, "ada").await, called(&fixture, "eve").await);
    let [adas, eves] = [&ada, &eve].map(WitClient::get_service::<VaultClient>);
    let (mut seen, mut hidden) = (eves.looked().subscribe(), eves.opened().subscribe());
    let mut opened = adas.opened().subscribe();
    let refused = hidden.next().await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("only ada opens it"), "{refused:?}");
    assert!(hidden.next().await.is_none(), "it has ended");
    adas.open().await.unwrap();
    assert_eq!(opened.next().await.unwrap().unwrap(), 2);
    eves.look().await.unwrap();
    assert_eq!(seen.next().await.unwrap().unwrap(), 1);
}

async fn an_authorizer_that_panics_refuses(fixture: Arc<Fixture>) {
    let (_server, vault) = guarded(&fixture, |server| {
        server.with_authorizer(|_, _, member| {
            assert_ne!(member, "open", "a secret detail");
            Ok::<_, String>(())
        })
    })
    .await;
    let eve = called(&fixture, "eve").await;
    let vaults: VaultClient = eve.get_service();
    let error = vaults.open().await.unwrap_err();
    is_refused(&error, "Vault.open: the authorizer panicked; see its program's log");
    assert_eq!((vaults.look().await.unwrap(), vault.executed.load(Ordering::SeqCst)), (1, 0));
}

async fn a_client_refuses_calls_of_its_server(fixture: Arc<Fixture>) {
    let (_server, _) = guarded(&fixture, |server| server).await;
    let builder = fixture.client_builder().with_service(VaultServer::new(Guarded::default()));
    let builder = builder.with_access_token_provider(|| async { Ok("eve") });
    let client = builder.with_authorizer(policy).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let vault: VaultClient = client.get_service();
    let error = vault.open_yours().await.unwrap_err();
    let text = "unauthorized: Vault.open: only ada opens it";
    assert!(matches!(&error, Error::Fault { message } if message == text), "{error:?}");
    assert_eq!(vault.open().await.unwrap(), 2, "of the server's own");
}

/// Those whose tokens are accepted.
#[derive(Clone, Default)]
struct Accepted(Arc<Mutex<Vec<&'static str>>>);

impl Accepted {
    fn check(&self, name: String) -> Result<String, String> {
        let is_accepted = self.0.lock().unwrap().contains(&name.as_str());
        if is_accepted { Ok(name) } else { Err(format!("{name} is a stranger")) }
    }
}

/// Why a client's connection has ended.
async fn reason(client: &WitClient) -> String {
    let vault: VaultClient = client.get_service();
    match vault.wait().await.unwrap_err() {
        Error::Closed { reason: CloseReason::Peer(reason), .. } => reason,
        Error::NotConnected { .. } => "it has ended".to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn a_token_that_is_withdrawn_ends_its_connections(fixture: Arc<Fixture>) {
    let accepted = Accepted(Arc::new(Mutex::new(vec!["ada", "eve"])));
    let validator = accepted.clone();
    let (server, _) = guarded(&fixture, |server| {
        server
            .with_access_token_validator(move |name: String| validator.check(name))
            .with_revalidation(Duration::from_millis(20))
    })
    .await;
    let (ada, eve) = (called(&fixture, "ada").await, called(&fixture, "eve").await);
    let waiting = {
        let eve = eve.clone();
        tokio::spawn(async move { reason(&eve).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.client_count(), 2, "they were accepted again");
    assert!(!waiting.is_finished());
    accepted.0.lock().unwrap().retain(|name| *name != "eve");
    let reason = waiting.await.unwrap();
    assert_eq!(reason, "the access token is no longer accepted: eve is a stranger");
    eventually("one is left", || server.client_count() == 1).await;
    assert_eq!(ada.get_service::<VaultClient>().look().await.unwrap(), 1);
    let again = eve.connect(GUARD).await.unwrap_err();
    assert!(
        matches!(&again, Error::Unauthorized(text) if text == "eve is a stranger"),
        "{again:?}"
    );
}

async fn a_validation_that_hangs_ends_its_connection(fixture: Arc<Fixture>) {
    let hangs = Arc::new(AtomicBool::new(false));
    let validator = Arc::clone(&hangs);
    let (server, _) = guarded(&fixture, |server| {
        server
            .with_access_token_validator(move |name: String| {
                let hangs = validator.load(Ordering::SeqCst);
                async move {
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, String>(name)
                }
            })
            .with_handshake_timeout(Duration::from_millis(300))
            .with_revalidation(Duration::from_millis(20))
    })
    .await;
    let ada = called(&fixture, "ada").await;
    hangs.store(true, Ordering::SeqCst);
    let reason = reason(&ada).await;
    assert_eq!(reason, "the access token is no longer accepted: its validation took too long");
    eventually("it has gone", || server.client_count() == 0).await;
}

async fn clients_are_disconnected_by_their_identity(fixture: Arc<Fixture>) {
    let (server, _) = guarded(&fixture, |server| server).await;
    let eves = [called(&fixture, "eve").await, called(&fixture, "eve").await];
    let ada = called(&fixture, "ada").await;
    let waiting = eves.clone().map(|eve| tokio::spawn(async move { reason(&eve).await }));
    eventually("both wait", || server.load().iter().filter(|load| load.handlers == 1).count() == 2)
        .await;
    assert_eq!(server.disconnect_identity(|_: &u32| true), 0, "an identity of another type");
    assert_eq!(server.disconnect_identity(|name: &String| name == "bob"), 0);
    assert_eq!(server.disconnect_identity(|name: &String| name == "eve"), 2);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), "the server has withdrawn its access");
    }
    eventually("one is left", || server.client_count() == 1).await;
    assert_eq!(ada.get_service::<VaultClient>().look().await.unwrap(), 1);
}

#[test]
fn what_cannot_be_revalidated_is_refused() {
    run(Flavor::CurrentThread, Fixture::memory(), |fixture| async move {
        let refused = |server: WitServerBuilder| match server.build().unwrap_err() {
            Error::Config { setting, .. } => assert_eq!(setting, "with_revalidation"),
            other => panic!("{other:?}"),
        };
        let server = || fixture.server_builder().with_encryption();
        refused(server().with_revalidation(GUARD));
        refused(server().with_access_token("token").with_revalidation(GUARD));
        let validated = server().with_access_token_validator(|_: String| Ok::<_, String>(()));
        refused(validated.with_revalidation(Duration::ZERO));
    });
}

#[test]
fn a_client_that_may_not_ask_for_the_services_is_told_so() {
    run(Flavor::CurrentThread, Fixture::memory(), |fixture| async move {
        let only_calc = |_: &Peer, service: &str, _: &str| {
            if service == "Calc" { Ok(()) } else { Err("nothing else") }
        };
        let server = fixture.server_builder().with_authorizer(only_calc).build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        assert_eq!(client.get_service::<CalcClient>().add(1, 2).await.unwrap(), 3);
        let error = client.describe().await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized(_)), "{error:?}");
    });
}

/// The child connects to the parent's endpoint, and each asks the system about the other.
#[cfg(target_os = "linux")]
#[test]
fn the_system_proves_the_process_and_the_user_of_each_side_of_an_endpoint() {
    use std::process::Command;

    const PLACE: &str = "WITRPC_TEST_AUTHORIZING";
    let user = Some(rustix::process::geteuid().as_raw());
    if let Some(place) = std::env::var_os(PLACE) {
        let place = place.into_string().unwrap();
        let (directory, parent) = place.rsplit_once(':').unwrap();
        let file = witrpc::MemoryMappedFile::new("proof").with_directory(directory);
        crate::fixture::runtime(Flavor::CurrentThread).block_on(async {
            let client = WitClientBuilder::new().with_memory_mapped_file(file).build().unwrap();
            assert!(client.peer().is_none());
            client.connect(GUARD).await.unwrap();
            let who = client.get_service::<VaultClient>().who().await.unwrap();
            assert_eq!(who, (Some(std::process::id()), user));
            let server = client.peer().unwrap().credentials();
            assert_eq!(server.process_id, Some(parent.parse().unwrap()));
            assert_eq!((server.user_id, server.group_id), (user, None));
            client.disconnect().await;
        });
        return;
    }
    let directory = crate::fixture::private_directory();
    let file = witrpc::MemoryMappedFile::new("proof").with_directory(directory.path());
    crate::fixture::runtime(Flavor::MultiThread).block_on(async {
        let vault = VaultServer::new(Guarded::default());
        let server = WitServerBuilder::new().with_service(vault).with_memory_mapped_file(file);
        let server = server.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = std::thread::current().name().unwrap().to_owned();
        let place = format!("{}:{}", directory.path().display(), std::process::id());
        command.args(["--exact", &name, "--nocapture"]).env(PLACE, place);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}
