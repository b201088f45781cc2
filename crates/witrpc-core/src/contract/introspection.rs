//! The contract of the service that every server has.

use crate::contract::descriptor::{MethodDescriptor, ServiceDescriptor};

/// Names that begin so are ours, and are not listed.
pub const RESERVED: &str = "witrpc.";

/// The contract of the built-in service. [wire.introspection]
pub static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
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
