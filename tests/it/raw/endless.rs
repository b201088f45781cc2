//! A server's transport whose clients seem to go on after they have hung up: there is always one more record to read.
//!
//! With a real peer, the machine decides how fast it writes, so a server that reads as long as there is data would seem to stop in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::time::timeout;
use witrpc::Error;
use witrpc::transport::{
    BoxFuture, Channel, Listener, RecordReceiver, ServerTransport, TransportError, Waiter, Wake,
};

use super::client::Bystander;
use super::{CANCEL, Raw, WHOLE, frame};
use crate::fixture::{Fixture, Flavor, GUARD, run};

raw![who_has_stopped_reads_what_was_published_by_then];

/// What a client had published when it hung up; more than is read in one go.
const PUBLISHED: u64 = 10_000;
/// What it publishes in all: who does not stop comes to an end all the same, and the test to its verdict.
const ALL: u64 = 50 * PUBLISHED;

#[test]
fn of_a_client_that_hung_up_is_read_what_was_published_by_then() {
    run(Flavor::CurrentThread, Fixture::memory(), of_a_client_that_hung_up);
}

async fn of_a_client_that_hung_up(fixture: Arc<Fixture>) {
    let read = Arc::new(AtomicU64::new(0));
    let transport = Endless { inner: fixture.server_transport(), read: Arc::clone(&read) };
    let bystander = Bystander::new(&fixture, |builder| builder.with_transport(transport)).await;
    drop(Raw::open_client(&fixture).await);
    let mut turns = 0;
    let let_go = async {
        while bystander.server.client_count() > 1 {
            turns += u64::from((1..PUBLISHED).contains(&read.load(Ordering::Relaxed)));
            tokio::task::yield_now().await;
        }
    };
    timeout(GUARD / 2, let_go).await.expect("it is let go");
    assert_eq!(read.load(Ordering::Relaxed), PUBLISHED, "records of a client that had hung up");
    // The thread is the server's, too.
    assert!(turns > 10, "others had {turns} turns meanwhile");
    bystander.is_unharmed("a client that hung up").await;
}

/// What each transport promises for that.
async fn who_has_stopped_reads_what_was_published_by_then(fixture: Arc<Fixture>) {
    let transport = fixture.server_transport();
    let mut listener = transport.listen().await.unwrap();
    let (mut client, mut server) = tokio::join!(Raw::client(&fixture), Raw::server(&mut listener));
    for id in 0..3 {
        client.send(&frame(CANCEL, WHOLE, id, &[])).await;
    }
    server.channel.receiver.stop().unwrap();
    client.send(&frame(CANCEL, WHOLE, 3, &[])).await;
    assert!(server.channel.receiver.is_ready().unwrap());
    for id in 0..3 {
        assert_eq!(server.recv().await.unwrap().id, id);
        client.send(&frame(CANCEL, WHOLE, 4 + id, &[])).await;
    }
    assert!(!server.channel.receiver.is_ready().unwrap());
    assert!(!server.channel.receiver.arm().unwrap());
    drop(client);
    assert!(server.recv().await.is_none());
}

/// See the module.
#[derive(Debug)]
struct Endless {
    inner: Box<dyn ServerTransport>,
    /// Records that were read of clients which had hung up.
    read: Arc<AtomicU64>,
}

impl ServerTransport for Endless {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.inner.validate()
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async {
            let (inner, read) = (self.inner.listen().await?, Arc::clone(&self.read));
            Ok(Box::new(EndlessListener { inner, read }) as Box<dyn Listener>)
        })
    }
}

#[derive(Debug)]
struct EndlessListener {
    inner: Box<dyn Listener>,
    read: Arc<AtomicU64>,
}

impl Listener for EndlessListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async {
            let mut channel = self.inner.accept().await?;
            let gone = Arc::new(AtomicBool::new(false));
            channel.receiver = Box::new(EndlessReceiver {
                inner: channel.receiver,
                gone: Arc::clone(&gone),
                read: Arc::clone(&self.read),
                left: ALL,
                record: frame(CANCEL, WHOLE, 7, &[]),
            });
            channel.waiter = Box::new(Watcher { inner: channel.waiter, gone });
            Ok(channel)
        })
    }
}

/// Notes that its side has heard of the peer's going.
struct Watcher {
    inner: Box<dyn Waiter>,
    gone: Arc<AtomicBool>,
}

impl Waiter for Watcher {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        let woken = self.inner.poll_wake(cx);
        if matches!(woken, Poll::Ready(Ok(Wake::PeerGone))) {
            self.gone.store(true, Ordering::Relaxed);
        }
        woken
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        let Self { inner, gone } = *self;
        Ok(Box::new(Self { inner: inner.moved()?, gone }))
    }
}

/// The peer's records up to its going, and from then on one that means nothing, again and again.
struct EndlessReceiver {
    inner: Box<dyn RecordReceiver>,
    gone: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    /// Of those that are there by now, or will be.
    left: u64,
    record: Vec<u8>,
}

impl EndlessReceiver {
    fn goes_on(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl RecordReceiver for EndlessReceiver {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        if !self.goes_on() {
            return self.inner.peek(head);
        }
        let known = head.len().min(self.record.len());
        head[..known].copy_from_slice(&self.record[..known]);
        Ok((self.left > 0).then_some(self.record.len()))
    }

    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        if !self.goes_on() {
            return self.inner.append_to(from, len, out);
        }
        out.extend_from_slice(&self.record[from..from + len]);
    }

    fn consume(&mut self) {
        if !self.goes_on() {
            return self.inner.consume();
        }
        self.left -= 1;
        self.read.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&mut self) -> Result<(), TransportError> {
        self.inner.release()
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        if self.goes_on() { Ok(self.left > 0) } else { self.inner.is_ready() }
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        if self.goes_on() { Ok(self.left > 0) } else { self.inner.arm() }
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.left = self.left.min(PUBLISHED);
        Ok(())
    }

    fn worth_polling(&self) -> bool {
        false
    }
}
