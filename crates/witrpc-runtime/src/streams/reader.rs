//! [`StreamReader`]: the handle by which a task reads a stream of the peer.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::stream_receiver::Next;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
use witrpc_core::{CloseReason, Error};

use crate::context::{SideChannel, is_first_poll};
use crate::link::fairness::{Step, poll_counted};
use crate::link::leading::Leads;
use crate::link::poller::Poll as Polling;
use crate::locks;
use crate::streams::host::StreamHost;
use crate::streams::reading::ReadsStreams;
use crate::streams::receiver::StreamReceiver;
use crate::streams::windows::Width;

/// The handle of the task that reads a stream. Dropping it cancels the stream.
pub(crate) struct StreamReader {
    receiver: Arc<StreamReceiver>,
    connection: Weak<dyn StreamHost>,
    codec: Codec,
    /// Whether an event's value or a stream's item has announced it.
    of_value: bool,
    width: Width,
    /// The client of the stream, which must live as long as the stream is read.
    keep: Option<Arc<dyn Any + Send + Sync>>,
    /// A busy-poll for an item that was interrupted.
    polling: Option<Polling>,
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}

impl StreamReader {
    pub(crate) const fn new(
        receiver: Arc<StreamReceiver>,
        connection: Weak<dyn StreamHost>,
        codec: Codec,
        of_value: bool,
    ) -> Self {
        let (width, keep, polling) = (Width::Items(0), None, None);
        Self { receiver, connection, codec, of_value, width, keep, polling }
    }

    /// The side channel of the connection, as long as that lasts, and the id of the stream.
    pub(crate) fn side_channel(&self) -> Option<(SideChannel, u64)> {
        Some((self.connection.upgrade()?.side_channel()?, self.receiver.id))
    }

    /// Whether an event's value or a stream's item has announced it.
    pub(crate) const fn is_of_value(&self) -> bool {
        self.of_value
    }

    /// Sends the first credit, unless it was sent.
    pub(crate) fn open(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.open_stream(&self.receiver, self.width);
        }
    }

    pub(crate) const fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Sets the window, in items. Has no effect once the stream has been polled.
    pub(crate) const fn set_window(&mut self, items: u32) {
        self.width = Width::Items(items);
    }

    /// Makes the window as small as one item needs. Has no effect once the stream has been polled.
    pub(crate) const fn take_one_item(&mut self) {
        self.width = Width::OneItem;
    }

    /// The items that were not taken, if the stream has ended.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held_beyond_its_end(&self) -> Option<(Held, Held)> {
        let state = self.receiver.state.lock();
        state.stream.has_ended().then(|| state.stream.held())
    }

    /// Keeps `what` alive for as long as the stream is read.
    pub(crate) fn keep(&mut self, what: Option<Arc<dyn Any + Send + Sync>>) {
        self.keep = what;
    }

    /// Polls for the next item. Only `None` follows an error.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Content, Error>>> {
        poll_counted(cx, Step::Message, |cx| self.poll_item(cx), size)
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Content, Error>>> {
        if let Some(next) = self.take() {
            return Poll::Ready(next);
        }
        if let Some(connection) = self.connection.upgrade() {
            connection.open_stream(&self.receiver, self.width);
            // The first poll of a handler runs on the driver, which must not wait here.
            if !is_first_poll() {
                connection.lead_for_stream(self.receiver.id, &mut self.polling, cx.waker());
            }
        } else {
            self.receiver.close(&CloseReason::Local);
        }
        if let Some(next) = self.take() {
            return Poll::Ready(next);
        }
        let came = locks::with_clone(cx.waker(), |clone| {
            let mut state = self.receiver.state.lock();
            // It may have come between the two looks.
            let came = state.stream.is_ready();
            (came || state.waker.leave(cx.waker(), clone)).then_some(came)
        });
        if came { self.take().map_or(Poll::Pending, Poll::Ready) } else { Poll::Pending }
    }

    /// What is there: an item, the end, or nothing yet.
    fn take(&self) -> Option<Option<Result<Content, Error>>> {
        let mut state = self.receiver.state.lock();
        let next = state.stream.take();
        state.give_share_back();
        drop(state);
        match next? {
            Next::End(error) => Some(error.map(Err)),
            Next::Item(mut content, credit) => {
                for stream in content.incoming_mut() {
                    if let Some(reader) = stream.inner_mut::<Self>() {
                        reader.keep(self.keep.clone());
                    }
                }
                if let Some((items, bytes)) = credit {
                    if let Some(connection) = self.connection.upgrade() {
                        connection.grant(self.receiver.id, items, bytes);
                    }
                }
                Some(Some(Ok(content)))
            }
        }
    }
}

fn size(item: &Option<Result<Content, Error>>) -> u64 {
    match item {
        Some(Ok(content)) => content.size(),
        Some(Err(_)) | None => 0,
    }
}

impl Drop for StreamReader {
    /// Later, if a lock is held: it may be that of another stream, of whose items this one was a part.
    fn drop(&mut self) {
        let (receiver, connection) = (Arc::clone(&self.receiver), Weak::clone(&self.connection));
        locks::let_go((receiver, connection), |(receiver, connection)| {
            cancel(&receiver, &connection);
        });
    }
}

/// The stream has no reader any more.
fn cancel(receiver: &StreamReceiver, connection: &Weak<dyn StreamHost>) {
    let mut state = receiver.state.lock();
    let (unread, ended) = (state.stream.cancel(), state.stream.has_ended());
    state.give_share_back();
    let waker = state.waker.take();
    drop(state);
    locks::dispose((unread, waker));
    if !ended {
        if let Some(connection) = connection.upgrade() {
            connection.leave_cancel(receiver.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StreamReader;
    use super::StreamReceiver;
    use crate::connection::Connection;
    use crate::streams::windows::Windows;
    use std::future::poll_fn;
    use std::sync::{Arc, Weak};
    use std::task::Poll;
    use witrpc_core::session::ledger::Charge;
    use witrpc_core::session::stream_receiver::Broken;
    use witrpc_core::values::content::Content;
    use witrpc_core::values::serializer::Codec;
    use witrpc_core::wire::message::StreamEntry;

    fn receiver(most: u32) -> Arc<StreamReceiver> {
        StreamReceiver::new(StreamEntry { id: 1, window: most })
    }

    fn push(
        receiver: &StreamReceiver,
        number: u64,
        len: usize,
        charge: Charge,
    ) -> Result<(), Broken> {
        receiver.push(number, Content::plain(Vec::new(), &vec![0; len]), charge)
    }

    /// A stream may end long before what came of it is taken, and until then that is held here.
    #[test]
    fn a_window_is_for_others_once_nothing_is_held_and_nothing_can_come() {
        let windows = Windows::new(16_000);
        let handle = |receiver: &Arc<StreamReceiver>| {
            let share = windows.take();
            receiver.open(0, share.bytes());
            receiver.keep_share(share);
            assert_eq!(push(receiver, 1, 10, Charge::none()), Ok(()));
            StreamReader::new(Arc::clone(receiver), Weak::<Connection>::new(), Codec::Json, false)
        };
        let whole = windows.take().bytes();
        let [read, dropped, cancelled] = [receiver(0), receiver(0), receiver(0)];
        let handles = [&read, &dropped, &cancelled].map(handle);
        read.end(None);
        dropped.end(None);
        assert!(windows.take().bytes() < whole, "all have something");
        let [read, dropped, cancelled] = handles;
        assert!(matches!(read.take(), Some(Some(Ok(_)))));
        drop(dropped);
        drop(cancelled);
        assert_eq!(windows.take().bytes(), whole);
    }

    /// A reader whose items are there leaves other tasks their turn all the same.
    #[test]
    fn reading_uses_up_the_tasks_budget() {
        const ITEMS: usize = 200;
        const LEN: usize = 5 << 10;
        let receiver = receiver(0);
        receiver.open(0, 2 << 20);
        (1..).take(ITEMS).for_each(|n| assert_eq!(push(&receiver, n, LEN, Charge::none()), Ok(())));
        let mut handle = StreamReader::new(receiver, Weak::<Connection>::new(), Codec::Json, false);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut read = 0;
        let reads = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(_))) = handle.poll(cx) {
                read += 1;
            }
            Poll::Ready(())
        });
        runtime.block_on(reads);
        assert!(read > 1 && read < ITEMS, "{read} of {ITEMS} in one go");
    }
}
