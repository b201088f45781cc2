//! Target `session`: a whole server, or a whole client, from the handshake on, whose peer sends what it likes and reads
//! when it likes, while the program on top makes calls and raises events.
//!
//! What must hold: no panic; every frame that comes back is one; nothing follows a goodbye; what is held stays within
//! the limits, however little the peer reads; and once the peer is gone, nothing is left.

mod client;
mod peer;
mod server;

use tokio::runtime::Builder;

use super::input::Input;
use crate::client::WitClient;
use crate::options::Limits;

/// Small, so that every bound is met.
const LIMITS: Limits = Limits { max_message_size: 4000, max_buffered: 8000, max_in_flight: 4 };
/// Rounds of the runtime after which everything has settled.
const ROUNDS: usize = 200;

/// Runs a session as these bytes say.
///
/// # Panics
///
/// If the session does what it must not.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        if input.byte().is_multiple_of(2) {
            server::run(&mut input).await;
        } else {
            client::run(&mut input).await;
        }
    });
}

/// Lets the connection's tasks run.
async fn rounds(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Connects this client; its peer has said its part already.
async fn connected(client: &WitClient) -> bool {
    client.connect(std::time::Duration::from_secs(5)).await.is_ok()
}
