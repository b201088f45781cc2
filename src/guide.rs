//! The guide: how to use witrpc, chapter by chapter.
//!
//! Read *Concepts* and *Writing a program* first, in this order. Use the other parts to look things up.
//!
//! | | chapter | what it covers |
//! |---|---|---|
//! | **Concepts** | [`concepts`] | server, client, endpoint, connection, region, and what happens during a call |
//! | **Writing a program** | [`contract`] | the trait, what the macro generates, programs with different versions of a contract |
//! | | [`builders`] | every setting of server and client, with its default |
//! | | [`errors`] | what a call returns, and how to use your own error types |
//! | | [`events`] | values that a service pushes to its subscribers |
//! | | [`callbacks`] | services that a client offers to its server |
//! | | [`streams`] | sequences of values with backpressure, as arguments and results |
//! | | [`blobs`] | raw bytes, without serialization |
//! | | [`workers`] | a host that launches a program, calls it, owns it and replaces it |
//! | | [`pools`] | several workers, or clients, behind one handle |
//! | | [`sandbox`] | a worker that the kernel confines to what its host grants (Linux) |
//! | | [`testing`] | testing a service without a second process |
//! | **Running it** | [`deadlines`] | deadlines, and cancelling a call |
//! | | [`reconnecting`] | automatic reconnection, and retrying calls |
//! | | [`security`] | who can connect, access tokens, encryption |
//! | | [`sizing`] | region size, memory limits, wait strategies, what costs time |
//! | | [`files`] | where an endpoint's files are, and how to share an endpoint with a group |
//! | | [`introspection`] | listing servers, describing a server, calling without a contract |
//! | **Reference** | [`serializers`] | JSON, MessagePack, postcard, or your own; what each cannot express |
//! | | [`troubleshooting`] | every error, its cause and its cure |
//! | | [`migrating`] | for users of the .NET packages: corresponding names, and the differences |
//!
//! The directory `examples` of the repository has programs for each capability. Start with
//! `cargo run --release --example quickstart`. The directory `docs` describes the internals:
//! [the wire protocol](https://docs.rs/crate/witrpc/latest/source/docs/wire.md),
//! [files and region layout](https://docs.rs/crate/witrpc/latest/source/docs/segment.md),
//! [reliability](https://docs.rs/crate/witrpc/latest/source/docs/reliability.md),
//! [security](https://docs.rs/crate/witrpc/latest/source/docs/security.md),
//! [performance](https://docs.rs/crate/witrpc/latest/source/docs/performance.md) and
//! [platforms](https://docs.rs/crate/witrpc/latest/source/docs/platforms.md).

#[doc = include_str!("guide/blobs.md")]
pub mod blobs {}

#[doc = include_str!("guide/builders.md")]
pub mod builders {}

#[doc = include_str!("guide/callbacks.md")]
pub mod callbacks {}

#[doc = include_str!("guide/concepts.md")]
pub mod concepts {}

#[doc = include_str!("guide/contract.md")]
pub mod contract {}

#[doc = include_str!("guide/deadlines.md")]
pub mod deadlines {}

#[doc = include_str!("guide/errors.md")]
pub mod errors {}

#[doc = include_str!("guide/events.md")]
pub mod events {}

#[doc = include_str!("guide/files.md")]
pub mod files {}

#[doc = include_str!("guide/introspection.md")]
pub mod introspection {}

#[doc = include_str!("guide/migrating.md")]
pub mod migrating {}

#[doc = include_str!("guide/pools.md")]
pub mod pools {}

#[doc = include_str!("guide/reconnecting.md")]
pub mod reconnecting {}

#[doc = include_str!("guide/sandbox.md")]
pub mod sandbox {}

#[doc = include_str!("guide/security.md")]
pub mod security {}

#[doc = include_str!("guide/serializers.md")]
pub mod serializers {}

#[doc = include_str!("guide/sizing.md")]
pub mod sizing {}

#[doc = include_str!("guide/streams.md")]
pub mod streams {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/troubleshooting.md")]
pub mod troubleshooting {}

#[doc = include_str!("guide/workers.md")]
pub mod workers {}
