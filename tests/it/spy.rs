//! A client's transport that lets a test see and change what is sent: the records of the client, the file that holds the connection's
//! region, and the number of notifications.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use witrpc::Error;
use witrpc::transport::{
    BoxFuture, Channel, ClientTransport, RecordSender, TransportError, Waiter, Wake,
};

use crate::fixture::files;

/// What a [`Spy`] has found; shared with the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    records: Arc<Mutex<Vec<Vec<u8>>>>,
    region: Arc<Mutex<Option<Region>>>,
    notifications: Arc<AtomicUsize>,
}

impl Found {
    /// All records that were sent.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        self.records.lock().unwrap().clone()
    }

    /// How many notifications the client has noticed.
    pub(crate) fn notifications(&self) -> usize {
        self.notifications.load(Ordering::Relaxed)
    }

    /// The region of the last connection, from before its first record on.
    pub(crate) fn region(&self) -> Option<Region> {
        self.region.lock().unwrap().clone()
    }
}

/// The live region of a connection, through its file: that stays what the two sides have mapped when it has no name
/// any more.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    file: Arc<Mutex<File>>,
    pub(crate) len: u64,
}

impl Region {
    fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self { file: Arc::new(Mutex::new(file)), len }
    }

    /// The same bytes at another place, for who wants to do no harm.
    pub(crate) fn copied(&self) -> Self {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.read_all()).unwrap();
        Self { file: Arc::new(Mutex::new(file)), len: self.len }
    }

    pub(crate) fn read(&self, at: u64, bytes: &mut [u8]) {
        let mut file = self.file.lock().unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(bytes).unwrap();
    }

    pub(crate) fn read_all(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub(crate) fn read_u64(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Writes what lies within the region; a file that grows or shrinks is another matter.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let room = self.len.saturating_sub(at).min(bytes.len() as u64);
        let mut file = self.file.lock().unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&bytes[..room as usize]).unwrap();
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Spy {
    inner: Box<dyn ClientTransport>,
    /// Where regions appear, if they do.
    directory: Option<PathBuf>,
    found: Found,
}

impl Spy {
    pub(crate) fn new(
        inner: Box<dyn ClientTransport>,
        directory: Option<PathBuf>,
    ) -> (Self, Found) {
        let found = Found::default();
        (Self { inner, directory, found: found.clone() }, found)
    }

    fn regions(&self) -> Vec<String> {
        let all = self.directory.as_deref().map(files).unwrap_or_default();
        all.into_iter().filter(|name| name.ends_with(".mmf")).collect()
    }
}

impl ClientTransport for Spy {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.inner.validate()
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async move {
            let before = self.regions();
            let mut channel = self.inner.connect(deadline).await?;
            // It loses its name when the server has our first record.
            let new = self.regions().into_iter().find(|name| !before.contains(name));
            if let (Some(directory), Some(name)) = (&self.directory, new) {
                let region = Region::open(&directory.join(name));
                *self.found.region.lock().unwrap() = Some(region);
            }
            let inner = channel.sender;
            channel.sender = Box::new(Tap { inner, records: Arc::clone(&self.found.records) });
            let inner = channel.waiter;
            channel.waiter =
                Box::new(Counter { inner, notifications: Arc::clone(&self.found.notifications) });
            Ok(channel)
        })
    }
}

/// Counts the notifications.
struct Counter {
    inner: Box<dyn Waiter>,
    notifications: Arc<AtomicUsize>,
}

impl Waiter for Counter {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        let woken = self.inner.poll_wake(cx);
        if matches!(woken, Poll::Ready(Ok(Wake::Rung))) {
            self.notifications.fetch_add(1, Ordering::Relaxed);
        }
        woken
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        let Self { inner, notifications } = *self;
        Ok(Box::new(Self { inner: inner.moved()?, notifications }))
    }
}

/// Notes the records that go through.
struct Tap {
    inner: Box<dyn RecordSender>,
    records: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl RecordSender for Tap {
    fn max_record(&self) -> usize {
        self.inner.max_record()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError> {
        let pushed = self.inner.try_push(head, body, spare)?;
        let mut records = self.records.lock().unwrap();
        // The first few are all that anybody looks at.
        if pushed && records.len() < 16 {
            records.push([head, body].concat());
        }
        Ok(pushed)
    }

    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.inner.has_room(len, spare)
    }

    fn publish(&mut self) -> Result<(), TransportError> {
        self.inner.publish()
    }

    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.inner.arm(len, spare)
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }
}
