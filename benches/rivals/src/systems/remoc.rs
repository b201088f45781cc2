//! remoc's remote traits over a Unix socket.
//!
//! Its limits and buffers are raised so that a large payload crosses as one message, without a thread for serializing
//! it, and names are short on the wire, as its documentation advises.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use remoc::rtc::CallError;
use remoc::rtc::ServerShared as _;
use tokio::net::{UnixListener, UnixStream};

use crate::client::{Caller, Multiplexed};
use crate::system::{Endpoint, Ready, System};

pub(crate) struct Remoc;

/// What is called.
#[remoc::rtc::remote]
pub(crate) trait Bench: Sync {
    #[serde(rename = "_0")]
    async fn add(
        &self,
        #[serde(rename = "_0")] a: i32,
        #[serde(rename = "_1")] b: i32,
    ) -> Result<i32, CallError>;

    #[serde(rename = "_1")]
    async fn echo(&self, #[serde(rename = "_0")] payload: Bytes) -> Result<Bytes, CallError>;
}

struct Server;

impl Bench for Server {
    async fn add(&self, a: i32, b: i32) -> Result<i32, CallError> {
        Ok(a.wrapping_add(b))
    }

    async fn echo(&self, payload: Bytes) -> Result<Bytes, CallError> {
        Ok(payload)
    }
}

fn config() -> remoc::Cfg {
    let mut config = remoc::Cfg::default();
    config.max_data_size = 64 << 20;
    config.chunk_size = 256 << 10;
    config.io_buffer_size = 512 << 10;
    config.port_receive_buffer = 4 << 20;
    config
}

impl System for Remoc {
    type Client = Multiplexed<BenchClient>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let listener = UnixListener::bind(at.path("socket"))?;
        ready.tell("");
        let (reader, writer) = listener.accept().await?.0.into_split();
        let (connection, mut sender, _): (_, _, remoc::rch::base::Receiver<()>) =
            remoc::Connect::io(config(), reader, writer).await?;
        tokio::spawn(connection);
        let (server, mut client) = BenchServerShared::new(Arc::new(Server));
        raise(&mut client);
        sender.send(client).await.map_err(|e| anyhow::anyhow!("{e}"))?;
        server.serve().await.map_err(|e| anyhow::anyhow!("{e}"))
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let (reader, writer) = UnixStream::connect(at.path("socket")).await?.into_split();
        let (connection, _, mut receiver): (_, remoc::rch::base::Sender<()>, _) =
            remoc::Connect::io(config(), reader, writer).await?;
        tokio::spawn(connection);
        let mut client: BenchClient = receiver.recv().await?.context("the server has ended")?;
        raise(&mut client);
        Ok(Multiplexed(client))
    }
}

/// Its limits for single messages.
fn raise(client: &mut BenchClient) {
    use remoc::rtc::Client as _;
    client.set_max_request_size(64 << 20);
    client.set_max_response_size(64 << 20);
}

impl Caller for BenchClient {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(Bench::add(self, a, b).await?)
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        Ok(Bench::echo(self, payload.into()).await?.into())
    }
}
