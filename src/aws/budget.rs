//! How fast one execution environment calls ELBv2: first come, first served.

use std::{num::NonZeroU32, time::Duration};

use leaky_bucket::RateLimiter;

/// The requests of ELBv2 that may go out: so many a second, with bursts of some seconds' worth.
#[derive(Debug)]
pub struct Budget(Option<(RateLimiter, NonZeroU32)>);

impl Budget {
    /// A full one; `None` sets no limit.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        let bucket = |rate: NonZeroU32| {
            let per_second = rate.get() as usize;
            // No timer is finer than a millisecond.
            let refill = per_second.div_ceil(100);
            let limiter = RateLimiter::builder()
                .max(per_second * BURST_SECONDS)
                .initial(per_second * BURST_SECONDS)
                .refill(refill)
                .interval(Duration::from_secs(1) * u32::try_from(refill).unwrap_or(1) / rate.get())
                .build();
            (limiter, rate)
        };
        Self(per_second.map(bucket))
    }

    /// Waits until one more request may go out, and spends it.
    pub async fn acquire(&self) {
        if let Some((limiter, _)) = &self.0 {
            limiter.acquire_one().await;
        }
    }

    /// Counts a request that nobody waited for: the SDK sends one again. Where others wait already, it does not count.
    pub fn count(&self) {
        if let Some((limiter, _)) = &self.0 {
            limiter.try_acquire(1);
        }
    }

    /// Whether so many requests could go out at once.
    pub fn suffices(&self, count: usize) -> bool {
        self.0.as_ref().is_none_or(|(limiter, _)| {
            // The balance is that of the last time when anybody asked.
            limiter.try_acquire(0) && limiter.balance() >= count
        })
    }

    /// How long so many requests take once the budget is used up.
    pub fn time_for(&self, count: u32) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(_, rate)| Duration::from_secs(1) * count / rate.get())
    }
}

/// Seconds' worth of requests that may go out at once: the quota's own bucket holds four.
const BURST_SECONDS: usize = 4;
