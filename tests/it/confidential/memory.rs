//! Nothing is left of an access token in the memory of the processes that it went through, on either side. Client and server are in one
//! process here, which searches all of its writable memory: heap, freed blocks, stacks and regions.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use witrpc::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, Security, alone, eventually, run};
use crate::system::regions;

/// Longer than any chance, and shorter than what a hash function takes at a time: it could lie whole in its buffer.
const LEN: usize = 20;
/// Before and behind the marker: an allocator writes its own into the first bytes of what is freed.
const AROUND: usize = 64;
/// Behind the marker, such that the token takes several chunks.
const LONG: usize = 40_000;

/// What a token has in it. It is nowhere as it is: each byte is computed.
#[derive(Clone, Copy)]
struct Marker(u64);

impl Marker {
    fn new() -> Self {
        Self(fastrand::u64(..))
    }

    fn byte(self, at: usize) -> u8 {
        let mixed = (self.0 ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        b'a' + (mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as u8 % 26
    }

    fn is_at(self, bytes: &[u8]) -> bool {
        bytes.len() >= LEN && (0..LEN).all(|at| bytes[at] == self.byte(at))
    }

    /// A token, which never moves: the marker, between others.
    fn token(self, behind: usize) -> String {
        let mut token = String::with_capacity(AROUND + LEN + behind);
        token.extend(std::iter::repeat_n('-', AROUND));
        token.extend((0..LEN).map(|at| char::from(self.byte(at))));
        token.extend(std::iter::repeat_n('-', behind));
        token
    }

    /// Where it lies in the memory of this process.
    fn places(self) -> Vec<String> {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut buffer = Zeroizing::new(vec![0; 1 << 20]);
        let (mut found, mut seen) = (Vec::new(), 0);
        for mapping in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let (range, rest) = mapping.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let [mut from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
            while rest.starts_with("rw") && from < to {
                let len = buffer.len().min((to - from) as usize);
                let Ok(read) = memory.read_at(&mut buffer[..len], from) else { break };
                let is_there = |at: &usize| self.is_at(&buffer[*at..read]);
                found.extend((0..read).find(is_there).map(|_| mapping.to_owned()));
                seen += read;
                // The last bytes once more: they could be its first.
                from += if read < 2 * LEN { read.max(1) } else { read - LEN } as u64;
            }
        }
        assert!(seen > 1 << 20, "this is hardly all of it: {seen} bytes");
        found
    }
}

/// The control.
fn is_found_where_it_is(marker: Marker) {
    let mut planted = marker.token(AROUND);
    assert!(!marker.places().is_empty(), "it lies at {:p}", planted.as_ptr());
    planted.zeroize();
    assert_eq!(marker.places(), [""; 0]);
}

#[test]
fn of_a_token_that_was_sent_nothing_is_left() {
    if !alone() {
        return;
    }
    let marker = Marker::new();
    is_found_where_it_is(marker);
    for (behind, known) in [(AROUND, true), (LONG, true), (AROUND, false)] {
        let fixture = Fixture::mmf().secured(Security::Encrypted);
        run(Flavor::CurrentThread, fixture, |fixture| async move {
            let builder =
                fixture.server_builder().with_access_token_validator(move |token: String| {
                    let token = Zeroizing::new(token);
                    assert!(marker.is_at(&token.as_bytes()[AROUND..]));
                    if known { Ok(()) } else { Err("not today") }
                });
            let server = builder.build().unwrap();
            server.start_waiting_for_connection().await.unwrap();
            let builder = fixture.client_builder();
            let builder =
                builder.with_access_token_provider(move || async move { Ok(marker.token(behind)) });
            let client = builder.build().unwrap();
            let connected = client.connect(GUARD).await;
            assert_eq!(marker.places(), [""; 0], "as they are connected");
            if known {
                connected.unwrap();
                assert_eq!(client.get_service::<CalcClient>().add(1, 2).await.unwrap(), 3);
            } else {
                assert!(matches!(connected, Err(Error::Unauthorized(_))), "{connected:?}");
            }
        });
        assert_eq!(marker.places(), [""; 0], "afterwards");
    }
}

/// It is given up after one step of the runtime, two, and so on until it succeeds.
#[test]
fn of_a_token_whose_handshake_is_given_up_at_any_step_nothing_is_left() {
    if !alone() {
        return;
    }
    let marker = Marker::new();
    is_found_where_it_is(marker);
    let provided = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&provided);
    // The token does not fit into the ring.
    let fixture = Fixture::mmf_smallest().secured(Security::Encrypted);
    run(Flavor::CurrentThread, fixture, |fixture| async move {
        let builder = fixture.server_builder().with_access_token_validator(|token: String| async {
            let token = Zeroizing::new(token);
            tokio::task::yield_now().await;
            if token.len() > LONG { Ok(()) } else { Err("cut") }
        });
        let server = builder.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let builder = fixture.client_builder().with_access_token_provider(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { Ok(marker.token(LONG)) }
        });
        let client = builder.build().unwrap();
        for steps in 0.. {
            tokio::select! {
                biased;
                connected = client.connect(GUARD) => {
                    connected.unwrap();
                    break;
                }
                () = steps_of_the_runtime(steps) => {}
            }
            eventually("both sides have ended", || regions() == 0).await;
            assert_eq!(marker.places(), [""; 0], "given up after {steps} steps");
        }
        assert_eq!(marker.places(), [""; 0], "as they are connected");
    });
    assert!(provided.load(Ordering::Relaxed) > 2, "it was given up before it was sent");
    assert_eq!(marker.places(), [""; 0], "afterwards");
}

async fn steps_of_the_runtime(steps: usize) {
    for _ in 0..steps {
        tokio::task::yield_now().await;
    }
}

#[test]
fn of_a_token_that_is_never_sent_nothing_is_kept() {
    if !alone() {
        return;
    }
    let marker = Marker::new();
    is_found_where_it_is(marker);
    for security in [Security::None, Security::Encrypted] {
        run(Flavor::CurrentThread, Fixture::mmf().secured(security), |fixture| async move {
            let token = Zeroizing::new(marker.token(0));
            let server = fixture.server_builder().with_access_token(&*token);
            let client = fixture.client_builder().with_access_token(&*token);
            drop(token);
            assert_eq!(marker.places(), [""; 0], "in the builders");
            let (server, client) = (server.build().unwrap(), client.build().unwrap());
            server.start_waiting_for_connection().await.unwrap();
            client.connect(GUARD).await.unwrap();
            assert_eq!(marker.places(), [""; 0], "as they are connected");
        });
    }
}
