//! A token bucket with two priorities, which keeps one execution environment within its share of
//! the account's ELBv2 quota, and of what the VPC resolver answers.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit},
    time::{Instant, sleep},
};

/// Hands out requests at a rate, with bursts of some seconds' worth.
///
/// No crate was found that lets what was begun go before what was not, which is what keeps a
/// changed target group from queueing behind the health checks of a thousand unchanged ones.
#[derive(Debug)]
pub struct Limiter {
    per_second: Option<f64>,
    burst_seconds: f64,
    bucket: Mutex<Bucket>,
    continuing: AtomicUsize,
    /// Those that continue go in the order in which they came.
    line: AsyncMutex<()>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    /// Up to when it was filled. It lies ahead while it is not known when a burst has arrived.
    filled_at: Instant,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Priority {
    /// A target group that is being reconciled.
    Continue,
    /// A target group that has not been looked at.
    Start,
}

impl Limiter {
    /// A bucket that is full and holds `burst_seconds` seconds' worth; `None` sets no limit.
    pub fn new(per_second: Option<NonZeroU32>, burst_seconds: f64) -> Self {
        let per_second = per_second.map(|rate| f64::from(rate.get()));
        Self {
            per_second,
            burst_seconds,
            bucket: Mutex::new(Bucket {
                tokens: per_second.unwrap_or_default() * burst_seconds,
                filled_at: Instant::now(),
            }),
            continuing: AtomicUsize::new(0),
            line: AsyncMutex::new(()),
        }
    }

    /// Whether `count` requests could go out at once.
    pub fn can_spend(&self, count: usize) -> bool {
        self.per_second.is_none_or(|rate| self.filled(rate).tokens >= count as f64)
    }

    /// A turn for what can wait for another run: only where `count` requests could go out at once.
    pub fn spare(self: &Arc<Self>, count: usize) -> Option<Permit> {
        if !self.can_spend(count) {
            return None;
        }
        self.change(-1.0);
        Some(Permit { limiter: Arc::clone(self), place: None })
    }

    /// How long it takes until `count` more requests may go out, once the bucket is empty.
    pub fn time_for(&self, count: u32) -> Duration {
        self.per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(f64::from(count) / rate))
    }

    /// Waits for a turn. Dropping the future gives nothing away.
    pub async fn acquire(self: &Arc<Self>, priority: Priority) -> Permit {
        let [permit] = self.acquire_all(priority).await;
        permit
    }

    /// Waits for so many turns at once: who waited for them one by one could keep others waiting with the first ones.
    pub async fn acquire_all<const COUNT: usize>(self: &Arc<Self>, priority: Priority) -> [Permit; COUNT] {
        let permits = || [(); COUNT].map(|()| Permit { limiter: Arc::clone(self), place: None });
        let Some(rate) = self.per_second else { return permits() };
        let count = COUNT as f64;
        let _queued = (priority == Priority::Continue).then(|| Queued::new(&self.continuing));
        // Whoever waits for several would else wait for as long as others come who need one.
        let _first = if priority == Priority::Continue { Some(self.line.lock().await) } else { None };
        loop {
            let pause = {
                let mut bucket = self.filled(rate);
                let yields = priority == Priority::Start && self.continuing.load(Ordering::Relaxed) > 0;
                if bucket.tokens >= count && !yields {
                    // The service's own bucket is full until the first request of a burst arrives, and
                    // fills up from then on only. Were ours ahead by the time that this takes, in a
                    // cold start that of many TLS handshakes, the end of the burst would be throttled.
                    if bucket.tokens > rate * (self.burst_seconds - LONGEST_ARRIVAL.as_secs_f64()) {
                        bucket.filled_at = Instant::now() + LONGEST_ARRIVAL;
                    }
                    bucket.tokens -= count;
                    return permits();
                }
                (count - bucket.tokens).max(SHORTEST_PAUSE_TOKENS) / rate
            };
            sleep(Duration::from_secs_f64(pause)).await;
        }
    }

    /// Takes the next place in the queue, where nobody goes before others, and waits until it is
    /// due. Dropping the future leaves the place empty.
    pub async fn queue(&self) {
        let Some(rate) = self.per_second else { return };
        let missing = {
            let mut bucket = self.filled(rate);
            bucket.tokens -= 1.0;
            -bucket.tokens
        };
        if missing > 0.0 {
            sleep(Duration::from_secs_f64(missing / rate)).await;
        }
    }

    /// Counts an attempt to send a request, the SDK's own retries among them.
    pub fn count_attempt(&self) {
        self.change(-1.0);
    }

    /// Notes that a request has been answered, so that it has arrived.
    pub fn note_answer(&self) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.filled_at = bucket.filled_at.min(Instant::now());
    }

    fn change(&self, tokens: f64) {
        if let Some(rate) = self.per_second {
            self.filled(rate).tokens += tokens;
        }
    }

    fn filled(&self, rate: f64) -> MutexGuard<'_, Bucket> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(bucket.filled_at).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + earned).min(rate * self.burst_seconds);
        bucket.filled_at = bucket.filled_at.max(now);
        bucket
    }
}

/// The turn of one request. Dropping it gives the turn back. So a call drops it when the request goes out, whose attempts
/// are counted by themselves.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    /// Its place among the requests that may be open at once, where that was waited for, too.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.change(1.0);
    }
}

/// Counts a waiting request for as long as it waits.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a request may take to arrive, as far as the bucket heeds it.
const LONGEST_ARRIVAL: Duration = Duration::from_secs(1);

/// How much of a token to wait for at the least, so that one who yields does not spin.
const SHORTEST_PAUSE_TOKENS: f64 = 0.1;
