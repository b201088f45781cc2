//! Streams that come with a message.

use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::session::outbound::MAX_STREAMS;
use witrpc_core::values::attachments::IncomingStream;
use witrpc_core::values::content::{Content, Streams as StreamTable};
use witrpc_core::wire::message::StreamEntry;

use crate::link::sync::lock;
use crate::streams::host::StreamHost;
use crate::streams::inlet::Inlet;
use crate::streams::reader::InletHandle;

/// What is done with the streams of a message that has come.
pub(crate) trait AdoptsStreams: StreamHost {
    /// Takes note of the streams of a message that has come, whether anybody will read them or not. [wire.streams]
    fn adopt_streams(&self, content: &mut Content) -> Result<(), Error> {
        let Some(StreamTable::Table(table)) = content.streams() else { return Ok(()) };
        if table.is_empty() {
            return Ok(());
        }
        let inlets = self.add_inlets(table)?;
        // Made with no lock held: dropping a handle takes `unread`.
        let handle = |inlet| InletHandle::new(inlet, self.stream_host(), self.link().codec.clone());
        let handles =
            inlets.into_iter().map(|inlet| Some(IncomingStream::new(handle(inlet)))).collect();
        content.set_streams(StreamTable::Incoming(handles));
        Ok(())
    }

    fn add_inlets(&self, table: &[StreamEntry]) -> Result<Vec<Arc<Inlet>>, Error> {
        let mut streams = lock(&self.streams().table);
        if streams.inlets.len() + table.len() > MAX_STREAMS {
            return Err(Error::Protocol("more streams than may be open".to_owned()));
        }
        let mut added = Vec::with_capacity(table.len());
        for entry in table {
            let inlet = Inlet::new(*entry);
            if let Some(reason) = self.link().closed().filter(|_| streams.closed) {
                // It came as the connection ended: whoever reads it is to hear of that.
                inlet.close(reason);
            } else if streams.inlets.insert(entry.id, Arc::clone(&inlet)).is_some() {
                return Err(Error::Protocol("two streams with one id".to_owned()));
            }
            added.push(inlet);
        }
        Ok(added)
    }
}

impl<H: StreamHost + ?Sized> AdoptsStreams for H {}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::Content;
    use super::StreamTable;
    use super::lock;
    use super::{AdoptsStreams as _, StreamHost as _};
    use std::sync::Arc;
    use witrpc_core::wire::message::StreamEntry;

    /// A driver takes `streams` with `unread` in its hands no more than a message takes `unread` with `streams`.
    #[tokio::test]
    async fn streams_of_a_message_that_is_refused_are_dropped_with_no_lock_held() {
        let (_server, client) = crate::testing::connected().await;
        let connection = client.core().connection().unwrap();
        let twice = [1, 1].map(|id| StreamEntry { id, window: 0 });
        let unread = lock(&connection.streams().unread);
        let adopting = std::thread::spawn({
            let connection = Arc::clone(&connection);
            move || {
                let mut content = Content::default();
                content.set_streams(StreamTable::Table(twice.to_vec()));
                connection.adopt_streams(&mut content).unwrap_err()
            }
        });
        let is_free =
            || connection.streams().table.try_lock().is_ok_and(|s| s.inlets.contains_key(&1));
        crate::testing::until("the table of streams is free", is_free);
        drop(unread);
        assert!(adopting.join().unwrap().to_string().contains("two streams with one id"));
    }
}
