//! Time for decisions that can't be taken back, from two clocks of which neither suffices.
//!
//! The system's clock (*wall*) may be wrong and jump either way. The time since boot goes
//! on, but knows nothing of what was before. From both:
//!
//! * *settled* time never goes back. It follows the wall, unless that runs ahead of what
//!   has passed by more than a bound: then it is *doubted* until the daemon has run for a
//!   day with it, and settled time goes on by itself. While the wall is behind, settled
//!   time goes on at half its pace until the wall has caught up: it neither stands still,
//!   nor stays ahead for ever where the time before was the wrong one.
//! * *effective* time is the later of both: what is over stays so when the wall goes back.
//!
//! What was made while the wall was ahead, and then turned out not to be true, bears a
//! date in the future: whoever keeps time corrects it (the commit room of the worker).

/// A jump from here on is told, in milliseconds: slewing is slower, leap seconds are not.
const JUMP_MS: i64 = 500;

/// How far the wall may run ahead of what has passed since boot before it is doubted.
const RUNNING_BOUND_MS: i64 = 3_600_000;

/// How far it may be ahead after a boot, before which an unknown time has passed: a night
/// is no reason for doubt. What is kept for a week must not be gone by a guess.
const BOOT_BOUND_MS: i64 = 24 * 3_600_000;

/// In doubt, a machine that is off longer than it runs must come to an end with it: a
/// further gap up to this does not begin the wait anew.
const GAP_MS: i64 = 30 * 24 * 3_600_000;

/// How long the daemon must run with a doubted time before it is settled.
pub(crate) const DOUBT_MS: i64 = 24 * 3_600_000;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Unix milliseconds.
    pub(crate) wall_ms: i64,
    /// Milliseconds since boot, suspensions included.
    pub(crate) since_boot_ms: i64,
}

/// Last knowledge of another worker, perhaps of another boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeMark {
    /// Id of the boot.
    pub(crate) boot: [u8; 16],
    pub(crate) last: Moment,
    pub(crate) settled_ms: i64,
    /// How long the daemon has run in doubt; none without.
    pub(crate) doubted_ms: Option<i64>,
}

/// Something about the time that must be told; times are Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEvent {
    pub(crate) kind: TimeEventKind,
    /// The time that should have been.
    pub(crate) from_ms: i64,
    /// The wall.
    pub(crate) to_ms: i64,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeEventKind {
    /// The wall went ahead, not far.
    Ahead,
    /// The wall went so far ahead that it is doubted.
    Doubted,
    /// The wall went back.
    Back,
    /// A doubted time has stood for so long that it is settled.
    Settled,
}

/// The course of time in one worker.
pub(crate) struct Timeline {
    mark: TimeMark,
    events: Vec<TimeEvent>,
}

/// Most events that wait to be told; a clock that jumps to and fro tells no more.
const MAX_EVENTS: usize = 64;

impl Timeline {
    /// Goes on from `known`, at the moment `now` of this `boot`. Without it the wall is
    /// believed: there is nothing yet that could be lost.
    pub(crate) fn resume(known: Option<TimeMark>, boot: [u8; 16], now: Moment) -> Self {
        let fresh = TimeMark {
            boot,
            last: now,
            settled_ms: now.wall_ms,
            doubted_ms: None,
        };
        let mut timeline = Self {
            mark: known.unwrap_or(fresh),
            events: Vec::new(),
        };
        let last = timeline.mark.last;
        if timeline.mark.boot == boot && now.since_boot_ms >= last.since_boot_ms {
            timeline.observe(now);
        } else {
            timeline.observe_boot(boot, now);
        }
        timeline
    }

    /// Takes in that it is `now`.
    pub(crate) fn observe(&mut self, now: Moment) {
        let mark = &mut self.mark;
        let passed = now
            .since_boot_ms
            .saturating_sub(mark.last.since_boot_ms)
            .max(0);
        let expected = mark.last.wall_ms.saturating_add(passed);
        let off = now.wall_ms.saturating_sub(expected);
        let run_on = mark.settled_ms.saturating_add(passed);
        let ahead = now.wall_ms > run_on.saturating_add(RUNNING_BOUND_MS);
        if ahead {
            mark.settled_ms = run_on;
            let ran = mark.doubted_ms.filter(|_| off.abs() <= RUNNING_BOUND_MS);
            mark.doubted_ms = Some(ran.map_or(0, |ran| ran.saturating_add(passed)));
        } else {
            mark.settled_ms = now.wall_ms.max(mark.settled_ms.saturating_add(passed / 2));
            mark.doubted_ms = None;
        }
        mark.last = now;
        self.tell_jump(expected, now.wall_ms);
        self.settle();
    }

    /// Takes in the moment `now` of another boot: nobody knows what has passed.
    fn observe_boot(&mut self, boot: [u8; 16], now: Moment) {
        let mark = &mut self.mark;
        let before = mark.last.wall_ms;
        let gap = now.wall_ms.saturating_sub(before);
        if now.wall_ms > mark.settled_ms.saturating_add(BOOT_BOUND_MS) {
            let goes_on = (0..=GAP_MS).contains(&gap);
            mark.doubted_ms = Some(mark.doubted_ms.filter(|_| goes_on).unwrap_or_default());
        } else {
            mark.settled_ms = mark.settled_ms.max(now.wall_ms);
            mark.doubted_ms = None;
        }
        (mark.boot, mark.last) = (boot, now);
        if !(0..=BOOT_BOUND_MS).contains(&gap) {
            self.tell_jump(before, now.wall_ms);
        }
    }

    fn tell_jump(&mut self, from_ms: i64, to_ms: i64) {
        let kind = match to_ms.saturating_sub(from_ms) {
            off if off <= -JUMP_MS => TimeEventKind::Back,
            off if off < JUMP_MS => return,
            _ if self.mark.doubted_ms.is_some() => TimeEventKind::Doubted,
            _ => TimeEventKind::Ahead,
        };
        self.tell(TimeEvent {
            kind,
            from_ms,
            to_ms,
        });
    }

    fn tell(&mut self, event: TimeEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        }
    }

    /// Believes a doubted time that has stood for long enough.
    fn settle(&mut self) {
        let (from_ms, to_ms) = (self.mark.settled_ms, self.mark.last.wall_ms);
        if self.mark.doubted_ms.is_some_and(|ran| ran >= DOUBT_MS) {
            self.mark.settled_ms = to_ms;
            self.mark.doubted_ms = None;
            self.tell(TimeEvent {
                kind: TimeEventKind::Settled,
                from_ms,
                to_ms,
            });
        }
    }

    /// The later one of wall and settled time, Unix milliseconds.
    pub(crate) fn effective_ms(&self) -> i64 {
        self.mark.last.wall_ms.max(self.mark.settled_ms)
    }

    /// Settled time, Unix milliseconds.
    pub(crate) fn settled_ms(&self) -> i64 {
        self.mark.settled_ms
    }

    /// The mark for the next worker.
    pub(crate) fn mark(&self) -> TimeMark {
        self.mark
    }

    /// The events that wait to be told.
    pub(crate) fn events(&self) -> &[TimeEvent] {
        &self.events
    }

    /// Forgets the first `told` events.
    pub(crate) fn forget_events(&mut self, told: usize) {
        self.events.drain(..told.min(self.events.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;
    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    const YEARS: i64 = 3653 * DAY;
    const START: i64 = 1_800_000_000_000;

    /// A worker on a machine of which a test sets both clocks.
    struct Machine {
        now: Moment,
        boot: [u8; 16],
        time: Timeline,
        /// Events of earlier workers.
        earlier: Vec<TimeEventKind>,
    }

    impl Machine {
        fn new() -> Self {
            let (boot, now) = (
                [1; 16],
                Moment {
                    wall_ms: START,
                    since_boot_ms: DAY,
                },
            );
            let time = Timeline::resume(None, boot, now);
            Self {
                now,
                boot,
                time,
                earlier: Vec::new(),
            }
        }

        /// The wall jumps by `off`.
        fn jump(&mut self, off: i64) {
            self.now.wall_ms += off;
            self.time.observe(self.now);
        }

        /// Time passes, looked at every ten seconds.
        fn run(&mut self, passed: i64) {
            let steps = passed / (10 * SECOND);
            for _ in 0..steps {
                self.now.wall_ms += 10 * SECOND;
                self.now.since_boot_ms += 10 * SECOND;
                self.time.observe(self.now);
            }
        }

        /// Another worker; after a reboot that took `off` by the wall where it is some.
        fn restart(&mut self, off: Option<i64>) {
            if let Some(off) = off {
                self.boot[0] += 1;
                self.now.since_boot_ms = 0;
                self.now.wall_ms += off;
            }
            self.earlier = self.told();
            let mark = self.time.mark();
            self.time = Timeline::resume(Some(mark), self.boot, self.now);
        }

        fn told(&mut self) -> Vec<TimeEventKind> {
            let mut kinds = std::mem::take(&mut self.earlier);
            kinds.extend(self.time.events().iter().map(|event| event.kind));
            self.time.forget_events(MAX_EVENTS);
            kinds
        }

        fn settled(&self) -> i64 {
            self.time.settled_ms() - START
        }

        fn effective(&self) -> i64 {
            self.time.effective_ms() - START
        }
    }

    #[test]
    fn time_that_passes_is_settled_and_nothing_is_told() {
        let mut machine = Machine::new();
        machine.run(DAY);
        machine.restart(None);
        // A night off, and a suspension.
        machine.restart(Some(16 * HOUR));
        machine.now.wall_ms += 60 * DAY;
        machine.now.since_boot_ms += 60 * DAY;
        machine.time.observe(machine.now);
        assert_eq!(machine.settled(), 61 * DAY + 16 * HOUR);
        assert_eq!(machine.effective(), machine.settled());
        assert!(machine.told().is_empty());
    }

    #[test]
    fn a_small_step_is_followed_and_told() {
        let mut machine = Machine::new();
        machine.jump(SECOND);
        assert_eq!(machine.settled(), SECOND);
        machine.jump(-SECOND);
        assert_eq!((machine.settled(), machine.effective()), (SECOND, SECOND));
        machine.run(20 * SECOND);
        assert_eq!(machine.settled(), 20 * SECOND, "the wall has caught up");
        assert_eq!(machine.told(), [TimeEventKind::Ahead, TimeEventKind::Back]);
        machine.jump(400);
        machine.jump(-400);
        assert!(machine.told().is_empty(), "slewing is no jump");
    }

    #[test]
    fn a_jump_ahead_is_doubted_for_a_day_of_running() {
        for far in [2 * HOUR, DAY, YEARS] {
            let mut machine = Machine::new();
            machine.jump(far);
            assert_eq!(machine.told(), [TimeEventKind::Doubted]);
            assert_eq!((machine.settled(), machine.effective()), (0, far));
            machine.run(20 * HOUR);
            // Neither another worker nor a reboot that takes an hour begins the wait anew.
            machine.restart(None);
            if far > 2 * DAY {
                machine.restart(Some(HOUR));
            }
            assert!(machine.told().is_empty());
            assert_eq!(machine.settled(), 20 * HOUR);
            machine.run(4 * HOUR);
            assert_eq!(machine.told(), [TimeEventKind::Settled]);
            assert_eq!(machine.settled(), machine.effective());
        }
    }

    #[test]
    fn a_jump_that_is_taken_back_leaves_no_trace() {
        for restart in [false, true] {
            let mut machine = Machine::new();
            machine.jump(YEARS);
            machine.run(HOUR);
            if restart {
                machine.restart(Some(-YEARS));
            } else {
                machine.jump(-YEARS);
            }
            assert_eq!(
                machine.told(),
                [TimeEventKind::Doubted, TimeEventKind::Back]
            );
            assert_eq!((machine.settled(), machine.effective()), (HOUR, HOUR));
            machine.jump(YEARS);
            machine.run(23 * HOUR);
            assert_eq!(machine.settled(), 24 * HOUR, "the wait began anew");
        }
    }

    #[test]
    fn further_jumps_begin_the_wait_anew() {
        let mut machine = Machine::new();
        machine.jump(DAY);
        machine.run(23 * HOUR);
        machine.jump(YEARS);
        machine.run(23 * HOUR);
        assert_eq!(machine.settled(), 46 * HOUR);
        machine.run(HOUR);
        assert_eq!(machine.settled(), machine.effective());
    }

    #[test]
    fn time_never_goes_back_and_never_stands_still() {
        for (back, restart) in [
            (SECOND, None),
            (DAY, None),
            (YEARS, None),
            (DAY, Some(-DAY)),
            (YEARS, Some(-YEARS)),
        ] {
            let mut machine = Machine::new();
            if restart.is_some() {
                machine.restart(restart);
            } else {
                machine.jump(-back);
            }
            assert_eq!(machine.told(), [TimeEventKind::Back]);
            assert_eq!((machine.settled(), machine.effective()), (0, 0));
            machine.run(2 * HOUR);
            assert_eq!(machine.settled(), HOUR.max(2 * HOUR - back));
            machine.restart(None);
            assert_eq!(machine.settled(), HOUR.max(2 * HOUR - back));
        }
    }

    #[test]
    fn a_machine_that_was_off_for_long_goes_on_and_settles() {
        let mut machine = Machine::new();
        machine.restart(Some(90 * DAY));
        assert_eq!(machine.told(), [TimeEventKind::Doubted]);
        assert_eq!((machine.settled(), machine.effective()), (0, 90 * DAY));
        // It runs for some hours each week.
        for _ in 0..5 {
            machine.run(5 * HOUR);
            machine.restart(Some(7 * DAY));
        }
        assert!(machine.told().contains(&TimeEventKind::Settled));
    }

    #[test]
    fn a_clock_that_runs_wild_fills_no_memory() {
        let mut machine = Machine::new();
        for _ in 0..100 {
            machine.jump(YEARS);
            machine.jump(-YEARS);
        }
        assert_eq!(machine.time.events().len(), MAX_EVENTS);
    }
}
