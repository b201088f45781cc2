//! What two sides agree on: services, methods and events, and where the other side has them.

pub mod descriptor;
pub mod introspection;
pub mod route;
