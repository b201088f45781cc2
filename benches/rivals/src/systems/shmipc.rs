//! shmipc: byte streams through shared memory, woken by an eventfd; no RPC layer.
//!
//! A message is its length in four bytes, and the bytes. The shared memory is in pieces that the payloads fit into; there
//! are few of the large ones, as they are used in turn, and so that they stay in the cache.

use std::os::unix::net::SocketAddr;

use anyhow::Result;
use shmipc::Listener;
use shmipc::config::{Config, SizePercentPair};
use shmipc::consts::MemMapType;
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::stream::Stream;
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};

use crate::client::{InOrder, Pipe};
use crate::system::{Endpoint, Ready, System};

pub(crate) struct Shmipc;

/// A request that is an addition; longer ones are echoes.
const SMALL: usize = 8;
/// Bytes of a message's length.
const LENGTH: usize = 4;

fn config() -> Config {
    let mut config = Config::default().with_v4_eventfd();
    config.mem_map_type = MemMapType::MemMapTypeMemFd;
    config.queue_cap = 65_536;
    config.share_memory_buffer_cap = 128 << 20;
    let pair = |size: u32, percent| SizePercentPair { size: size + 256, percent };
    config.buffer_slice_sizes =
        vec![pair(4 << 10, 2), pair(64 << 10, 2), pair(1 << 20, 4), pair(16 << 20, 92)];
    config
}

fn address(at: &Endpoint) -> Result<SocketAddr> {
    Ok(SocketAddr::from_pathname(at.path("socket"))?)
}

impl System for Shmipc {
    type Client = InOrder<Messages>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let mut listener = Listener::new(DefaultUnixListen, address(&at)?, config()).await?;
        ready.tell("");
        let mut messages = Messages { stream: listener.accept().await?, session: None };
        loop {
            let payload = messages.read().await?;
            match <[u8; SMALL]>::try_from(&*payload) {
                Ok([a, b, c, d, e, f, g, h]) => {
                    let (a, b) =
                        (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
                    messages.write(&a.wrapping_add(b).to_ne_bytes()).await?;
                }
                Err(_) => messages.write(&payload).await?,
            }
        }
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let sessions = SessionManagerConfig::new().with_config(config()).with_session_num(1);
        let session = SessionManager::new(sessions, DefaultUnixConnect, address(&at)?).await?;
        Ok(InOrder(Messages { stream: session.get_stream()?, session: Some(session) }))
    }
}

pub(crate) struct Messages {
    stream: Stream,
    /// Of a client, which lives as long as its stream.
    #[expect(dead_code, reason = "it is only held")]
    session: Option<SessionManager<DefaultUnixConnect>>,
}

impl Messages {
    /// The next one, where it lies in shared memory if it lies there in one piece.
    async fn read(&mut self) -> Result<bytes::Bytes> {
        let length = self.stream.read_exact_bytes(LENGTH).await?;
        let length = u32::from_ne_bytes(length[..].try_into()?) as usize;
        let payload = self.stream.read_exact_bytes(length).await?.into_bytes();
        Ok(payload)
    }

    async fn write(&mut self, payload: &[u8]) -> Result<()> {
        // In one piece, so that it can be read without being put together first.
        let message = self.stream.reserve(LENGTH + payload.len())?;
        message[..LENGTH].copy_from_slice(&u32::try_from(payload.len())?.to_ne_bytes());
        message[LENGTH..].copy_from_slice(payload);
        while let Err(error) = self.stream.flush(false).await {
            match error {
                shmipc::Error::QueueFull => tokio::task::yield_now().await,
                error => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Pipe for Messages {
    async fn ask(&mut self, a: i32, b: i32) -> Result<()> {
        let ([a, b, c, d], [e, f, g, h]) = (a.to_ne_bytes(), b.to_ne_bytes());
        self.write(&[a, b, c, d, e, f, g, h]).await
    }

    async fn answer(&mut self) -> Result<i32> {
        let answer = self.read().await?;
        Ok(i32::from_ne_bytes(answer[..].try_into()?))
    }

    async fn echo(&mut self, mut payload: Vec<u8>) -> Result<Vec<u8>> {
        self.write(&payload).await?;
        let answer = self.read().await?;
        payload.clear();
        payload.extend_from_slice(&answer);
        Ok(payload)
    }
}
