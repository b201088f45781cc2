//! What `fuzz/` runs, and `cargo test` replays over the corpus there, of what needs a runtime; see `fuzz_support` of `witrpc-core`.

mod handshake;
mod lending;
mod session;

pub use handshake::handshake;
pub use lending::lending;
pub use session::session;

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
