//! The results that methods may return, and how they are serialized.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc_core::Error;
use witrpc_core::values::attachments::{Arrived, Attachments};
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::{Codec, SerializerError};
use witrpc_core::wire::status::Status;

use crate::link::reply::Reply;

/// The return type of a service method: a `Result` whose value and error can both be sent. Only `Result` implements it.
#[diagnostic::on_unimplemented(
    message = "a service method must return a `Result` whose value and error can cross the connection",
    label = "not such a `Result`",
    note = "return `witrpc::Result<T>`, or `Result<T, E>` with an error type of your own"
)]
pub trait Outcome: Send + 'static {
    /// The value.
    type Value: Serialize + DeserializeOwned + Send + 'static;
    /// The error.
    type Error: Serialize + DeserializeOwned + From<Error> + Send + 'static;

    /// Makes the method's result.
    fn from_result(result: Result<Self::Value, Self::Error>) -> Self;

    /// Returns the method's result.
    ///
    /// # Errors
    ///
    /// The error that the method returned.
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

/// What a method can return as its value.
#[diagnostic::on_unimplemented(
    message = "a service method cannot return `{Self}`",
    label = "this cannot cross the connection",
    note = "a result is serialized: add #[derive(serde::Serialize, serde::Deserialize)] to your types in it",
    note = "it must also be `Send + 'static`"
)]
pub trait ResultValue: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> ResultValue for T {}

/// What a method can return as its error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a service method",
    label = "this cannot be the error of a service method",
    note = "an error is serialized: add #[derive(serde::Serialize, serde::Deserialize)] to your types in it",
    note = "it must be able to hold errors of the call itself: add impl From<witrpc::Error> for `{Self}`",
    note = "it must also be `Send + 'static`"
)]
pub trait ResultError: Serialize + DeserializeOwned + From<Error> + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<E: Serialize + DeserializeOwned + From<Error> + Send + 'static> ResultError for E {}

impl<T: ResultValue, E: ResultError> Outcome for Result<T, E> {
    type Value = T;
    type Error = E;

    fn from_result(result: Self) -> Self {
        result
    }

    fn into_result(self) -> Self {
        self
    }
}

/// How a method's result is serialized. The generated client and server require the same trait, so that a type that cannot be serialized
/// gives one compiler error, and not one at each use.
#[doc(hidden)]
pub struct OutcomeOf<R> {
    pub(crate) failed: fn(Error) -> R,
    pub(crate) decode: Decode<R>,
    pub(crate) encode: fn(&Codec, R) -> Reply,
}

type Decode<R> = fn(&Codec, Status, &[u8], Attachments<Arrived>) -> Result<R, SerializerError>;

impl<R> fmt::Debug for OutcomeOf<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeOf").finish_non_exhaustive()
    }
}

/// How `R` is serialized.
#[doc(hidden)]
#[must_use]
pub const fn outcome<R: Outcome>() -> OutcomeOf<R> {
    OutcomeOf {
        failed: |error| R::from_result(Err(error.into())),
        decode: |codec, status, body, arrived| match status {
            Status::Fault => {
                codec.deserialize(body, arrived).map(|error| R::from_result(Err(error)))
            }
            _ => codec.deserialize(body, arrived).map(|value| R::from_result(Ok(value))),
        },
        encode: encode_outcome::<R>,
    }
}

fn encode_outcome<R: Outcome>(codec: &Codec, outcome: R) -> Reply {
    let (status, content) = match outcome.into_result() {
        Ok(value) => (Status::Ok, encode(codec, &value)),
        Err(error) => (Status::Fault, encode(codec, &error)),
    };
    match content {
        Ok(content) => Reply { status, content },
        Err(error) => Reply::text(Status::BadResult, &error),
    }
}

fn encode<T: Serialize>(codec: &Codec, value: &T) -> Result<Content, String> {
    Content::write(buffers::take(), |out| codec.serialize(value, out)).map_err(|e| e.to_string())
}
