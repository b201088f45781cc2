//! A trace of all frames, for debugging: with `WITRPC_TRACE` set, each connection of the process prints its frames.
//!
//! The trace is a transport that wraps the connection's own. It exists only if it was asked for, so a connection without a trace costs
//! nothing. It shows kinds, names, numbers, sizes and times, and never the content of a message. Of an encrypted connection it shows the
//! kinds only. It uses the transport's clock, so that the lines of the two processes can be put in order.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use witrpc_core::security::cipher::{Encryptor, PlainEncryptor};
use witrpc_core::text::{Escaped, Rounded};
use witrpc_core::transport::TransportError;
use witrpc_core::transport::{Channel, RecordReceiver, RecordSender};
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::fields::{Fields, len_u64};
use witrpc_core::wire::frame::{HEADER_LEN, Header, Kind};
use witrpc_core::wire::handshake::{Confirm, Welcome};
use witrpc_core::wire::message::{HEAD_LEN, Head};
use witrpc_core::wire::status::Status;

use crate::locks::{Mutex, Rank};

/// The environment variable that turns the trace on.
const VARIABLE: &str = "WITRPC_TRACE";
/// The maximum number of calls and messages in progress whose names and times are remembered. Further ones are shown without them.
const MAX_REMEMBERED: usize = 1 << 16;

/// Which frames are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Messages: calls, events, streams, how a connection begins and ends.
    Calls,
    /// Every frame: parts of messages, credit and pings too.
    Frames,
}

/// Where the trace is written, one line at a time, so that the lines of several processes are not mixed.
enum Output {
    Errors,
    /// Locked, because not every system appends in one step what two threads write at the same time.
    File(Mutex<File>),
}

impl Output {
    fn line(&self, line: &str) {
        // A failure to write the trace must not affect the program.
        let written = match self {
            Self::Errors => io::stderr().write_all(line.as_bytes()),
            Self::File(file) => file.lock().write_all(line.as_bytes()),
        };
        drop(written);
    }
}

/// The value of the variable: a level, `FILE`, or `LEVEL:FILE`.
fn parse(value: &str) -> Option<(Level, Option<&str>)> {
    let (level, file) = match value.split_once(':') {
        Some((level @ ("1" | "calls" | "frames"), file)) => (level, Some(file)),
        _ => (value, None),
    };
    match level {
        "" | "0" => None,
        "1" | "calls" => Some((Level::Calls, file)),
        "frames" => Some((Level::Frames, file)),
        file => Some((Level::Calls, Some(file))),
    }
}

struct Settings {
    level: Level,
    output: Output,
}

/// The setting, read once per process.
fn settings() -> Option<&'static Settings> {
    static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();
    let settings = SETTINGS.get_or_init(|| {
        let value = std::env::var_os(VARIABLE)?;
        let value = value.to_string_lossy();
        let (level, file) = parse(&value)?;
        let output = file.map_or(Output::Errors, |file| {
            match OpenOptions::new().create(true).append(true).open(file) {
                Ok(file) => Output::File(Mutex::new(Rank::TraceFile, file)),
                Err(error) => {
                    let why =
                        format!("{VARIABLE}: {file}: {error}; writing to standard error instead");
                    Output::Errors.line(&format!("{}\n", Escaped(&why)));
                    Output::Errors
                }
            }
        });
        Some(Settings { level, output })
    });
    settings.as_ref()
}

/// Which side traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Wraps a connection's transport in a trace, if it is on. `catalog` is what this side offers.
pub(crate) fn traced(
    mut channel: Channel,
    side: Side,
    endpoint: &str,
    encryptor: &dyn Encryptor,
    catalog: &Catalog,
) -> Channel {
    let Some(settings) = settings() else { return channel };
    let encrypted = encryptor.name() != PlainEncryptor.name();
    let trace = Trace::new(settings, side, endpoint, encrypted, channel.clock);
    trace.state.lock().ours = catalog.clone();
    let trace = Arc::new(trace);
    let sender = TracedSender { sender: channel.sender, trace: Arc::clone(&trace) };
    channel.sender = Box::new(sender);
    channel.receiver = Box::new(TracedReceiver { receiver: channel.receiver, trace });
    channel
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Out,
    In,
}

impl Way {
    const fn back(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

/// The trace of one connection.
struct Trace {
    settings: &'static Settings,
    /// `endpoint client 3`.
    name: String,
    encrypted: bool,
    clock: fn() -> u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ours: Catalog,
    theirs: Catalog,
    /// Messages whose last part is missing: the bytes so far, and the head.
    parts: HashMap<(Way, Kind, u64), (u64, Head)>,
    /// Unanswered requests by direction: what was called, and when.
    calls: HashMap<(Way, u64), (String, u64)>,
    /// Subscriptions by direction.
    events: HashMap<(Way, u64), String>,
    /// The part of the peer's catalog that has arrived.
    handshake: Vec<u8>,
}

impl Trace {
    fn new(
        settings: &'static Settings,
        side: Side,
        endpoint: &str,
        encrypted: bool,
        clock: fn() -> u64,
    ) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let side = if side == Side::Client { "client" } else { "server" };
        let name = format!("{} {side} {number}", Escaped(endpoint));
        Self { settings, name, encrypted, clock, state: Mutex::new(Rank::Trace, State::default()) }
    }

    /// Shows a frame that was sent or received; `payload` has at least the head of the message that begins with it.
    fn frame(&self, way: Way, header: &Header, payload: &[u8]) {
        let mut text = String::new();
        let now = (self.clock)();
        {
            let mut state = self.state.lock();
            let shown = if self.encrypted && !matches!(header.kind, Kind::Hello | Kind::Accept) {
                self.sealed(header, &mut text)
            } else {
                state.describe(self.settings.level, now, way, header, payload, &mut text)
            };
            if shown.is_err() || text.is_empty() {
                return;
            }
        }
        let arrow = if way == Way::Out { "->" } else { "<-" };
        let (seconds, micros) = (now / 1_000_000_000, now / 1000 % 1_000_000);
        self.settings
            .output
            .line(&format!("[{seconds}.{micros:06}] {} {arrow} {text}\n", self.name));
    }

    /// Shows the kind of a sealed frame.
    fn sealed(&self, header: &Header, text: &mut String) -> fmt::Result {
        let is_whole = header.last && is_of_calls(header.kind);
        if self.settings.level == Level::Frames || is_whole {
            write!(text, "{} (encrypted)", word(header.kind))
        } else {
            Ok(())
        }
    }
}

/// Whether frames of this kind are shown at the level `messages`.
const fn is_of_calls(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Credit
            | Kind::AnswerCredit
            | Kind::AnswerWaits
            | Kind::ItemCredit
            | Kind::StreamCredit
            | Kind::EventAck
            | Kind::Ping
            | Kind::Pong
    )
}

impl State {
    /// The text for a frame; `None` if it is not shown.
    fn describe(
        &mut self,
        level: Level,
        now: u64,
        way: Way,
        header: &Header,
        payload: &[u8],
        text: &mut String,
    ) -> fmt::Result {
        let Header { kind, id, len, .. } = *header;
        let key = (way, kind, id);
        let head =
            if header.first { Head::decode(payload).unwrap_or_default() } else { Head::default() };
        if level == Level::Frames && !(header.first && header.last) {
            write!(text, "part of ")?;
        } else if level == Level::Calls && !is_of_calls(kind) {
            return Ok(());
        }
        let (bytes, head) = match self.parts.remove(&key) {
            Some((before, head)) if !header.first => (before + u64::from(len), head),
            _ => (u64::from(len), head),
        };
        if !header.last {
            if self.parts.len() < MAX_REMEMBERED {
                self.parts.insert(key, (bytes, head));
            }
            if level == Level::Frames {
                write!(text, "{} {id}, {len} bytes", word(kind))?;
            }
            return Ok(());
        }
        let size = bytes.saturating_sub(if kind.is_message() { len_u64(HEAD_LEN) } else { 0 });
        write!(text, "{}", word(kind))?;
        match kind {
            Kind::Request | Kind::Response | Kind::Cancel | Kind::AbortRequest => {
                self.describe_call(now, way, header, &head, size, text)
            }
            Kind::Subscribe | Kind::Unsubscribe | Kind::Event | Kind::EventEnd | Kind::EventLag => {
                self.describe_event(way, header, payload, size, text)
            }
            Kind::StreamItem => write!(text, " {id}, {size} bytes"),
            Kind::Goodbye => write!(text, ", {size} bytes"),
            Kind::Ping
            | Kind::Pong
            | Kind::AbortResponse
            | Kind::StreamEnd
            | Kind::StreamCredit
            | Kind::StreamCancel
            | Kind::EventAck
            | Kind::LoanReturn => write!(text, " {id}"),
            Kind::Hello
            | Kind::Accept
            | Kind::Confirm
            | Kind::Welcome
            | Kind::Refuse
            | Kind::Credit
            | Kind::AnswerCredit
            | Kind::AnswerWaits
            | Kind::ItemCredit => Ok(()),
        }
    }

    fn describe_call(
        &mut self,
        now: u64,
        way: Way,
        header: &Header,
        head: &Head,
        size: u64,
        text: &mut String,
    ) -> fmt::Result {
        let id = header.id;
        write!(text, " {id}")?;
        let name = |name: Option<&String>, text: &mut String| match name {
            Some(name) => write!(text, " {name}"),
            None => Ok(()),
        };
        match header.kind {
            Kind::Request => {
                let called = self.offered(way).method_name(head.selector, head.member);
                write!(text, " {called}, {size} bytes")?;
                if self.calls.len() < MAX_REMEMBERED {
                    self.calls.insert((way, id), (called, now));
                }
            }
            Kind::Response => {
                let called = self.calls.remove(&(way.back(), id));
                name(called.as_ref().map(|(name, _)| name), text)?;
                match Status::from_code(head.selector) {
                    Some(status) => write!(text, ": {}", outcome(status))?,
                    None => write!(text, ": status {}", head.selector)?,
                }
                write!(text, ", {size} bytes")?;
                if let Some((_, began)) = called {
                    let took = Duration::from_nanos(now.saturating_sub(began));
                    write!(text, ", after {}", Rounded(took))?;
                }
            }
            // The request still gets an answer.
            Kind::Cancel => name(self.calls.get(&(way, id)).map(|(name, _)| name), text)?,
            _ => name(self.calls.remove(&(way, id)).map(|(name, _)| name).as_ref(), text)?,
        }
        Ok(())
    }

    fn describe_event(
        &mut self,
        way: Way,
        header: &Header,
        payload: &[u8],
        size: u64,
        text: &mut String,
    ) -> fmt::Result {
        let id = header.id;
        write!(text, " {id}")?;
        let name = match header.kind {
            Kind::Subscribe => {
                let mut fields = Fields::new(payload);
                let service = fields.u16("subscribe service");
                let places =
                    service.and_then(|service| Ok((service, fields.u16("subscribe event")?)));
                let name = places
                    .ok()
                    .map(|(service, event)| self.offered(way).event_name(service, event));
                if let Some(name) = name.clone().filter(|_| self.events.len() < MAX_REMEMBERED) {
                    self.events.insert((way, id), name);
                }
                name
            }
            Kind::Unsubscribe => self.events.remove(&(way, id)),
            _ => self.events.get(&(way.back(), id)).cloned(),
        };
        if let Some(name) = name {
            write!(text, " {name}")?;
        }
        if header.kind == Kind::Event {
            write!(text, ", {size} bytes")?;
        }
        Ok(())
    }

    /// The catalog of the side to which a request goes.
    const fn offered(&self, way: Way) -> &Catalog {
        match way {
            Way::Out => &self.theirs,
            Way::In => &self.ours,
        }
    }

    /// A part of what the peer says it offers.
    fn learn(&mut self, header: &Header, payload: &[u8]) {
        if header.first {
            self.handshake.clear();
        }
        self.handshake.extend_from_slice(payload);
        if !header.last {
            return;
        }
        let message = std::mem::take(&mut self.handshake);
        let body = Head::decode(&message)
            .ok()
            .and_then(|head| message.get(HEAD_LEN..)?.get(..usize::try_from(head.body_len).ok()?));
        let Some(body) = body else { return };
        let catalog = match header.kind {
            Kind::Confirm => Confirm::decode(body).map(|confirm| confirm.catalog),
            _ => Welcome::decode(body).map(|welcome| welcome.catalog),
        };
        self.theirs = catalog.unwrap_or_default();
    }
}

const fn outcome(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Fault => "the method returned an error",
        Status::Panicked => "the handler panicked",
        Status::Cancelled => "cancelled",
        Status::TimedOut => "timed out",
        Status::NoSuchMethod => "no such method",
        Status::BadArguments => "the arguments could not be read",
        Status::BadResult => "the result could not be written",
        Status::TooLarge => "the result is too large",
        Status::Overloaded => "refused, as it would have been late",
        Status::Unauthorized => "refused, as the caller may not make it",
    }
}

const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Hello => "hello",
        Kind::Accept => "accept",
        Kind::Confirm => "confirm",
        Kind::Welcome => "welcome",
        Kind::Refuse => "refuse",
        Kind::Request => "request",
        Kind::Response => "response",
        Kind::Cancel => "cancel",
        Kind::AbortRequest => "abort request",
        Kind::AbortResponse => "abort response",
        Kind::Event => "event",
        Kind::Subscribe => "subscribe",
        Kind::Unsubscribe => "unsubscribe",
        Kind::EventAck => "event ack",
        Kind::EventEnd => "event end",
        Kind::EventLag => "event lag",
        Kind::StreamItem => "stream item",
        Kind::StreamEnd => "stream end",
        Kind::StreamCredit => "stream credit",
        Kind::StreamCancel => "stream cancel",
        Kind::LoanReturn => "loan return",
        Kind::Credit => "credit",
        Kind::AnswerCredit => "answer credit",
        Kind::AnswerWaits => "answer waits",
        Kind::ItemCredit => "item credit",
        Kind::Ping => "ping",
        Kind::Pong => "pong",
        Kind::Goodbye => "goodbye",
    }
}

fn decode(head: &[u8]) -> Option<Header> {
    Header::decode(head.first_chunk()?).ok()
}

/// A sender that traces what is pushed.
struct TracedSender {
    sender: Box<dyn RecordSender>,
    trace: Arc<Trace>,
}

impl RecordSender for TracedSender {
    fn max_record(&self) -> usize {
        self.sender.max_record()
    }

    fn capacity(&self) -> usize {
        self.sender.capacity()
    }

    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError> {
        let pushed = self.sender.try_push(head, body, spare)?;
        if pushed {
            if let Some(header) = decode(head) {
                self.trace.frame(Way::Out, &header, body);
            }
        }
        Ok(pushed)
    }

    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.sender.has_room(len, spare)
    }

    fn publish(&mut self) -> Result<(), TransportError> {
        self.sender.publish()
    }

    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.sender.arm(len, spare)
    }

    fn disarm(&mut self) {
        self.sender.disarm();
    }
}

/// A receiver that traces what is read.
struct TracedReceiver {
    receiver: Box<dyn RecordReceiver>,
    trace: Arc<Trace>,
}

impl RecordReceiver for TracedReceiver {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        let Some(len) = self.receiver.peek(head)? else { return Ok(None) };
        // Protocol errors are left to the connection.
        let Some(header) = decode(head).filter(|_| len >= HEADER_LEN) else { return Ok(Some(len)) };
        let mut payload = Vec::new();
        if !self.trace.encrypted {
            let learns = matches!(header.kind, Kind::Confirm | Kind::Welcome);
            let wanted = if learns { usize::MAX } else { HEAD_LEN };
            self.receiver.append_to(HEADER_LEN, (len - HEADER_LEN).min(wanted), &mut payload);
            if learns {
                self.trace.state.lock().learn(&header, &payload);
            }
        }
        self.trace.frame(Way::In, &header, &payload);
        Ok(Some(len))
    }

    fn reserve(&self, out: &mut Vec<u8>, more: usize) {
        self.receiver.reserve(out, more);
    }

    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        self.receiver.append_to(from, len, out);
    }

    fn consume(&mut self) {
        self.receiver.consume();
    }

    fn release(&mut self) -> Result<(), TransportError> {
        self.receiver.release()
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        self.receiver.is_ready()
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        self.receiver.arm()
    }

    fn expect(&mut self) {
        self.receiver.expect();
    }

    fn disarm(&mut self) {
        self.receiver.disarm();
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.receiver.stop()
    }

    fn worth_polling(&self) -> bool {
        self.receiver.worth_polling()
    }
}

#[cfg(test)]
mod tests {
    use super::Level;
    use super::parse;

    #[test]
    fn the_variable_names_a_level_a_file_or_both() {
        for (value, meaning) in [
            ("", None),
            ("0", None),
            ("1", Some((Level::Calls, None))),
            ("calls", Some((Level::Calls, None))),
            ("frames", Some((Level::Frames, None))),
            ("/tmp/x", Some((Level::Calls, Some("/tmp/x")))),
            ("trace.log", Some((Level::Calls, Some("trace.log")))),
            ("C:\\trace.log", Some((Level::Calls, Some("C:\\trace.log")))),
            ("calls:trace.log", Some((Level::Calls, Some("trace.log")))),
            ("frames:C:\\trace.log", Some((Level::Frames, Some("C:\\trace.log")))),
        ] {
            assert_eq!(parse(value), meaning, "{value}");
        }
    }
}
