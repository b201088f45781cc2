//! Streams within a message that has arrived.

use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::session::outbound::MAX_STREAMS;
use witrpc_core::values::attachments::IncomingStream;
use witrpc_core::values::content::{Content, Streams as StreamTable};
use witrpc_core::wire::message::StreamEntry;

use crate::streams::host::StreamHost;
use crate::streams::reader::StreamReader;
use crate::streams::receiver::StreamReceiver;

/// Registers the streams of messages that arrive.
pub(crate) trait AdoptsStreams: StreamHost {
    /// Registers the streams of a message, whether they will be read or not. `of_value` says whether it is an event's value or a stream's
    /// item. [wire.streams]
    fn adopt_streams(&self, content: &mut Content, of_value: bool) -> Result<(), Error> {
        let Some(StreamTable::Table(table)) = content.streams() else { return Ok(()) };
        if table.is_empty() {
            return Ok(());
        }
        let receivers = self.add_receivers(table)?;
        let handle = |receiver| {
            StreamReader::new(receiver, self.stream_host(), self.link().codec.clone(), of_value)
        };
        let handles = receivers
            .into_iter()
            .map(|receiver| Some(IncomingStream::new(handle(receiver))))
            .collect();
        content.set_streams(StreamTable::Incoming(handles));
        Ok(())
    }

    fn add_receivers(&self, table: &[StreamEntry]) -> Result<Vec<Arc<StreamReceiver>>, Error> {
        let mut streams = self.streams().table.lock();
        if streams.receivers.len() + table.len() > MAX_STREAMS {
            return Err(Error::Protocol("more open streams than allowed".to_owned()));
        }
        let mut added = Vec::with_capacity(table.len());
        for entry in table {
            let receiver = StreamReceiver::new(*entry);
            if let Some(reason) = self.link().closed().filter(|_| streams.closed) {
                // The stream arrived as the connection ended: its reader gets the reason.
                receiver.close(reason);
            } else if streams.receivers.insert(entry.id, Arc::clone(&receiver)).is_some() {
                return Err(Error::Protocol("two streams with the same id".to_owned()));
            }
            added.push(receiver);
        }
        Ok(added)
    }
}

impl<H: StreamHost + ?Sized> AdoptsStreams for H {}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::Content;
    use super::StreamTable;
    use super::{AdoptsStreams as _, StreamHost as _};
    use std::sync::Arc;
    use witrpc_core::wire::message::StreamEntry;

    /// Neither the driver nor a message ever holds the locks of `streams` and `unread` at the same time.
    #[tokio::test]
    async fn streams_of_a_message_that_is_refused_are_dropped_with_no_lock_held() {
        let (_server, client) = crate::testing::connected().await;
        let connection = client.core().connection().unwrap();
        let twice = [1, 1].map(|id| StreamEntry { id, window: 0 });
        let unread = connection.streams().unread.lock();
        let adopting = std::thread::spawn({
            let connection = Arc::clone(&connection);
            move || {
                let mut content = Content::default();
                content.set_streams(StreamTable::Table(twice.to_vec()));
                connection.adopt_streams(&mut content, false).unwrap_err()
            }
        });
        let is_free =
            || connection.streams().table.try_lock().is_some_and(|s| s.receivers.contains_key(&1));
        crate::testing::until("the table of streams is free", is_free);
        drop(unread);
        assert!(adopting.join().unwrap().to_string().contains("two streams with the same id"));
    }
}
