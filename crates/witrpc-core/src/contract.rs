//! Contracts: services, methods and events, and the routes to them at the other side.

pub mod descriptor;
pub mod introspection;
pub mod route;
