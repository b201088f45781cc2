//! Typed async RPC between processes on one machine, over a ring buffer in a named memory-mapped file.
//!
//! You write a trait. witrpc generates a server that serves it and a client that calls it from another process. Requests,
//! responses and events travel through shared memory. A system call is needed only to wake a process that sleeps.
//!
//! ```no_run
//! use witrpc::prelude::*;
//!
//! #[witrpc::service]
//! trait Greeter {
//!     async fn greet(&self, name: String) -> witrpc::Result<String>;
//! }
//!
//! struct Polite;
//!
//! impl Greeter for Polite {
//!     async fn greet(&self, name: String) -> witrpc::Result<String> {
//!         Ok(format!("good day, {name}"))
//!     }
//! }
//!
//! // In the server's process.
//! async fn serve() -> witrpc::Result<WitServer> {
//!     let server = WitServerBuilder::new()
//!         .with_service(GreeterServer::new(Polite))
//!         .with_memory_mapped_file("greeter")
//!         .build()?;
//!     server.start_waiting_for_connection().await?;
//!     Ok(server)
//! }
//!
//! // In the client's process.
//! async fn call() -> witrpc::Result<String> {
//!     let client = WitClientBuilder::new().with_memory_mapped_file("greeter").build()?;
//!     client.connect(Duration::from_secs(5)).await?;
//!     client.get_service::<GreeterClient>().greet("world".to_owned()).await
//! }
//! ```
//!
//! The [guide] explains the library, chapter by chapter. Begin with [concepts](guide::concepts). For errors and other problems, see
//! [troubleshooting](guide::troubleshooting).
//!
//! witrpc is an independent project. Its builders use the names of the .NET packages of WitRPC. It contains none of their code, and the
//! two are not compatible on the wire. See [migrating](guide::migrating).
//!
//! # Map of this crate
//!
//! * To write a contract: [`macro@service`], [`Result`], [`Error`].
//! * To serve it: [`WitServerBuilder`], [`WitServer`], and [`CallContext`] inside a handler.
//! * To call it: [`WitClientBuilder`], [`WitClient`], [`Call`].
//! * To send many values: [`Event`], [`Subscription`], [`Streaming`]. To send bytes: [`Blob`].
//! * To launch a program and call it: [`Worker`], [`Agent`], [`RestartPolicy`]. To spread calls over several: [`Pool`].
//! * To configure the endpoint and the connection: [`MemoryMappedFile`], [`unique_name`], [`WaitStrategy`], [`Serializer`].
//! * To list and inspect servers: [`endpoints()`], [`WitClient::describe`], [`WitClient::call_dynamic`].
//! * To test within one process, or to write a transport of your own: [`transport`].
//!
//! # Features
//!
//! `json` (default), `message-pack` and `postcard`: the [serializers](guide::serializers). `process` (default): [workers](guide::workers).
//! `sandbox`: workers that the kernel [confines](guide::sandbox).

#![forbid(unsafe_code)]

pub mod guide;

pub use witrpc_macros::service;
pub use witrpc_mmf::{
    Endpoint, MemoryMappedFile, NamedEvent, endpoints, endpoints_in, unique_name,
};
pub use witrpc_mmf_client::{
    MmfClientTransport, WithMemoryMappedFile as ClientWithMemoryMappedFile,
};
pub use witrpc_mmf_server::{
    MmfServerTransport, WithMemoryMappedFile as ServerWithMemoryMappedFile,
};
#[cfg(all(unix, feature = "process"))]
pub use witrpc_process::Descriptor;
#[cfg(feature = "process")]
pub use witrpc_process::{
    Agent, CallUnderWay, HangDetection, Host, MemberRole, MemberState, Output, Pool, PoolBuilder,
    PoolState, RestartPolicy, Worker, WorkerBuilder, WorkerEvent, WorkerExit, WorkerState,
};
#[cfg(feature = "sandbox")]
pub use witrpc_process::{Restriction, Sandbox};
#[doc(hidden)]
pub use witrpc_runtime::__private;
pub use witrpc_runtime::{
    AccessTokenValidator, Blob, Call, CallContext, CipherError, CipherPair, ClientState,
    CloseReason, Credentials, Encryptor, Error, Event, EventError, EventValue, KeyAgreement, Load,
    Loan, MemberDescription, Memory, NoiseEncryptor, Opener, Outcome, Overflow, Peer, Ping,
    PoolSubscription, ReconnectOptions, Result, RetryPolicy, Role, Sealer, Secret, Serializer,
    SerializerError, ServerDescription, Service, ServiceClient, ServiceDescription,
    ServiceDescriptor, Streaming, Subscription, WaitStrategy, WitClient, WitClientBuilder,
    WitServer, WitServerBuilder, serde, transport,
};

/// The types and traits that most programs need: `use witrpc::prelude::*;`.
pub mod prelude {
    pub use std::time::Duration;

    #[cfg(feature = "process")]
    pub use crate::{Agent, Pool, RestartPolicy, Worker};
    pub use crate::{
        Blob, CallContext, ClientState, Event, EventError, MemoryMappedFile, Overflow, Streaming,
        Subscription, WaitStrategy, WitClient, WitClientBuilder, WitServer, WitServerBuilder,
    };
    pub use witrpc_mmf_client::WithMemoryMappedFile as _;
    pub use witrpc_mmf_server::WithMemoryMappedFile as _;
}

/// Checks that the README's program compiles.
#[cfg(all(doctest, feature = "json"))]
#[doc = include_str!("../README.md")]
mod readme {}
