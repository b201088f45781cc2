//! What a method takes, and how that crosses.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use witrpc_core::values::attachments::{Arrived, Attachments, Written};
use witrpc_core::values::serializer::{Codec, SerializerError};

/// What a method can take as an argument.
#[diagnostic::on_unimplemented(
    message = "a service method cannot take `{Self}`",
    label = "this cannot be an argument",
    note = "an argument is serialized: add #[derive(serde::Serialize, serde::Deserialize)] to your types in it",
    note = "it must also be `'static`"
)]
pub trait Argument: Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Argument for T {}

type Encode<A> = fn(&Codec, &A, &mut Vec<u8>) -> Result<Attachments<Written>, SerializerError>;
type Decode<A> = fn(&Codec, &[u8], Attachments<Arrived>) -> Result<A, SerializerError>;

/// How a method's arguments cross, as one tuple. Client and server of a contract ask for it in the same words, so that a type that
/// cannot cross is one error, and not one at each place that needs it.
#[doc(hidden)]
pub struct ArgumentsOf<A> {
    pub(crate) encode: Encode<A>,
    pub(crate) decode: Decode<A>,
}

impl<A> fmt::Debug for ArgumentsOf<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArgumentsOf").finish_non_exhaustive()
    }
}

/// How `A` crosses.
pub(crate) const fn arguments<A: Argument>() -> ArgumentsOf<A> {
    ArgumentsOf {
        encode: |codec, arguments, out| codec.serialize(arguments, out),
        decode: |codec, body, arrived| codec.deserialize(body, arrived),
    }
}

// How so many arguments cross. Each is a parameter of its own, so that an error points to the one that cannot. The first few are written
// out: an error shows the function, and where that comes from a macro also the macro.

#[doc(hidden)]
#[must_use]
pub const fn arguments0() -> ArgumentsOf<()> {
    arguments()
}

#[doc(hidden)]
#[must_use]
pub const fn arguments1<A: Argument>() -> ArgumentsOf<(A,)> {
    arguments()
}

#[doc(hidden)]
#[must_use]
pub const fn arguments2<A: Argument, B: Argument>() -> ArgumentsOf<(A, B)> {
    arguments()
}

#[doc(hidden)]
#[must_use]
pub const fn arguments3<A: Argument, B: Argument, C: Argument>() -> ArgumentsOf<(A, B, C)> {
    arguments()
}

#[doc(hidden)]
#[must_use]
pub const fn arguments4<A: Argument, B: Argument, C: Argument, D: Argument>()
-> ArgumentsOf<(A, B, C, D)> {
    arguments()
}

macro_rules! arguments {
    ($($name:ident($($argument:ident)*);)*) => {$(
        #[doc(hidden)]
        #[must_use]
        pub const fn $name<$($argument: Argument),*>() -> ArgumentsOf<($($argument,)*)> {
            arguments()
        }
    )*};
}

arguments! {
    arguments5(A B C D E);
    arguments6(A B C D E F);
    arguments7(A B C D E F G);
    arguments8(A B C D E F G H);
    arguments9(A B C D E F G H I);
    arguments10(A B C D E F G H I J);
    arguments11(A B C D E F G H I J K);
    arguments12(A B C D E F G H I J K L);
    arguments13(A B C D E F G H I J K L M);
    arguments14(A B C D E F G H I J K L M N);
    arguments15(A B C D E F G H I J K L M N O);
    arguments16(A B C D E F G H I J K L M N O P);
}
