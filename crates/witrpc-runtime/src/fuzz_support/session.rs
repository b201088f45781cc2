//! Target `session`: a whole server, or a whole client, from the handshake on, whose peer sends what it likes and reads
//! when it likes, while the program on top makes calls and raises events.
//!
//! What must hold: no panic; every frame that comes back is one; nothing follows a goodbye; all that is held stays within
//! the limits ([`bounds`]), however little the peer reads; what is allocated is on the account that the connection shows
//! ([`meter`]); and once the peer is gone, nothing is left.

mod bounds;
mod client;
mod meter;
mod peer;
mod server;

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use witrpc_core::fuzz_support::Input;
use witrpc_core::limits::Limits;

use crate::client::WitClient;
use crate::fuzz_support::rounds;
use crate::fuzz_support::session::meter::{Measure, Meter};
use crate::fuzz_support::session::peer::Peer;
use crate::streams::streaming::Streaming;

/// Small, so that every bound is met.
const LIMITS: Limits = Limits { max_message_size: 4000, max_buffered: 8000, max_in_flight: 4 };

/// Runs a session as these bytes say, and measures what its steps allocate.
///
/// # Panics
///
/// If the session does what it must not.
pub fn session(data: &[u8], measure: Measure) {
    let mut input = Input::new(data);
    let mut meter = Meter::new(measure);
    if input.byte() % 2 == 0 {
        server::run(&mut input, &mut meter);
    } else {
        client::run(&mut input, &mut meter);
    }
}

/// The peer sends frames of one kind, and gives the other side the time to take them.
async fn burst(peer: &mut Peer, input: &mut Input<'_>) {
    let kind = input.byte();
    // Those that meet the larger bounds take long.
    let count = if kind < 0x80 { input.byte().into() } else { usize::from(input.u16()) % 6000 };
    for number in 0..count {
        let mut patience = 8;
        while !peer.burst(kind, number) && patience > 0 {
            rounds(1).await;
            patience -= 1;
        }
    }
}

/// Reads up to so many items, and what comes first; returns whether there may be more.
fn read_some(stream: &mut Streaming<Vec<u8>>, count: usize) -> bool {
    for _ in 0..=count {
        match poll(pin!(stream.next())) {
            Poll::Ready(None) => return false,
            Poll::Ready(Some(_)) => {}
            Poll::Pending => break,
        }
    }
    true
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Connects this client; its peer has said its part already.
async fn connected(client: &WitClient) -> bool {
    client.connect(std::time::Duration::from_secs(5)).await.is_ok()
}
