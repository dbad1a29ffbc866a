//! Models of the writer's queue, run by loom through the orders of the threads' steps, with at most three preemptions:
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p stele-engine --test loom_queue --release --target-dir target/loom`
//!
//! The queue is the real file, taken in with loom's locks in place of the standard library's. A thread that is
//! never woken is a deadlock, which loom reports. Not covered: waits with a time limit (loom has no time), the
//! writer and its files, and spurious wake-ups beyond those that loom makes.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use queue::{Refused, Taken, WorkQueue, lock};

#[path = "../src/queue.rs"]
mod queue;

/// What `src/sync.rs` is to the engine.
mod sync {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
}

/// Runs a model with at most this many switches away from a thread that could go on: more than the faults
/// that loom is known to find need, and what keeps the models short.
fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

/// Takes so many items, and no more than there are.
fn take_some<T>(queue: &WorkQueue<T>, count: usize) -> Vec<T> {
    let mut some = Vec::new();
    while some.len() < count {
        let Taken::Work(work) = queue.take(None) else { panic!("nobody has closed it") };
        some.extend(work);
    }
    assert_eq!(some.len(), count);
    some
}

/// Takes until the queue is closed and empty.
fn take_all<T>(queue: &WorkQueue<T>) -> Vec<T> {
    let mut all = Vec::new();
    loop {
        match queue.take(None) {
            Taken::Work(work) => all.extend(work),
            Taken::Closed => return all,
            Taken::Idle => panic!("no time was given"),
        }
    }
}

#[test]
fn two_producers_are_shed_when_full_and_never_pass_the_bound() {
    const BOUND: usize = 3;
    const WEIGHT: usize = 2;
    model(|| {
        let queue = Arc::new(WorkQueue::new(BOUND));
        let held = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicUsize::new(2));
        let producers = [1, 2].map(|name| {
            let (queue, held, running) = (Arc::clone(&queue), Arc::clone(&held), Arc::clone(&running));
            thread::spawn(move || {
                let reserved = queue.try_reserve(WEIGHT);
                if reserved.is_ok() {
                    assert!(held.fetch_add(WEIGHT, Ordering::SeqCst) + WEIGHT <= BOUND, "I-QUEUE-1");
                    queue.push(name).unwrap();
                }
                if running.fetch_sub(1, Ordering::SeqCst) == 1 {
                    queue.close();
                }
                reserved
            })
        });
        let mut taken = 0;
        while let Taken::Work(work) = queue.take(None) {
            for _ in work {
                held.fetch_sub(WEIGHT, Ordering::SeqCst);
                queue.release(WEIGHT);
                taken += 1;
            }
        }
        let reserved = producers.map(|producer| producer.join().unwrap());
        assert_eq!(reserved.iter().filter(|reserved| reserved.is_ok()).count(), taken);
        assert!(taken >= 1, "an empty queue takes one");
        assert!(reserved.iter().all(|reserved| *reserved != Err(Refused::Closed)));
        assert_eq!(queue.try_reserve(0), Err(Refused::Closed));
    });
}

#[test]
fn a_close_ends_a_waiting_consumer_and_loses_nothing_pushed_before() {
    model(|| {
        let queue = Arc::new(WorkQueue::new(1));
        let consumer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || take_all(&queue))
        };
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        queue.close();
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(consumer.join().unwrap(), [1, 2], "each once, in order");
    });
}

#[test]
fn a_push_against_a_close_is_taken_or_given_back() {
    model(|| {
        let queue = Arc::new(WorkQueue::new(1));
        let producer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.push(1).is_ok())
        };
        let consumer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || take_all(&queue))
        };
        queue.close();
        let accepted = producer.join().unwrap();
        assert_eq!(consumer.join().unwrap(), if accepted { vec![1] } else { vec![] });
    });
}

#[test]
fn a_close_ends_every_waiting_producer() {
    model(|| {
        let queue = Arc::new(WorkQueue::<u8>::new(1));
        queue.reserve(1).unwrap();
        let waiting = [(); 2].map(|()| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.reserve(1))
        });
        queue.close();
        for producer in waiting {
            assert_eq!(producer.join().unwrap(), Err(Refused::Closed));
        }
    });
}

#[test]
fn room_reaches_every_waiting_producer() {
    model(|| {
        let queue = Arc::new(WorkQueue::<u8>::new(1));
        queue.reserve(1).unwrap();
        let waiting = [(); 2].map(|()| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                queue.reserve(1).unwrap();
                queue.release(1);
            })
        });
        queue.release(1);
        for producer in waiting {
            producer.join().unwrap();
        }
        assert_eq!(queue.try_reserve(1), Ok(()), "all weight came back");
    });
}

#[test]
fn a_notice_stays_behind_the_append_before_it() {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Work {
        Append(u8),
        Notice(u8),
    }
    model(|| {
        let queue = Arc::new(WorkQueue::new(2));
        let producers = [1, 2].map(|name| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                queue.reserve(1).unwrap();
                queue.push(Work::Append(name)).unwrap();
                queue.push(Work::Notice(name)).unwrap();
            })
        });
        let taken = take_some(&queue, 4);
        for producer in producers {
            producer.join().unwrap();
        }
        for name in [1, 2] {
            let place = |work| taken.iter().position(|taken| *taken == work).unwrap();
            assert!(place(Work::Append(name)) < place(Work::Notice(name)), "{taken:?}");
        }
    });
}

/// The writer fails at the first thing it takes; what is queued until the close must still be told
/// (I-WRITER-3).
#[test]
fn after_a_failure_whatever_was_queued_is_told() {
    model(|| {
        let queue = Arc::new(WorkQueue::new(1));
        let told = Arc::new(AtomicUsize::new(0));
        queue.reserve(1).unwrap();
        let waiting = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.reserve(1))
        };
        let writer = {
            let (queue, told) = (Arc::clone(&queue), Arc::clone(&told));
            thread::spawn(move || {
                let Taken::Work(work) = queue.take(None) else { panic!("work comes before the close") };
                queue.close();
                told.fetch_add(work.len(), Ordering::SeqCst);
                told.fetch_add(take_all(&queue).len(), Ordering::SeqCst);
            })
        };
        queue.push("append").unwrap();
        let pushed = 1 + usize::from(queue.push("notice").is_ok());
        writer.join().unwrap();
        assert_eq!(told.load(Ordering::SeqCst), pushed);
        assert_eq!(waiting.join().unwrap(), Err(Refused::Closed));
    });
}

/// What the store does under one lock (I-STORE-2): give an entry its place, queue it, move the tail.
#[test]
fn two_appenders_never_get_one_place_and_the_queue_is_in_log_order() {
    model(|| {
        let queue = Arc::new(WorkQueue::new(2));
        let tail = Arc::new(sync::Mutex::new(0));
        let appenders = [(); 2].map(|()| {
            let (queue, tail) = (Arc::clone(&queue), Arc::clone(&tail));
            thread::spawn(move || {
                queue.reserve(1).unwrap();
                let mut tail = lock(&tail);
                let place: u64 = *tail;
                queue.push(place).unwrap();
                *tail = place + 1;
                place
            })
        });
        assert_eq!(take_some(&queue, 2), [0, 1], "I-STORE-2");
        let mut places = appenders.map(|appender| appender.join().unwrap());
        places.sort_unstable();
        assert_eq!(places, [0, 1], "no double head");
    });
}
