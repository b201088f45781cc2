//! What the simulation and the fuzz targets run sessions over: pipes of records in memory, and messages as their sender
//! means them. For tests only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::connection::lock;
use crate::frame::Kind;
use crate::message::{Content, Head};
use crate::outbound::Outgoing;
use crate::transport::{RecordReceiver, RecordSender, TransportError};
use crate::wire::len_u64;

/// One direction: records that were published, and the bytes that they and those to come take up.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) records: VecDeque<Vec<u8>>,
    pub(crate) used: usize,
}

impl Pipe {
    /// Puts a record in, whatever room there is.
    pub(crate) fn push(&mut self, record: Vec<u8>) {
        self.used += record.len();
        self.records.push_back(record);
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let record = self.records.pop_front()?;
        self.used -= record.len();
        Some(record)
    }
}

pub(crate) struct PipeSender {
    pub(crate) pipe: Arc<Mutex<Pipe>>,
    pub(crate) capacity: usize,
    pub(crate) batch: Vec<Vec<u8>>,
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

pub(crate) struct PipeReceiver {
    pub(crate) pipe: Arc<Mutex<Pipe>>,
    pub(crate) current: Option<Vec<u8>>,
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

    fn worth_polling(&self) -> bool {
        false
    }
}

/// A message as its sender means it, or as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) selector: u16,
    pub(crate) member: u16,
    pub(crate) stamp: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) blobs: Vec<Bytes>,
}

impl Message {
    pub(crate) fn outgoing(&self, kind: Kind, id: u64) -> Outgoing {
        let mut content = Content::plain(Vec::new(), &self.body);
        content.set_blobs(self.blobs.clone());
        Outgoing::new(kind, id, content, (self.selector, self.member, self.stamp), None)
    }

    pub(crate) fn arrived(head: &Head, content: &Content) -> Self {
        assert_eq!(u64::from(head.body_len), len_u64(content.body().len()));
        Self {
            selector: head.selector,
            member: head.member,
            stamp: head.stamp,
            body: content.body().to_vec(),
            blobs: content.blobs().to_vec(),
        }
    }
}
