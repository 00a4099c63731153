//! How long things take: counts in buckets that double, in plain numbers.
//!
//! A histogram belongs to the thread that observes; a published `Status` carries a copy, so there is no
//! atomic, no lock and no registry. Not for percentiles: Prometheus computes those from the buckets.
//!
//! The bounds are etcd's `ExponentialBuckets(first, 2, n)`, because dashboards and alerts name them:
//!
//! ```text
//! Histogram<1000, 14>   1 ms  2 ms  4 ms  ...  8.192 s  | above
//! ```

use std::time::Duration;

/// Durations in `BUCKETS` buckets, the first up to `FIRST_US` microseconds, each next one twice as wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<const FIRST_US: u64, const BUCKETS: usize> {
    counts: [u64; BUCKETS],
    above: u64,
    sum_ns: u64,
}

impl<const FIRST_US: u64, const BUCKETS: usize> Histogram<FIRST_US, BUCKETS> {
    /// An empty histogram.
    pub const fn new() -> Self {
        assert!(
            FIRST_US > 0 && BUCKETS > 0 && BUCKETS < 40,
            "bounds must fit into 64 bits of nanoseconds"
        );
        Self {
            counts: [0; BUCKETS],
            above: 0,
            sum_ns: 0,
        }
    }

    /// What somebody else counted in the same buckets, not cumulated, with all that was longer and the sum.
    pub fn from_counts(counts: [u64; BUCKETS], above: u64, sum: Duration) -> Self {
        Self {
            counts,
            above,
            sum_ns: u64::try_from(sum.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // A bound belongs to the bucket below it, as in Prometheus (`le`).
        let widths = ns.div_ceil(FIRST_US * 1000);
        let bucket = if widths <= 1 {
            0
        } else {
            (widths - 1).ilog2() as usize + 1
        };
        match self.counts.get_mut(bucket) {
            Some(count) => *count += 1,
            None => self.above += 1,
        }
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds what another thread observed.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.above += other.above;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many durations were observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// Their sum in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Upper bound in seconds and number of durations up to it, for every bucket but the last, unbounded one.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut up_to = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            up_to += count;
            // Divided last, so that 2 ms is the nearest double to 0.002 and prints as that.
            ((FIRST_US << bucket) as f64 / 1e6, up_to)
        })
    }
}

impl<const FIRST_US: u64, const BUCKETS: usize> Default for Histogram<FIRST_US, BUCKETS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Histogram<1000, 3>;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn bounds_double_and_belong_to_the_bucket_below() {
        let mut histogram = Small::new();
        for duration in [
            us(0),
            us(1000),
            us(1001),
            us(2000),
            us(2001),
            us(4000),
            us(4001),
            Duration::MAX,
        ] {
            histogram.observe(duration);
        }
        let rows: Vec<_> = histogram.cumulative().collect();
        assert_eq!(rows, [(0.001, 2), (0.002, 4), (0.004, 6)]);
        assert_eq!(histogram.count(), 8);
        assert_eq!(Small::from_counts([2, 2, 2], 2, Duration::MAX), histogram);
    }

    #[test]
    fn merging_is_adding() {
        let (mut one, mut two, mut both) = (Small::new(), Small::new(), Small::new());
        for n in 0..10_000 {
            let part = if n % 3 == 0 { &mut one } else { &mut two };
            part.observe(us(n));
            both.observe(us(n));
        }
        one.merge(&two);
        assert_eq!(one, both);
        assert!((both.sum_seconds() - 49.995).abs() < 1e-9);
    }
}
