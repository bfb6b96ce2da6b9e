//! How fast requests go out, those to ELBv2 and those to name servers: first come, first served.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{self, Notify};
use tokio::time::sleep;

/// The requests that may go out: one in each `interval`, with bursts, and so many at once.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Zero where there is no limit.
    interval: Duration,
    /// How long a budget that is used up takes to fill.
    burst: Duration,
    most_open: u32,
    spent: Mutex<Spent>,
    line: sync::Mutex<()>,
    ended: Notify,
}

#[derive(Debug)]
struct Spent {
    /// When the requests that were answered would have gone out at an even pace: it runs ahead by what a burst took.
    until: Instant,
    /// Those under way.
    open: u32,
}

/// The right to one request, held until its reply is there. The other side may take the request in at any time until
/// then, so nothing is regained for it before.
#[derive(Debug)]
#[must_use]
pub(crate) struct Turn<'a> {
    budget: &'a Budget,
    /// What it takes of the budget at its end.
    price: Duration,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut spent = self.budget.spent();
        spent.open -= 1;
        spent.until = spent.until.max(Instant::now()) + self.price;
        self.budget.ended.notify_one();
    }
}

impl Budget {
    /// A full one.
    pub(crate) fn new(interval: Duration, burst: Duration, most_open: u32) -> Self {
        let spent = Mutex::new(Spent { until: Instant::now(), open: 0 });
        Self { interval, burst, most_open, spent, line: sync::Mutex::default(), ended: Notify::new() }
    }

    /// Waits until one more request may go out.
    pub(crate) async fn acquire(&self) -> Turn<'_> {
        let _first = self.line.lock().await;
        self.wait().await
    }

    /// The same, for a group that was not begun: it stands in no line, so that what was begun can end. And it takes its
    /// time, so that those who are begun in a burst do not all wait for their next request when the burst is over.
    pub(crate) async fn acquire_last(&self) -> Turn<'_> {
        loop {
            sleep(self.interval / 2).await;
            if let Ok(_first) = self.line.try_lock() {
                return self.wait().await;
            }
        }
    }

    /// A request that waits for nothing. Who waits next waits for it, too.
    pub(crate) fn take(&self) -> Turn<'_> {
        self.spent().open += 1;
        Turn { budget: self, price: self.interval }
    }

    /// The same of one that was paid for: it had a turn that ended unused.
    pub(crate) fn take_paid(&self) -> Turn<'_> {
        let mut turn = self.take();
        turn.price = Duration::ZERO;
        turn
    }

    /// Whether so many requests could go out at once.
    pub(crate) fn suffices(&self, count: usize) -> bool {
        self.wait_for(u32::try_from(count).unwrap_or(u32::MAX)).is_zero()
    }

    /// How long so many requests take once the budget is used up.
    pub(crate) fn time_for(&self, count: u32) -> Duration {
        self.interval.saturating_mul(count)
    }

    async fn wait(&self) -> Turn<'_> {
        loop {
            let wait = self.wait_for(1);
            if self.spent().open >= self.most_open {
                self.ended.notified().await;
            } else if wait.is_zero() {
                return self.take();
            } else {
                sleep(wait).await;
            }
        }
    }

    fn wait_for(&self, count: u32) -> Duration {
        let spent = self.spent();
        let ahead = spent.until.saturating_duration_since(Instant::now());
        (ahead + self.time_for(spent.open.saturating_add(count))).saturating_sub(self.burst)
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
