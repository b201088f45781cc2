//! Every interleaving of two threads over a very small ring, and the proof that each fence is needed.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p witrpc-mmf --release loom`. Payload bytes lie in loom's cells, so a
//! record read before it was published, or overwritten before it was read, fails a model too. A lost wake-up is a
//! deadlock, which loom reports. The models without a fence must fail: they show that the others could.

#![cfg(loom)]

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

use super::heap::{Heap, Without};
use super::{Consumer, Producer};

/// Two records of 8 bytes, each with its header of 8.
const CAPACITY: usize = 32;
const MAX_RECORD: usize = 24;

/// Behaves like a FIFO: a notification is remembered until somebody waits, and any number of them count as one.
#[derive(Default)]
struct Event {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn notify(&self) {
        *self.notified.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut notified = self.notified.lock().unwrap();
        while !*notified {
            notified = self.changed.wait(notified).unwrap();
        }
        *notified = false;
    }
}

fn pair(without: Without) -> (Producer<Heap>, Consumer<Heap>) {
    let mut memory = Heap::new(CAPACITY);
    memory.without = without;
    (
        Producer::new(memory.clone(), CAPACITY, MAX_RECORD),
        Consumer::new(memory, CAPACITY, MAX_RECORD),
    )
}

fn pop(consumer: &mut Consumer<Heap>) -> Option<Vec<u8>> {
    let len = consumer.peek(&mut []).unwrap()?;
    let mut record = Vec::new();
    consumer.append_to(0, len, &mut record);
    consumer.consume();
    Some(record)
}

/// One record, and a consumer that sleeps until it comes.
fn data(without: Without) {
    loom::model(move || {
        let (mut producer, mut consumer) = pair(without);
        let event = Arc::new(Event::default());
        let notifier = Arc::clone(&event);
        let writer = loom::thread::spawn(move || {
            assert!(producer.try_push(b"one", &[], 0).unwrap());
            if producer.publish(0) {
                notifier.notify();
            }
        });
        let found = loop {
            if let Some(found) = pop(&mut consumer) {
                break found;
            }
            if !consumer.arm().unwrap() {
                event.wait();
            }
        };
        assert_eq!(found, b"one");
        writer.join().unwrap();
    });
}

/// Two records, and a consumer that polls for the first, having asked meanwhile to be woken for the second.
fn expected(without: Without) {
    loom::model(move || {
        let (mut producer, mut consumer) = pair(without);
        let event = Arc::new(Event::default());
        let notifier = Arc::clone(&event);
        assert!(!consumer.arm().unwrap());
        let writer = loom::thread::spawn(move || {
            for record in [b"one", b"two"] {
                assert!(producer.try_push(record, &[], 0).unwrap());
                if producer.publish(0) {
                    notifier.notify();
                }
            }
        });
        consumer.expect();
        let first = loop {
            match pop(&mut consumer) {
                Some(first) => break first,
                None => loom::thread::yield_now(),
            }
        };
        assert_eq!(first, b"one");
        let second = loop {
            if let Some(second) = pop(&mut consumer) {
                break second;
            }
            if !consumer.arm().unwrap() {
                event.wait();
            }
        };
        assert_eq!(second, b"two");
        writer.join().unwrap();
    });
}

/// A full ring, and a producer that sleeps until there is room. The consumer gives space back twice, of which the
/// first may be too little.
fn space(without: Without) {
    loom::model(move || {
        let (mut producer, mut consumer) = pair(without);
        let event = Arc::new(Event::default());
        let notifier = Arc::clone(&event);
        assert!(producer.try_push(b"first", &[], 0).unwrap());
        assert!(producer.try_push(b"second", &[], 0).unwrap());
        assert!(!producer.publish(0));
        let reader = loom::thread::spawn(move || {
            for expected in [&b"first"[..], b"second"] {
                assert_eq!(pop(&mut consumer).unwrap(), expected);
                if consumer.release() {
                    notifier.notify();
                }
            }
            consumer
        });
        while !producer.try_push(b"a longer one", &[], 0).unwrap() {
            if !producer.arm(12, 0).unwrap() {
                event.wait();
            }
        }
        assert!(!producer.publish(0));
        let mut consumer = reader.join().unwrap();
        assert_eq!(pop(&mut consumer).unwrap(), b"a longer one");
    });
}

#[test]
fn loom_records_cross_whole_and_in_order_around_the_end() {
    loom::model(|| {
        let (mut producer, mut consumer) = pair(Without::Nothing);
        let writer = loom::thread::spawn(move || {
            let mut sent = Vec::new();
            for record in [&b"first"[..], b"second, and long", b"third"] {
                if producer.try_push(record, &[], 0).unwrap() {
                    sent.push(record.to_vec());
                }
                let _notify_peer = producer.publish(0);
            }
            sent
        });
        let mut found = Vec::new();
        for _ in 0..2 {
            found.extend(pop(&mut consumer));
            let _notify_peer = consumer.release();
        }
        let sent = writer.join().unwrap();
        while let Some(record) = pop(&mut consumer) {
            found.push(record);
        }
        assert_eq!(found, sent);
    });
}

#[test]
fn loom_no_wake_up_for_data_is_lost() {
    data(Without::Nothing);
}

#[test]
fn loom_no_wake_up_for_space_is_lost() {
    space(Without::Nothing);
}

/// Both directions of waiting over one ring: the producer fills it and sleeps, the consumer empties it and sleeps.
#[test]
fn loom_both_ends_sleep_and_nobody_is_left_behind() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (mut producer, mut consumer) = pair(Without::Nothing);
        let (data, room) = (Arc::new(Event::default()), Arc::new(Event::default()));
        let (data_notifier, room_waiter) = (Arc::clone(&data), Arc::clone(&room));
        let writer = loom::thread::spawn(move || {
            for record in [[1; 24], [2; 24]] {
                while !producer.try_push(&record, &[], 0).unwrap() {
                    if !producer.arm(24, 0).unwrap() {
                        room_waiter.wait();
                    }
                }
                if producer.publish(0) {
                    data_notifier.notify();
                }
            }
        });
        for expected in [[1; 24], [2; 24]] {
            let found = loop {
                if let Some(found) = pop(&mut consumer) {
                    break found;
                }
                if !consumer.arm().unwrap() {
                    data.wait();
                }
            };
            assert_eq!(found, expected);
            consumer.disarm();
            if consumer.release() {
                room.notify();
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn loom_no_wake_up_for_what_comes_behind_the_expected_is_lost() {
    expected(Without::Nothing);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_what_comes_behind_the_expected_needs_the_sleepers_fence() {
    expected(Without::SleepersFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_what_comes_behind_the_expected_needs_the_ringers_fence() {
    expected(Without::RingersFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_data_needs_the_sleepers_fence() {
    data(Without::SleepersFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_data_needs_the_ringers_fence() {
    data(Without::RingersFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_space_needs_the_sleepers_fence() {
    space(Without::SleepersFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_space_needs_the_ringers_fence() {
    space(Without::RingersFence);
}
