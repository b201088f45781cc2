//! Long messages: the memory that they are received into.

use witrpc::prelude::*;
use witrpc_runtime::reuse::kept;

use crate::fixture::{Fixture, Flavor, alone, block_on, eventually};
use crate::system::anonymous_kib;

/// Long enough for memory of its own, which nothing else is in.
const LONG: usize = 48 << 20;

#[witrpc::service]
trait Store {
    /// So many bytes like this one.
    async fn take(&self, len: usize, byte: u8) -> witrpc::Result<Blob>;
    /// What was put.
    async fn echo(&self, bytes: Blob) -> witrpc::Result<Blob>;
}

struct Full;

impl Store for Full {
    async fn take(&self, len: usize, byte: u8) -> witrpc::Result<Blob> {
        Ok(vec![byte; len].into())
    }

    async fn echo(&self, bytes: Blob) -> witrpc::Result<Blob> {
        Ok(bytes)
    }
}

async fn stocked(fixture: &Fixture) -> (WitServer, WitClient, StoreClient) {
    let builder = fixture.bare_server_builder().with_service(StoreServer::new(Full));
    let server = builder.build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let store = client.get_service();
    (server, client, store)
}

/// What the kernel says of the memory that this address is in. The last line of each mapping's has its flags.
fn mapping_of(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let is_ours = |line: &str| {
        let range = line.split(' ').next()?;
        let (begin, end) = range.split_once('-')?;
        let parse = |text| usize::from_str_radix(text, 16).ok();
        Some((parse(begin)?..parse(end)?).contains(&address))
    };
    let mut lines = maps.lines().skip_while(|line| is_ours(line) != Some(true));
    let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("the flags");
    flags.to_owned()
}

/// Whether there are large pages at a moment is the system's business; that it was asked for them is not.
#[test]
fn a_long_message_is_received_into_large_pages() {
    if !alone() {
        return;
    }
    let there_are = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    let fixture = Fixture::mmf();
    block_on(Flavor::CurrentThread, async {
        let (server, client, store) = stocked(&fixture).await;
        let blob = store.take(LONG, 7).await.unwrap();
        let flags = mapping_of(blob.as_ptr().addr() + LONG / 2);
        assert_eq!(flags.split(' ').any(|flag| flag == "hg"), there_are, "{flags}");
        assert_eq!(blob, vec![7; LONG].into());
        client.disconnect().await;
        server.stop_waiting_for_connection().await;
    });
}

/// Both sides are of this process, and so is what is kept.
#[test]
fn memory_of_long_messages_is_used_again_and_given_back() {
    const CALLS: u8 = 8;
    if !alone() {
        return;
    }
    let fixture = Fixture::mmf();
    block_on(Flavor::MultiThread, async {
        let (server, client, store) = stocked(&fixture).await;
        assert_eq!(store.take(1, 1).await.unwrap(), [1][..].into());
        let before = anonymous_kib();
        let held = store.take(LONG, 0).await.unwrap();
        for n in 1..=CALLS {
            // Each is somewhat shorter than what was there before it.
            let len = LONG - usize::from(n);
            let blob = store.take(len, n).await.unwrap();
            assert_eq!(blob, vec![n; len].into());
            assert_eq!(store.echo(blob).await.unwrap(), vec![n; len].into());
        }
        let (bytes, found) = kept();
        assert!(found >= u64::from(CALLS), "used again {found} times");
        assert!((LONG..=256 << 20).contains(&bytes), "{bytes} bytes are kept");
        assert_eq!(held, vec![0; LONG].into(), "what is held is not used again");
        drop(held);
        // The connection goes on, and nothing long comes.
        eventually("given back", || kept().0 == 0).await;
        assert_eq!(store.take(1, 1).await.unwrap(), [1][..].into());
        // What is not kept any more is freed by another thread, which takes its time.
        let stays = || anonymous_kib().saturating_sub(before);
        eventually("nothing has stayed", || stays() < (LONG >> 10) as u64 / 2).await;
        client.disconnect().await;
        server.stop_waiting_for_connection().await;
    });
}

/// What is kept goes with the runtime that drives the connection, whoever has the blob.
#[test]
fn a_blob_outlives_its_runtime_and_its_memory_is_kept_for_nobody() {
    if !alone() {
        return;
    }
    let fixture = Fixture::mmf();
    let blob = block_on(Flavor::CurrentThread, async {
        let (server, client, store) = stocked(&fixture).await;
        let blob = store.take(LONG, 3).await.unwrap();
        client.disconnect().await;
        server.stop_waiting_for_connection().await;
        blob
    });
    assert_eq!(kept().0, 0);
    assert_eq!(blob, vec![3; LONG].into());
    drop(blob);
    assert_eq!(kept().0, 0);
}
