//! Support for the simulation and the fuzz targets: pipes of records in memory, and messages to compare with. For tests only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::TransportError;
use crate::session::outbound::Outgoing;
use crate::transport::{RecordReceiver, RecordSender};
use crate::values::content::Content;
use crate::wire::fields::len_u64;
use crate::wire::frame::Kind;
use crate::wire::message::Head;

/// One direction: records that were published, and the bytes that they and those to come take up.
#[derive(Debug, Default)]
pub struct Pipe {
    pub records: VecDeque<Vec<u8>>,
    pub used: usize,
    /// What the reader made room for, each time.
    pub reserved: Vec<usize>,
}

impl Pipe {
    /// Puts a record in, whatever room there is.
    pub fn push(&mut self, record: Vec<u8>) {
        self.used += record.len();
        self.records.push_back(record);
    }

    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let record = self.records.pop_front()?;
        self.used -= record.len();
        Some(record)
    }
}

#[derive(Debug)]
pub struct PipeSender {
    pub pipe: Arc<Mutex<Pipe>>,
    pub capacity: usize,
    pub batch: Vec<Vec<u8>>,
}

impl RecordSender for PipeSender {
    fn max_record(&self) -> usize {
        self.capacity / 4
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError> {
        let len = head.len() + body.len();
        let fits = self.has_room(len, spare)?;
        if fits {
            lock(&self.pipe).used += len;
            self.batch.push([head, body].concat());
        }
        Ok(fits)
    }

    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        let used = lock(&self.pipe).used;
        Ok(len <= self.max_record() && used + len + spare <= self.capacity)
    }

    fn publish(&mut self) -> Result<(), TransportError> {
        lock(&self.pipe).records.extend(self.batch.drain(..));
        Ok(())
    }

    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.has_room(len, spare)
    }

    fn disarm(&mut self) {}
}

#[derive(Debug)]
pub struct PipeReceiver {
    pub pipe: Arc<Mutex<Pipe>>,
    pub current: Option<Vec<u8>>,
}

impl RecordReceiver for PipeReceiver {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        assert!(self.current.is_none(), "peeked at twice");
        self.current = lock(&self.pipe).records.pop_front();
        Ok(self.current.as_ref().map(|record| {
            let known = head.len().min(record.len());
            head[..known].copy_from_slice(&record[..known]);
            record.len()
        }))
    }

    fn reserve(&self, out: &mut Vec<u8>, more: usize) {
        lock(&self.pipe).reserved.push(out.len() + more);
        out.reserve_exact(more);
    }

    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        let record = self.current.as_ref().expect("peeked at");
        out.extend_from_slice(&record[from..from + len]);
    }

    fn consume(&mut self) {
        let record = self.current.take().expect("peeked at");
        lock(&self.pipe).used -= record.len();
    }

    fn release(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        Ok(!lock(&self.pipe).records.is_empty())
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        self.is_ready()
    }

    fn disarm(&mut self) {}

    /// Its peer publishes nothing while this side is at work.
    fn stop(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    fn worth_polling(&self) -> bool {
        false
    }
}

/// A message as its sender means it, or as it came.
#[derive(Clone, Debug, Eq)]
pub struct Message {
    pub selector: u16,
    pub member: u16,
    pub stamp: u64,
    pub body: Vec<u8>,
    /// Of no consequence without blobs.
    pub marker: u64,
    pub blobs: Vec<Bytes>,
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        let fields = |m: &Self| (m.selector, m.member, m.stamp);
        let same_marker = self.blobs.is_empty() || self.marker == other.marker;
        fields(self) == fields(other)
            && (&self.body, &self.blobs) == (&other.body, &other.blobs)
            && same_marker
    }
}

impl Message {
    pub fn outgoing(&self, kind: Kind, id: u64) -> Outgoing {
        let mut content = Content::plain(Vec::new(), &self.body);
        content.set_blobs(self.marker, self.blobs.clone());
        Outgoing::new(kind, id, content, (self.selector, self.member, self.stamp), None)
    }

    pub fn arrived(head: &Head, content: &Content) -> Self {
        assert_eq!(u64::from(head.body_len), len_u64(content.body().len()));
        Self {
            selector: head.selector,
            member: head.member,
            stamp: head.stamp,
            body: content.body().to_vec(),
            marker: content.marker(),
            blobs: content.blobs().to_vec(),
        }
    }
}

/// Locks it, whoever panicked with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
