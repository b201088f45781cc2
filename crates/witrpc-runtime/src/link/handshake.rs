//! Drives the handshake: four messages over a channel that nothing else uses yet.
//!
//! The bodies are in [`handshake`](witrpc_core::wire::handshake), the keys in [`cipher`](witrpc_core::security::cipher). This module
//! waits and reads the clock. Its result is the two halves of an open session.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use crate::locks;
use tokio::time::timeout;
use witrpc_core::fail_point;
use witrpc_core::limits::{Limits, Pool};
use witrpc_core::security::authorization::{
    ClientAuthorization, Identity, Recheck, ServerAuthorization,
};
use witrpc_core::security::cipher::{Encryptor, KeyAgreement, Role};
use witrpc_core::session::inbound::{Inbound, Incoming};
use witrpc_core::session::ledger::Ledger;
use witrpc_core::session::outbound::{Outbound, Outgoing, Pumped};
use witrpc_core::text::{Escaped, Rounded};
use witrpc_core::transport::{Channel, PeerProof, ServerTerms, Waiter, Wake};
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::frame::Kind;
use witrpc_core::wire::handshake::Refusal;
use witrpc_core::wire::handshake::Scheme;
use witrpc_core::wire::handshake::{
    Accept, Confirm, FEATURES, Hello, NONCE_LEN, Terms, WIRE_VERSION, Welcome, clock_offset,
    common_features,
};
use witrpc_core::wire::message::HEAD_LEN;
use witrpc_core::{CloseReason, Error};
use zeroize::Zeroizing;

/// One side's settings for all its handshakes.
#[derive(Debug)]
pub(crate) struct Setup<A: ?Sized> {
    pub(crate) codec: Codec,
    pub(crate) encryptor: Arc<dyn Encryptor>,
    pub(crate) authorization: Arc<A>,
    pub(crate) limits: Limits,
}

impl<A: ?Sized> Setup<A> {
    fn terms(&self, scheme: Scheme) -> Terms {
        Terms {
            serializer: self.codec.name().to_owned(),
            cipher: self.encryptor.name().to_owned(),
            authorization: scheme.name().to_owned(),
        }
    }
}

impl Setup<dyn ServerAuthorization> {
    /// The terms of this server, as `endpoints()` lists them.
    pub(crate) fn server_terms(&self) -> ServerTerms {
        let Terms { serializer, cipher, authorization } = self.terms(self.authorization.scheme());
        ServerTerms::new(serializer, cipher, authorization)
    }
}

/// An open session, and what the handshake yielded about the peer.
pub(crate) struct Opened {
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) peer_limits: Limits,
    pub(crate) peer_catalog: Catalog,
    /// The features in force. [wire.features]
    pub(crate) features: Vec<String>,
    /// The offset from our clock to the peer's; `None` if the two share no clock.
    pub(crate) clock_offset: Option<u64>,
    /// The peer's identity, if a validator returned one.
    pub(crate) identity: Option<Identity>,
    /// Asks the validator about the peer's token again.
    pub(crate) recheck: Option<Recheck>,
}

/// The client's side of the handshake.
pub(crate) async fn connect(
    channel: ChannelHalves<'_>,
    setup: &Setup<dyn ClientAuthorization>,
    catalog: &Catalog,
) -> Result<Opened, Error> {
    let clock = channel.clock;
    let mut driver = HandshakeDriver::new(channel, setup.limits, false);
    let mut hello = Hello {
        version: WIRE_VERSION,
        clock: clock(),
        nonce: random()?,
        terms: setup.terms(setup.authorization.scheme()),
        features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        key: Vec::new(),
    };
    let mut prologue = Vec::new();
    hello.encode_prologue(&mut prologue);
    let secret = setup.authorization.secret();
    let mut agreement =
        setup.encryptor.begin(Role::Client, &prologue, secret).map_err(incompatible)?;
    agreement.write(&mut hello.key).map_err(incompatible)?;
    let mut transcript = Vec::new();
    hello.encode(&mut transcript);
    driver.send(Kind::Hello, 0, &transcript).await?;
    fail_point::at("hello.sent");

    let received = driver.receive(Kind::Accept).await?;
    fail_point::at("accept.taken");
    let accept = Accept::decode(received.body())?;
    if common_features(FEATURES, &accept.features) != accept.features {
        return Err(Error::Protocol("the server chose a feature that was not offered".to_owned()));
    }
    transcript.extend_from_slice(received.body());
    agreement.read(&accept.key).map_err(|e| Error::Unauthorized(e.to_string()))?;
    driver.secure(agreement)?;
    let offset = clock_offset(hello.clock, accept.clock, clock());

    let proof = setup.authorization.proof(&transcript).await?;
    let confirm = Confirm {
        limits: setup.limits,
        clock_offset: offset.unwrap_or(0).wrapping_neg(),
        proof,
        catalog: catalog.clone(),
    };
    let mut body = Zeroizing::new(Vec::new());
    confirm.encode(&mut body);
    driver.send(Kind::Confirm, 0, &body).await?;
    fail_point::at("confirm.sent");

    let received = driver.receive(Kind::Welcome).await?;
    fail_point::at("welcome.taken");
    let welcome = Welcome::decode(received.body())?;
    setup.authorization.verify(&transcript, &welcome.proof)?;
    Ok(driver.open(welcome.limits, welcome.catalog, accept.features, offset))
}

/// The server's side of the handshake, within `patience`. `on_hello` is called once the client's first frame has arrived.
///
/// If this fails, the client is told why: a client without an answer would take the server for dead, and try again.
pub(crate) async fn accept(
    channel: ChannelHalves<'_>,
    setup: &Setup<dyn ServerAuthorization>,
    catalog: &Catalog,
    patience: Duration,
    on_hello: impl FnOnce(),
) -> Result<Opened, Error> {
    let clock = channel.clock;
    let mut driver = HandshakeDriver::new(channel, setup.limits, true);
    let answering = answer(&mut driver, clock, setup, catalog, on_hello);
    let answered = timeout(patience, answering).await.unwrap_or_else(|_| {
        let patience = Rounded(patience);
        let late = format!("the handshake took longer than {patience} (with_handshake_timeout)");
        Err(Error::Closed { reason: CloseReason::Failed(late), maybe_executed: false })
    });
    match answered {
        Ok(Answered { confirm, shares_clock, features, identity, recheck }) => {
            let Confirm { limits, clock_offset, catalog, .. } = confirm;
            let clock_offset = shares_clock.then_some(clock_offset);
            let opened = driver.open(limits, catalog, features, clock_offset);
            Ok(Opened { identity, recheck, ..opened })
        }
        Err(error) => {
            driver.leave(&error);
            Err(error)
        }
    }
}

/// What a client's messages have yielded.
struct Answered {
    confirm: Confirm,
    shares_clock: bool,
    features: Vec<String>,
    identity: Option<Identity>,
    recheck: Option<Recheck>,
}

/// Answers a client's messages.
async fn answer(
    driver: &mut HandshakeDriver<'_>,
    clock: fn() -> u64,
    setup: &Setup<dyn ServerAuthorization>,
    catalog: &Catalog,
    on_hello: impl FnOnce(),
) -> Result<Answered, Error> {
    let received = driver.receive(Kind::Hello).await?;
    fail_point::at("hello.taken");
    on_hello();
    let hello = match Hello::decode(received.body())? {
        Ok(hello) => hello,
        Err(refusal) => return Err(driver.refuse(refusal).await),
    };
    if let Err(refusal) = setup.terms(setup.authorization.scheme()).accept(&hello.terms) {
        return Err(driver.refuse(refusal).await);
    }
    let mut transcript = received.body().to_vec();
    drop(received);
    // The body ends with the key, after its length.
    let prologue = &transcript[..transcript.len() - hello.key.len() - 4];
    let secret = setup.authorization.secret();
    let mut agreement =
        setup.encryptor.begin(Role::Server, prologue, secret).map_err(incompatible)?;
    if let Err(error) = agreement.read(&hello.key) {
        return Err(driver.refuse(Refusal::Unauthorized(error.to_string())).await);
    }
    let mut key = Vec::new();
    agreement.write(&mut key).map_err(incompatible)?;
    let mut body = Vec::new();
    let shares_clock = hello.clock != 0;
    let clock = if shares_clock { clock() } else { 0 };
    let features = common_features(FEATURES, &hello.features);
    let accept = Accept { clock, nonce: random()?, features, key };
    accept.encode(&mut body);
    driver.send(Kind::Accept, 0, &body).await?;
    fail_point::at("accept.sent");
    transcript.extend_from_slice(&body);
    driver.secure(agreement)?;

    let received = driver.receive(Kind::Confirm).await?;
    fail_point::at("confirm.taken");
    let confirm = Confirm::decode(received.body())?;
    drop(received);
    let granted = match setup.authorization.check(&transcript, confirm.proof.as_bytes()).await {
        Ok(granted) => granted,
        Err(text) => return Err(driver.refuse(Refusal::Unauthorized(text)).await),
    };
    let mut body = Vec::new();
    Welcome { limits: setup.limits, proof: granted.proof, catalog: catalog.clone() }
        .encode(&mut body);
    driver.send(Kind::Welcome, 0, &body).await?;
    fail_point::at("welcome.sent");
    let (identity, recheck) = (granted.identity, granted.recheck);
    let features = accept.features;
    Ok(Answered { confirm, shares_clock: clock != 0, features, identity, recheck })
}

fn random() -> Result<[u8; NONCE_LEN], Error> {
    let mut nonce = [0; NONCE_LEN];
    match getrandom::fill(&mut nonce) {
        Ok(()) => Ok(nonce),
        Err(error) => Err(Error::io(
            "getting random bytes from the system",
            &std::io::Error::other(error.to_string()),
        )),
    }
}

fn incompatible(error: witrpc_core::security::cipher::CipherError) -> Error {
    Error::Incompatible(error.to_string())
}

/// The parts of a channel that a handshake needs.
pub(crate) struct ChannelHalves<'a> {
    pub(crate) sender: Box<dyn witrpc_core::transport::RecordSender>,
    pub(crate) receiver: Box<dyn witrpc_core::transport::RecordReceiver>,
    pub(crate) waiter: &'a mut dyn Waiter,
    pub(crate) clock: fn() -> u64,
}

impl<'a> ChannelHalves<'a> {
    /// Takes a channel apart: the halves for the handshake, and the rest for later.
    pub(crate) fn split(channel: Channel, waiter: &'a mut Option<Box<dyn Waiter>>) -> (Self, Rest) {
        let Channel { sender, receiver, waiter: own, .. } = channel;
        let rest = Rest {
            proof: own.peer_proof(),
            peer_process_id: channel.peer_process_id,
            clock: channel.clock,
            wait_strategy: channel.wait_strategy,
            on_first_frame: channel.on_first_frame,
            lease: channel.lease,
        };
        let waiter = waiter.insert(own).as_mut();
        (Self { sender, receiver, waiter, clock: rest.clock }, rest)
    }
}

/// The parts of a channel that a handshake does not need.
pub(crate) struct Rest {
    pub(crate) proof: Option<Arc<dyn PeerProof>>,
    pub(crate) peer_process_id: Option<u32>,
    pub(crate) clock: fn() -> u64,
    pub(crate) wait_strategy: witrpc_core::transport::WaitStrategy,
    pub(crate) on_first_frame: Box<dyn FnOnce() + Send>,
    pub(crate) lease: Box<dyn std::any::Any + Send + Sync>,
}

/// A message that has arrived. It is wiped when it is dropped, as a confirm may contain a token.
struct Received {
    /// `head | body`.
    bytes: Zeroizing<Vec<u8>>,
    body_len: usize,
}

impl Received {
    fn new(content: Content) -> Self {
        let body_len = content.body().len();
        Self { bytes: Zeroizing::new(content.into_buffer()), body_len }
    }

    fn body(&self) -> &[u8] {
        self.bytes.get(HEAD_LEN..HEAD_LEN + self.body_len).unwrap_or_default()
    }
}

/// Sends and receives the messages of a handshake, one at a time.
struct HandshakeDriver<'a> {
    inbound: Inbound,
    outbound: Outbound,
    ledger: Arc<Ledger>,
    waiter: &'a mut dyn Waiter,
    peer_gone: bool,
    /// The client has been refused, and gets no goodbye.
    refused: bool,
}

impl<'a> HandshakeDriver<'a> {
    fn new(channel: ChannelHalves<'a>, limits: Limits, from_client: bool) -> Self {
        let ledger = Ledger::new(Pool::ALL.map(|pool| limits.credit_batch(pool)));
        Self {
            inbound: Inbound::new(channel.receiver, limits, Arc::clone(&ledger), from_client),
            outbound: Outbound::new(channel.sender, Arc::clone(&ledger)),
            ledger,
            waiter: channel.waiter,
            peer_gone: false,
            refused: false,
        }
    }

    /// Seals and opens all further frames, if the agreement gives keys.
    fn secure(&mut self, agreement: Box<dyn KeyAgreement>) -> Result<(), Error> {
        let pair = agreement.finish().map_err(|e| Error::Unauthorized(e.to_string()))?;
        if let Some(pair) = pair {
            self.outbound.seal_with(pair.sealer);
            self.inbound.open_with(pair.opener);
        }
        Ok(())
    }

    async fn send(&mut self, kind: Kind, selector: u16, body: &[u8]) -> Result<(), Error> {
        let content = Content::plain(Vec::new(), body);
        self.outbound.push(Outgoing::new(kind, 0, content, (selector, 0, 0), None))?;
        loop {
            match self.outbound.pump(true)? {
                Pumped::Done => return Ok(()),
                Pumped::More => {}
                Pumped::Full => self.wait().await?,
            }
        }
    }

    async fn receive(&mut self, wanted: Kind) -> Result<Received, Error> {
        loop {
            let incoming = self.inbound.receive()?;
            match incoming {
                Some(Incoming::Handshake { kind, head, content }) => {
                    let received = Received::new(content);
                    self.inbound.receiver.release()?;
                    return match kind {
                        kind if kind == wanted => Ok(received),
                        Kind::Refuse => Err(Refusal::decode(head.selector, received.body())),
                        _ => Err(Error::Protocol("an unexpected handshake message".to_owned())),
                    };
                }
                Some(Incoming::Part) => self.inbound.receiver.release()?,
                Some(Incoming::Goodbye(reason)) => {
                    let reason = CloseReason::Peer(reason);
                    return Err(Error::Closed { reason, maybe_executed: false });
                }
                Some(_) => {
                    return Err(Error::Protocol(
                        "another frame before the end of the handshake".to_owned(),
                    ));
                }
                None if self.inbound.receiver.arm()? => {}
                None => {
                    self.wait().await?;
                    self.inbound.receiver.disarm();
                }
            }
        }
    }

    /// Sleeps until the peer notifies this side. What the peer published before it went can still be read, once.
    async fn wait(&mut self) -> Result<(), Error> {
        if self.peer_gone {
            let reason = CloseReason::PeerGone;
            return Err(Error::Closed { reason, maybe_executed: false });
        }
        // A client connects in a task of the user's, and a transport within one process wakes it from under our locks.
        let wake = poll_fn(|cx| {
            let waker = locks::putting_off(cx.waker().clone());
            self.waiter.poll_wake(&mut Context::from_waker(&waker))
        });
        let wake = wake.await?;
        self.peer_gone = wake == Wake::PeerGone;
        Ok(())
    }

    /// Tells the client why it is refused. Returns the error for our own log.
    async fn refuse(&mut self, refusal: Refusal) -> Error {
        self.refused = true;
        let (code, text) = refusal.encode();
        if let Err(error) = self.send(Kind::Refuse, code, text.as_bytes()).await {
            return error;
        }
        refusal.into()
    }

    /// Says goodbye to a client whose handshake has failed. Tries once only, as the client may not read.
    fn leave(&mut self, error: &Error) {
        if self.peer_gone || self.refused {
            return;
        }
        self.outbound.clear();
        let goodbye = match error {
            Error::Closed { reason: CloseReason::Failed(text), .. } => text.clone(),
            error => error.to_string(),
        };
        self.outbound.push_goodbye(&goodbye);
        if let Err(error) = self.outbound.pump(true) {
            tracing::debug!(error = %Escaped(&error), "could not send a goodbye");
        }
    }

    fn open(
        mut self,
        peer_limits: Limits,
        peer_catalog: Catalog,
        features: Vec<String>,
        clock_offset: Option<u64>,
    ) -> Opened {
        self.inbound.open();
        self.outbound.open(&peer_limits);
        Opened {
            inbound: self.inbound,
            outbound: self.outbound,
            ledger: self.ledger,
            peer_limits,
            peer_catalog,
            features,
            clock_offset,
            identity: None,
            recheck: None,
        }
    }
}
