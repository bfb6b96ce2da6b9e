//! How fast one execution environment calls ELBv2: first come, first served.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use leaky_bucket::RateLimiter;
use tokio::{sync::Mutex, time::sleep};

/// The requests of ELBv2 that may go out: so many a second, with bursts of some seconds' worth.
#[derive(Debug)]
pub struct Budget(Option<Bucket>);

#[derive(Debug)]
struct Bucket {
    per_second: NonZeroU32,
    limiter: RateLimiter,
    /// Requests that went out without waiting. Who waits next pays for them.
    debt: AtomicUsize,
    line: Mutex<()>,
}

impl Budget {
    /// A full one; `None` sets no limit.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        let bucket = |per_second: NonZeroU32| {
            let rate = per_second.get() as usize;
            // No timer is finer than a millisecond.
            let refill = rate.div_ceil(100);
            let limiter = RateLimiter::builder()
                .max(rate * BURST_SECONDS)
                .initial(rate * BURST_SECONDS)
                .refill(refill)
                .interval(Duration::from_secs(1) * u32::try_from(refill).unwrap_or(1) / per_second.get())
                .build();
            Bucket { per_second, limiter, debt: AtomicUsize::new(0), line: Mutex::new(()) }
        };
        Self(per_second.map(bucket))
    }

    /// Waits until one more request may go out, and spends it.
    pub async fn acquire(&self) {
        if let Some(bucket) = &self.0 {
            let _first = bucket.line.lock().await;
            bucket.pay().await;
        }
    }

    /// The same, for a group that was not begun: it stands in no line, so that what was begun can end. And it takes its
    /// time, so that those who are begun in a burst do not all wait for their next request when the burst is over.
    pub async fn acquire_last(&self) {
        let Some(bucket) = &self.0 else { return };
        loop {
            sleep(Duration::from_secs(1) / bucket.per_second.get() / 2).await;
            if let Ok(_first) = bucket.line.try_lock() {
                return bucket.pay().await;
            }
        }
    }

    /// Counts a request that nobody waits for.
    pub fn count(&self) {
        if let Some(bucket) = &self.0 {
            bucket.debt.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether so many requests could go out at once.
    pub fn suffices(&self, count: usize) -> bool {
        // The balance is that of the last time when anybody asked.
        self.0.as_ref().is_none_or(|bucket| bucket.limiter.try_acquire(0) && bucket.limiter.balance() >= count)
    }

    /// How long so many requests take once the budget is used up.
    pub fn time_for(&self, count: u32) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |bucket| Duration::from_secs(1) * count / bucket.per_second.get())
    }
}

impl Bucket {
    async fn pay(&self) {
        let debt = self.debt.swap(0, Ordering::Relaxed);
        self.limiter.acquire((1 + debt).min(self.limiter.max())).await;
    }
}

/// Seconds' worth of requests that may go out at once: the quota's own bucket holds four.
const BURST_SECONDS: usize = 4;
