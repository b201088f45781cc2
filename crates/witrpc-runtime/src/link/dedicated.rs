//! A thread that drives one connection and does nothing else.
//!
//! It has a runtime of its own, so no other task delays it, and it never moves to another thread. Tasks that handlers spawn, and handlers
//! that do not finish at their first poll, run on the runtime on which the server was started.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tracing::Span;
use witrpc_core::text::Escaped;
use witrpc_core::transport::Waiter;
use witrpc_core::{CloseReason, Error};

use crate::link::driver::{self, TakeDown};
use crate::link::ending::Ends;
use crate::link::turns::Driven;

/// Drives a connection to its end on a thread of its own. If this is dropped with its runtime, the thread ends the
/// connection and itself.
pub(crate) async fn drive<D: Driven>(connection: Arc<D>, waiter: Box<dyn Waiter>) {
    let stop = Stop(&*connection);
    let (running, ended) = oneshot::channel::<()>();
    let driven = Arc::clone(&connection);
    let (main, span) = (Handle::current(), Span::current());
    let thread = std::thread::Builder::new().name(format!("witrpc {}", driven.link().id));
    let started = thread.spawn(move || {
        let _running = running;
        let _span = span.entered();
        // If the driver does not get to do it.
        let guard = TakeDown(&*driven);
        if let Err(error) = run(&driven, waiter, &main) {
            tracing::warn!(
                connection = driven.link().id,
                error = %Escaped(&error),
                "could not start a dedicated thread"
            );
            driven.fail(&error);
        }
        drop(guard);
    });
    match started {
        // Dropped when the thread ends, for whatever reason.
        Ok(_) => drop(ended.await),
        Err(error) => {
            connection.fail(&Error::io("starting a thread for a connection", &error));
            connection.take_down();
        }
    }
    drop(stop);
}

fn run<D: Driven>(
    connection: &Arc<D>,
    waiter: Box<dyn Waiter>,
    main: &Handle,
) -> Result<(), Error> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Error::io("making a runtime for a connection", &error))?;
    runtime.block_on(async {
        let waiter = waiter.moved()?;
        // The user's code, whose first poll is here, finds the main runtime; the waiter was registered with this one before.
        let _main = main.enter();
        driver::drive(Arc::clone(connection), waiter).await;
        Ok(())
    })
}

struct Stop<'a, D: Driven>(&'a D);

impl<D: Driven> Drop for Stop<'_, D> {
    fn drop(&mut self) {
        // No effect if the connection has ended already.
        self.0.close(CloseReason::RuntimeGone);
        self.0.link().wake_driver();
    }
}
