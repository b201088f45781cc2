//! D-Bus without a bus: zbus, peer to peer over a Unix socket.

use anyhow::Result;
use serde_bytes::ByteBuf;
use tokio::net::{UnixListener, UnixStream};
use zbus::connection::Builder;

use crate::client::{Caller, Multiplexed};
use crate::system::{Endpoint, Ready, System};

pub(crate) struct Zbus;

const PATH: &str = "/bench";

struct Server;

#[zbus::interface(name = "rivals.Bench", proxy(visibility = "pub(crate)"))]
impl Server {
    async fn add(&self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    async fn echo(&self, payload: ByteBuf) -> ByteBuf {
        payload
    }
}

impl System for Zbus {
    type Client = Multiplexed<ServerProxy<'static>>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let listener = UnixListener::bind(at.path("socket"))?;
        ready.tell("");
        let _connection = Builder::unix_stream(listener.accept().await?.0.into_std()?)
            .server(zbus::Guid::generate())
            .p2p()
            .serve_at(PATH, Server)
            .build()
            .await?;
        std::future::pending().await
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let stream = UnixStream::connect(at.path("socket")).await?;
        let connection = Builder::unix_stream(stream.into_std()?).p2p().build().await?;
        let proxy = ServerProxy::builder(&connection)
            .destination("rivals.Bench")
            .path(PATH)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Multiplexed(proxy))
    }
}

impl Caller for ServerProxy<'static> {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(Self::add(self, a, b).await?)
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        Ok(Self::echo(self, ByteBuf::from(payload)).await?.into_vec())
    }
}
