//! A model of [`Places`]: every order of steps of a few tasks, some of which are never polled again, is tried.
//!
//! A task asks for places, sleeps until it is woken, takes them, and gives them back. A *held* task is polled once, and then never
//! again. At the end of every order of steps all tasks but the held ones must have had their places.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::{Places, Ticket};

/// What a task does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// It is polled for the first time.
    New,
    /// It sleeps in the line.
    Asleep,
    /// It was woken, and will be polled.
    Woken,
    /// It has its places.
    Has,
    /// It has given them back.
    Done,
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Replays a sequence of choices; each picks one of the steps that are possible.
struct World {
    places: Places,
    needs: Vec<u64>,
    held: Vec<bool>,
    steps: Vec<Step>,
    tickets: Vec<Option<Ticket>>,
    flags: Vec<Arc<Flag>>,
    /// Whether the driver was woken, and so will have a turn.
    turn_is_due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Poll(usize),
    GiveBack(usize),
    Turn,
}

impl World {
    fn new(total: u64, tasks: &[(u64, bool)]) -> Self {
        Self {
            places: Places::new(total),
            needs: tasks.iter().map(|task| task.0).collect(),
            held: tasks.iter().map(|task| task.1).collect(),
            steps: vec![Step::New; tasks.len()],
            tickets: tasks.iter().map(|_| None).collect(),
            flags: tasks.iter().map(|_| Arc::default()).collect(),
            turn_is_due: false,
        }
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<_> = (0..self.steps.len())
            .filter_map(|task| match self.steps[task] {
                Step::New => Some(Choice::Poll(task)),
                // A held task is never polled again.
                Step::Woken if !self.held[task] => Some(Choice::Poll(task)),
                Step::Has => Some(Choice::GiveBack(task)),
                _ => None,
            })
            .collect();
        if self.turn_is_due {
            choices.push(Choice::Turn);
        }
        choices
    }

    fn make(&mut self, choice: Choice) {
        match choice {
            Choice::Poll(task) => {
                let need = self.needs[task];
                if self.places.may_take(self.tickets[task].as_ref(), need) {
                    let ticket = self.tickets[task].take();
                    self.places.take_now(ticket, need);
                    self.steps[task] = Step::Has;
                } else {
                    let waker = Waker::from(Arc::clone(&self.flags[task]));
                    self.places.wait(&mut self.tickets[task], need, waker);
                    self.steps[task] = Step::Asleep;
                }
            }
            Choice::GiveBack(task) => {
                self.places.give(self.needs[task]);
                self.steps[task] = Step::Done;
            }
            Choice::Turn => {
                self.turn_is_due = false;
                let next = self.places.end_turn();
                self.wake(next);
            }
        }
        let next = self.places.next_waiter();
        self.wake(next);
        for task in 0..self.steps.len() {
            if self.flags[task].0.swap(false, Ordering::Relaxed) {
                assert_eq!(self.steps[task], Step::Asleep);
                self.steps[task] = Step::Woken;
            }
        }
    }

    fn wake(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            waker.wake();
            self.turn_is_due = true;
        }
    }

    /// Everything on which the next steps depend. Tickets are what they are for: an order.
    fn state(&self) -> String {
        let Places { asleep, woken, turn, free, .. } = &self.places;
        let asleep: Vec<_> = asleep.keys().collect();
        let woken: Vec<_> = woken.iter().map(|(ticket, since)| (ticket, since == turn)).collect();
        format!("{:?} {asleep:?} {woken:?} {free} {}", self.steps, self.turn_is_due)
    }
}

/// Tries every order of steps. Returns how many states there are.
fn try_all(total: u64, tasks: &[(u64, bool)]) -> usize {
    let mut seen = HashSet::new();
    let mut paths = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let mut world = World::new(total, tasks);
        path.iter().for_each(|choice| world.make(*choice));
        if !seen.insert(world.state()) {
            continue;
        }
        let choices = world.choices();
        if choices.is_empty() {
            for (task, step) in world.steps.iter().enumerate() {
                let stuck = *step != Step::Done && !world.held[task];
                assert!(!stuck, "task {task} waits for ever after {path:?}");
            }
        }
        for choice in choices {
            let mut longer = path.clone();
            longer.push(choice);
            paths.push(longer);
        }
    }
    seen.len()
}

#[test]
fn every_task_that_is_polled_gets_its_places() {
    for held in 0..16_u32 {
        for (total, needs) in [(1, [1; 4]), (2, [1; 4]), (3, [1, 3, 2, 1]), (3, [3, 1, 1, 3])] {
            let tasks: Vec<_> =
                needs.iter().enumerate().map(|(at, need)| (*need, held >> at & 1 == 1)).collect();
            assert!(try_all(total, &tasks) > 4);
        }
    }
}
