//! The status of a response, and of the end of a stream, with the peer's text for it.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::Error;
use crate::text::escaped;
use crate::wire::fields::Fields;

/// How a response ends. [wire.response.status]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A value follows.
    Ok,
    /// The method's own error follows.
    Fault,
    /// The handler panicked; its message follows.
    Panicked,
    /// It was cancelled; nothing follows.
    Cancelled,
    /// Its deadline passed; nothing follows.
    TimedOut,
    /// There is no such service or method.
    NoSuchMethod,
    /// The arguments are not what the method takes; the serializer's text follows.
    BadArguments,
    /// The result cannot be serialized; the serializer's text follows.
    BadResult,
    /// The result is larger than the caller takes; its size and the limit follow.
    TooLarge,
    /// The call was refused, as it would have been late; the time that was left and the wait follow. Only where the feature
    /// [`OVERLOADED`](crate::wire::handshake::OVERLOADED) is in force.
    Overloaded,
    /// The peer may not make this call; the reason follows. Only where the feature
    /// [`UNAUTHORIZED`](crate::wire::handshake::UNAUTHORIZED) is in force.
    Unauthorized,
}

impl Status {
    const ALL: [Self; 11] = [
        Self::Ok,
        Self::Fault,
        Self::Panicked,
        Self::Cancelled,
        Self::TimedOut,
        Self::NoSuchMethod,
        Self::BadArguments,
        Self::BadResult,
        Self::TooLarge,
        Self::Overloaded,
        Self::Unauthorized,
    ];

    #[inline]
    pub const fn code(self) -> u16 {
        self as u16
    }

    #[inline]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Maximum length of a text that a peer may send us as a reason or an explanation.
const MAX_TEXT: usize = 4096;

/// The text of an error response or a goodbye, for reading: cut, made valid, and escaped, rather than refused.
#[inline]
pub fn text(body: &[u8]) -> String {
    escaped(verbatim(body))
}

/// The same of a text that is a value of the user's, and may have several lines.
fn verbatim(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT)])
}

/// The error that a response with `status` stands for; `None` for the two that carry a value. Both sides use the same serializer.
/// [wire.response.status]
pub fn status_error(
    status: Status,
    body: &[u8],
    serializer: &str,
    method: impl FnOnce() -> String,
) -> Option<Error> {
    Some(match status {
        Status::Ok | Status::Fault => return None,
        Status::Panicked => Error::Panicked { method: method(), message: text(body) },
        Status::Cancelled => Error::Cancelled,
        Status::TimedOut => Error::TimedOut { after: Duration::ZERO },
        Status::NoSuchMethod => Error::Protocol(format!(
            "it reports that it has no method {}, which it has listed",
            method()
        )),
        Status::BadArguments => Error::Deserialize {
            what: format!("the arguments of {}", method()),
            serializer: serializer.to_owned(),
            reason: text(body),
        },
        Status::BadResult => Error::Serialize {
            what: format!("the result of {}", method()),
            serializer: serializer.to_owned(),
            reason: text(body),
        },
        Status::TooLarge => {
            let (size, limit) = two_numbers(body);
            Error::TooLarge { what: format!("the result of {}", method()), size, limit }
        }
        Status::Overloaded => {
            let (left, wait) = two_numbers(body);
            let (left, wait) = (Duration::from_nanos(left), Duration::from_nanos(wait));
            Error::Overloaded { method: method(), left, wait }
        }
        Status::Unauthorized => Error::Unauthorized(format!("{}: {}", method(), text(body))),
    })
}

/// A body of two numbers. What is missing is 0.
fn two_numbers(body: &[u8]) -> (u64, u64) {
    let mut fields = Fields::new(body);
    let first = fields.u64("the first number").unwrap_or_default();
    (first, fields.u64("the second number").unwrap_or_default())
}

/// What a stream's end with `status` stands for: nothing, or an error. `None` if it stands for nothing that is known.
/// [wire.stream.end]
pub fn stream_error(status: Status, body: &[u8], serializer: &str) -> Option<Option<Error>> {
    const STREAM: &str = "a stream";
    const ITEM: &str = "an item of a stream";
    Some(match status {
        Status::Ok => None,
        Status::Fault => Some(Error::Fault { message: verbatim(body).into_owned() }),
        Status::Panicked => {
            Some(Error::Panicked { method: STREAM.to_owned(), message: text(body) })
        }
        Status::Cancelled => Some(Error::Cancelled),
        Status::BadResult => Some(Error::Serialize {
            what: ITEM.to_owned(),
            serializer: serializer.to_owned(),
            reason: text(body),
        }),
        Status::TooLarge => {
            let (size, limit) = two_numbers(body);
            Some(Error::TooLarge { what: ITEM.to_owned(), size, limit })
        }
        Status::TimedOut
        | Status::NoSuchMethod
        | Status::BadArguments
        | Status::Overloaded
        | Status::Unauthorized => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Status, status_error, stream_error};
    use crate::error::Error;

    #[test]
    fn every_status_comes_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
        }
        assert_eq!(Status::from_code(11), None);
    }

    /// The frozen vector of docs/wire.md.
    #[test]
    fn a_refusal_is_frozen() {
        let body = [0x40, 0x42, 0x0F, 0, 0, 0, 0, 0, 0x80, 0x84, 0x1E, 0, 0, 0, 0, 0];
        let error = |body| status_error(Status::Overloaded, body, "json", || "Calc.add".to_owned());
        let told = error(&body).unwrap();
        let Error::Overloaded { method, left, wait } = &told else { panic!("{told}") };
        let millis = Duration::from_millis;
        assert_eq!((method.as_str(), *left, *wait), ("Calc.add", millis(1), millis(2)));
        assert!(told.is_surely_not_executed(), "{told}");
        // One that says nothing is a refusal all the same.
        let bare = error(&[]).unwrap();
        assert!(matches!(bare, Error::Overloaded { left, wait, .. } if (left + wait).is_zero()));
        assert!(stream_error(Status::Overloaded, &body, "json").is_none(), "no stream ends so");
    }
}
