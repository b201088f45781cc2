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
}

impl Status {
    const ALL: [Self; 9] = [
        Self::Ok,
        Self::Fault,
        Self::Panicked,
        Self::Cancelled,
        Self::TimedOut,
        Self::NoSuchMethod,
        Self::BadArguments,
        Self::BadResult,
        Self::TooLarge,
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
            let mut fields = Fields::new(body);
            let size = fields.u64("size").unwrap_or_default();
            let limit = fields.u64("limit").unwrap_or_default();
            Error::TooLarge { what: format!("the result of {}", method()), size, limit }
        }
    })
}

/// What a stream's end with `status` stands for: nothing, or an error. `None` if it stands for nothing that is known.
/// [wire.stream.end]
pub fn stream_error(status: Status, body: &[u8], serializer: &str) -> Option<Option<Error>> {
    const STREAM: &str = "a stream";
    const ITEM: &str = "an item of a stream";
    let size = |body| {
        let mut fields = Fields::new(body);
        (fields.u64("size").unwrap_or_default(), fields.u64("limit").unwrap_or_default())
    };
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
            let (size, limit) = size(body);
            Some(Error::TooLarge { what: ITEM.to_owned(), size, limit })
        }
        Status::TimedOut | Status::NoSuchMethod | Status::BadArguments => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn every_status_comes_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
        }
        assert_eq!(Status::from_code(9), None);
    }
}
