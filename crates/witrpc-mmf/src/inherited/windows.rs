//! Windows: a section, two events and a pipe, none of which anybody can open by a name. `[seg.windows.inherited]`
//!
//! The host starts the worker with a pipe as its standard input, and announces that in the environment. Once the worker runs, the host
//! duplicates the handles into its process, and writes their numbers into the pipe. So a worker has handles of its own, and nothing else that
//! the host starts meanwhile inherits them.
//!
//! The system ends a worker with its host (`Job`), so nothing else tells of that.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::os::windows::io::OwnedHandle;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

use witrpc_core::WaitStrategy;
use witrpc_core::transport::Channel;

use crate::channel::{Arenas, Terms, assemble};
use crate::event::NamedEvent;
use crate::event::pipe::PeerPipe;
use crate::event::raw_sync::Events;
use crate::event::registered;
use crate::layout::{Geometry, Instance};
use crate::region::{Region, Side};
use crate::sys::windows::handing::{both_ways, event, give, one_way, peek, register, take_over};
use crate::sys::windows::section::Section;

/// Names the environment variable that announces a connection to the worker. It stays set: removing it is not sound once threads run.
pub const VARIABLE: &str = "WITRPC_INHERITED";
/// `[seg.windows.inherited]` Raised by every change of the handles or of these texts.
const VERSION: &str = "1";
/// The length of what the environment announces: a version, a space, and the digits of an instance.
const ANNOUNCED: usize = VERSION.len() + 1 + 2 * size_of::<Instance>();

/// Why nothing is lent here.
const NO_ARENAS: &str = "on Windows a host and its worker cannot lend; send it without";

/// Whether this process has taken over what it was given.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Makes both ends of a connection, with a region of `size` bytes.
///
/// # Errors
///
/// Whatever the system says; `InvalidInput` if the size is out of bounds.
pub fn pair(size: u64) -> io::Result<(HostEnd, Bequest)> {
    let (nonce, name) = (random()?, Digits(random()?));
    let geometry = Geometry::of(size)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the size is out of bounds"))?;
    let section = Section::make(geometry.region)?;
    let region = Region::fill_section(&section, geometry, &nonce)?;
    let [host_waits, worker_waits] = [event()?, event()?];
    let (ours, theirs) = both_ways(&format!("witrpc-worker-{name}"))?;
    let (notifies_host, notifies_worker) = (host_waits.try_clone()?, worker_waits.try_clone()?);
    let host = Events::of_handles(notifies_worker, host_waits)?;
    let host = End { region, events: host, pipe: ours };
    let handles = [section.into_handle(), worker_waits, notifies_host, theirs];
    Ok((HostEnd(host), Bequest { nonce, size: geometry.region, handles, standard_input: None }))
}

fn random() -> io::Result<Instance> {
    let mut random = Instance::default();
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random)
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    region: Region,
    events: Events,
    /// Shows the end of the other side.
    pipe: OwnedHandle,
}

impl End {
    fn open(
        self,
        side: Side,
        peer_process_id: Option<u32>,
        wait_strategy: WaitStrategy,
        lease: Box<dyn Any + Send + Sync>,
    ) -> io::Result<Channel> {
        let Self { region, events, pipe } = self;
        let pipe = registered(|| register(pipe))?;
        let (notifier, waiter) = events.ends(PeerPipe::new(pipe), ());
        let on_first_frame = Box::new(|| {});
        let arenas = Arenas::none(NO_ARENAS);
        let terms = Terms { side, peer_process_id, wait_strategy, on_first_frame, lease, arenas };
        Ok(assemble(region, notifier, waiter, terms))
    }
}

/// The host's end of a connection.
#[derive(Debug)]
pub struct HostEnd(End);

impl HostEnd {
    /// Opens the host's channel. `process_id` is the worker's.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub fn open(
        self,
        process_id: Option<u32>,
        wait_strategy: WaitStrategy,
        lease: Box<dyn Any + Send + Sync>,
    ) -> io::Result<Channel> {
        self.0.open(Side::Client, process_id, wait_strategy, lease)
    }
}

/// What the worker is given: the section, its own event, its host's, and its end of the pipe.
#[derive(Debug)]
pub struct Bequest {
    nonce: Instance,
    size: u64,
    handles: [OwnedHandle; 4],
    /// The worker's, to be written to.
    standard_input: Option<File>,
}

impl Bequest {
    /// Announces it to the program of this command: by [`VARIABLE`], and by its standard input, which this sets. Drop the command once the
    /// program has been started.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub fn give(&mut self, command: &mut Command) -> io::Result<()> {
        let (reading, writing) = one_way()?;
        let mut writing = File::from(writing);
        let announcement = announcement(&self.nonce);
        // There is far more room for it in a pipe.
        writeln!(writing, "{announcement} {} {}", std::process::id(), self.size)?;
        command.env(VARIABLE, announcement).stdin(reading);
        self.standard_input = Some(writing);
        Ok(())
    }

    /// Hands it over to the program, which has been started. This process has its handles until then.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` or `BrokenPipe` if the program has ended; whatever else the system says.
    pub fn hand_over(self, child: &Child) -> io::Result<()> {
        let Some(mut standard_input) = self.standard_input else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it was not announced"));
        };
        let mut text = child.id().to_string();
        for handle in &self.handles {
            text.push(' ');
            text.push_str(&give(child, handle)?.to_string());
        }
        text.push('\n');
        standard_input.write_all(text.as_bytes())
    }

    /// Keeps it in this process, for a worker that is no other process.
    ///
    /// # Errors
    ///
    /// As [`WorkerEnd::take`].
    pub fn keep(self) -> io::Result<WorkerEnd> {
        WorkerEnd::of(&self.nonce, self.size, std::process::id(), self.handles)
    }
}

/// The worker's end of a connection.
#[derive(Debug)]
pub struct WorkerEnd {
    end: End,
    host_process_id: u32,
}

impl WorkerEnd {
    /// Whether a host has given a connection to this process, and it was not taken yet. Programs that a worker starts have the variable, and
    /// another standard input.
    #[must_use]
    pub fn is_here() -> bool {
        !TAKEN.load(Ordering::Relaxed) && announced().is_some()
    }

    /// Takes over what the host of this process has given it. Possible once. Waits for the host to say what that is, which it does at once, and
    /// leaves nothing in the standard input.
    ///
    /// # Errors
    ///
    /// `NotFound` if nothing was announced, or if it was taken before; `InvalidData` if it is for another process, or something else; whatever
    /// else the system says.
    pub fn take() -> io::Result<Self> {
        let missing = |why| io::Error::new(io::ErrorKind::NotFound, why);
        if TAKEN.load(Ordering::Relaxed) {
            return Err(missing("it was taken over before, in this process"));
        }
        let nonce = announced().ok_or_else(|| missing("nothing is announced"))?;
        // Whoever is first reads the standard input.
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(missing("it was taken over before, in this process"));
        }
        let mut input = io::stdin().lock();
        let (mut first, mut second) = (String::new(), String::new());
        input.read_line(&mut first)?;
        input.read_line(&mut second)?;
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the host has ended");
        let Some(second) = second.strip_suffix('\n') else { return Err(ended()) };
        let told = Told::parse(&first, second).ok_or_else(|| invalid("it cannot be read"))?;
        if told.process_id != std::process::id() {
            return Err(invalid("it is for another process"));
        }
        let [section, waits, notifies, pipe] = told.handles;
        let handles =
            [take_over(section)?, take_over(waits)?, take_over(notifies)?, take_over(pipe)?];
        Self::of(&nonce, told.size, told.host_process_id, handles)
    }

    fn of(
        nonce: &Instance,
        size: u64,
        host_process_id: u32,
        [section, waits, notifies, pipe]: [OwnedHandle; 4],
    ) -> io::Result<Self> {
        let region = Region::attach_section(&Section::from(section), size, nonce)?;
        if region.events() != NamedEvent::RawSync {
            return Err(invalid("the region is for another kind of named event"));
        }
        let events = Events::of_handles(notifies, waits)?;
        Ok(Self { end: End { region, events, pipe }, host_process_id })
    }

    /// Opens the worker's channel.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub fn open(
        self,
        wait_strategy: WaitStrategy,
        lease: Box<dyn Any + Send + Sync>,
    ) -> io::Result<Channel> {
        self.end.open(Side::Server, Some(self.host_process_id), wait_strategy, lease)
    }
}

/// The connection that environment and standard input announce; `None` if they do not, or not the same.
fn announced() -> Option<Instance> {
    let text = std::env::var(VARIABLE).ok()?;
    let (version, digits) = text.split_once(' ')?;
    if version != VERSION || peek::<ANNOUNCED>(&io::stdin()) != text.as_bytes() {
        return None;
    }
    Digits::parse(digits)
}

fn announcement(nonce: &Instance) -> String {
    format!("{VERSION} {}", Digits(*nonce))
}

fn invalid(rule: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule)
}

/// An instance, as lower-case hexadecimal digits.
struct Digits(Instance);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Digits {
    fn parse(digits: &str) -> Option<Instance> {
        let mut instance = Instance::default();
        if digits.len() != 2 * instance.len() {
            return None;
        }
        for (at, byte) in instance.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(instance)
    }
}

/// What the host says in the standard input.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    host_process_id: u32,
    size: u64,
    /// The worker's: in no other process do the numbers mean anything.
    process_id: u32,
    handles: [usize; 4],
}

impl Told {
    /// `None` if it is something else.
    fn parse(first: &str, second: &str) -> Option<Self> {
        let mut words = first.trim_end().split(' ').skip(2);
        let (host_process_id, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let mut numbers = second.split(' ');
        let process_id = numbers.next()?.parse().ok()?;
        let handles = numbers.map(|number| number.parse().ok()).collect::<Option<Vec<_>>>()?;
        let handles = <[usize; 4]>::try_from(handles).ok()?;
        words.next().is_none().then_some(Self { host_process_id, size, process_id, handles })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use witrpc_core::transport::Wake;

    use super::*;

    const SIZE: u64 = 64 << 10;

    async fn wake(channel: &mut Channel) -> Wake {
        poll_fn(|cx| channel.waiter.poll_wake(cx)).await.unwrap()
    }

    fn open() -> (Channel, Channel) {
        let (host, bequest) = pair(SIZE).unwrap();
        let worker = bequest.keep().unwrap();
        let host = host.open(None, WaitStrategy::Park, Box::new(())).unwrap();
        (host, worker.open(WaitStrategy::Park, Box::new(())).unwrap())
    }

    #[tokio::test]
    async fn records_cross_both_ways_and_the_end_of_one_side_is_noticed() {
        for host_ends in [false, true] {
            let (host, worker) = open();
            assert_eq!(worker.peer_process_id, Some(std::process::id()));
            let (mut from, mut to) = (host, worker);
            for _ in 0..2 {
                assert!(!to.receiver.arm().unwrap());
                assert!(from.sender.try_push(b"he", b"llo", 0).unwrap());
                from.sender.publish().unwrap();
                assert_eq!(wake(&mut to).await, Wake::Rung);
                assert_eq!(to.receiver.peek(&mut [0; 5]).unwrap(), Some(5));
                to.receiver.consume();
                std::mem::swap(&mut from, &mut to);
            }
            let [gone, mut left] = if host_ends { [from, to] } else { [to, from] };
            drop(gone);
            // A notification that was noticed may still be there.
            while wake(&mut left).await != Wake::PeerGone {}
        }
    }

    /// What takes over another list of handles, or another nonce or size.
    fn refused(change: impl FnOnce(&mut Bequest)) -> bool {
        let (_host, mut bequest) = pair(SIZE).unwrap();
        change(&mut bequest);
        bequest.keep().is_err()
    }

    #[test]
    fn other_handles_are_refused() {
        assert!(!refused(|_| {}));
        assert!(refused(|bequest| bequest.nonce[3] ^= 1));
        assert!(refused(|bequest| bequest.handles.swap(0, 1)));
        assert!(refused(|bequest| bequest.size /= 2));
        assert!(refused(|bequest| bequest.size *= 2), "it is no larger");
        assert!(refused(|bequest| bequest.size = u64::MAX));
        let [another, ..] = pair(SIZE).unwrap().1.handles;
        assert!(refused(|bequest| bequest.handles[0] = another));
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        for size in [0, 12_287, (64 << 30) + 1] {
            assert_eq!(pair(size).map(|_| ()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    /// A frozen vector: what `docs/segment.md` says.
    #[test]
    fn what_is_told_is_what_the_document_says() {
        let announced = announcement(&[0xab; 16]);
        assert_eq!(announced, format!("1 {}", "ab".repeat(16)));
        assert_eq!(announced.len(), ANNOUNCED);
        assert_eq!(Digits::parse(&"ab".repeat(16)), Some([0xab; 16]));
        let first = format!("{announced} 4711 65536\n");
        let told = Told::parse(&first, "4712 64 68 72 76");
        let (host_process_id, size, process_id) = (4711, 65_536, 4712);
        let handles = [64, 68, 72, 76];
        assert_eq!(told, Some(Told { host_process_id, size, process_id, handles }));
        for (first, second) in [
            (&first[..], "4712 64 68 72"),
            (&first[..], "4712 64 68 72 76 80"),
            (&first[..], "4712 64 68 72 -1"),
            (&first[..], ""),
            ("1 ab 4711\n", "4712 64 68 72 76"),
            ("1 ab 4711 65536 1\n", "4712 64 68 72 76"),
            ("", "4712 64 68 72 76"),
        ] {
            assert_eq!(Told::parse(first, second), None, "{first:?} {second:?}");
        }
    }

    /// Its one instance is taken: nobody else gets in between.
    #[test]
    fn the_pipe_of_a_connection_can_be_opened_by_nobody() {
        let name = format!("witrpc-worker-{}", Digits(random().unwrap()));
        let _ends = both_ways(&name).unwrap();
        let path = format!(r"\\.\pipe\{name}");
        let busy = File::options().read(true).write(true).open(path).unwrap_err();
        let expected = windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;
        assert_eq!(crate::sys::windows::code_of(&busy), Some(expected), "{busy}");
        assert!(both_ways(&name).is_err(), "nor made once more");
    }
}
