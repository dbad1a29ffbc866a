//! What goes wrong in a life: a power failure, a full disk, a failing call, or nothing.

use crate::fake_disk::FakeDisk;
use crate::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use crate::random::SplitMix64;

/// How a life ended for its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// The power failed.
    Crash,
    /// The process was killed, and the machine goes on.
    Kill,
}

impl How {
    /// Any, but after a failed flush of a directory a crash: a process that is started again on the same
    /// machine would see names that never become durable, and file systems with a journal, which stop for
    /// good there, do not let it go on either.
    pub fn any(disk: &FakeDisk, random: &mut SplitMix64) -> Self {
        let how = *random.pick(&[Self::Crash, Self::Crash, Self::Kill]);
        if disk.has_lost_names() { Self::Crash } else { how }
    }

    /// The machine after that. The old one is off.
    #[must_use]
    pub fn end(self, disk: &FakeDisk, random: &mut SplitMix64) -> FakeDisk {
        match self {
            Self::Crash => disk.crash(random),
            Self::Kill => disk.kill(),
        }
    }
}

/// Plans what goes wrong in a life; nothing, sometimes. Answers it in words.
pub fn plan(disk: &FakeDisk, random: &mut SplitMix64) -> String {
    let most = *random.pick(&[8, 64, 512, 2048]);
    let nth = 1 + random.below(most);
    let flavour = *random.pick(&Flavour::ALL);
    match random.below(10) {
        0 => "nothing goes wrong".to_owned(),
        1 => {
            let most = *random.pick(&[1, 1 << 14, 1 << 18, 16 << 20]);
            let room = random.below(most);
            disk.set_capacity(disk.used() + room, flavour);
            format!("{room} bytes are free, {flavour:?}")
        }
        2..7 => {
            disk.power_off_in(nth, flavour);
            format!("the power fails at call {nth}, {flavour:?}")
        }
        _ => {
            let calls = match random.below(3) {
                0 => Calls::Any,
                1 => Calls::Only(*random.pick(&[Call::Sync, Call::Write, Call::SyncDirectory])),
                _ => Calls::Only(*random.pick(&Call::ALL)),
            };
            let nth = if calls == Calls::Any { nth } else { 1 + nth / 8 };
            let lasting = *random.pick(&[Lasting::Once, Lasting::FromThenOn]);
            let cause = *random.pick(&[Cause::Io, Cause::NoSpace]);
            let fault = Fault { calls, nth, lasting, flavour, cause };
            let text = format!("{fault:?}");
            disk.inject(fault);
            text
        }
    }
}
