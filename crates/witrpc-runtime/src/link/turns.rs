//! The driver's steps: it handles the frames that have arrived, and polls a while for more.

use std::sync::Arc;
use std::time::Duration;

use witrpc_core::Error;
use witrpc_core::session::inbound::Incoming;

use crate::link::halves::Receiving;
use crate::link::host::{Drained, Handled, Host, Request, Wanted};
use crate::link::leading::{LEAD_FRAMES, Leads};
use crate::link::poller::{Poll, Polled};
use crate::link::reception::{Half, Visit};
use crate::link::sending::Sends;

/// What a driver needs of its connection.
pub(crate) trait Driven: Host {
    /// What serving one request leaves for the next to reuse.
    type Spare: Default + Send;

    /// Notes the request that the driver has read and serves next. Called under the lock of the receiving half.
    fn note_next_request(&self, id: u64);

    /// Has the peer's subscribers at their events that came before the request that is served next. With no lock held.
    fn attach_subscribers(&self);

    /// Serves the request that [is next](Self::note_next_request). Returns whether it was answered. Publishes the answer if `publish`.
    fn serve(self: &Arc<Self>, request: Request, publish: bool, spare: &mut Self::Spare) -> bool;

    /// Serves requests that were put aside, while there is room for answers.
    fn serve_deferred(self: &Arc<Self>, spare: &mut Self::Spare);

    /// Sends values of events that waited for room, once there is some.
    fn resume_events(&self);

    /// Whoever was woken for a place had the time to take it: wakes the next.
    fn end_turn_of_lines(&self);

    /// Whether there is more to poll for than the answer to one call, whose caller polls itself.
    fn awaits_more_than_an_answer(&self) -> bool;

    /// Whether the runtime is so busy that a task which yields may wait for long.
    fn is_busy(&self) -> bool;

    /// Whether a feature has put something aside for lack of room.
    fn has_put_aside(&self) -> bool;

    /// Releases everything. The driver's last step.
    fn take_down(&self);
}

/// How a turn of the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// No frame is there.
    Empty,
    /// The same, and polling would delay a task on this side that was woken.
    Woke,
    /// There may be more; other tasks must run first.
    More,
    /// The same, and the next frame takes long to copy.
    Long,
    /// A caller leads. It wakes the driver, or leaves nothing to do (C1).
    CallerLeads,
}

/// A frame that the driver has taken.
struct Taken {
    handled: Handled,
    /// It was a part of a long message.
    long: bool,
    /// Another frame is there.
    ready: bool,
    /// The same, and it is a small one.
    more: bool,
}

/// The driver's operations on a connection.
pub(crate) trait Turns: Driven {
    /// One step of the driver: handles the frames that have arrived.
    fn turn(self: &Arc<Self>, frames: usize, spare: &mut Self::Spare) -> Result<Turn, Error> {
        let mut unpublished = false;
        let mut woke = false;
        let mut turn = Turn::More;
        let mut drained = Drained::default();
        for _ in 0..frames {
            // Frames after a goodbye are ignored.
            if self.link().closed().is_some() {
                turn = Turn::Empty;
                break;
            }
            let visit = self.link().receiving.visit(|receiving| {
                let Some(incoming) = receiving.inbound.receive()? else {
                    // Publish answers first: their callers wait for them, while only a peer that is far ahead waits for room.
                    if !unpublished {
                        receiving.release()?;
                    }
                    return Ok(None);
                };
                // Not earlier: the frame that arrived has cleared the announcement already, if the peer notified us of it.
                receiving.disarm();
                let long = matches!(incoming, Incoming::Part);
                let handled = self.take(receiving, incoming, Wanted::Nothing, &mut drained)?;
                if let Some(request) = &drained.request {
                    self.note_next_request(request.id);
                }
                let ready = receiving.is_ready()?;
                // The caller of an answer must not wait while a chunk of a long message is copied.
                let more = ready && receiving.inbound.partial_count() == 0;
                Ok(Some(Taken { handled, long, ready, more }))
            })?;
            turn = match visit {
                Visit::Done(Some(Taken { handled, long, ready, more })) => {
                    woke |= handled == Handled::Woke;
                    // Made visible here unless more answers are to follow at once.
                    self.attach_subscribers();
                    // Published here unless more answers follow at once.
                    if let Some(request) = drained.request.take() {
                        if self.serve(request, !more, spare) {
                            unpublished = more;
                        }
                    }
                    if unpublished && !more {
                        self.publish();
                        unpublished = false;
                    }
                    if long && (woke || self.has_woken_caller()) {
                        turn = Turn::Long; // The woken task runs first.
                        break;
                    }
                    if ready {
                        continue;
                    }
                    // Its room is released before the driver polls or sleeps.
                    self.found_nothing(woke)?
                }
                Visit::Done(None) => self.found_nothing(woke)?,
                Visit::Ended => Turn::Empty,
                Visit::CallerLeads => Turn::CallerLeads,
            };
            break;
        }
        if unpublished || matches!(turn, Turn::More | Turn::Long) {
            self.publish();
            self.link().receiving.visit(Half::release)?;
        }
        Ok(turn)
    }

    /// How a turn ends that has taken all frames; `woke` tells whether one of them has woken a task.
    fn found_nothing(&self, woke: bool) -> Result<Turn, Error> {
        let would_poll = |receiving: &mut Receiving| Ok(receiving.driver_would_poll());
        let woke = woke && matches!(self.link().receiving.visit(would_poll)?, Visit::Done(true));
        Ok(if woke { Turn::Woke } else { Turn::Empty })
    }

    /// Whether nothing waits for the driver's thread: no frame, and no woken caller.
    fn keeps_nobody_waiting(&self) -> bool {
        !self.link().receiving.has_unread() && !self.has_woken_caller()
    }

    /// How long the driver should poll before it sleeps.
    fn driver_poll(&self) -> Result<Poll, Error> {
        if !(self.link().wants_room() || self.awaits_more_than_an_answer()) {
            return Ok(Poll::new(Duration::ZERO));
        }
        let visit = self.link().receiving.visit(|receiving| {
            let worth = receiving.inbound.receiver.worth_polling();
            self.link().note_peers_cpu(worth);
            Ok(Poll::new(receiving.driver.budget(worth)))
        })?;
        Ok(if let Visit::Done(poll) = visit { poll } else { Poll::new(Duration::ZERO) })
    }

    /// Polls for frames and for room, for one slice of the driver's budget.
    fn poll_slice(&self, poll: &mut Poll, slice: Duration) -> Result<Polled, Error> {
        if !poll.has_budget() {
            return Ok(Polled::GaveUp);
        }
        let visit = self.link().receiving.visit(|receiving| {
            // The last turn may have left this.
            receiving.release()?;
            receiving.disarm();
            let link = self.link();
            let polled = poll.run(slice, || link.has_come(&mut receiving.inbound))?;
            match polled {
                Polled::Ready => receiving.driver.hit(poll.spent()),
                Polled::GaveUp => receiving.driver.miss(),
                Polled::Again => {}
            }
            Ok(polled)
        })?;
        Ok(if let Visit::Done(polled) = visit { polled } else { Polled::GaveUp })
    }

    /// The peer has gone or hung up: handles what it has published by now, after waiting for a leader's step. Anything published later is
    /// ignored. Yields in between, as a peer may hang up and go on publishing.
    async fn drain_last(self: &Arc<Self>, spare: &mut Self::Spare) -> Result<(), Error> {
        self.link().receiving.stop()?;
        loop {
            match self.turn(LEAD_FRAMES, spare)? {
                Turn::Empty => return Ok(()),
                Turn::More | Turn::Long | Turn::Woke => tokio::task::yield_now().await,
                Turn::CallerLeads => self.link().receiving.wait(),
            }
        }
    }

    /// Work that a sleeping driver should have been woken for; see [`rescue`](crate::link::rescue). Changes nothing.
    fn overlooked(&self) -> Option<&'static str> {
        let link = self.link();
        let unsent = || link.sending.outbound.try_lock()?.as_mut()?.is_stuck().ok();
        if link.receiving.has_notification() || link.receiving.has_unpublished() {
            Some("a request of this side")
        } else if link.receiving.has_unread() {
            Some("a frame to read")
        } else if unsent() == Some(true) {
            Some("room for messages that wait to be sent")
        } else {
            self.has_put_aside().then_some("messages that were put aside for lack of room")
        }
    }
}

impl<D: Driven> Turns for D {}
