//! What a server says about itself: a service that every server has, and the types of its answer.
//!
//! Written by hand where users would use the macro: the macro's output is made for crates that depend on this one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::served::Services;
use crate::service::{
    Dispatch, MethodDescriptor, Request, Service, ServiceDescriptor, answer, unknown_method,
};
use crate::sink::{Attached, EventSink, unknown_event};

/// Names that begin so are ours, and are not listed.
pub(crate) const RESERVED: &str = "witrpc.";

/// The contract of the built-in service. [wire.introspection]
pub(crate) static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
    name: "witrpc.introspection",
    docs: "What the server says about itself.",
    methods: &[MethodDescriptor {
        name: "describe",
        signature: "describe() -> Result<ServerDescription>",
        types: "() -> Result<ServerDescription>",
        docs: "The server's name and description, and its services.",
        blocking: false,
        idempotent: true,
    }],
    events: &[],
};

/// What a server says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerDescription {
    /// As the server's builder was told by `with_name`.
    pub name: Option<String>,
    /// As the server's builder was told by `with_description`.
    pub description: Option<String>,
    /// Its services.
    pub services: Vec<ServiceDescription>,
}

/// What a server says about one of its services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceDescription {
    /// The name on the wire.
    pub name: String,
    /// The documentation of the trait.
    pub docs: String,
    /// Its methods.
    pub methods: Vec<MemberDescription>,
    /// Its events.
    pub events: Vec<MemberDescription>,
}

/// What a server says about a method or an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberDescription {
    /// Its name.
    pub name: String,
    /// Its signature as text.
    pub signature: String,
    /// Its documentation.
    pub docs: String,
}

impl ServerDescription {
    pub(crate) fn new(
        name: Option<String>,
        description: Option<String>,
        services: &Services,
    ) -> Self {
        let services = services.descriptors().map(ServiceDescription::new).collect();
        Self { name, description, services }
    }
}

impl ServiceDescription {
    fn new(service: &ServiceDescriptor) -> Self {
        let member = |name: &str, signature: &str, docs: &str| MemberDescription {
            name: name.to_owned(),
            signature: signature.to_owned(),
            docs: docs.to_owned(),
        };
        Self {
            name: service.name.to_owned(),
            docs: service.docs.to_owned(),
            methods: service.methods.iter().map(|m| member(m.name, m.signature, m.docs)).collect(),
            events: service.events.iter().map(|e| member(e.name, e.signature, e.docs)).collect(),
        }
    }
}

/// The built-in service.
pub(crate) struct Introspection(pub(crate) Arc<ServerDescription>);

impl Service for Introspection {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &DESCRIPTOR
    }

    fn call(&self, method: usize, request: Request) -> Dispatch {
        let description = Arc::clone(&self.0);
        match method {
            0 => answer(request, |()| async move { Ok::<_, Error>((*description).clone()) }),
            _ => unknown_method(request),
        }
    }

    fn subscribe(&self, _event: usize, sink: EventSink) -> Attached {
        unknown_event(sink)
    }
}
