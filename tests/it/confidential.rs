//! What can be read in a region while a connection lives. With encryption, the region never holds an argument, result, error, event or
//! blob; it never holds a token, encrypted or not. Also: what is left of a token in the memory of a process.

#[cfg(target_os = "linux")]
mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use witrpc::prelude::*;
use witrpc::{Blob, Error};

use crate::fixture::{Fixture, Flavor, GUARD, Security, TOKEN, run};
use crate::raw::REQUEST;
use crate::spy::Region;

const ARGUMENT: &str = "#witness of an argument";
const RESULT: &str = "#witness of a result";
const FAULT: &str = "#witness of an error";
const EVENT: &str = "#witness of an event";
const BLOB: &str = "#witness of a blob";
const SENT_TOKEN: &str = "#witness of a token that is sent";
const MARKERS: [&str; 5] = [ARGUMENT, RESULT, FAULT, EVENT, BLOB];

/// Looks through the region this many times at least.
const LOOKS: usize = 60;

#[witrpc::service]
pub(crate) trait Vault {
    async fn store(&self, text: String) -> witrpc::Result<()>;
    async fn reveal(&self) -> witrpc::Result<String>;
    async fn fails(&self) -> witrpc::Result<()>;
    async fn copy(&self, picture: Blob) -> witrpc::Result<Blob>;
    async fn tell(&self) -> witrpc::Result<()>;
    #[event]
    fn told(&self) -> &Event<String>;
}

#[derive(Default)]
struct Safe {
    told: Event<String>,
}

impl Vault for Safe {
    async fn store(&self, text: String) -> witrpc::Result<()> {
        assert_eq!(text, ARGUMENT);
        Ok(())
    }

    async fn reveal(&self) -> witrpc::Result<String> {
        Ok(RESULT.to_owned())
    }

    async fn fails(&self) -> witrpc::Result<()> {
        Err(Error::fault(FAULT))
    }

    async fn copy(&self, picture: Blob) -> witrpc::Result<Blob> {
        Ok(picture)
    }

    async fn tell(&self) -> witrpc::Result<()> {
        self.told.raise(EVENT.to_owned())
    }

    fn told(&self) -> &Event<String> {
        &self.told
    }
}

#[test]
fn in_clear_everything_but_the_token_can_be_read() {
    let fixture = Fixture::mmf_with(|file| file.with_size(64 << 10)).secured(Security::Token);
    run(Flavor::MultiThread, fixture, |fixture| async move {
        let found = observed(&fixture, |server| server, |client| client).await;
        assert_eq!(found, MARKERS, "else this test could not fail");
    });
}

#[test]
fn encrypted_nothing_can_be_read() {
    for security in [Security::Encrypted, Security::EncryptedWithToken] {
        let fixture = Fixture::mmf_with(|file| file.with_size(64 << 10)).secured(security);
        run(Flavor::MultiThread, fixture, |fixture| async move {
            assert_eq!(observed(&fixture, |server| server, |client| client).await, [""; 0]);
        });
    }
}

#[test]
fn a_token_that_is_sent_cannot_be_read() {
    let fixture = Fixture::mmf_with(|file| file.with_size(64 << 10)).secured(Security::Encrypted);
    run(Flavor::MultiThread, fixture, |fixture| async move {
        let found = observed(
            &fixture,
            |server| {
                server.with_access_token_validator(|token: String| {
                    if token == SENT_TOKEN { Ok(()) } else { Err("another") }
                })
            },
            |client| client.with_access_token_provider(|| async { Ok(SENT_TOKEN) }),
        )
        .await;
        assert_eq!(found, [""; 0]);
    });
}

/// What one connection sends says nothing of the next, though both sides have the same token and say the same.
#[test]
fn each_connection_has_keys_of_its_own() {
    let fixture = Fixture::mmf().secured(Security::EncryptedWithToken);
    run(Flavor::MultiThread, fixture, |fixture| async move {
        let builder = fixture.bare_server_builder().with_service(VaultServer::new(Safe::default()));
        let server = builder.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for _ in 0..3 {
            let (client, found) = fixture.spied_client();
            client.connect(GUARD).await.unwrap();
            let vault = client.get_service::<VaultClient>();
            for _ in 0..5 {
                vault.store(ARGUMENT.to_owned()).await.unwrap();
            }
            client.disconnect().await;
            let records = found.records();
            assert!(records.len() > 6, "a hello, a confirm and five calls");
            let requests = records.into_iter().filter(|record| record[0] == REQUEST);
            // All but the headers, which are in clear.
            let requests: Vec<_> = requests.map(|record| record[16..].to_vec()).collect();
            assert_eq!(requests.len(), 5);
            assert!(requests.iter().all(|request| request.len() == requests[0].len()));
            frames.extend(requests);
        }
        for (at, frame) in frames.iter().enumerate() {
            // Sixteen bytes that two keystreams have in common by chance: once in 2^128.
            let same = |other: &Vec<u8>| {
                other.chunks_exact(16).zip(frame.chunks_exact(16)).any(|(a, b)| a == b)
            };
            assert!(!frames[..at].iter().any(same), "frame {at}");
        }
    });
}

/// The markers that lay in the region at any time.
async fn observed(
    fixture: &Fixture,
    server: impl FnOnce(WitServerBuilder) -> WitServerBuilder,
    client: impl FnOnce(WitClientBuilder) -> WitClientBuilder,
) -> Vec<&'static str> {
    let builder = fixture.bare_server_builder().with_service(VaultServer::new(Safe::default()));
    let server = server(builder).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let (builder, spied) = fixture.spied_client_builder();
    let client = client(builder).build().unwrap();
    let vault = client.get_service::<VaultClient>();
    let mut told = vault.told().subscribe();
    let over = Arc::new(AtomicBool::new(false));
    // From before the first record on.
    let looking = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let region = loop {
                if let Some(region) = spied.region() {
                    break region;
                }
                std::thread::yield_now();
            };
            look(&region, &over)
        }
    });
    client.connect(GUARD).await.unwrap();
    let mut rounds = 0;
    while !looking.is_finished() {
        vault.store(ARGUMENT.to_owned()).await.unwrap();
        assert_eq!(vault.reveal().await.unwrap(), RESULT);
        assert_eq!(vault.fails().await.unwrap_err().to_string(), FAULT);
        let picture = Blob::from(BLOB.repeat(500).into_bytes());
        assert_eq!(vault.copy(picture.clone()).await.unwrap(), picture);
        vault.tell().await.unwrap();
        assert_eq!(told.next().await.unwrap().unwrap(), EVENT);
        rounds += 1;
        if rounds == 20 {
            over.store(true, Ordering::Relaxed);
        }
    }
    looking.join().unwrap()
}

/// Looks until it is over, and as often as is to be.
fn look(region: &Region, over: &AtomicBool) -> Vec<&'static str> {
    let mut found = [false; MARKERS.len()];
    let mut looks = 0;
    while looks < LOOKS || !over.load(Ordering::Relaxed) {
        let bytes = region.read_all();
        for (marker, found) in MARKERS.iter().zip(&mut found) {
            *found |= contains(&bytes, marker);
        }
        for token in [TOKEN, SENT_TOKEN] {
            assert!(!contains(&bytes, token), "the token lies in the region");
        }
        looks += 1;
    }
    let used = region.read_all()[4096..].iter().filter(|byte| **byte != 0).count();
    assert!(used > 10_000, "this is the region that was used");
    MARKERS.into_iter().zip(found).filter(|(_, found)| *found).map(|(marker, _)| marker).collect()
}

fn contains(bytes: &[u8], marker: &str) -> bool {
    let marker = marker.as_bytes();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == marker[0]) {
        rest = &rest[at..];
        if rest.starts_with(marker) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
