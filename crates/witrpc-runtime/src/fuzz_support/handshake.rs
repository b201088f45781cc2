//! Target `handshake`: an honest client and an honest server, and between them somebody who changes, drops, repeats,
//! cuts and invents records. Either may also be one that knows the keys, and lies in what it seals.
//!
//! What must hold: both come to an end, without a panic; left alone they agree; who agrees on keys is not content once the
//! hello has been changed, and who proves that it knows a token not once the accept has been, or with another scheme.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Builder;
use witrpc_core::Error;
use witrpc_core::contract::introspection;
use witrpc_core::contract::route::catalog_of;
use witrpc_core::fuzz_support::Input;
use witrpc_core::limits::Limits;
use witrpc_core::security::authorization::{
    ClientAuthorization, ServerAuthorization, StaticToken, TokenProvider, TokenValidator,
    WithoutAuthorization,
};
use witrpc_core::security::cipher::{
    CipherError, CipherPair, Encryptor, KeyAgreement, NoiseEncryptor, PlainEncryptor, Role, Sealer,
    Secret,
};
use witrpc_core::session::inbound::Incoming;
use witrpc_core::testing::lock;
use witrpc_core::testing::{Message, Pipe, PipeReceiver, PipeSender};
use witrpc_core::transport::TransportError;
use witrpc_core::transport::{Waiter, Wake};
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::frame::{HEADER_LEN, Header, Kind};
use witrpc_core::wire::message::HEAD_LEN;

use crate::link::handshake::{ChannelHalves, Opened, Setup, accept, connect};

const LIMITS: Limits = Limits { max_message_size: 5000, max_buffered: 10_000, max_in_flight: 4 };
/// So that a record is a kilobyte at most, and a longer message is cut.
const CAPACITY: usize = 4096;

/// Carries a handshake out as these bytes say; zeros leave it alone.
///
/// # Panics
///
/// If the handshake hangs, or ends as it must not.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    let client = Scheme::of(input.byte());
    let server = match input.byte() {
        other @ 0xE0.. => Scheme::of(other),
        _ => client,
    };
    let lies: VecDeque<_> = (0..input.below(4)).map(|_| (input.len(600), input.byte())).collect();
    let honest = lies.iter().all(|(_, change)| *change == 0);
    let (client_lies, server_lies) =
        if input.byte() % 2 == 0 { (lies, VecDeque::new()) } else { (VecDeque::new(), lies) };
    let client_setup = client.setup(client_lies, client.client());
    let server_setup = server.setup(server_lies, server.server());
    let catalog = catalog(input.below(40));

    let mut there = Direction::default();
    let mut back = Direction::default();
    let (mut client_waiter, mut server_waiter) = (FakeWaiter::default(), FakeWaiter::default());
    let waiters = [client_waiter.clone(), server_waiter.clone()];
    let offered = Catalog::default();
    let connecting = connect(halves(&there, &back, &mut client_waiter), &client_setup, &offered);
    // The deadline needs a timer, which never gets a turn: here nobody waits for anything.
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let halves_there = halves(&back, &there, &mut server_waiter);
    let accepting = accept(halves_there, &server_setup, &catalog, Duration::MAX, || ());
    let (mut connecting, mut accepting) = (pin!(connecting), pin!(accepting));
    let (mut at_client, mut at_server) = (None, None);
    while at_client.is_none() || at_server.is_none() {
        step(&mut at_client, connecting.as_mut());
        step(&mut at_server, accepting.as_mut());
        let moved = there.carry(&mut input) | back.carry(&mut input);
        for waiter in &waiters {
            let mut signals = lock(&waiter.0);
            assert!(
                moved || !signals.gone || at_client.is_some() || at_server.is_some(),
                "it hangs"
            );
            signals.notified = moved;
            signals.gone |= !moved;
        }
    }
    let (Some(at_client), Some(at_server)) = (at_client, at_server) else { return };
    // The agreement on keys binds the hello, and a token all that was said.
    let unseen = |scheme: Scheme| {
        scheme != Scheme::Plain && there.changed
            || scheme.proves() && (back.changed || client != server)
    };
    assert!(!unseen(client) || at_client.is_err(), "another server, or changed unseen");
    assert!(!unseen(server) || at_server.is_err(), "another client, or changed unseen");
    let left_alone = honest && !there.tampered && !back.tampered;
    if left_alone {
        let ends = [at_client.as_ref().err(), at_server.as_ref().err()];
        assert!(ends.iter().all(|end| end.is_none() == (client == server)), "{ends:?}");
    }
    if let (Ok(mut at_client), Ok(mut at_server)) = (at_client, at_server) {
        talk(&mut at_client, &mut at_server, &mut there, left_alone);
    }
}

/// What both sides bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Plain,
    Token,
    Sealed,
    SealedToken,
    SealedSentToken,
}

impl Scheme {
    const fn of(byte: u8) -> Self {
        // A key agreement takes a hundred times as long as all the rest.
        match byte % 16 {
            0..=5 => Self::Plain,
            6..=11 => Self::Token,
            12 => Self::Sealed,
            13..=14 => Self::SealedToken,
            _ => Self::SealedSentToken,
        }
    }

    const fn proves(self) -> bool {
        matches!(self, Self::Token | Self::SealedToken)
    }

    fn setup<A: ?Sized>(self, lies: VecDeque<(usize, u8)>, authorization: Arc<A>) -> Setup<A> {
        let encryptor: Arc<dyn Encryptor> = match self {
            Self::Plain | Self::Token => Arc::new(PlainEncryptor),
            _ => Arc::new(Liar { truth: NoiseEncryptor::new(), lies: Arc::new(Mutex::new(lies)) }),
        };
        Setup { codec: Codec::Json, encryptor, authorization, limits: LIMITS }
    }

    fn client(self) -> Arc<dyn ClientAuthorization> {
        match self {
            Self::Plain | Self::Sealed => Arc::new(WithoutAuthorization),
            Self::Token | Self::SealedToken => Arc::new(StaticToken::new("token")),
            Self::SealedSentToken => Arc::new(TokenProvider::new(|| async { Ok("token") })),
        }
    }

    fn server(self) -> Arc<dyn ServerAuthorization> {
        match self {
            Self::Plain | Self::Sealed => Arc::new(WithoutAuthorization),
            Self::Token | Self::SealedToken => Arc::new(StaticToken::new("token")),
            Self::SealedSentToken => Arc::new(TokenValidator::new(|token: String| {
                if token == "token" { Ok(()) } else { Err("another") }
            })),
        }
    }
}

/// A catalog that may be longer than a record.
fn catalog(copies: usize) -> Catalog {
    let descriptors = std::iter::repeat_n(&introspection::DESCRIPTOR, copies + 1);
    catalog_of(descriptors)
}

fn step<F: Future<Output = Result<Opened, Error>>>(
    outcome: &mut Option<F::Output>,
    future: Pin<&mut F>,
) {
    if outcome.is_none() {
        if let Poll::Ready(done) = future.poll(&mut Context::from_waker(Waker::noop())) {
            *outcome = Some(done);
        }
    }
}

/// A request crosses what they agreed on.
fn talk(client: &mut Opened, server: &mut Opened, there: &mut Direction, left_alone: bool) {
    let message = Message {
        selector: 1,
        member: 2,
        stamp: 3,
        marker: 5,
        body: vec![7; 2000],
        blobs: vec![Bytes::from(vec![8; 100])],
    };
    client.outbound.push(message.outgoing(Kind::Request, 9)).expect("it is the first");
    let mut arrived = None;
    for _ in 0..10 {
        let Ok(_) = client.outbound.pump(true) else { break };
        there.carry(&mut Input::new(&[]));
        loop {
            match server.inbound.receive() {
                Ok(Some(Incoming::Request { head, content, .. })) => {
                    arrived = Some(Message::arrived(&head, &content));
                }
                Ok(Some(_)) => server.inbound.check(),
                Ok(None) => break,
                Err(error) => {
                    return assert!(!left_alone, "{error:?}");
                }
            }
        }
    }
    if left_alone {
        assert_eq!(arrived, Some(message));
    }
}

/// From one side to the one between, and on to the other.
#[derive(Default)]
struct Direction {
    sent: Arc<Mutex<Pipe>>,
    arriving: Arc<Mutex<Pipe>>,
    /// Something was not passed on as it was, or was added.
    tampered: bool,
    /// The bytes of its hello or its accept are others than were sent.
    changed: bool,
}

impl Direction {
    /// Passes records on; returns whether there were any.
    fn carry(&mut self, input: &mut Input<'_>) -> bool {
        let mut moved = false;
        loop {
            let Some(record) = lock(&self.sent).pop() else { break };
            moved = true;
            self.pass(record, input);
        }
        // Once a while something comes without having been sent.
        if input.byte() == 0xFF {
            let record = input.take(64).to_vec();
            self.add(record);
            return true;
        }
        moved
    }

    fn pass(&mut self, mut record: Vec<u8>, input: &mut Input<'_>) {
        let honest = record.clone();
        match input.byte() {
            0xC0..=0xCF => {
                let at = input.len(record.len());
                record[at] ^= input.byte();
            }
            0xD0..=0xD7 => {
                let at = input.len(record.len());
                let most = record.len() - at;
                let new = input.piece();
                let new = &new[..new.len().min(most)];
                record[at..at + new.len()].copy_from_slice(new);
            }
            0xD8..=0xDF => {
                let kept = input.len(record.len());
                record.truncate(kept);
            }
            0xE0..=0xE7 => record.extend_from_slice(input.take(8)),
            0xE8..=0xEB => {
                self.tampered = true;
                return;
            }
            0xEC..=0xEF => self.add(record.clone()),
            0xF0..=0xF7 => {
                if let Some([first, second]) = cut(&record, input) {
                    lock(&self.arriving).push(first);
                    return lock(&self.arriving).push(second);
                }
            }
            0xF8..=0xFF => {
                let kind = [0x01, 0x02, 0x03, 0x04, 0x05, 0x23, 0x10, 0x21][input.below(8)];
                let payload = input.piece();
                let len = u32::try_from(payload.len()).unwrap_or(0);
                let mut made = Header::whole(Kind::Ping, 0, len).encode().to_vec();
                made[0] = kind;
                made.extend_from_slice(payload);
                self.add(made);
            }
            _ => {}
        }
        self.tampered |= record != honest;
        let body = HEADER_LEN + HEAD_LEN;
        if matches!(honest[0], 0x01 | 0x02) && record.get(body..) != honest.get(body..) {
            self.changed = true;
        }
        lock(&self.arriving).push(record);
    }

    fn add(&mut self, record: Vec<u8>) {
        self.tampered = true;
        lock(&self.arriving).push(record);
    }
}

/// The same message in two chunks, which nobody minds before frames are sealed.
fn cut(record: &[u8], input: &mut Input<'_>) -> Option<[Vec<u8>; 2]> {
    let header = Header::decode(record.first_chunk()?).ok()?;
    let payload = &record[HEADER_LEN..];
    let in_clear = matches!(header.kind, Kind::Hello | Kind::Accept) && header.first;
    if !in_clear || payload.len() < HEAD_LEN + 2 {
        return None;
    }
    let (first, second) = payload.split_at(HEAD_LEN + 1 + input.len(payload.len() - HEAD_LEN - 1));
    let chunk = |payload: &[u8], first, last| {
        let len = u32::try_from(payload.len()).unwrap_or(0);
        [&Header { len, first, last, ..header }.encode(), payload].concat()
    };
    Some([chunk(first, true, false), chunk(second, false, header.last)])
}

fn halves<'a>(out: &Direction, into: &Direction, waiter: &'a mut FakeWaiter) -> ChannelHalves<'a> {
    let pipe = Arc::clone(&out.sent);
    let sender = PipeSender { pipe, capacity: CAPACITY, batch: Vec::new() };
    let receiver = PipeReceiver { pipe: Arc::clone(&into.arriving), current: None };
    ChannelHalves {
        sender: Box::new(sender),
        receiver: Box::new(receiver),
        waiter,
        clock: || 1_000_000,
    }
}

/// What wakes one side.
#[derive(Clone, Default)]
struct FakeWaiter(Arc<Mutex<Signals>>);

#[derive(Default)]
struct Signals {
    notified: bool,
    gone: bool,
}

impl Waiter for FakeWaiter {
    fn poll_wake(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        let mut signals = lock(&self.0);
        if std::mem::take(&mut signals.notified) {
            return Poll::Ready(Ok(Wake::Rung));
        }
        if signals.gone { Poll::Ready(Ok(Wake::PeerGone)) } else { Poll::Pending }
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        Ok(self)
    }
}

/// A side that changes what it says before it seals it.
#[derive(Debug)]
struct Liar {
    truth: NoiseEncryptor,
    lies: Lies,
}

/// For each frame in turn, a place in it and what to change there.
type Lies = Arc<Mutex<VecDeque<(usize, u8)>>>;

impl Encryptor for Liar {
    fn name(&self) -> &str {
        self.truth.name()
    }

    fn begin(
        &self,
        role: Role,
        prologue: &[u8],
        secret: Option<&Secret>,
    ) -> Result<Box<dyn KeyAgreement>, CipherError> {
        let agreement = self.truth.begin(role, prologue, secret)?;
        Ok(Box::new(LyingAgreement { agreement, lies: Arc::clone(&self.lies) }))
    }
}

struct LyingAgreement {
    agreement: Box<dyn KeyAgreement>,
    lies: Lies,
}

impl KeyAgreement for LyingAgreement {
    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), CipherError> {
        self.agreement.write(out)
    }

    fn read(&mut self, message: &[u8]) -> Result<(), CipherError> {
        self.agreement.read(message)
    }

    fn finish(self: Box<Self>) -> Result<Option<CipherPair>, CipherError> {
        let Some(CipherPair { sealer, opener }) = self.agreement.finish()? else {
            return Ok(None);
        };
        let sealer = Box::new(LyingSealer { sealer, lies: self.lies });
        Ok(Some(CipherPair { sealer, opener }))
    }
}

struct LyingSealer {
    sealer: Box<dyn Sealer>,
    lies: Lies,
}

impl Sealer for LyingSealer {
    fn overhead(&self) -> usize {
        self.sealer.overhead()
    }

    fn seal(&mut self, header: &[u8], payload: &mut Vec<u8>) -> Result<(), CipherError> {
        if let Some((at, change)) = lock(&self.lies).pop_front() {
            if let Some(byte) = payload.get_mut(at) {
                *byte ^= change;
            }
        }
        self.sealer.seal(header, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both sides came to, and all that crossed, as it was sent.
    type Outcome = (Result<Opened, Error>, Result<Opened, Error>, Vec<Vec<u8>>);

    /// Carries a handshake out with somebody between the two, who may change each record.
    fn carried_out(scheme: Scheme, mut change: impl FnMut(&mut Vec<u8>)) -> Outcome {
        let setups = (
            scheme.setup(VecDeque::new(), scheme.client()),
            scheme.setup(VecDeque::new(), scheme.server()),
        );
        let (there, back, catalog) = (Direction::default(), Direction::default(), catalog(0));
        let (mut client_waiter, mut server_waiter) = (FakeWaiter::default(), FakeWaiter::default());
        let waiters = [client_waiter.clone(), server_waiter.clone()];
        let connecting = connect(halves(&there, &back, &mut client_waiter), &setups.0, &catalog);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let halves_there = halves(&back, &there, &mut server_waiter);
        let accepting = accept(halves_there, &setups.1, &catalog, Duration::MAX, || ());
        let (mut connecting, mut accepting) = (pin!(connecting), pin!(accepting));
        let (mut at_client, mut at_server, mut seen) = (None, None, Vec::new());
        while at_client.is_none() || at_server.is_none() {
            step(&mut at_client, connecting.as_mut());
            step(&mut at_server, accepting.as_mut());
            let before = seen.len();
            for direction in [&there, &back] {
                while let Some(mut record) = lock(&direction.sent).pop() {
                    seen.push(record.clone());
                    change(&mut record);
                    lock(&direction.arriving).push(record);
                }
            }
            for waiter in &waiters {
                let mut signals = lock(&waiter.0);
                signals.notified = seen.len() > before;
                signals.gone |= seen.len() == before;
            }
        }
        (at_client.unwrap(), at_server.unwrap(), seen)
    }

    const HELLO: u8 = 0x01;
    const ACCEPT: u8 = 0x02;
    const CONFIRM: u8 = 0x03;
    const WELCOME: u8 = 0x04;

    /// The places in the body of the hello or the accept whose change neither side notices.
    fn unnoticed(scheme: Scheme, kind: u8) -> Vec<usize> {
        let body = HEADER_LEN + HEAD_LEN;
        let (at_client, at_server, seen) = carried_out(scheme, |_| ());
        assert!(at_client.is_ok() && at_server.is_ok(), "{scheme:?}, left alone");
        let len = seen.iter().find(|record| record[0] == kind).unwrap().len() - body;
        assert!(len > 40, "a clock and a nonce at least");
        let is_unnoticed = |at: &usize| {
            let (at_client, at_server, _) = carried_out(scheme, |record| {
                if record[0] == kind {
                    record[body + at] ^= 1;
                }
            });
            assert_eq!(at_client.is_ok(), at_server.is_ok(), "{scheme:?}: byte {at} of {kind:?}");
            at_client.is_ok()
        };
        (0..len).filter(is_unnoticed).collect()
    }

    #[test]
    fn keys_bind_the_hello_and_a_token_the_accept_too() {
        for scheme in [Scheme::Token, Scheme::Sealed, Scheme::SealedToken, Scheme::SealedSentToken]
        {
            assert_eq!(unnoticed(scheme, HELLO), [0; 0], "{scheme:?}");
        }
        for scheme in [Scheme::Token, Scheme::SealedToken] {
            assert_eq!(unnoticed(scheme, ACCEPT), [0; 0], "{scheme:?}");
        }
        // The server's clock and its nonce, which has a meaning with a static token only.
        for scheme in [Scheme::Sealed, Scheme::SealedSentToken] {
            assert_eq!(unnoticed(scheme, ACCEPT), Vec::from_iter(0..40), "{scheme:?}");
        }
    }

    #[test]
    fn the_confirm_and_the_welcome_are_sealed_with_all_names_and_limits() {
        let contains = |record: &[u8], what: &[u8]| record.windows(what.len()).any(|w| w == what);
        let limits = LIMITS.max_message_size.to_le_bytes();
        for (scheme, in_clear) in [(Scheme::Plain, true), (Scheme::Sealed, false)] {
            let (_, _, seen) = carried_out(scheme, |_| ());
            for kind in [CONFIRM, WELCOME] {
                let record = seen.iter().find(|record| record[0] == kind).unwrap();
                for what in [introspection::DESCRIPTOR.name.as_bytes(), &limits] {
                    assert_eq!(contains(record, what), in_clear, "{scheme:?}, {kind:?}: {what:?}");
                }
            }
        }
    }
}
