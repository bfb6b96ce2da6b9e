//! How fast one execution environment calls ELBv2: first come, first served.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::{sync, time::sleep};

/// The requests of ELBv2 that may go out: so many a second, with bursts of four seconds' worth.
#[derive(Debug)]
pub(crate) struct Budget {
    /// From one request to the next; zero where there is no limit.
    interval: Duration,
    /// When the requests so far would have gone out at an even pace: it runs ahead by what a burst took.
    spent: Mutex<Instant>,
    line: sync::Mutex<()>,
}

impl Budget {
    /// A full one; `None` sets no limit.
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Self {
        let interval = per_second.map_or(Duration::ZERO, |per_second| Duration::from_secs(1) / per_second.get());
        Self { interval, spent: Mutex::new(Instant::now()), line: sync::Mutex::default() }
    }

    /// Waits until one more request may go out, and spends it.
    pub(crate) async fn acquire(&self) {
        let _first = self.line.lock().await;
        self.pay().await;
    }

    /// The same, for a group that was not begun: it stands in no line, so that what was begun can end. And it takes its
    /// time, so that those who are begun in a burst do not all wait for their next request when the burst is over.
    pub(crate) async fn acquire_last(&self) {
        loop {
            sleep(self.interval / 2).await;
            if let Ok(_first) = self.line.try_lock() {
                return self.pay().await;
            }
        }
    }

    /// Spends a request that waits for nothing. Who waits next waits for it, too.
    pub(crate) fn count(&self) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = (*spent).max(Instant::now()) + self.interval;
    }

    /// Whether so many requests could go out at once.
    pub(crate) fn suffices(&self, count: usize) -> bool {
        self.wait_for(u32::try_from(count).unwrap_or(u32::MAX)).is_zero()
    }

    /// How long so many requests take once the budget is used up.
    pub(crate) fn time_for(&self, count: u32) -> Duration {
        self.interval.saturating_mul(count)
    }

    async fn pay(&self) {
        let wait = self.wait_for(1);
        if !wait.is_zero() {
            sleep(wait).await;
        }
        self.count();
    }

    fn wait_for(&self, count: u32) -> Duration {
        let ahead = self.spent.lock().unwrap_or_else(PoisonError::into_inner).saturating_duration_since(Instant::now());
        if self.interval.is_zero() { Duration::ZERO } else { (ahead + self.time_for(count)).saturating_sub(BURST) }
    }
}

/// How long a budget that is used up takes to fill: the quota's own bucket holds four seconds' worth.
const BURST: Duration = Duration::from_secs(4);
