//! HDR histograms of latencies: 1 µs to 1 h in nanoseconds, three significant digits.
//!
//! Invariant: every histogram of the project has the same bounds, so merging is exact addition of
//! counts and the result does not depend on the order. A value over an hour is recorded as an hour
//! and counted in [`LatencyHistogram::clamped`]; nothing is dropped.
//!
//! A bucket is a range of values, so a quantile read from a histogram is a choice. This module
//! answers with the *highest* value of the bucket that holds the nearest rank: what the
//! `HdrHistogram` tools of every language print, and never smaller than the true value (at most
//! 0.1 % larger, or 512 ns below 1 ms). The rank is computed in integers; the crate's own
//! `value_at_quantile` is the same nearest rank, but through floating point, where `0.07 × 100`
//! is a little more than 7.
//!
//! What it does not do: means and maxima. Those are kept exactly, outside, by the accumulator.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::schema::{EncodedHistogram, Metric};
use crate::stats::Quantile;

/// Smallest value told from zero.
pub const LOWEST_NS: u64 = 1_000;
/// Largest value; longer ones are recorded as this.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits.
pub const SIGNIFICANT_DIGITS: u8 = 3;
/// Value of [`EncodedHistogram::encoding`].
pub const ENCODING: &str = "hdr_v2_deflate_base64";

/// Buckets are `2^UNIT_BITS` wide up to `2^(UNIT_BITS + HALF_BITS + 1)`, and double from there.
const UNIT_BITS: u32 = LOWEST_NS.ilog2();
/// Half of the buckets of one power of two: 1,024 for three digits.
const HALF_BITS: u32 = 10;

/// Why an encoded histogram could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// The encoding or the unit is not the one this version writes.
    #[error("histogram encoding {encoding:?} in {unit:?}: accepted is {ENCODING:?} in \"ns\"")]
    Encoding {
        /// As found.
        encoding: String,
        /// As found.
        unit: String,
    },
    /// Not base64.
    #[error("histogram data is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Not an HDR histogram.
    #[error("histogram data is not a compressed V2 HDR histogram: {0}")]
    Format(String),
    /// The histogram holds values that ours cannot.
    #[error("histogram has other bounds: {low} to {high} ns, {digits} digits")]
    Bounds {
        /// Lowest value.
        low: u64,
        /// Highest value.
        high: u64,
        /// Significant digits.
        digits: u8,
    },
    /// The stated count is not the count inside.
    #[error("histogram says {stated} values but holds {held}")]
    Count {
        /// In the JSON.
        stated: u64,
        /// In the data.
        held: u64,
    },
}

/// The bucket of a value, as an index from 0.
pub fn bucket_of(value_ns: u64) -> u32 {
    let value = value_ns.min(HIGHEST_NS);
    let shift = (value >> (UNIT_BITS + HALF_BITS))
        .checked_ilog2()
        .unwrap_or(0);
    (shift << HALF_BITS) + (value >> (shift + UNIT_BITS)) as u32
}

/// Smallest value of a bucket.
pub fn bucket_low(bucket: u32) -> u64 {
    let shift = (bucket >> HALF_BITS).saturating_sub(1);
    u64::from(bucket - (shift << HALF_BITS)) << (shift + UNIT_BITS)
}

/// Largest value of a bucket.
pub fn bucket_high(bucket: u32) -> u64 {
    bucket_low(bucket + 1) - 1
}

/// Counts by bucket, only of buckets that hold something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseCounts(BTreeMap<u32, u64>);

impl SparseCounts {
    /// Adds `count` values.
    pub fn add(&mut self, value_ns: u64, count: u64) {
        if count > 0 {
            *self.0.entry(bucket_of(value_ns)).or_default() += count;
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, &count) in &other.0 {
            *self.0.entry(bucket).or_default() += count;
        }
    }

    /// `(bucket, count)` by rising bucket.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().map(|(&bucket, &count)| (bucket, count))
    }

    /// Values recorded.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// True when nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nearest rank, highest value of the bucket; `None` when empty.
    pub fn value_at(&self, quantile: Quantile) -> Option<u64> {
        bucket_at_rank(self.iter(), quantile.rank(self.count())?).map(bucket_high)
    }
}

/// The bucket that holds the value of this rank (from 1).
fn bucket_at_rank(counts: impl Iterator<Item = (u32, u64)>, rank: u64) -> Option<u32> {
    let mut seen = 0;
    for (bucket, count) in counts {
        seen += count;
        if seen >= rank {
            return Some(bucket);
        }
    }
    None
}

/// A latency distribution.
#[derive(Debug, Clone)]
pub struct LatencyHistogram {
    counts: Histogram<u64>,
    clamped: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for LatencyHistogram {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl LatencyHistogram {
    /// An empty one.
    pub fn new() -> Self {
        let counts = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that the crate accepts");
        Self { counts, clamped: 0 }
    }

    /// Records one value.
    pub fn record(&mut self, value_ns: u64) {
        self.record_n(value_ns, 1);
    }

    /// Records a value `count` times.
    pub fn record_n(&mut self, value_ns: u64, count: u64) {
        if value_ns > HIGHEST_NS {
            self.clamped += count;
        }
        self.counts
            .saturating_record_n(value_ns.min(HIGHEST_NS), count);
    }

    /// Adds all values of `other`, exactly.
    pub fn merge(&mut self, other: &Self) {
        self.clamped += other.clamped;
        self.counts
            .add(&other.counts)
            .expect("all our histograms have the same bounds");
    }

    /// Adds all values of sparse counts, exactly.
    pub fn merge_sparse(&mut self, other: &SparseCounts) {
        for (bucket, count) in other.iter() {
            self.counts.saturating_record_n(bucket_low(bucket), count);
        }
    }

    /// Values recorded.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// Values over the range, recorded as [`HIGHEST_NS`].
    pub fn clamped(&self) -> u64 {
        self.clamped
    }

    /// Nearest rank, highest value of the bucket (see the module); `None` when empty.
    pub fn value_at(&self, quantile: Quantile) -> Option<u64> {
        let buckets = self
            .buckets()
            .map(|(low, _, count)| (bucket_of(low), count));
        bucket_at_rank(buckets, quantile.rank(self.count())?).map(bucket_high)
    }

    /// `(lowest, highest, count)` of every bucket that holds something, rising.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.counts.iter_recorded().map(|step| {
            let bucket = bucket_of(step.value_iterated_to());
            (
                bucket_low(bucket),
                bucket_high(bucket),
                step.count_at_value(),
            )
        })
    }

    /// Encodes for `report.json`.
    pub fn encode(&self) -> EncodedHistogram {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.counts, &mut bytes)
            .expect("writing into memory cannot fail");
        EncodedHistogram {
            encoding: ENCODING.to_owned(),
            unit: "ns".to_owned(),
            count: self.count(),
            data: STANDARD.encode(bytes),
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(encoded: &EncodedHistogram) -> Result<Self, HistogramError> {
        if encoded.encoding != ENCODING || encoded.unit != "ns" {
            return Err(HistogramError::Encoding {
                encoding: encoded.encoding.clone(),
                unit: encoded.unit.clone(),
            });
        }
        let bytes = STANDARD.decode(&encoded.data)?;
        let found: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| HistogramError::Format(error.to_string()))?;
        let (low, high, digits) = (found.low(), found.high(), found.sigfig());
        if (low, high, digits) != (LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS) {
            return Err(HistogramError::Bounds { low, high, digits });
        }
        if found.len() != encoded.count {
            return Err(HistogramError::Count {
                stated: encoded.count,
                held: found.len(),
            });
        }
        Ok(Self {
            counts: found,
            clamped: 0,
        })
    }
}

/// What an interval log is made of.
#[derive(Debug)]
pub struct IntervalLog<'a> {
    /// Start of the run, nanoseconds since the Unix epoch (0 for virtual time).
    pub base_unix_ns: u64,
    /// Start of the first interval, nanoseconds since the start of the run.
    pub start_ns: u64,
    /// Length of an interval.
    pub interval_ns: u64,
    /// Counts of each metric and interval.
    pub cells: BTreeMap<Metric, Vec<&'a SparseCounts>>,
}

impl IntervalLog<'_> {
    /// The bytes of `latency.hlog`: one line for each metric and interval that holds something.
    ///
    /// The maximum in the third column is in milliseconds (the `HdrHistogram` convention for
    /// values in nanoseconds, a divisor of 1,000,000); the histograms stay in nanoseconds.
    pub fn to_bytes(&self) -> Vec<u8> {
        let base = UNIX_EPOCH + Duration::from_nanos(self.base_unix_ns);
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut writer = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Latencies in nanoseconds by the intended instant of their request]")
            .with_start_time(base + Duration::from_nanos(self.start_ns))
            .with_base_time(base)
            .with_max_value_divisor(1_000_000.0)
            .begin_log_with(&mut bytes, &mut serializer)
            .expect("writing into memory cannot fail");
        let intervals = self.cells.values().map(Vec::len).max().unwrap_or(0);
        for index in 0..intervals {
            let start = Duration::from_nanos(self.start_ns + index as u64 * self.interval_ns);
            for (metric, cells) in &self.cells {
                let Some(cell) = cells.get(index).filter(|cell| !cell.is_empty()) else {
                    continue;
                };
                let mut histogram = LatencyHistogram::new();
                histogram.merge_sparse(cell);
                let tag = Tag::new(metric.name());
                let length = Duration::from_nanos(self.interval_ns);
                writer
                    .write_histogram(&histogram.counts, start, length, tag)
                    .expect("writing into memory cannot fail");
            }
        }
        bytes
    }
}
