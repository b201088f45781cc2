//! tarpc over a Unix socket, with bincode or JSON.
//!
//! Bytes are `serde_bytes`, which bincode copies as a whole where it would take a `Vec<u8>` byte for byte.

use anyhow::Result;
use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::server::{BaseChannel, Channel};
use tarpc::{client, context, serde_transport};
use tokio::net::{UnixListener, UnixStream};
use tokio_serde::formats::{Bincode, Json};
use tokio_util::codec::LengthDelimitedCodec;

use crate::client::{Caller, Multiplexed};
use crate::scenario::Scenario;
use crate::system::{Endpoint, Ready, System};

/// How values cross.
#[derive(Clone, Copy)]
pub(crate) enum Tarpc {
    Bincode,
    Json,
}

/// JSON has bytes as a list of numbers, which nobody would send.
pub(crate) fn json_excuse(scenario: Scenario) -> Option<&'static str> {
    matches!(scenario, Scenario::Echo(_) | Scenario::BesideBulk)
        .then_some("bytes are no business of JSON's")
}

const MAX_FRAME: usize = 1 << 30;

#[tarpc::service]
pub(crate) trait Bench {
    async fn add(a: i32, b: i32) -> i32;
    async fn echo(payload: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Server;

impl Bench for Server {
    async fn add(self, _: context::Context, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    async fn echo(self, _: context::Context, payload: ByteBuf) -> ByteBuf {
        payload
    }
}

/// Serves one connection; the transport's type has the codec in it.
macro_rules! serve {
    ($transport:expr) => {
        BaseChannel::with_defaults($transport)
            .execute(Server.serve())
            .for_each(|answer| async move {
                tokio::spawn(answer);
            })
            .await
    };
}

fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec()
}

impl System for Tarpc {
    type Client = Multiplexed<BenchClient>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let listener = UnixListener::bind(at.path("socket"))?;
        ready.tell("");
        let framed = tokio_util::codec::Framed::new(listener.accept().await?.0, frames());
        match self {
            Self::Bincode => serve!(serde_transport::new(framed, Bincode::default())),
            Self::Json => serve!(serde_transport::new(framed, Json::default())),
        }
        Ok(())
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let stream = UnixStream::connect(at.path("socket")).await?;
        let framed = tokio_util::codec::Framed::new(stream, frames());
        let config = client::Config::default();
        Ok(Multiplexed(match self {
            Self::Bincode => {
                BenchClient::new(config, serde_transport::new(framed, Bincode::default())).spawn()
            }
            Self::Json => {
                BenchClient::new(config, serde_transport::new(framed, Json::default())).spawn()
            }
        }))
    }
}

impl Caller for BenchClient {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(Self::add(self, context::current(), a, b).await?)
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        Ok(Self::echo(self, context::current(), ByteBuf::from(payload)).await?.into_vec())
    }
}
