//! The bounded queue in front of the writer thread.
//!
//! I-QUEUE-1: the weight of what was pushed and not yet released never exceeds the bound, unless a
//! single item does, or whoever pushes keeps the bound itself ([`WorkQueue::reserve_beyond`]).
//! I-QUEUE-2: items come out in the order they went in; after a close nothing goes in.
//!
//! `tests/loom_queue.rs` takes this file in and runs it through the orders in which threads can meet here.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Locks a mutex whose holders never leave it half changed, so that a panic elsewhere is no reason to
/// panic here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A first-in first-out queue, bounded by weight.
pub(crate) struct WorkQueue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    room: Condvar,
    bound: usize,
}

struct State<T> {
    items: VecDeque<T>,
    weight: usize,
    closed: bool,
}

/// What a wait for work brought.
pub(crate) enum Taken<T> {
    /// Everything that was queued.
    Work(VecDeque<T>),
    /// Nothing in the time given.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

/// Why an item was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// The bound is reached.
    Full,
    /// The queue is closed.
    Closed,
}

impl<T> WorkQueue<T> {
    pub(crate) fn new(bound: usize) -> Self {
        let state = State { items: VecDeque::new(), weight: 0, closed: false };
        Self { state: Mutex::new(state), ready: Condvar::new(), room: Condvar::new(), bound }
    }

    /// Sets weight aside for a later [`WorkQueue::push`], waiting for room.
    pub(crate) fn reserve(&self, weight: usize) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        while !state.closed && !self.fits(&state, weight) {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.take_room(state, weight)
    }

    /// Sets weight aside for a later [`WorkQueue::push`], or refuses at once.
    pub(crate) fn try_reserve(&self, weight: usize) -> Result<(), Refused> {
        let state = lock(&self.state);
        if !state.closed && !self.fits(&state, weight) {
            return Err(Refused::Full);
        }
        self.take_room(state, weight)
    }

    /// Sets weight aside for a later [`WorkQueue::push`], past the bound if need be: for a caller that must not
    /// wait and that lets in no more once the bound is reached.
    pub(crate) fn reserve_beyond(&self, weight: usize) -> Result<(), Refused> {
        self.take_room(lock(&self.state), weight)
    }

    fn fits(&self, state: &State<T>, weight: usize) -> bool {
        state.weight == 0 || state.weight + weight <= self.bound
    }

    fn take_room(&self, mut state: MutexGuard<'_, State<T>>, weight: usize) -> Result<(), Refused> {
        if state.closed {
            return Err(Refused::Closed);
        }
        state.weight += weight;
        Ok(())
    }

    /// Queues an item whose weight was reserved; gives it back where the queue is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for work, at most as long as given.
    pub(crate) fn take(&self, wait: Option<Duration>) -> Taken<T> {
        let mut state = lock(&self.state);
        loop {
            if !state.items.is_empty() {
                return Taken::Work(std::mem::take(&mut state.items));
            }
            if state.closed {
                return Taken::Closed;
            }
            match wait {
                None => state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let (after, timeout) = self.ready.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
                    state = after;
                    if timeout.timed_out() && state.items.is_empty() && !state.closed {
                        return Taken::Idle;
                    }
                }
            }
        }
    }

    /// What a wait of no length brings.
    pub(crate) fn take_now(&self) -> Taken<T> {
        let mut state = lock(&self.state);
        match (state.items.is_empty(), state.closed) {
            (false, _) => Taken::Work(std::mem::take(&mut state.items)),
            (true, true) => Taken::Closed,
            (true, false) => Taken::Idle,
        }
    }

    /// The weight of what was set aside and not given back.
    pub(crate) fn weight(&self) -> usize {
        lock(&self.state).weight
    }

    /// Gives weight back once the work it stood for is done.
    pub(crate) fn release(&self, weight: usize) {
        let mut state = lock(&self.state);
        state.weight = state.weight.checked_sub(weight).expect("I-QUEUE-1: released what was reserved");
        drop(state);
        self.room.notify_all();
    }

    /// Lets nothing more in; what is queued still comes out.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_all();
        self.room.notify_all();
    }

    /// Closes the queue and takes out what nobody will work on.
    pub(crate) fn abandon(&self) -> VecDeque<T> {
        self.close();
        std::mem::take(&mut lock(&self.state).items)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn refuses_past_its_bound_and_takes_one_oversized_item() {
        let queue = WorkQueue::new(10);
        assert_eq!(queue.try_reserve(50), Ok(()));
        assert_eq!(queue.try_reserve(1), Err(Refused::Full));
        queue.push('a').unwrap();
        queue.release(50);
        assert_eq!(queue.try_reserve(6), Ok(()));
        assert_eq!(queue.try_reserve(5), Err(Refused::Full));
        assert_eq!(queue.try_reserve(4), Ok(()));
        queue.push('b').unwrap();
        queue.close();
        assert_eq!(queue.try_reserve(0), Err(Refused::Closed));
        assert_eq!(queue.push('c'), Err('c'));
        let Taken::Work(items) = queue.take(None) else { panic!("work is queued") };
        assert_eq!(items, ['a', 'b']);
        assert!(matches!(queue.take(None), Taken::Closed));
    }

    #[test]
    fn a_waiting_producer_goes_on_when_weight_is_released_or_the_queue_closes() {
        let queue = WorkQueue::<u8>::new(1);
        queue.reserve(1).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.reserve(1));
            queue.release(1);
            assert_eq!(waiting.join().unwrap(), Ok(()));
            let waiting = scope.spawn(|| queue.reserve(1));
            queue.close();
            assert_eq!(waiting.join().unwrap(), Err(Refused::Closed));
        });
    }
}
