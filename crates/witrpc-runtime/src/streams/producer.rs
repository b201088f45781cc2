//! The task that polls a user's stream while the peer has given credit, and sends its items.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use witrpc_core::session::outbound::Room;
use witrpc_core::text::Escaped;
use witrpc_core::user_code::{catch, dispose};
use witrpc_core::values::content::Content;
use witrpc_core::wire::fields::len_u64;
use witrpc_core::wire::status::Status;

use crate::context::{CallContext, SideChannel, polling_stream};
use crate::link::places::{Closed, Waiting};
use crate::link::reply::Reply;
use crate::locks::assert_none_is_held;
use crate::streams::host::StreamHost;
use crate::streams::sender::{
    BATCH, BATCH_BYTES, Cancelled, Produce, QUEUED_ITEM, Source, StreamSender,
};
use crate::streams::unfetched::{OfStream, Sender, Unfetched};
use crate::streams::writing::{Added, Refused, Unsent, WritesStreams};

/// Spawns a task for each stream that a sent message announced; it waits for the first credit. A handler's stream is polled within a
/// context like that of the handler.
pub(crate) fn start_streams<H: StreamHost + ?Sized>(host: &H, added: Vec<Added>, of_handler: bool) {
    if added.is_empty() {
        return;
    }
    let Some(shared) = host.shared_stream_host() else { return };
    for added in added {
        let context = of_handler.then(|| host.handler_context());
        host.link().runtime.spawn(produce(Arc::clone(&shared), added, context));
    }
}

/// The same for the resources of an event's value, or of a stream's item. Whoever sends it is told as each of them is fetched.
pub(crate) fn start_resources<H: StreamHost + ?Sized>(
    host: &H,
    added: Vec<Added>,
    sender: &Arc<dyn Sender>,
) {
    if added.is_empty() {
        return;
    }
    let Some(shared) = host.shared_stream_host() else { return };
    for added in added {
        // Before the task is spawned, which may be dropped before its first poll.
        let unfetched = Unfetched::new(sender);
        let produce = produce(Arc::clone(&shared), added, None);
        host.link().runtime.spawn(async move {
            produce.await;
            drop(unfetched);
        });
    }
}

/// Polls a stream to its end and sends its items. `context` is the context for a stream that a handler returned.
async fn produce(
    connection: Arc<dyn StreamHost>,
    (sender, source): Added,
    context: Option<CallContext>,
) {
    let Some(Source(stream)) = source.into_inner() else { unreachable!("a message has no other") };
    let side_channel = connection.side_channel();
    let unfetched = OfStream::new();
    let mut producer =
        Producer { stream, connection, sender, context, side_channel, unfetched, number: 0 };
    if let Ok(end) = producer.run().await {
        producer.connection.end_stream(&producer.sender, end);
    }
    let Producer { stream, context, .. } = producer;
    if let Some(context) = &context {
        context.cancel();
    }
    dispose("a stream", stream);
}

struct Producer {
    stream: Box<dyn Produce>,
    connection: Arc<dyn StreamHost>,
    sender: Arc<StreamSender>,
    context: Option<CallContext>,
    /// The connection's. Most have none.
    side_channel: Option<SideChannel>,
    /// The resources of its items.
    unfetched: Arc<OfStream>,
    /// The number of the last item.
    number: u64,
}

impl Producer {
    async fn run(&mut self) -> Result<Reply, Cancelled> {
        let (mut items, mut turn) = (Vec::new(), None);
        loop {
            let polled = poll_fn(|cx| {
                let polled = self.poll_batch(cx, turn.is_some(), &mut items);
                if polled.is_pending() {
                    turn = None; // Others may poll until this stream has an item.
                }
                polled
            });
            let Polled::Batch { bytes, end } = polled.await? else {
                let turns = &self.connection.streams().queue_waiters.turn;
                turn = Some(acquire(&self.sender, turns, 1).await?);
                continue;
            };
            if !items.is_empty() {
                let is_full = self.is_full(items.len(), bytes);
                let room = room(&self.sender, &*self.connection, bytes).await?;
                let first = self.number + 1;
                self.number += len_u64(items.len());
                let items = items.drain(..);
                let (added, sent) = self.connection.send_items(&self.sender, first, items, room);
                start_resources(&*self.connection, added, &(Arc::clone(&self.unfetched) as _));
                match sent {
                    Ok(()) => {}
                    Err(Unsent::Cancelled) => return Err(Cancelled),
                    Err(Unsent::Refused(refused)) => return Ok(unsent(&refused)),
                }
                turn = None;
                if is_full && end.is_none() {
                    tokio::task::yield_now().await;
                }
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Polls the user's stream for as many items as are ready and covered by credit, and for its end. While other streams wait for
    /// room, polls only if this task holds the turn.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        has_turn: bool,
        items: &mut Vec<Content>,
    ) -> Poll<Result<Polled, Cancelled>> {
        let mut left = self.sender.poll_allowance(cx)?;
        if left.is_left() && !has_turn && self.connection.streams().queue_waiters.any() {
            return Poll::Ready(Ok(Polled::OthersWait));
        }
        let (mut bytes, mut end) = (0, None);
        while end.is_none()
            && !self.is_full(items.len(), bytes)
            && left.is_left()
            && self.unfetched.has_room(cx)
        {
            match self.poll_item(cx) {
                Poll::Ready(Ok(item)) => {
                    left.spend(item.size());
                    self.unfetched.add(item.stream_count());
                    bytes += item.size() + QUEUED_ITEM;
                    items.push(item);
                    end = self.stream.is_over().then(|| Reply::text(Status::Ok, ""));
                }
                Poll::Ready(Err(reply)) => end = Some(reply),
                Poll::Pending => break,
            }
        }
        self.sender.spend(items);
        if items.is_empty() && end.is_none() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(Polled::Batch { bytes, end }))
    }

    /// Whether a batch with this many items and bytes takes no further item.
    fn is_full(&self, items: usize, bytes: u64) -> bool {
        items >= BATCH || bytes >= self.connection.link().sending.queue.items.room_for(BATCH_BYTES)
    }

    /// Polls for the next item; `Err` is the end of the stream.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Content, Reply>> {
        assert_none_is_held("a stream of the user's is polled");
        let codec = &self.connection.link().codec;
        let stream = &mut self.stream;
        let (side_channel, id) = (self.side_channel.as_ref(), self.sender.id);
        let mut poll =
            || polling_stream(side_channel, id, || catch(|| stream.poll_item(cx, codec)));
        let polled = match &self.context {
            Some(context) => context.enter(poll),
            None => poll(),
        };
        let link = self.connection.link();
        let limit = link.peer_limits.max_message_size;
        Poll::Ready(match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(mut item)))) => {
                link.lending.prepare(&mut item);
                if item.size() > limit {
                    return Poll::Ready(Err(Reply::too_large(item.size(), limit)));
                }
                self.connection.can_carry(&item).map(|()| item).map_err(|refused| unsent(&refused))
            }
            Ok(Poll::Ready(Some(Err(end)))) => Err(end),
            Ok(Poll::Ready(None)) => Err(Reply::text(Status::Ok, "")),
            Err(message) => {
                tracing::error!(panic = %Escaped(&message), "a stream panicked while it was polled");
                Err(Reply::text(Status::Panicked, &message))
            }
        })
    }
}

/// How a stream ends whose item cannot be sent.
fn unsent(refused: &Refused) -> Reply {
    let reason = refused.to_string();
    tracing::warn!(reason, "an item of a stream cannot be sent");
    Reply::text(Status::BadResult, &reason)
}

/// The result of polling a stream.
enum Polled {
    /// Items that take `bytes` in the sending queue, and the end of the stream if it was reached.
    Batch { bytes: u64, end: Option<Reply> },
    /// Nothing was polled: other streams wait for room, and this task does not hold the turn.
    OthersWait,
}

/// Waits for room in the sending queue, unless the stream is cancelled.
async fn room(
    sender: &StreamSender,
    connection: &dyn StreamHost,
    bytes: u64,
) -> Result<Room, Cancelled> {
    let line = &connection.link().sending.queue.items;
    let bytes = line.room_for(bytes);
    if let Some(room) = line.try_take(bytes) {
        return Ok(room);
    }
    let _waiting = connection.streams().queue_waiters.enter();
    let mut waiting = Waiting::new(line, bytes);
    poll_fn(|cx| {
        sender.poll_allowance(cx)?;
        waiting.poll(cx).map_err(|_: Closed| Cancelled)
    })
    .await
}

/// Waits for these permits, unless the stream is cancelled.
async fn acquire(
    sender: &StreamSender,
    semaphore: &Arc<Semaphore>,
    permits: u32,
) -> Result<OwnedSemaphorePermit, Cancelled> {
    let mut permit = pin!(Arc::clone(semaphore).acquire_many_owned(permits));
    poll_fn(|cx| {
        sender.poll_allowance(cx)?;
        permit.as_mut().poll(cx).map_err(|_: AcquireError| Cancelled)
    })
    .await
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("sender", &self.sender).finish_non_exhaustive()
    }
}
