//! The one error type, ordered by who is to blame, and what a lost connection says about itself.

use std::{fmt, io, process::ExitStatus, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::{Escaped, Rounded};

/// A result whose error is [`Error`] by default. The usual return type of a service method.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of witrpc. The guide's chapter on troubleshooting explains every variant.
///
/// If a handler returns an `Error`, its text is sent, and the caller gets it as [`Error::Fault`], whichever variant it was. So the caller
/// does not mistake a `Closed` or `TimedOut` that the handler returned for one of its own connection.
///
/// Texts from the peer are escaped: characters that are not printable are shown as in a string literal. The only exception is the message
/// of a `Fault`, which is unchanged and can have several lines. Escape it before you log or print it.
///
/// `{}` and `{:?}` show the same message, `{:?}` escaped and on one line. So a `main` that returns an `Error` prints a readable
/// message. `{:#?}` puts the variant's name in front.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The caller's settings.
    /// A setting is missing or invalid, or the endpoint's directory is unsuitable.
    #[error("{setting} = {value}: {advice}")]
    Config {
        /// The setting, by the name of its builder method.
        setting: &'static str,
        /// The value that was given.
        value: String,
        /// What is wrong, and what to do.
        advice: String,
    },
    /// The client is not connected. Nothing was sent.
    #[error("not connected to {endpoint:?}: await connect() first")]
    NotConnected {
        /// The endpoint's name.
        endpoint: String,
    },

    /// A function was called outside of a tokio runtime, or within a runtime without timers or I/O. Nothing was done.
    #[error(
        "{what} needs a tokio runtime with timers and I/O: call it within #[tokio::main], or a runtime built with enable_all()"
    )]
    NoRuntime {
        /// The function that was called.
        what: &'static str,
    },

    // The caller's types.
    /// A value could not be serialized: arguments (nothing was sent), or a result (the method has run).
    #[error("cannot serialize {what} as {serializer}: {reason}")]
    Serialize {
        /// Which value: arguments, result, event.
        what: String,
        /// The serializer's name.
        serializer: String,
        /// The serializer's error.
        reason: String,
    },
    /// A value could not be deserialized: the two sides' types differ, or the serializer cannot read the type.
    #[error("cannot deserialize {what} from {serializer}: {reason}")]
    Deserialize {
        /// Which value: arguments, result, event.
        what: String,
        /// The serializer's name.
        serializer: String,
        /// The serializer's error, and what may have caused it.
        reason: String,
    },
    /// A message is larger than its receiver accepts. It was not sent.
    #[error(
        "{what}: {size} bytes, but the receiver accepts at most {limit}; raise the receiver's with_max_message_size, or send a stream"
    )]
    TooLarge {
        /// Which message: arguments, result, event.
        what: String,
        /// The size of the message in bytes: serialized value and blobs, with 64 bytes for each blob and 512 for each stream.
        size: u64,
        /// The receiver's `with_max_message_size`, in bytes.
        limit: u64,
    },

    /// This connection cannot carry something that is in a value, or cannot lend memory; or this system cannot do what a setting asks for. Nothing
    /// was sent, nor started.
    #[error("{what}: {advice}")]
    Unsupported {
        /// Which value (arguments, event), or which setting.
        what: String,
        /// What is wrong, and what to do.
        advice: String,
    },

    // The contract.
    /// The server has no service of this name.
    #[error("the server has no service {service:?}; its services: {offered}")]
    NoSuchService {
        /// The name asked for.
        service: String,
        /// The names of the services that the server has, as text.
        offered: String,
    },
    /// The server's service does not have this method.
    #[error(
        "the server's service {service:?} has no method {method:?}: the client calls `{client}`, the server has {server}; build both from one contract"
    )]
    NoSuchMethod {
        /// The service's name.
        service: String,
        /// The method's name.
        method: String,
        /// The signature that the client was built with.
        client: String,
        /// The signatures that the server has, for reading.
        server: String,
    },
    /// Client and server were built with different signatures of a method, or with different types of an event.
    #[error(
        "the signature of {method:?} in service {service:?} differs: the client has `{client}`, the server has `{server}`; build both from one contract"
    )]
    SignatureMismatch {
        /// The service's name.
        service: String,
        /// The name of the method or event.
        method: String,
        /// The signature that the client was built with.
        client: String,
        /// The signature that the server was built with.
        server: String,
    },

    /// The server's service does not have this event.
    #[error(
        "the server's service {service:?} has no event {event:?}: the client subscribes to `{client}`, the server has {server}; build both from one contract"
    )]
    NoSuchEvent {
        /// The service's name.
        service: String,
        /// The event's name.
        event: String,
        /// The signature that the client was built with.
        client: String,
        /// The signatures that the server has, for reading.
        server: String,
    },
    /// An event was raised through a client's handle. Only the service can raise it.
    #[error(
        "event {event} cannot be raised by a client: raise it in the service, or call a method"
    )]
    RemoteEvent {
        /// `Service.event`.
        event: String,
    },

    // The peer.
    /// The peer broke a rule of the protocol. The connection has ended.
    #[error("the peer violated the protocol: {0}")]
    Protocol(String),
    /// The two sides have different settings (serializer, encryption) or incompatible versions.
    #[error("client and server are incompatible: {0}")]
    Incompatible(String),
    /// One side refused the other: the tokens or the kinds of authorization differ, or the server's validator refused the token. Or the
    /// callee's `with_authorizer` refused one call, which was not executed; the text then begins with `Service.method`.
    #[error("unauthorized: {0}")]
    Unauthorized(String),

    // The service.
    /// The service returned an error.
    #[error("{message}")]
    Fault {
        /// The error's text, exactly as the service returned it.
        message: String,
    },
    /// The service's code panicked. The server and the connection continue.
    #[error("the handler of {method} panicked: {message}")]
    Panicked {
        /// `Service.method`.
        method: String,
        /// The panic's message, if it was a text.
        message: String,
    },

    // Time and room.
    /// The call was cancelled before it was answered.
    #[error("the call was cancelled")]
    Cancelled,
    /// The deadline passed. The call may have been executed.
    #[error("no answer within {}; allow more time, or check what the peer is doing", Rounded(*.after))]
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// The callee refused the call, as it could not have answered before the call's deadline. The call was not executed.
    #[error(
        "the callee of {method} is overloaded: {}; call again later, or allow more time{}",
        Late { left: *.left, wait: *.wait },
        executed(false)
    )]
    Overloaded {
        /// `Service.method`.
        method: String,
        /// What was left of the call's time when it was refused. Zero if its deadline had passed.
        left: Duration,
        /// How long the callee expected the call to wait, or how long the call had waited. Zero if that is not known.
        wait: Duration,
    },
    /// A limit left no room for a call that must not wait, or for its answer; or for memory that was to be lent.
    ///
    /// A call that is made by the handler of a call must not wait for calls that may wait for it. Calls that are nested twice or more
    /// never wait: where a limit leaves no room for one, it was not sent.
    #[error("{what}; raise {setting}{}", executed(*.maybe_executed))]
    Limit {
        /// What has reached the limit.
        what: String,
        /// The setting, by the name of its builder method, and whose it is.
        setting: &'static str,
        /// Whether the peer may have executed the call. `false` is certain.
        maybe_executed: bool,
    },
    /// The server has no free place: `with_max_clients` clients are connected.
    #[error(
        "the server {endpoint:?} is busy: it accepts {max_clients} client(s) at a time; wait longer, or raise the server's with_max_clients"
    )]
    Busy {
        /// The endpoint's name.
        endpoint: String,
        /// How many clients the server accepts at a time.
        max_clients: u32,
    },
    /// No server with this name is running.
    #[error(
        "no server {endpoint:?} is running in {place} (waited {}; servers running there: {running}); start it, or compare name and directory",
        Rounded(*.waited)
    )]
    NotRunning {
        /// The endpoint's name.
        endpoint: String,
        /// The directory that was searched.
        place: String,
        /// The names of servers that run there, as text. Not more than eight of them.
        running: String,
        /// The time that was waited.
        waited: Duration,
    },
    /// A server with this name exists, but does not answer.
    #[error(
        "the server {endpoint:?} is not responding: {} listens in {place} and has not answered for {}; it is stopped, or all \
         threads of its runtime are blocked, or it has ended and a child that it forked still runs",
        Holder(*.process_id),
        Rounded(*.waited)
    )]
    NotResponding {
        /// The endpoint's name.
        endpoint: String,
        /// The directory of the endpoint.
        place: String,
        /// The server's process id, as that process sees it; `None` if it cannot be told.
        process_id: Option<u32>,
        /// The time that was waited.
        waited: Duration,
    },
    /// Another running server has this name.
    #[error(
        "the name {endpoint:?} in {place} is in use by {}, or by a child that it forked; stop that process, or choose another name",
        Holder(*.process_id)
    )]
    NameInUse {
        /// The endpoint's name.
        endpoint: String,
        /// The directory of the endpoint.
        place: String,
        /// The server's process id, as that process sees it; `None` if it cannot be told.
        process_id: Option<u32>,
    },

    // The worker.
    /// A worker process ended before it was ready to be called.
    #[error("the worker {worker:?} ended before it was ready: {}{}", Status(*.status), LastLines(.stderr))]
    Exited {
        /// The worker's name.
        worker: String,
        /// How it ended. `None` if that cannot be told, because other code of this process has waited for it.
        status: Option<ExitStatus>,
        /// The last lines that it has written to standard error, escaped line by line. Empty if nothing of it was captured.
        stderr: String,
    },

    // The connection.
    /// The connection has ended.
    #[error("the connection is closed: {reason}{}", executed(*.maybe_executed))]
    Closed {
        /// Why it ended.
        reason: CloseReason,
        /// Whether the server may have begun to execute the call. `false` is certain.
        maybe_executed: bool,
    },

    // The system.
    /// A system call failed.
    #[error("{context}: {message}")]
    Io {
        /// What was attempted.
        context: String,
        /// The kind of failure.
        kind: io::ErrorKind,
        /// The system's message, often with advice.
        message: String,
    },
}

impl Error {
    /// Makes an [`Error::Config`]: the setting, its value, and what to do.
    pub fn config(
        setting: &'static str,
        value: impl fmt::Display,
        advice: impl Into<String>,
    ) -> Self {
        Self::Config { setting, value: value.to_string(), advice: advice.into() }
    }

    /// Makes an [`Error::Io`]: what was attempted, and the system's error.
    pub fn io(context: impl Into<String>, error: &io::Error) -> Self {
        Self::Io { context: context.into(), kind: error.kind(), message: error.to_string() }
    }

    /// Makes an [`Error::Fault`], which a service returns to its caller.
    pub fn fault(message: impl fmt::Display) -> Self {
        Self::Fault { message: message.to_string() }
    }

    const fn variant(&self) -> &'static str {
        match self {
            Self::Config { .. } => "Config",
            Self::NotConnected { .. } => "NotConnected",
            Self::NoRuntime { .. } => "NoRuntime",
            Self::Serialize { .. } => "Serialize",
            Self::Deserialize { .. } => "Deserialize",
            Self::TooLarge { .. } => "TooLarge",
            Self::Unsupported { .. } => "Unsupported",
            Self::NoSuchService { .. } => "NoSuchService",
            Self::NoSuchMethod { .. } => "NoSuchMethod",
            Self::SignatureMismatch { .. } => "SignatureMismatch",
            Self::NoSuchEvent { .. } => "NoSuchEvent",
            Self::RemoteEvent { .. } => "RemoteEvent",
            Self::Protocol(_) => "Protocol",
            Self::Incompatible(_) => "Incompatible",
            Self::Unauthorized(_) => "Unauthorized",
            Self::Fault { .. } => "Fault",
            Self::Panicked { .. } => "Panicked",
            Self::Cancelled => "Cancelled",
            Self::TimedOut { .. } => "TimedOut",
            Self::Overloaded { .. } => "Overloaded",
            Self::Limit { .. } => "Limit",
            Self::Busy { .. } => "Busy",
            Self::NotRunning { .. } => "NotRunning",
            Self::NotResponding { .. } => "NotResponding",
            Self::NameInUse { .. } => "NameInUse",
            Self::Exited { .. } => "Exited",
            Self::Closed { .. } => "Closed",
            Self::Io { .. } => "Io",
        }
    }

    /// Returns whether the call that failed with this error was certainly not executed, so that it is safe to repeat it.
    #[must_use]
    pub const fn is_surely_not_executed(&self) -> bool {
        match self {
            Self::Closed { maybe_executed, .. } | Self::Limit { maybe_executed, .. } => {
                !*maybe_executed
            }
            Self::NotConnected { .. }
            | Self::NoRuntime { .. }
            | Self::Serialize { .. }
            | Self::Unsupported { .. }
            | Self::NoSuchService { .. }
            | Self::NoSuchMethod { .. }
            | Self::NoSuchEvent { .. }
            | Self::RemoteEvent { .. }
            | Self::SignatureMismatch { .. }
            | Self::Unauthorized(_)
            | Self::Overloaded { .. }
            | Self::Busy { .. }
            | Self::NotRunning { .. }
            | Self::NotResponding { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            write!(f, "{}: ", self.variant())?;
        }
        write!(f, "{}", Escaped(self))
    }
}

/// An error of a transport.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer broke a rule of the shared state. The text says which.
    #[error("the peer wrote invalid data to the region: {0}")]
    Corrupt(&'static str),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Corrupt(rule) => Self::Protocol(rule.to_owned()),
            TransportError::Io(error) => Self::io("the transport of the connection failed", &error),
        }
    }
}

impl Serialize for Error {
    /// The text, whatever the variant: see the type's documentation.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Error {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self::Fault { message: String::deserialize(deserializer)? })
    }
}

/// Shows the process that holds a name.
struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(process_id) => write!(f, "process {process_id}"),
            None => f.write_str("another process"),
        }
    }
}

/// Shows why a call was refused.
struct Late {
    left: Duration,
    wait: Duration,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, wait) = (Rounded(self.left), Rounded(self.wait));
        match (self.left.is_zero(), self.wait.is_zero()) {
            (true, _) => f.write_str("the deadline passed before the call could begin"),
            (false, true) => write!(f, "the call had only {left} left"),
            (false, false) => write!(f, "calls wait about {wait}, and this one had {left} left"),
        }
    }
}

/// Shows how a process ended.
struct Status(Option<ExitStatus>);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.fmt(f),
            None => f.write_str("its status is not known"),
        }
    }
}

/// Shows lines of a worker, marked, so that none is taken for a line of somebody else.
struct LastLines<'a>(&'a str);

impl fmt::Display for LastLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("; its last lines on standard error:")?;
        self.0.lines().try_for_each(|line| write!(f, "\n  | {line}"))
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed the connection: by `disconnect` or `reconnect`, or because the last handle was dropped.
    Local,
    /// The peer closed the connection, and gave this reason.
    Peer(String),
    /// The peer's process ended, or closed the connection without giving a reason.
    PeerGone,
    /// A rule of the protocol was broken, the transport failed, or a limit was reached. The text says which.
    Failed(String),
    /// The tokio runtime that the connection ran on was shut down.
    RuntimeGone,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("this side closed it"),
            Self::Peer(reason) => write!(f, "the peer closed it: {reason}"),
            Self::PeerGone => f.write_str("the peer's process is gone"),
            Self::Failed(text) => f.write_str(text),
            Self::RuntimeGone => f.write_str("the tokio runtime that it ran on was shut down"),
        }
    }
}

const fn executed(maybe: bool) -> &'static str {
    if maybe { " (the call may have been executed)" } else { " (the call was not executed)" }
}
