//! witrpc, by its generated client and server.

use std::time::Duration;

use anyhow::Result;
use witrpc::prelude::*;

use crate::client::{Caller, Multiplexed};
use crate::system::{Endpoint, Ready, System};

/// What is called.
#[witrpc::service]
pub(crate) trait Echo {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    async fn echo(&self, payload: Blob) -> witrpc::Result<Blob>;
}

/// The server's side of it.
pub(crate) struct LocalEcho;

impl Echo for LocalEcho {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        Ok(a.wrapping_add(b))
    }

    async fn echo(&self, payload: Blob) -> witrpc::Result<Blob> {
        Ok(payload)
    }
}

/// Which settings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Witrpc {
    Json,
    MessagePack,
    Postcard,
    /// With postcard.
    Encrypted,
    /// With a thread of the server's for the client.
    JsonThread,
    PostcardThread,
}

/// For the largest payload of all scenarios.
const MAX_MESSAGE: u64 = 512 << 20;
const CONNECT: Duration = Duration::from_secs(5);

impl Witrpc {
    pub(crate) fn file(at: &Endpoint) -> MemoryMappedFile {
        let file = MemoryMappedFile::new("endpoint").with_directory(&at.directory);
        file.with_size(at.region).with_max_clients(at.clients)
    }

    pub(crate) fn server(self) -> WitServerBuilder {
        let builder = WitServerBuilder::new().with_max_message_size(MAX_MESSAGE);
        match self {
            Self::Json => builder.with_json(),
            Self::MessagePack => builder.with_message_pack(),
            Self::Postcard => builder.with_postcard(),
            Self::Encrypted => builder.with_postcard().with_encryption(),
            Self::JsonThread => builder.with_json().with_dedicated_threads(),
            Self::PostcardThread => builder.with_postcard().with_dedicated_threads(),
        }
    }

    pub(crate) fn client(self) -> WitClientBuilder {
        let builder = WitClientBuilder::new().with_max_message_size(MAX_MESSAGE);
        match self {
            Self::Json | Self::JsonThread => builder.with_json(),
            Self::MessagePack => builder.with_message_pack(),
            Self::Postcard | Self::PostcardThread => builder.with_postcard(),
            Self::Encrypted => builder.with_postcard().with_encryption(),
        }
    }

    /// A client that is connected.
    pub(crate) async fn connected(self, file: MemoryMappedFile) -> Result<WitClient> {
        let client = self.client().with_memory_mapped_file(file).build()?;
        client.connect(CONNECT).await?;
        Ok(client)
    }
}

impl System for Witrpc {
    type Client = Multiplexed<EchoClient>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let server = match at.in_flight {
            Some(calls) => self.server().with_max_in_flight(calls),
            None => self.server(),
        };
        let server = server
            .with_service(EchoServer::new(LocalEcho))
            .with_memory_mapped_file(Self::file(&at))
            .build()?;
        server.start_waiting_for_connection().await?;
        ready.tell("");
        std::future::pending().await
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        // A service's client keeps its connection.
        let client = self.connected(Self::file(&at)).await?;
        Ok(Multiplexed(client.get_service::<EchoClient>()))
    }
}

impl Caller for EchoClient {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(Self::add(self, a, b).await?)
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        Ok(Self::echo(self, payload.into()).await?.into_vec())
    }
}
