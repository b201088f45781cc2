//! The trait by which a connection calls a service.
//!
//! `#[witrpc::service]` generates the implementations.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use witrpc_core::contract::descriptor::ServiceDescriptor;
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::status::Status;

use crate::calls::arguments::ArgumentsOf;
use crate::calls::call::Remote;
use crate::calls::outcome::OutcomeOf;
use crate::events::remote_subscriber::{Attached, EventSubscriber};
use crate::link::reply::Reply;

/// A service that a server can serve. The generated `XServer` implements it, for the implementation of the trait `X` that it wraps.
pub trait Service: Send + Sync + 'static {
    /// The contract.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Calls the method at `method` in [`ServiceDescriptor::methods`].
    #[doc(hidden)]
    fn call(&self, method: usize, request: Request) -> Dispatch;

    /// Attaches a subscriber to the event at `event` in [`ServiceDescriptor::events`].
    #[doc(hidden)]
    fn subscribe(&self, event: usize, subscriber: EventSubscriber) -> Attached;
}

/// The client side of a contract. The generated `XClient` implements it.
pub trait ServiceClient: Sized {
    /// The contract.
    fn descriptor() -> &'static ServiceDescriptor;

    /// Wraps a handle.
    #[doc(hidden)]
    fn from_remote(remote: Remote) -> Self;
}

/// One call as it reaches a service: its arguments, not yet decoded.
#[doc(hidden)]
pub struct Request {
    pub(crate) content: Content,
    pub(crate) codec: Codec,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Request {
    fn decode<A>(mut self, arguments: &ArgumentsOf<A>) -> (Result<A, Reply>, Codec) {
        let arrived = self.content.take_arrived();
        let args = (arguments.decode)(&self.codec, self.content.body(), arrived);
        buffers::give(self.content.into_buffer());
        (args.map_err(|e| Reply::text(Status::BadArguments, &e.to_string())), self.codec)
    }
}

/// A running call, or its immediate answer.
#[doc(hidden)]
pub enum Dispatch {
    /// The request never reached the service.
    Ready(Reply),
    /// The handler is running.
    Running(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running(_) => "Running",
        })
    }
}

/// Decodes the arguments, runs the method, encodes its result.
#[doc(hidden)]
pub fn answer<A, R, F, Fut>(
    request: Request,
    arguments: ArgumentsOf<A>,
    outcome: OutcomeOf<R>,
    run: F,
) -> Dispatch
where
    R: 'static,
    F: FnOnce(A) -> Fut,
    Fut: Future<Output = R> + Send + 'static,
{
    let (args, codec) = request.decode(&arguments);
    match args {
        Err(reply) => Dispatch::Ready(reply),
        Ok(args) => {
            let (result, encode) = (run(args), outcome.encode);
            Dispatch::Running(Box::pin(async move { encode(&codec, result.await) }))
        }
    }
}

/// The answer for a method that the service does not have.
#[doc(hidden)]
pub fn unknown_method(_request: Request) -> Dispatch {
    Dispatch::Ready(Reply::text(Status::NoSuchMethod, ""))
}
