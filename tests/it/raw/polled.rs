//! A server that answers while its client polls for the answer: then it need not notify the client.
//!
//! The server is simulated by the client's own transport, which answers after it has been polled for a while. So each answer arrives during a
//! poll, whatever else the machine does. A polling client yields now and then, and may be notified just then; a real server that is slow,
//! or a slow system, would mostly meet that.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use witrpc::transport::{BoxFuture, Channel, ClientTransport, RecordReceiver, TransportError};
use witrpc::{Error, WaitStrategy, WitClientBuilder};

use super::server::real_welcome;
use super::{FIRST, Head, LAST, MIDDLE, RESPONSE, Raw, WHOLE, frame};
use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, run};
use crate::spy::Spy;

const CALLS: usize = 50;
/// Looks for the answer before it is there: more than whoever does not poll may take.
const LOOKS: usize = 20;

/// Of however many records that is made up. On one thread, so that the driver has its turn when the caller has had its own.
#[test]
fn an_answer_that_is_polled_for_does_not_notify() {
    run(Flavor::CurrentThread, Fixture::mmf(), answers_are_polled_for);
}

async fn answers_are_polled_for(fixture: Arc<Fixture>) {
    let welcome = real_welcome().await;
    let mut listener = fixture.server_transport().listen().await.unwrap();
    let server = Arc::new(Mutex::new(Server::default()));
    let transport = Polled { inner: fixture.client_transport(), server: Arc::clone(&server) };
    let (spy, found) = Spy::new(Box::new(transport), None);
    let client = WitClientBuilder::new().with_transport(spy).build().unwrap();
    let (connected, raw) =
        tokio::join!(client.connect(GUARD), Raw::open_server(&mut listener, &welcome));
    connected.unwrap();
    server.lock().unwrap().raw = Some(raw);
    let calc = client.get_service::<CalcClient>();
    for records in [1, 5] {
        server.lock().unwrap().records = records;
        let before = found.notifications();
        for _ in 0..CALLS {
            assert_eq!(calc.add(1, 1).await.unwrap(), 2);
            // Each notification is noticed by itself; there may be a thread in between.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let notifications = found.notifications() - before;
        assert!(
            notifications < CALLS / 10,
            "{notifications} notifications in {CALLS} calls of {records} records"
        );
    }
    server.lock().unwrap().raw = None;
    client.disconnect().await;
}

/// The other end, which answers when it is told to.
#[derive(Debug, Default)]
struct Server {
    raw: Option<Raw>,
    /// Of an answer.
    records: usize,
    /// How often somebody has looked for it.
    looks: usize,
}

impl Server {
    /// Somebody has looked for an answer.
    fn is_looked_at(&mut self) -> Result<(), TransportError> {
        let Some(raw) = &mut self.raw else { return Ok(()) };
        if !raw.channel.receiver.is_ready()? {
            return Ok(());
        }
        self.looks += 1;
        if self.looks == LOOKS {
            self.looks = 0;
            answer(raw, self.records)?;
        }
        Ok(())
    }
}

/// Takes a request, and publishes the records of the answer one after the other.
fn answer(raw: &mut Raw, records: usize) -> Result<(), TransportError> {
    let mut header = [0; 16];
    let receiver = &mut raw.channel.receiver;
    assert!(receiver.peek(&mut header)?.is_some());
    receiver.consume();
    receiver.release()?;
    if header[0] != super::REQUEST {
        return Ok(());
    }
    let id = u64::from_le_bytes(header[8..].try_into().unwrap());
    let body = format!("{}2", " ".repeat(records - 1));
    let whole = Head::of(body.as_bytes()).with(body.as_bytes());
    let (first, rest) = whole.split_at(whole.len() - records + 1);
    for at in 0..records {
        let flags = match at {
            0 if records == 1 => WHOLE,
            0 => FIRST,
            _ if at + 1 == records => LAST,
            _ => MIDDLE,
        };
        let payload = if at == 0 { first } else { &rest[at - 1..at] };
        let sender = &mut raw.channel.sender;
        assert!(sender.try_push(&frame(RESPONSE, flags, id, payload), &[], 0)?);
        sender.publish()?;
    }
    Ok(())
}

/// See the module.
#[derive(Debug)]
struct Polled {
    inner: Box<dyn ClientTransport>,
    server: Arc<Mutex<Server>>,
}

impl ClientTransport for Polled {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.inner.validate()
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async move {
            let mut channel = self.inner.connect(deadline).await?;
            let (inner, server) = (channel.receiver, Arc::clone(&self.server));
            channel.receiver = Box::new(PolledReceiver { inner, server });
            channel.wait_strategy = WaitStrategy::Spin(GUARD);
            Ok(channel)
        })
    }
}

struct PolledReceiver {
    inner: Box<dyn RecordReceiver>,
    server: Arc<Mutex<Server>>,
}

impl RecordReceiver for PolledReceiver {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        self.inner.peek(head)
    }

    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        self.inner.append_to(from, len, out);
    }

    fn consume(&mut self) {
        self.inner.consume();
    }

    fn release(&mut self) -> Result<(), TransportError> {
        self.inner.release()
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        self.server.lock().unwrap().is_looked_at()?;
        self.inner.is_ready()
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        self.inner.arm()
    }

    fn expect(&mut self) {
        self.inner.expect();
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.inner.stop()
    }

    /// As of a server on another CPU.
    fn worth_polling(&self) -> bool {
        true
    }
}
