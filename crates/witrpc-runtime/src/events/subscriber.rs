//! The traits of an event's values and of its subscribers.

use std::fmt;
use std::sync::Arc;

use crate::locks::assert_none_is_held;
use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc_core::Error;
use witrpc_core::values::buffers;
use witrpc_core::values::content::{Content, Kept, Shared};
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
    /// How values are serialized for it. `None` takes a clone.
    fn codec(&self) -> Option<&Codec>;

    /// Takes a value, or drops one as the event's [`Overflow`](crate::events::backlog::Overflow) says. Never waits.
    ///
    /// # Errors
    ///
    /// What is wrong with its connection that cannot carry the value, and what to do.
    fn deliver(&self, prepared: &mut Prepared<T>) -> Result<(), &'static str>;

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

/// A value as its subscribers take it: serialized once per serializer, and cloned for those within the process. All of that is
/// code of the user's, and so is done before the event's lock is taken (L2).
pub(crate) struct Prepared<T> {
    encoded: Vec<(Codec, Encoded)>,
    clones: Vec<T>,
}

/// A serialized value. All backlogs in which it waits share one copy of it.
pub(crate) struct Encoded {
    pub(crate) content: Content,
    shared: Option<Arc<Shared>>,
}

impl Encoded {
    /// The value, to be kept.
    pub(crate) fn keep(&mut self) -> Kept {
        let shared = self.shared.get_or_insert_with(|| self.content.shared());
        self.content.keep(shared)
    }
}

impl<T: EventValue> Prepared<T> {
    /// Tells also whether it could be serialized each time.
    pub(crate) fn new(value: &T, codecs: &[Codec], clones: usize) -> (Self, Result<(), Error>) {
        assert_none_is_held("a value is serialized and cloned");
        let (mut encoded, mut result) = (Vec::with_capacity(codecs.len()), Ok(()));
        for codec in codecs {
            let content = Content::write(buffers::take(), |out| codec.serialize_item(value, out));
            match content {
                Ok(content) => encoded.push((codec.clone(), Encoded { content, shared: None })),
                Err(reason) => {
                    result = Err(Error::Serialize {
                        what: "an event's value".to_owned(),
                        serializer: codec.name().to_owned(),
                        reason: reason.to_string(),
                    });
                }
            }
        }
        (Self { encoded, clones: (0..clones).map(|_| value.clone()).collect() }, result)
    }

    /// `None` if it could not be serialized so.
    pub(crate) fn encoded(&mut self, codec: &Codec) -> Option<&mut Encoded> {
        let found = self.encoded.iter_mut().find(|(known, _)| known.name() == codec.name());
        found.map(|(_, encoded)| encoded)
    }

    /// One of the clones.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.clones.pop()
    }
}
