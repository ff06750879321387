//! Queue of jobs in which nobody waits for all of another's: accounts take turns, and what is
//! urgent comes before what is not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Jobs that wait, at most `capacity` of them.
pub(crate) struct FairQueue<J> {
    capacity: usize,
    waiting: Mutex<Waiting<J>>,
    changed: Condvar,
}

struct Waiting<J> {
    urgent: Lane<J>,
    ordinary: Lane<J>,
    closed: bool,
}

/// Jobs by account, in the order of turns, each with the time when it came.
struct Lane<J>(VecDeque<(u32, VecDeque<(Instant, J)>)>);

impl<J> Lane<J> {
    fn len(&self) -> usize {
        self.0.iter().map(|(_, jobs)| jobs.len()).sum()
    }

    fn of(&self, account: u32) -> usize {
        let own = self.0.iter().find(|(owner, _)| *owner == account);
        own.map_or(0, |(_, jobs)| jobs.len())
    }

    fn push(&mut self, account: u32, job: J) {
        let job = (Instant::now(), job);
        match self.0.iter_mut().find(|(owner, _)| *owner == account) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.0.push_back((account, VecDeque::from([job]))),
        }
    }

    fn take(&mut self) -> Option<J> {
        let (account, mut jobs) = self.0.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.0.push_back((account, jobs));
        }
        job.map(|(_, job)| job)
    }

    /// Takes the jobs that have waited for `limit`.
    fn take_overdue(&mut self, limit: Duration) -> Vec<J> {
        let mut overdue = Vec::new();
        for (_, jobs) in &mut self.0 {
            let late = jobs
                .iter()
                .take_while(|(since, _)| since.elapsed() >= limit);
            let late = late.count();
            overdue.extend(jobs.drain(..late).map(|(_, job)| job));
        }
        self.0.retain(|(_, jobs)| !jobs.is_empty());
        overdue
    }

    /// Takes the newest job of whoever has the most, if they are more than `than`.
    fn evict(&mut self, than: usize) -> Option<J> {
        let longest = (0..self.0.len()).max_by_key(|&at| self.0.get(at).map(|(_, j)| j.len()))?;
        let (_, jobs) = self.0.get_mut(longest).filter(|(_, j)| j.len() > than)?;
        let job = jobs.pop_back();
        if jobs.is_empty() {
            self.0.remove(longest);
        }
        job.map(|(_, job)| job)
    }
}

impl<J> FairQueue<J> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            waiting: Mutex::new(Waiting {
                urgent: Lane(VecDeque::new()),
                ordinary: Lane(VecDeque::new()),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Queues `job` of `account`. When the queue is full, whoever has the most in it gives up a
    /// place to who has less; an urgent job gets one from any that is not.
    ///
    /// # Errors
    /// The job that finds no place: this one, or one that waited.
    pub(crate) fn push(&self, account: u32, urgent: bool, job: J) -> Result<(), J> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(job);
        }
        let full = waiting.urgent.len() + waiting.ordinary.len() >= self.capacity;
        let evicted = match (full, urgent) {
            (false, _) => None,
            (true, false) => {
                // Its own would be one more.
                let own = waiting.ordinary.of(account) + 1;
                match waiting.ordinary.evict(own) {
                    Some(evicted) => Some(evicted),
                    None => return Err(job),
                }
            }
            (true, true) => {
                let own = waiting.urgent.of(account) + 1;
                let evicted = waiting.ordinary.evict(0);
                match evicted.or_else(|| waiting.urgent.evict(own)) {
                    Some(evicted) => Some(evicted),
                    None => return Err(job),
                }
            }
        };
        let lane = if urgent {
            &mut waiting.urgent
        } else {
            &mut waiting.ordinary
        };
        lane.push(account, job);
        drop(waiting);
        self.changed.notify_one();
        evicted.map_or(Ok(()), Err)
    }

    /// Waits for the next job; `None` once the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<J> {
        let mut waiting = self.waiting.lock();
        loop {
            let next = waiting.urgent.take();
            if let Some(job) = next.or_else(|| waiting.ordinary.take()) {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            self.changed.wait(&mut waiting);
        }
    }

    /// Takes out the jobs that have waited for `limit`, the oldest of each account first.
    pub(crate) fn take_overdue(&self, limit: Duration) -> Vec<J> {
        let mut waiting = self.waiting.lock();
        let mut overdue = waiting.urgent.take_overdue(limit);
        overdue.extend(waiting.ordinary.take_overdue(limit));
        overdue
    }

    /// Takes no more jobs; those that wait are still done.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(queue: &FairQueue<&'static str>) -> Vec<&'static str> {
        queue.close();
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn uids_take_turns_and_the_urgent_comes_first() {
        let queue = FairQueue::new(8);
        for (uid, urgent, job) in [
            (7, false, "a1"),
            (7, false, "a2"),
            (7, false, "a3"),
            (8, false, "b1"),
            (7, true, "a4!"),
            (7, true, "a5!"),
            (9, true, "c1!"),
        ] {
            assert!(queue.push(uid, urgent, job).is_ok());
        }
        assert_eq!(
            drained(&queue),
            ["a4!", "c1!", "a5!", "a1", "b1", "a2", "a3"]
        );
    }

    #[test]
    fn who_waited_too_long_is_taken_out() {
        let queue = FairQueue::new(8);
        for (account, urgent, job) in [(7, false, "a1"), (8, true, "b1!"), (7, false, "a2")] {
            assert!(queue.push(account, urgent, job).is_ok());
        }
        assert!(queue.take_overdue(Duration::from_secs(3600)).is_empty());
        assert_eq!(queue.take_overdue(Duration::ZERO), ["b1!", "a1", "a2"]);
        assert!(queue.push(9, false, "c1").is_ok());
        assert_eq!(drained(&queue), ["c1"]);
    }

    #[test]
    fn who_has_the_most_gives_up_a_place() {
        let queue = FairQueue::new(3);
        for job in ["a1", "a2", "a3"] {
            assert!(queue.push(7, false, job).is_ok());
        }
        assert_eq!(queue.push(7, false, "a4"), Err("a4"), "no place of its own");
        assert_eq!(queue.push(8, false, "b1"), Err("a3"));
        assert_eq!(
            queue.push(8, false, "b2"),
            Err("b2"),
            "no more than the other"
        );
        assert_eq!(queue.push(9, true, "c1!"), Err("a2"));
        assert_eq!(drained(&queue), ["c1!", "a1", "b1"]);
        assert_eq!(queue.push(7, false, "late"), Err("late"));
    }

    #[test]
    fn the_urgent_of_many_leave_room_for_one() {
        let queue = FairQueue::new(3);
        for job in ["a1!", "a2!", "a3!"] {
            assert!(queue.push(7, true, job).is_ok());
        }
        assert_eq!(queue.push(8, true, "b1!"), Err("a3!"));
        assert_eq!(queue.push(8, false, "b2"), Err("b2"));
        assert_eq!(drained(&queue), ["a1!", "b1!", "a2!"]);
    }
}
