//! gRPC over a Unix socket, by tonic with prost; what its generator would write is written by hand, so that no protobuf
//! compiler is needed.
//!
//! Windows and frames are raised so that a large payload does not wait for them.

use std::convert::Infallible;
use std::future::{Ready as Done, ready};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint as Address};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::client::{Caller, Multiplexed};
use crate::system::{Endpoint, Ready, System};

pub(crate) struct Tonic;

const ADD: &str = "/rivals.Bench/Add";
const ECHO: &str = "/rivals.Bench/Echo";
const WINDOW: u32 = 64 << 20;
/// Larger ones are slower for the largest payloads, and smaller ones for those of 1 MiB.
const FRAME: u32 = 1 << 20;
const MAX_MESSAGE: usize = 1 << 30;

#[derive(Clone, PartialEq, prost::Message)]
struct Numbers {
    #[prost(int32, tag = "1")]
    a: i32,
    #[prost(int32, tag = "2")]
    b: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sum {
    #[prost(int32, tag = "1")]
    sum: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

#[derive(Clone)]
struct Bench;

impl NamedService for Bench {
    const NAME: &'static str = "rivals.Bench";
}

struct Add;

impl UnaryService<Numbers> for Add {
    type Response = Sum;
    type Future = Done<Result<Response<Sum>, Status>>;

    fn call(&mut self, request: Request<Numbers>) -> Self::Future {
        let numbers = request.into_inner();
        ready(Ok(Response::new(Sum { sum: numbers.a.wrapping_add(numbers.b) })))
    }
}

struct Echo;

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Done<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl tonic::codegen::Service<HttpRequest<Body>> for Bench {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        /// Answers with a service of these types.
        macro_rules! answer {
            ($service:expr) => {
                Box::pin(async move {
                    let grpc = tonic::server::Grpc::new(ProstCodec::default())
                        .max_decoding_message_size(MAX_MESSAGE);
                    Ok({ grpc }.unary($service, request).await)
                })
            };
        }
        match request.uri().path() {
            ADD => answer!(Add),
            ECHO => answer!(Echo),
            _ => Box::pin(ready(Ok(Status::unimplemented("no such method").into_http()))),
        }
    }
}

impl System for Tonic {
    type Client = Multiplexed<Client>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let listener = UnixListener::bind(at.path("socket"))?;
        ready.tell("");
        tonic::transport::Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .add_service(Bench)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await?;
        Ok(())
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let channel = Address::from_shared(format!("unix://{}", at.path("socket").display()))?
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .connect()
            .await?;
        Ok(Multiplexed(Client(Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE))))
    }
}

#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

impl Client {
    async fn call<A, B>(&self, path: &'static str, request: A) -> Result<B>
    where
        A: prost::Message + 'static,
        B: prost::Message + Default + 'static,
    {
        let mut grpc = self.0.clone();
        grpc.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<A, B>::default());
        Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())
    }
}

impl Caller for Client {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(self.call::<_, Sum>(ADD, Numbers { a, b }).await?.sum)
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        let payload = Payload { bytes: payload.into() };
        Ok(self.call::<_, Payload>(ECHO, payload).await?.bytes.into())
    }
}
