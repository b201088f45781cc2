//! The traits of an event's values and of its subscribers.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc_core::Error;
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;

/// The values that an event can carry. Implemented for every type with these bounds.
#[diagnostic::on_unimplemented(
    message = "an event cannot carry `{Self}`",
    label = "this cannot be the value of an event",
    note = "a value is cloned and serialized: add #[derive(Clone, serde::Serialize, serde::Deserialize)] to your types in it",
    note = "it must also be `Send + 'static`"
)]
pub trait EventValue: Clone + Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Serialize + DeserializeOwned + Send + 'static> EventValue for T {}

/// A subscriber of an event.
pub(crate) trait Subscriber<T>: Send + Sync {
    /// Takes a value, or drops one as the event's [`Overflow`](crate::events::backlog::Overflow) says. Never waits.
    fn deliver(&self, value: &T, encoded: &mut Encoded) -> Result<(), Error>;

    /// Whether the next value would overflow.
    fn is_full(&self) -> bool;
}

/// Ends a subscription at its event when dropped.
pub(crate) struct Registration(pub(super) Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

/// Caches the serialized forms of a value while it is handed to all subscribers: it is serialized at most once per serializer.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    done: Vec<(String, Content)>,
}

impl Encoded {
    pub(crate) fn get<T: Serialize>(
        &mut self,
        codec: &Codec,
        value: &T,
    ) -> Result<&Content, Error> {
        let known = self.done.iter().position(|(name, _)| name == codec.name());
        let at = match known {
            Some(at) => at,
            None => {
                let content =
                    Content::write(buffers::take(), |out| codec.serialize_item(value, out));
                let content = content.map_err(|reason| Error::Serialize {
                    what: "an event's value".to_owned(),
                    serializer: codec.name().to_owned(),
                    reason: reason.to_string(),
                })?;
                self.done.push((codec.name().to_owned(), content));
                self.done.len() - 1
            }
        };
        Ok(&self.done[at].1)
    }
}
