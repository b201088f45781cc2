//! A waker whose functions all call back into the test.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// What is called, and who is woken.
pub(super) struct CallsBack {
    pub(super) back: Box<dyn Fn() + Send + Sync>,
    pub(super) task: Waker,
}

const TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_waker);

pub(super) fn waker(calls_back: Arc<CallsBack>) -> Waker {
    // SAFETY: the functions of the table keep what `RawWaker` asks for: each takes the pointer for what `raw` has made of an `Arc`, and
    // owns one count of it, or borrows that.
    unsafe { Waker::from_raw(raw(calls_back)) }
}

fn raw(calls_back: Arc<CallsBack>) -> RawWaker {
    RawWaker::new(Arc::into_raw(calls_back).cast(), &TABLE)
}

/// The count that this pointer owns.
///
/// # Safety
///
/// The pointer is of [`raw`], and its count is the caller's: to give back, or to leave where it is.
unsafe fn owned(data: *const ()) -> Arc<CallsBack> {
    // SAFETY: as the caller says.
    unsafe { Arc::from_raw(data.cast()) }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: the waker stays as it is, and so does its count.
    let this = ManuallyDrop::new(unsafe { owned(data) });
    (this.back)();
    raw(Arc::clone(&this))
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the waker is consumed.
    let this = unsafe { owned(data) };
    (this.back)();
    this.task.wake_by_ref();
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the waker stays as it is, and so does its count.
    let this = ManuallyDrop::new(unsafe { owned(data) });
    (this.back)();
    this.task.wake_by_ref();
}

unsafe fn drop_waker(data: *const ()) {
    // SAFETY: the waker is dropped.
    let this = unsafe { owned(data) };
    (this.back)();
}
