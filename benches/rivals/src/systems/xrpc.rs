//! xrpc-rs over its shared memory.

use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use xrpc::{
    MessageChannelAdapter, RpcClient, RpcServer, SharedMemoryConfig, SharedMemoryFrameTransport,
};

use crate::client::{Caller, Multiplexed};
use crate::system::{Endpoint, Ready, System};

pub(crate) struct Xrpc;

/// The largest payload has to fit.
const BUFFER: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Numbers {
    a: i32,
    b: i32,
}

type Channel = MessageChannelAdapter<SharedMemoryFrameTransport>;

impl System for Xrpc {
    type Client = Multiplexed<Client>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let config = SharedMemoryConfig::default().with_buffer_size(BUFFER);
        let transport = SharedMemoryFrameTransport::create_server(at.name(), config)?;
        let server = RpcServer::new();
        server.register_typed("add", |n: Numbers| async move { Ok(n.a.wrapping_add(n.b)) });
        server.register_typed("echo", |payload: ByteBuf| async move { Ok(payload) });
        ready.tell("");
        server.serve(Arc::new(MessageChannelAdapter::new(transport))).await?;
        Ok(())
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let config = SharedMemoryConfig::default().with_buffer_size(BUFFER);
        let transport = SharedMemoryFrameTransport::connect_client_with_config(at.name(), config)?;
        let client = RpcClient::new(MessageChannelAdapter::new(transport));
        let handle = client.try_start()?;
        tokio::spawn(handle.join());
        Ok(Multiplexed(Client(Arc::new(client))))
    }
}

#[derive(Clone)]
pub(crate) struct Client(Arc<RpcClient<Channel>>);

impl Caller for Client {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(self.0.call("add", &Numbers { a, b }).await?)
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        let answer: ByteBuf = self.0.call("echo", &ByteBuf::from(payload)).await?;
        Ok(answer.into_vec())
    }
}
