//! What `fuzz/` runs, and `cargo test` replays over the corpus there, of what needs a runtime; see `fuzz_support` of `witrpc-core`.

mod handshake;
mod lending;
mod session;

pub use handshake::handshake;
pub use lending::lending;
pub use session::session;

use crate::server::WitServer;

/// Rounds of the runtime after which everything has settled.
const ROUNDS: usize = 200;

/// Lets the connection's tasks run.
async fn rounds(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Lets them run until this is so, or everything has settled.
async fn rounds_until(is_so: impl Fn() -> bool) {
    for _ in 0..ROUNDS {
        if is_so() {
            break;
        }
        rounds(1).await;
    }
}

/// The server notices that its only client is gone.
async fn client_is_gone(server: &WitServer) {
    rounds_until(|| server.client_count() == 0).await;
    assert_eq!(server.client_count(), 0, "its client is gone");
}

#[cfg(test)]
mod tests {
    use witrpc_core::fuzz_support::corpus::replay;

    #[test]
    fn handshake() {
        replay("handshake", super::handshake);
    }

    #[test]
    fn lending() {
        replay("lending", super::lending);
    }

    #[test]
    fn session() {
        replay("session", |data| {
            super::session(data, |step| allocation_counter::measure(step).bytes_current);
        });
    }
}
