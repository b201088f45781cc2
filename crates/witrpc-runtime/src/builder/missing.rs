//! Methods of the builders for cargo features that are not enabled. They require a trait that nothing implements, whose compiler error names
//! the feature.

/// Of nothing.
#[cfg(not(feature = "json"))]
#[diagnostic::on_unimplemented(
    message = "`with_json` needs the cargo feature `json` of witrpc",
    label = "the feature `json` is not enabled",
    note = "enable it: cargo add witrpc --features json"
)]
pub trait Json {}

/// Of nothing.
#[cfg(not(feature = "message-pack"))]
#[diagnostic::on_unimplemented(
    message = "`with_message_pack` needs the cargo feature `message-pack` of witrpc",
    label = "the feature `message-pack` is not enabled",
    note = "enable it: cargo add witrpc --features message-pack"
)]
pub trait MessagePack {}

/// Of nothing.
#[cfg(not(feature = "postcard"))]
#[diagnostic::on_unimplemented(
    message = "`with_postcard` needs the cargo feature `postcard` of witrpc",
    label = "the feature `postcard` is not enabled",
    note = "enable it: cargo add witrpc --features postcard"
)]
pub trait Postcard {}
