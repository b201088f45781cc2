//! The ring against a queue of whole records, against a peer that breaks the rules, and between two threads.

#![cfg(not(loom))]

use std::{collections::VecDeque, thread};

use super::heap::Heap;
use super::{AWAKE, Consumer, Corrupt, Memory, Producer};
use crate::sync::Ordering;

const CAPACITY: usize = 128;
const MAX_RECORD: usize = 56;
const CPU: u32 = 3;

struct Pair {
    memory: Heap,
    producer: Producer<Heap>,
    consumer: Consumer<Heap>,
}

fn pair() -> Pair {
    let memory = Heap::new(CAPACITY);
    Pair {
        producer: Producer::new(memory.clone(), CAPACITY, MAX_RECORD),
        consumer: Consumer::new(memory.clone(), CAPACITY, MAX_RECORD),
        memory,
    }
}

fn record(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + seed) % 251).unwrap()).collect()
}

impl Pair {
    fn pop(&mut self) -> Result<Option<Vec<u8>>, Corrupt> {
        let mut head = [0; 3];
        let Some(len) = self.consumer.peek(&mut head)? else { return Ok(None) };
        let shown = len.min(3);
        let mut record = head[..shown].to_vec();
        self.consumer.append_to(shown, len - shown, &mut record);
        self.consumer.consume();
        Ok(Some(record))
    }

    /// Moves both cursors to `position`, which is a multiple of 8.
    fn advance_to(&mut self, position: usize) {
        for _ in 0..position / 8 {
            assert!(self.producer.try_push(&[], &[], 0).unwrap());
            assert!(!self.producer.publish(CPU));
            assert_eq!(self.pop().unwrap().unwrap(), [0_u8; 0]);
            assert!(!self.consumer.release());
        }
    }
}

#[test]
fn behaves_like_a_queue_at_every_wrap_position() {
    for position in (0..2 * CAPACITY).step_by(8) {
        for len in 0..=MAX_RECORD {
            let mut pair = pair();
            pair.advance_to(position);
            let mut model = VecDeque::new();
            for round in 0..40 {
                let wanted = record(if round % 3 == 0 { len } else { (len + round) % 20 }, round);
                let (head, body) = wanted.split_at(wanted.len().min(round % 5));
                if pair.producer.try_push(head, body, 0).unwrap() {
                    model.push_back(wanted);
                } else {
                    assert!(!model.is_empty(), "an empty ring takes any record");
                }
                if round % 4 != 1 {
                    assert!(!pair.producer.publish(CPU));
                }
                if round % 2 == 1 {
                    while let Some(found) = pair.pop().unwrap() {
                        assert_eq!(Some(found), model.pop_front());
                    }
                    assert!(!pair.consumer.release());
                }
            }
            assert!(!pair.producer.publish(CPU) || model.is_empty());
            while let Some(found) = pair.pop().unwrap() {
                assert_eq!(Some(found), model.pop_front());
            }
            assert!(model.is_empty());
        }
    }
}

#[test]
fn a_batch_becomes_visible_with_one_publish() {
    let mut pair = pair();
    for round in 0..3 {
        assert!(pair.producer.try_push(b"ab", &[round], 0).unwrap());
        assert!(!pair.consumer.is_ready().unwrap());
    }
    assert!(!pair.producer.publish(CPU));
    for round in 0..3 {
        assert_eq!(pair.pop().unwrap().unwrap(), [b'a', b'b', round]);
    }
    assert_eq!(pair.pop().unwrap(), None);
    assert_eq!(pair.consumer.producer_cpu(), CPU);
}

#[test]
fn spare_space_stays_free() {
    let mut pair = pair();
    assert!(!pair.producer.has_room(8, CAPACITY - 15).unwrap());
    assert!(!pair.producer.try_push(&[0; 8], &[], CAPACITY - 15).unwrap());
    assert!(pair.producer.has_room(8, CAPACITY - 16).unwrap());
    assert!(pair.producer.try_push(&[0; 8], &[], CAPACITY - 16).unwrap());
    assert!(!pair.producer.has_room(0, usize::MAX).unwrap());
}

#[test]
fn a_record_beyond_the_longest_is_never_appended() {
    let mut pair = pair();
    assert!(!pair.producer.try_push(&[0; 30], &[0; 27], 0).unwrap());
    assert!(!pair.producer.has_room(57, 0).unwrap());
    assert!(pair.producer.try_push(&[0; 30], &[0; 26], 0).unwrap());
}

#[test]
#[should_panic(expected = "not within the record")]
fn a_range_outside_the_record_panics() {
    let mut pair = pair();
    assert!(pair.producer.try_push(b"abc", &[], 0).unwrap());
    assert!(!pair.producer.publish(CPU));
    assert_eq!(pair.consumer.peek(&mut []), Ok(Some(3)));
    pair.consumer.append_to(2, 2, &mut Vec::new());
}

#[test]
fn a_sleeping_consumer_is_notified_once() {
    let mut pair = pair();
    assert!(!pair.consumer.arm().unwrap());
    assert!(pair.producer.try_push(b"x", &[], 0).unwrap());
    assert!(pair.producer.publish(CPU));
    assert!(!pair.producer.publish(CPU), "nothing new");
    assert!(pair.producer.try_push(b"y", &[], 0).unwrap());
    assert!(!pair.producer.publish(CPU), "already notified");
    assert!(pair.consumer.arm().unwrap(), "there is a record");
}

#[test]
fn who_expects_a_record_is_notified_of_the_one_behind_it() {
    let mut pair = pair();
    pair.consumer.expect();
    assert!(pair.producer.try_push(b"before", &[], 0).unwrap());
    assert!(!pair.producer.publish(CPU), "nothing was asked for");
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.arm().unwrap());
    for _ in 0..3 {
        pair.consumer.expect();
        assert!(pair.producer.try_push(b"x", &[], 0).unwrap());
        assert!(!pair.producer.publish(CPU), "somebody looks for it");
        pair.pop().unwrap().unwrap();
        assert!(!pair.consumer.arm().unwrap());
    }
    assert!(pair.producer.try_push(b"y", &[], 0).unwrap());
    assert!(pair.producer.publish(CPU));
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.arm().unwrap());
    pair.consumer.expect();
    assert!(pair.producer.try_push(b"x", &[], 0).unwrap());
    assert!(pair.producer.try_push(b"y", &[], 0).unwrap());
    assert!(pair.producer.publish(CPU), "both at once");
}

#[test]
fn who_gives_up_expecting_is_notified_of_the_next_record() {
    let mut pair = pair();
    assert!(!pair.consumer.arm().unwrap());
    pair.consumer.expect();
    assert!(!pair.consumer.arm().unwrap());
    assert!(pair.producer.try_push(b"x", &[], 0).unwrap());
    assert!(pair.producer.publish(CPU));
}

#[test]
fn little_is_held_back_and_the_rest_is_room_for_any_record_with_half_a_ring_to_spare() {
    const LARGE: usize = 4096;
    const LONGEST: usize = LARGE / 4 - 8;
    let memory = Heap::new(LARGE);
    let mut producer = Producer::new(memory.clone(), LARGE, LONGEST);
    let mut consumer = Consumer::new(memory.clone(), LARGE, LONGEST);
    for round in 0..1000 {
        assert!(producer.try_push(&record(round % 48, round), &[], 0).unwrap());
        assert!(!producer.publish(CPU));
        consumer.peek(&mut []).unwrap().unwrap();
        consumer.consume();
        assert!(!consumer.release());
        let (tail, head) =
            (memory.tail().load(Ordering::Acquire), memory.head().load(Ordering::Acquire));
        assert!(tail - head <= LARGE as u64 / 16);
        assert!(producer.has_room(LONGEST, LARGE / 2).unwrap());
    }
}

#[test]
fn a_disarmed_consumer_is_not_notified() {
    let mut pair = pair();
    assert!(!pair.consumer.arm().unwrap());
    pair.consumer.disarm();
    assert!(pair.producer.try_push(b"x", &[], 0).unwrap());
    assert!(!pair.producer.publish(CPU));
}

#[test]
fn a_waiting_producer_is_notified_when_its_record_fits_and_a_quarter_is_free() {
    let mut pair = pair();
    while pair.producer.try_push(&[0; 8], &[], 0).unwrap() {} // Eight records of 16.
    assert!(!pair.producer.publish(CPU));
    assert!(!pair.producer.arm(8, 0).unwrap());
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.release(), "16 of 128 bytes are free");
    pair.pop().unwrap().unwrap();
    assert!(pair.consumer.release(), "a quarter is free");
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.release(), "already notified");
    assert!(pair.producer.arm(8, 0).unwrap(), "it fits");
}

#[test]
fn a_larger_wish_does_not_put_off_a_smaller_one() {
    let mut pair = pair();
    while pair.producer.try_push(&[0; 8], &[], 0).unwrap() {}
    assert!(!pair.producer.publish(CPU));
    assert!(!pair.producer.arm(24, 0).unwrap());
    assert!(!pair.producer.arm(24, 64).unwrap());
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.release());
    pair.pop().unwrap().unwrap();
    assert!(pair.consumer.release(), "the first wish is met");
    assert!(!pair.producer.arm(24, 64).unwrap(), "the second is not, and now stands alone");
    pair.pop().unwrap().unwrap();
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.release());
    pair.pop().unwrap().unwrap();
    pair.pop().unwrap().unwrap();
    assert!(pair.consumer.release());
}

#[test]
fn a_met_wish_is_taken_back() {
    let mut pair = pair();
    while pair.producer.try_push(&[0; 8], &[], 0).unwrap() {}
    assert!(!pair.producer.publish(CPU));
    assert!(!pair.producer.arm(24, 0).unwrap());
    pair.pop().unwrap().unwrap();
    assert!(!pair.consumer.release());
    assert!(pair.producer.arm(8, 0).unwrap());
    assert_ne!(pair.memory.wake_at().load(Ordering::Relaxed), AWAKE, "the first wish stands");
}

#[test]
fn who_has_stopped_sees_what_was_published_by_then() {
    let mut pair = pair();
    for record in [b"a", b"b"] {
        assert!(pair.producer.try_push(record, &[], 0).unwrap());
    }
    assert!(!pair.producer.publish(CPU));
    pair.consumer.stop().unwrap();
    // One that goes on, and one that says more than there can be.
    assert!(pair.producer.try_push(b"c", &[], 0).unwrap());
    assert!(!pair.producer.publish(CPU));
    assert_eq!(pair.pop().unwrap().unwrap(), b"a");
    pair.memory.tail().store(u64::MAX, Ordering::Release);
    assert_eq!(pair.pop().unwrap().unwrap(), b"b");
    assert!(!pair.consumer.is_ready().unwrap() && !pair.consumer.arm().unwrap());
    assert_eq!(pair.pop().unwrap(), None);
}

#[test]
fn a_tail_out_of_bounds_is_refused() {
    for tail in [8 + CAPACITY as u64, 8, 12, 23, u64::MAX, u64::MAX - 7, 0] {
        let mut pair = pair();
        pair.advance_to(16);
        pair.memory.tail().store(tail, Ordering::Release);
        let accepted = (16..=16 + CAPACITY as u64).contains(&tail) && tail % 8 == 0;
        assert_eq!(pair.consumer.is_ready().is_ok(), accepted, "{tail}");
        assert_eq!(pair.consumer.arm().is_ok(), accepted, "{tail}");
        assert_eq!(pair.consumer.peek(&mut []).is_ok(), accepted, "{tail}");
    }
}

#[test]
fn a_head_out_of_bounds_is_refused() {
    for head in [0, 8, 20, 40, u64::MAX, u64::MAX - 7] {
        let mut pair = pair();
        pair.advance_to(16);
        assert!(pair.producer.try_push(b"x", &[], 0).unwrap());
        assert!(!pair.producer.publish(CPU));
        // Appended, but not published: the peer cannot have read it.
        assert!(pair.producer.try_push(b"y", &[], 0).unwrap());
        // The first look takes the honest head, so that one before it is a step back.
        assert!(!pair.producer.has_room(MAX_RECORD, CAPACITY).unwrap());
        pair.memory.head().store(head, Ordering::Release);
        assert!(pair.producer.has_room(MAX_RECORD, CAPACITY).is_err(), "{head}");
        assert!(pair.producer.try_push(&[0; MAX_RECORD], &[], CAPACITY).is_err(), "{head}");
    }
}

#[test]
fn a_record_length_out_of_bounds_is_refused() {
    for header in [57, 17, u64::MAX, 1 << 32, u64::from(u32::MAX), 1 << 63] {
        let mut pair = pair();
        assert!(pair.producer.try_push(&[0; 16], &[], 0).unwrap());
        assert!(!pair.producer.publish(CPU));
        pair.memory.copy_in(0, &header.to_le_bytes());
        assert!(pair.consumer.peek(&mut [0; 4]).is_err(), "{header}");
    }
}

#[test]
fn records_cross_two_threads_whole_and_in_order() {
    const COUNT: usize = if cfg!(miri) { 500 } else { 200_000 };
    let Pair { mut producer, consumer, memory } = pair();
    let writer = thread::spawn(move || {
        for number in 0..COUNT {
            let bytes = record(number % (MAX_RECORD + 1), number);
            while !producer.try_push(&bytes, &[], 0).unwrap() {
                let _notify_peer = producer.publish(CPU);
                thread::yield_now();
            }
            if number % 3 == 0 {
                let _notify_peer = producer.publish(CPU);
            }
        }
        let _notify_peer = producer.publish(CPU);
    });
    let mut pair = Pair { producer: Producer::new(memory.clone(), 0, 0), consumer, memory };
    for number in 0..COUNT {
        let found = loop {
            match pair.pop().unwrap() {
                Some(found) => break found,
                None => {
                    let _notify_peer = pair.consumer.release();
                    thread::yield_now();
                }
            }
        };
        assert_eq!(found, record(number % (MAX_RECORD + 1), number));
    }
    writer.join().unwrap();
}
