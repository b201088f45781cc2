//! Peers that take nothing, keep to every rule, and have a server hold as much as it ever will: with subscriptions, with streams, with calls,
//! and with all of that. The server, in a process of its own, stays within the one bound that follows from `with_max_buffered`.

#![expect(clippy::print_stdout, reason = "what it has cost")]

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use witrpc::{MmfClientTransport, prelude::*};

use super::streams::{ECHO, ENDLESS, padded_item};
use super::subscriptions::{SAID, TICKED, subscribe};
use crate::events::TickerClient;
use crate::fixture::{Flavor, GUARD, block_on, private_directory};
use crate::peer::{Endpoint, Order, Peer};
use crate::raw::{ITEM_CREDIT, RESPONSE, Raw, STREAM_CREDIT, call_to, reference, stream_credit};

const MESSAGE: u64 = 2 << 20;
const BUFFERED: u64 = 64 << 20;
/// The bound that follows from it, as `docs/security.md` says.
const BOUND: u64 = BUFFERED + BUFFERED / 2;
/// What comes on top: entries of tables for 4096 subscriptions, 1024 calls and some thousand streams, the largest message of each kind,
/// the runtime and the allocator.
const CONSTANT: u64 = 16 << 20;
/// The parts of it that a peer has to know in order not to break a rule: what it may send that is kept, and what is kept for it.
const REQUESTS: u64 = BUFFERED / 8 * 3;
const ITEMS: u64 = BUFFERED / 16 * 5;

/// Subscriptions on a connection.
const SUBSCRIPTIONS: u64 = 4096;
/// Streams that are filled, and streams that the server is to fill.
const STREAMS: u64 = 900;
/// The size of an item, and of a request and its answer.
const LARGE: usize = 60_000;
/// A method that answers what it was sent.
const CALC_ECHO: (u16, u16) = (0, 2);
/// A window that bounds nothing.
const UNBOUNDED: u64 = u64::MAX;

/// What a peer takes.
#[derive(Clone, Copy, Debug)]
struct Greed {
    subscriptions: bool,
    streams: bool,
    calls: bool,
}

const NOTHING: Greed = Greed { subscriptions: false, streams: false, calls: false };

#[test]
fn subscriptions_that_are_not_read_stay_within_the_bound() {
    stays_within_the_bound(Greed { subscriptions: true, ..NOTHING });
}

#[test]
fn streams_that_are_not_read_stay_within_the_bound() {
    stays_within_the_bound(Greed { streams: true, ..NOTHING });
}

#[test]
fn calls_whose_answers_are_not_read_stay_within_the_bound() {
    stays_within_the_bound(Greed { calls: true, ..NOTHING });
}

#[test]
fn all_of_that_together_stays_within_the_bound() {
    stays_within_the_bound(Greed { subscriptions: true, streams: true, calls: true });
}

fn stays_within_the_bound(greed: Greed) {
    let directory = private_directory();
    block_on(Flavor::MultiThread, async {
        let mut server = Peer::host(directory.path(), Flavor::CurrentThread);
        server.order(Order::PanicIsDeath).await.unwrap();
        let endpoint = Endpoint {
            max_message_size: MESSAGE,
            max_buffered: Some(BUFFERED),
            ..Endpoint::default()
        };
        server.order(Order::Serve(endpoint.clone())).await.unwrap();
        let before = anonymous(&mut server).await;
        assert_eq!(server.order(Order::MemoryBound).await, Ok(BOUND));
        let attacked = attacked(&mut server, &endpoint, directory.path(), greed);
        let (most, account) = timeout(GUARD, attacked).await.expect("the server hangs");
        let grown = most - before;
        let [grown_mib, account_mib, bound] = [grown, account, BOUND].map(|bytes| bytes >> 20);
        println!("{greed:?}: {grown_mib} MiB; {account_mib} MiB on the account, of {bound} MiB");
        assert!(grown <= BOUND + CONSTANT, "{greed:?}: {grown} bytes");
        assert!(account <= BOUND + CONSTANT, "{greed:?}: {account} bytes");
        assert!(
            grown <= account + CONSTANT,
            "{greed:?}: {grown} bytes, and {account} on the account"
        );
        server.leaves().await;
    });
}

async fn anonymous(server: &mut Peer) -> u64 {
    server.order(Order::Anonymous).await.unwrap() << 10
}

/// Returns the memory of the server once it has grown as far as it does, and what is on its account.
async fn attacked(
    server: &mut Peer,
    endpoint: &Endpoint,
    directory: &Path,
    greed: Greed,
) -> (u64, u64) {
    let client = endpoint.client(directory);
    client.connect(GUARD).await.unwrap();
    let ticker: TickerClient = client.get_service();
    let file = MemoryMappedFile::new(&endpoint.name).with_directory(directory);
    let mut raw = Raw::open_greedy_client(&MmfClientTransport::new(file)).await;
    if greed.streams {
        fill_streams(&mut raw).await;
    }
    if greed.subscriptions {
        for id in 0..SUBSCRIPTIONS {
            let event = [TICKED, SAID][(id % 2) as usize];
            raw.send(&subscribe(id, event, 4096, UNBOUNDED)).await;
        }
        settles(server).await;
        // Large values, and small ones, for which what is kept beside them counts.
        ticker.say(4, LARGE).await.unwrap();
        ticker.tick(200).await.unwrap();
        ticker.say(4, LARGE).await.unwrap();
    }
    if greed.calls {
        let arguments = format!("[\"{}\"]", "a".repeat(LARGE));
        // Those whose answers fill the queue, and those that wait until there is room in it: until one more might be too much.
        let mut call = 10_000;
        while server.order(Order::Requests).await.unwrap() < REQUESTS - REQUESTS / 5 {
            for _ in 0..8 {
                raw.send(&call_to(CALC_ECHO, call, &arguments, &[])).await;
                call += 1;
            }
        }
    }
    let most = settles(server).await;
    let account = server.order(Order::Memory).await.unwrap();
    assert!(!raw.is_gone().await, "it has broken no rule");
    assert_eq!(server.order(Order::Clients).await, Ok(2), "it has broken no rule");
    client.disconnect().await;
    (most, account)
}

/// Writes streams that nobody reads, as much as there is credit for, and has others written that it does not read.
async fn fill_streams(raw: &mut Raw) {
    for call in 0..STREAMS {
        raw.send(&call_to(ECHO, call, &reference(0), &[call])).await;
    }
    // What may be sent of each stream: items and bytes; and of all together.
    let (mut left, mut credit) = (HashMap::<u64, (u64, u32, i64)>::new(), ITEMS);
    let mut back = 0;
    while let Ok(Some(frame)) = timeout(Duration::from_millis(500), raw.recv()).await {
        match frame.kind {
            // Then its reader looks for an item, and takes one.
            RESPONSE => {
                raw.send(&stream_credit(back, 1, 1)).await;
                back += 1;
            }
            ITEM_CREDIT => credit += frame.id,
            STREAM_CREDIT => {
                let stream = left.entry(frame.id).or_default();
                stream.1 += u32::from_le_bytes(frame.payload[..4].try_into().unwrap());
                stream.2 += i64::from_le_bytes(frame.payload[4..].try_into().unwrap());
            }
            _ => {}
        }
        for (id, (last, items, bytes)) in &mut left {
            while *items > 0 && *bytes > 0 && credit >= LARGE as u64 {
                *last += 1;
                *items -= 1;
                *bytes -= i64::try_from(LARGE).unwrap();
                credit -= LARGE as u64;
                raw.send(&padded_item(*id, *last, LARGE)).await;
            }
        }
    }
    assert!(credit < LARGE as u64, "{credit} bytes are left");
    for call in 0..STREAMS / 4 {
        raw.send(&call_to(ENDLESS, 20_000 + call, "[0]", &[])).await;
    }
    for stream in 0..STREAMS / 4 {
        raw.send(&stream_credit(STREAMS + stream, u32::MAX, UNBOUNDED)).await;
    }
}

/// Waits until the server's memory grows no more; returns how much it is.
async fn settles(server: &mut Peer) -> u64 {
    let (mut most, mut still) = (0, 0);
    while still < 10 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let now = anonymous(server).await;
        still = if now > most { 0 } else { still + 1 };
        most = most.max(now);
    }
    most
}
