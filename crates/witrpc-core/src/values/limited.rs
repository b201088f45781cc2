//! Bounds on the shape of a value, whatever its format: how deep it is nested, and how many items it has that cost no bytes.
//!
//! A few bytes can describe a value that overflows the stack, or a list that takes hours to read. So every value passes
//! through a `Limited` serializer, and a `Limited` deserializer, which wrap a format's own. The deserializer also
//! turns references to attachments into what [`Reference`](crate::values::attachments::reference::Reference) reads.
//!
//! The two wrappers are in `de` and `ser`.

mod bounds;
mod de;
mod ser;

pub(crate) use self::bounds::{Bounds, Value};
pub(crate) use self::de::read;
#[cfg(any(feature = "json", feature = "message-pack", feature = "postcard"))]
pub(crate) use self::ser::write;
