//! Serving: from a request to its response.
//!
//! A handler is polled once where its request was read, and handed to the runtime if it is not ready. A method that
//! has been slow at that (two of the last eight that were timed, over [`SLOW`]) is handed over at once, and tried in place
//! again now and then. Nothing is begun while answers wait for a peer that does not read them. Every handler is answered
//! exactly once: whoever removes its entry from the table answers.

mod table;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tracing::Span;

use self::table::Goes;
pub(crate) use self::table::{Served, Stopped};
use crate::connection::Connection;
use crate::context::CallContext;
use crate::error::Error;
use crate::event::Registration;
use crate::handshake::Catalog;
use crate::introspection::{Introspection, RESERVED, ServerDescription};
use crate::ledger::Charge;
use crate::message::{Content, Head};
use crate::service::{Dispatch, MethodDescriptor, Reply, Request, Service, Status};
use crate::sink::EventSink;

/// A first poll that takes longer keeps others waiting noticeably.
const SLOW: Duration = Duration::from_micros(50);
/// So many slow ones among the last eight, and the method is no longer polled in place.
const SLOW_ONES: u32 = 2;
/// One in so many calls of a slow method is tried in place again.
const TRIAL_EVERY: u32 = 64;
/// One in so many first polls of a method that has been fast is timed: two looks at the clock are a good part of a small
/// call's time.
const TIMED_EVERY: u32 = 4;

thread_local! {
    /// Whether this thread is polling a handler in place.
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the first poll of a handler, which shows whether it is done at once: nothing it waits for wakes it.
pub(crate) fn is_first_poll() -> bool {
    IN_PLACE.get()
}

/// Where a handler goes on that is not done at once.
#[derive(Clone, Copy, Debug)]
enum Next {
    Task { has_begun: bool },
    Thread,
}

/// A request, to be served.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) head: Head,
    pub(crate) content: Content,
    pub(crate) charge: Charge,
}

/// The services of an endpoint; one for all its connections.
#[derive(Default)]
pub(crate) struct Services {
    entries: Vec<Entry>,
}

struct Entry {
    service: Arc<dyn Service>,
    methods: Vec<Habit>,
}

/// How a method's first polls have gone.
#[derive(Default)]
struct Habit {
    /// One bit per first poll, the latest lowest; set if it was slow.
    slow: AtomicU8,
    /// Calls handed over since the last trial.
    handed_over: AtomicU32,
    /// First polls while none was slow.
    fast: AtomicU32,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.descriptors().map(|d| d.name)).finish()
    }
}

impl Services {
    /// Adds a service.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is one of that name.
    pub(crate) fn add(&mut self, service: Arc<dyn Service>) -> Result<(), Error> {
        let descriptor = service.descriptor();
        if descriptor.name.starts_with(RESERVED) {
            let advice = format!("names that begin with {RESERVED:?} are reserved; choose another");
            return Err(Error::config("with_service", descriptor.name, advice));
        }
        if self.descriptors().any(|d| d.name == descriptor.name) {
            return Err(Error::config(
                "with_service",
                descriptor.name,
                "there is a service of this name already; give one of the traits another with \
                 #[witrpc::service(name = \"…\")]",
            ));
        }
        self.push(service);
        Ok(())
    }

    /// Adds the service that every server has, after the user's.
    pub(crate) fn add_introspection(&mut self, description: ServerDescription) {
        self.push(Arc::new(Introspection(Arc::new(description))));
    }

    fn push(&mut self, service: Arc<dyn Service>) {
        let methods = service.descriptor().methods.iter().map(|_| Habit::default()).collect();
        self.entries.push(Entry { service, methods });
    }

    fn subscribe(&self, service: u16, event: u16, sink: EventSink) -> Option<Registration> {
        let entry = self.entries.get(usize::from(service))?;
        catch(|| entry.service.subscribe(usize::from(event), sink).0).ok().flatten()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn catalog(&self) -> Catalog {
        Catalog::new(self.descriptors())
    }

    pub(crate) fn descriptors(
        &self,
    ) -> impl Iterator<Item = &'static crate::service::ServiceDescriptor> {
        self.entries.iter().map(|entry| entry.service.descriptor())
    }

    fn find(&self, head: &Head) -> Option<(&Entry, &'static MethodDescriptor, &Habit)> {
        let entry = self.entries.get(usize::from(head.selector))?;
        let method = entry.service.descriptor().methods.get(usize::from(head.member))?;
        Some((entry, method, entry.methods.get(usize::from(head.member))?))
    }
}

impl Habit {
    fn in_place(&self) -> bool {
        // Relaxed throughout: a statistic; a lost update costs one misjudged call.
        if self.slow.load(Ordering::Relaxed).count_ones() < SLOW_ONES {
            return true;
        }
        self.handed_over.fetch_add(1, Ordering::Relaxed) % TRIAL_EVERY == TRIAL_EVERY - 1
    }

    fn is_timed(&self) -> bool {
        if self.slow.load(Ordering::Relaxed) != 0 {
            return true;
        }
        let fast = self.fast.load(Ordering::Relaxed);
        self.fast.store(fast.wrapping_add(1), Ordering::Relaxed);
        fast.is_multiple_of(TIMED_EVERY)
    }

    fn note(&self, slow: bool) {
        let history = self.slow.load(Ordering::Relaxed);
        if history != 0 || slow {
            self.slow.store(history << 1 | u8::from(slow), Ordering::Relaxed);
        }
    }
}

impl Connection {
    /// Checks that the peer may make this call. An answer that has not left is one that it cannot have read, so its call
    /// is unanswered whatever the peer thinks.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it may not.
    pub(crate) fn admit(&self, id: u64) -> Result<(), Error> {
        self.served.admit(id, self.unsent_responses())
    }

    /// Puts aside what somebody else than the driver has read.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer may not make this call.
    pub(crate) fn take_in(&self, job: Job) -> Result<(), Error> {
        self.served.take_in(job, self.unsent_responses())
    }

    /// Serves a request that is [in place](Served::take_place). Returns whether it was answered, which is made visible if
    /// `publish`. `spare` is the context of an earlier one.
    pub(crate) fn serve(
        self: &Arc<Self>,
        job: Job,
        publish: bool,
        spare: &mut Option<CallContext>,
    ) -> bool {
        if let Err(error) = self.served.admit_in_place(job.id, self.unsent_responses()) {
            self.fail(&error);
            return false;
        }
        // Answers wait for a peer that does not read: let its requests wait too, on its own account.
        if self.is_backed_up() {
            self.served.defer(job);
            return false;
        }
        self.serve_now(job, publish, spare)
    }

    /// Serves requests that were put aside, as far as there is room for answers.
    pub(crate) fn serve_deferred(self: &Arc<Self>, spare: &mut Option<CallContext>) {
        while !self.is_backed_up() {
            let Some(job) = self.served.next_deferred() else { return };
            self.serve_now(job, true, spare);
        }
    }

    fn serve_now(
        self: &Arc<Self>,
        job: Job,
        publish: bool,
        spare: &mut Option<CallContext>,
    ) -> bool {
        let Job { id, head, content, charge } = job;
        let Some((entry, method, habit)) = self.served.services.find(&head) else {
            self.reply_in_place(id, Reply::text(Status::NoSuchMethod, ""), 0, publish);
            return true;
        };
        let deadline = match self.deadline(head.stamp) {
            Ok(deadline) => deadline,
            Err(Expired) => {
                self.reply_in_place(id, Reply::text(Status::TimedOut, ""), 0, publish);
                return true;
            }
        };
        let context = spare.take().and_then(|spare| spare.renewed(deadline)).unwrap_or_else(|| {
            CallContext::new(self.peer.clone(), self.identity.clone(), deadline)
        });
        let service = entry.service.descriptor().name;
        let span = tracing::debug_span!("call", service, method = method.name, id);
        let request = Request { content, codec: self.codec.clone() };
        let dispatch = catch(|| entry.service.call(usize::from(head.member), request));
        let future = match dispatch {
            Ok(Dispatch::Running(future)) => future,
            Ok(Dispatch::Ready(reply)) => {
                self.reply_in_place(id, reply, 0, publish);
                return true;
            }
            Err(message) => {
                self.reply_in_place(id, panicked(service, method.name, &message), 0, publish);
                return true;
            }
        };
        let mut handling = Handling {
            future,
            context: Some(context),
            span,
            service,
            method: method.name,
            _charge: charge,
        };
        if method.blocking {
            return self.hand_over(id, handling, Next::Thread, publish);
        }
        let in_place = habit.in_place();
        if in_place {
            let began = habit.is_timed().then(Instant::now);
            IN_PLACE.set(true);
            let polled = Pin::new(&mut handling).poll(&mut Context::from_waker(Waker::noop()));
            IN_PLACE.set(false);
            if let Some(began) = began {
                habit.note(began.elapsed() > SLOW);
            }
            if let Poll::Ready(reply) = polled {
                let Handling { context, future, .. } = handling;
                drop(future); // It may hold the context, too.
                let event = context.as_ref().map_or(0, CallContext::last_event);
                self.reply_in_place(id, reply, event, publish);
                *spare = context;
                return true;
            }
        }
        self.hand_over(id, handling, Next::Task { has_begun: in_place }, publish)
    }

    /// Lets a handler go on elsewhere. Returns whether it was answered instead.
    fn hand_over(self: &Arc<Self>, id: u64, handling: Handling, next: Next, publish: bool) -> bool {
        match (self.served.insert(id, handling.context()), next) {
            (Goes::On, Next::Thread) => self.spawn_blocking(id, handling),
            (Goes::On, Next::Task { has_begun }) => self.spawn(id, handling, has_begun),
            (Goes::Cancelled, _) => {
                drop(handling);
                self.reply(id, Reply::text(Status::Cancelled, ""), 0, publish);
                return true;
            }
            (Goes::Nowhere, _) => {}
        }
        false
    }

    /// Answers the request that is served in place. A cancel that has come meanwhile crosses the answer.
    fn reply_in_place(&self, id: u64, reply: Reply, event: u64, publish: bool) {
        self.reply(id, reply, event, publish);
        self.served.leave_place();
    }

    /// A request's deadline as our clock's and as tokio's.
    fn deadline(&self, stamp: u64) -> Result<Option<tokio::time::Instant>, Expired> {
        if stamp == 0 {
            return Ok(None);
        }
        let left = stamp.checked_sub(self.now()).filter(|left| *left > 0).ok_or(Expired)?;
        // Further off than a clock can say is as good as none.
        Ok(tokio::time::Instant::now().checked_add(Duration::from_nanos(left)))
    }

    /// Hands a handler to the runtime. It is polled again there at once, so a wake-up that its first poll may have
    /// caused is not lost. One that has not begun waits for room first.
    fn spawn(self: &Arc<Self>, id: u64, handling: Handling, has_begun: bool) {
        let connection = Arc::clone(self);
        let task = self.runtime.spawn(async move {
            let context = handling.context();
            let room = async {
                if !has_begun {
                    connection.room().await;
                }
            };
            let reply = handling.within_deadline(room).await;
            connection.finish(id, reply, context.last_event());
        });
        self.served.set_task(id, task.abort_handle());
    }

    /// Runs a handler on the pool for blocking work.
    fn spawn_blocking(self: &Arc<Self>, id: u64, handling: Handling) {
        let connection = Arc::clone(self);
        let runtime = self.runtime.clone();
        let task = self.runtime.spawn_blocking(move || {
            let context = handling.context();
            // It does not wait for room: its thread is one of those that all clients share.
            let reply = runtime.block_on(handling.within_deadline(std::future::ready(())));
            connection.finish(id, reply, context.last_event());
        });
        self.served.set_task(id, task.abort_handle());
    }

    /// Answers a handler that was handed over, if its answer is still wanted.
    fn finish(self: &Arc<Self>, id: u64, reply: Reply, event: u64) {
        if self.served.finish(id) {
            self.reply(id, reply, event, true);
        }
        if self.served.has_deferred() {
            self.wake_driver();
        }
    }

    /// Answers a request, after `event` has left.
    fn reply(&self, id: u64, reply: Reply, event: u64, publish: bool) {
        let (size, limit) = (reply.content.size(), self.peer_limits.max_message_size);
        let reply = if size > limit { Reply::too_large(size, limit) } else { reply };
        self.respond(id, reply.status, reply.content, event, publish);
    }
}

/// The deadline had passed before the handler was polled.
struct Expired;

/// A handler, with what is set around every poll of it. Never panics.
struct Handling {
    future: Pin<Box<dyn Future<Output = Reply> + Send>>,
    /// `None` while it is polled: then it is the current one.
    context: Option<CallContext>,
    span: Span,
    service: &'static str,
    method: &'static str,
    /// The request's bytes stay on the peer's account until the handler has ended.
    _charge: Charge,
}

impl Handling {
    fn context(&self) -> CallContext {
        let Some(context) = &self.context else { unreachable!("it is not being polled") };
        context.clone()
    }

    /// Runs it once there is `room` for its answer.
    async fn within_deadline(self, room: impl Future<Output = ()>) -> Reply {
        let context = self.context();
        let reply = async {
            room.await;
            self.await
        };
        let Some(deadline) = context.deadline() else { return reply.await };
        let reply = tokio::time::timeout_at(deadline, reply).await;
        match reply {
            Ok(reply) if tokio::time::Instant::now() < deadline => reply,
            // A handler that blocks is not dropped: what it says once it has seen that its time is up is no answer.
            _ => {
                context.cancel();
                Reply::text(Status::TimedOut, "")
            }
        }
    }
}

impl Future for Handling {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let this = &mut *self;
        let _span = this.span.enter();
        let future = this.future.as_mut();
        CallContext::swap_current(&mut this.context);
        let polled = catch(|| future.poll(cx));
        CallContext::swap_current(&mut this.context);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(reply)) => {
                tracing::debug!(status = ?reply.status, "answered");
                Poll::Ready(reply)
            }
            Err(message) => Poll::Ready(panicked(this.service, this.method, &message)),
        }
    }
}

fn panicked(service: &str, method: &str, message: &str) -> Reply {
    tracing::error!(service, method, message, "a handler panicked");
    Reply::text(Status::Panicked, message)
}

/// Runs the user's code; a panic becomes its message. The user's own state is the user's to keep whole.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned())
    })
}
