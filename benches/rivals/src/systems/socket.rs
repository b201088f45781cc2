//! A floor: a Unix socket in tokio, raw frames, one task on each side.
//!
//! A frame is its length in four bytes, and the bytes. Requests that are made together leave together, as do answers to
//! requests that came together.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use crate::client::{InOrder, Pipe};
use crate::system::{Endpoint, Ready, System};

pub(crate) struct Socket;

/// A frame that is an addition; longer ones are echoes.
const SMALL: usize = 8;
const BUFFER: usize = 64 << 10;

impl System for Socket {
    type Client = InOrder<Stream>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let listener = UnixListener::bind(at.path("socket"))?;
        ready.tell("");
        let mut stream = Stream::new(listener.accept().await?.0);
        let mut payload = Vec::new();
        loop {
            stream.read(&mut payload).await?;
            match <[u8; SMALL]>::try_from(&*payload) {
                Ok(numbers) => stream.write(&sum(numbers).to_ne_bytes()).await?,
                Err(_) => stream.write(&payload).await?,
            }
            if stream.reader.buffer().is_empty() {
                stream.writer.flush().await?;
            }
        }
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        Ok(InOrder(Stream::new(UnixStream::connect(at.path("socket")).await?)))
    }
}

fn sum(numbers: [u8; SMALL]) -> i32 {
    let both = u64::from_ne_bytes(numbers);
    ((both >> 32) as i32).wrapping_add(both as i32)
}

pub(crate) struct Stream {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
}

impl Stream {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::with_capacity(BUFFER, reader),
            writer: BufWriter::with_capacity(BUFFER, writer),
        }
    }

    async fn read(&mut self, payload: &mut Vec<u8>) -> Result<()> {
        let length = self.reader.read_u32_le().await? as usize;
        payload.resize(length, 0);
        self.reader.read_exact(payload).await?;
        Ok(())
    }

    async fn write(&mut self, payload: &[u8]) -> Result<()> {
        self.writer.write_u32_le(u32::try_from(payload.len())?).await?;
        self.writer.write_all(payload).await?;
        Ok(())
    }
}

impl Pipe for Stream {
    async fn ask(&mut self, a: i32, b: i32) -> Result<()> {
        let both = u64::from(a as u32) << 32 | u64::from(b as u32);
        self.write(&both.to_ne_bytes()).await
    }

    async fn answer(&mut self) -> Result<i32> {
        if self.reader.buffer().is_empty() {
            self.writer.flush().await?;
        }
        self.reader.read_u32_le().await?;
        let mut sum = [0; 4];
        self.reader.read_exact(&mut sum).await?;
        Ok(i32::from_ne_bytes(sum))
    }

    async fn echo(&mut self, mut payload: Vec<u8>) -> Result<Vec<u8>> {
        self.write(&payload).await?;
        self.writer.flush().await?;
        self.read(&mut payload).await?;
        Ok(payload)
    }
}
