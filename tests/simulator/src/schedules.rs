//! Running schedules: which seeds, on how many cores, and what is printed of one that fails.
//!
//! `STELE_SEED` runs that schedule only. `STELE_SCHEDULES` runs so many, from seed 0 on, on all cores.
//! Otherwise the few that the test asks for are run, one after the other.

use std::any::Any;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What happened in a schedule, in words.
#[derive(Default)]
pub struct Story(Mutex<Vec<String>>);

impl Story {
    /// Adds a line.
    pub fn tell(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All lines.
    pub fn into_lines(self) -> Vec<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A schedule that failed.
struct Failure {
    seed: u64,
    story: Story,
    panic: Box<dyn Any + Send>,
}

/// Which schedules to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seeds {
    seeds: Range<u64>,
    threads: NonZero<usize>,
}

impl Seeds {
    /// What the environment asks for, or so many.
    ///
    /// # Panics
    /// Where the environment asks for something that is no number.
    #[must_use]
    pub fn asked_or(few: u64) -> Self {
        let one = NonZero::<usize>::MIN;
        match (number("STELE_SEED"), number("STELE_SCHEDULES")) {
            (Some(seed), _) => Self { seeds: seed..seed + 1, threads: one },
            (None, Some(many)) => Self { seeds: 0..many, threads: thread::available_parallelism().unwrap_or(one) },
            (None, None) => Self { seeds: 0..few, threads: one },
        }
    }

    /// No more than so many of them.
    #[must_use]
    pub fn at_most(self, most: u64) -> Self {
        let end = self.seeds.end.min(self.seeds.start + most);
        Self { seeds: self.seeds.start..end, ..self }
    }

    /// Runs the schedules. Where some fail, those before the first of them have all been run, its story is
    /// printed, and it is what this panics with.
    ///
    /// # Panics
    /// Where a schedule does.
    pub fn run(&self, schedule: impl Fn(u64, &Story) + Sync) {
        let next = AtomicU64::new(self.seeds.start);
        let failure: Mutex<Option<Failure>> = Mutex::new(None);
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end {
                    return;
                }
                let story = Story::default();
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| schedule(seed, &story))) {
                    // Every smaller seed has been taken before this one: its thread still finishes it.
                    next.store(self.seeds.end, Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if failure.as_ref().is_none_or(|first| seed < first.seed) {
                        *failure = Some(Failure { seed, story, panic });
                    }
                }
            }
        };
        if self.threads.get() == 1 {
            work();
        } else {
            thread::scope(|scope| (0..self.threads.get()).for_each(|_| drop(scope.spawn(work))));
        }
        if let Some(Failure { seed, story, panic }) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let story = story.into_lines().join("\n");
            #[expect(clippy::print_stderr, reason = "the sequence that failed")]
            {
                eprintln!("{story}\nSTELE_SEED={seed} repeats it");
            }
            resume_unwind(panic);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn seeds(end: u64, threads: usize) -> Seeds {
        Seeds { seeds: 0..end, threads: NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN) }
    }

    #[test]
    fn every_seed_is_run_once_on_any_number_of_threads() {
        for threads in [1, 4] {
            let run = Mutex::new(Vec::new());
            seeds(100, threads).run(|seed, _| run.lock().expect("no schedule fails").push(seed));
            let mut run = run.into_inner().expect("no schedule fails");
            run.sort_unstable();
            assert_eq!(run, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_smallest_seed_that_fails_is_what_it_fails_with() {
        for threads in [1, 4] {
            let run = Mutex::new(BTreeSet::new());
            let failed = catch_unwind(AssertUnwindSafe(|| {
                seeds(1000, threads).run(|seed, _| {
                    run.lock().unwrap_or_else(PoisonError::into_inner).insert(seed);
                    assert!(seed < 20, "{seed}");
                });
            }));
            let panic = failed.expect_err("it fails");
            assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some("20"), "{threads} threads");
            let run = run.into_inner().unwrap_or_else(PoisonError::into_inner);
            assert!((0..=20).all(|seed| run.contains(&seed)) && run.len() < 200);
        }
    }
}
