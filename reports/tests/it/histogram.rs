//! Merging, encoding, bucket arithmetic and the interval log.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use proptest::prelude::*;
use reports::accumulate::Measurements;
use reports::histogram::{
    HIGHEST_NS, HistogramError, LOWEST_NS, LatencyHistogram, SIGNIFICANT_DIGITS, bucket_high,
    bucket_low, bucket_of,
};
use reports::schema::{EncodedHistogram, Metric};
use reports::stats::Quantile;

use crate::synthetic::{self, Story};

fn of(values: &[u64]) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::new();
    for &value in values {
        histogram.record(value);
    }
    histogram
}

fn values() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0_u64..5_000_000_000_000, 0..200)
}

proptest! {
    #[test]
    fn merge_is_associative_and_equals_recording_all(a in values(), b in values(), c in values()) {
        let mut left = of(&a);
        left.merge(&of(&b));
        left.merge(&of(&c));
        let mut right = of(&b);
        right.merge(&of(&c));
        let mut outer = of(&a);
        outer.merge(&right);
        let all = of(&[a, b, c].concat());
        prop_assert_eq!(&left, &outer);
        prop_assert_eq!(&left, &all);
        prop_assert_eq!(left.clamped(), all.clamped());
    }

    #[test]
    fn encoding_is_lossless(values in values()) {
        let histogram = of(&values);
        prop_assert_eq!(LatencyHistogram::decode(&histogram.encode()).expect("ours"), histogram);
    }

    #[test]
    fn buckets_are_those_of_the_crate(value in 0_u64..=HIGHEST_NS) {
        let crate_one = Histogram::<u64>::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
            .expect("valid bounds");
        let bucket = bucket_of(value);
        prop_assert_eq!(bucket_low(bucket), crate_one.lowest_equivalent(value));
        prop_assert_eq!(bucket_high(bucket), crate_one.highest_equivalent(value));
    }

    #[test]
    fn quantile_is_that_of_the_crate(values in prop::collection::vec(0..HIGHEST_NS, 1..200)) {
        let mut crate_one =
            Histogram::<u64>::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
                .expect("valid bounds");
        for &value in &values {
            crate_one.saturating_record(value);
        }
        let ours = of(&values);
        for quantile in Quantile::ALL {
            let q = quantile.per_mille() as f64 / 1e3;
            prop_assert_eq!(ours.value_at(quantile), Some(crate_one.value_at_quantile(q)));
        }
    }
}

#[test]
fn values_over_the_range_are_clamped_and_counted() {
    let histogram = of(&[HIGHEST_NS, HIGHEST_NS + 1, u64::MAX]);
    assert_eq!((histogram.count(), histogram.clamped()), (3, 2));
    let top = bucket_high(bucket_of(HIGHEST_NS));
    assert_eq!(histogram.value_at(Quantile::P50), Some(top));
}

#[test]
fn foreign_encodings_are_refused() {
    let good = of(&[1_000_000]).encode();
    let refused = |encoded: EncodedHistogram| {
        LatencyHistogram::decode(&encoded)
            .expect_err("must be refused")
            .to_string()
    };
    let unit = refused(EncodedHistogram {
        unit: "ms".to_owned(),
        ..good.clone()
    });
    assert!(unit.contains("\"ms\"") && unit.contains("\"ns\""), "{unit}");
    let count = refused(EncodedHistogram {
        count: 2,
        ..good.clone()
    });
    assert_eq!(count, "histogram says 2 values but holds 1");
    let text = EncodedHistogram {
        data: "%%%".to_owned(),
        ..good.clone()
    };
    assert!(matches!(
        LatencyHistogram::decode(&text),
        Err(HistogramError::Base64(_))
    ));
    let bytes = EncodedHistogram {
        data: "AAAA".to_owned(),
        ..good
    };
    assert!(matches!(
        LatencyHistogram::decode(&bytes),
        Err(HistogramError::Format(_))
    ));
}

/// The histogram of each tag, all intervals merged.
fn merged(log: &[u8], metric: Metric) -> LatencyHistogram {
    let mut sum = Histogram::<u64>::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
        .expect("valid bounds");
    for entry in IntervalLogIterator::new(log) {
        let Ok(LogEntry::Interval(interval)) = entry else {
            continue;
        };
        if interval
            .tag()
            .is_some_and(|tag| tag.as_str() == metric.name())
        {
            let data = base64(interval.encoded_histogram());
            let part: Histogram<u64> = Deserializer::new()
                .deserialize(&mut data.as_slice())
                .expect("a histogram");
            sum.add(part).expect("same bounds");
        }
    }
    let mut ours = LatencyHistogram::new();
    sum.iter_recorded()
        .for_each(|v| ours.record_n(v.value_iterated_to(), v.count_at_value()));
    ours
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .expect("base64")
}

#[test]
fn intervals_of_the_log_add_up_to_the_histograms() {
    let Measurements {
        histograms,
        interval_log,
        ..
    } = synthetic::measured(Story::Steady);
    let header = String::from_utf8_lossy(&interval_log[..300]).into_owned();
    assert!(
        header.starts_with("#[Histogram log format version 1.3]\n"),
        "{header}"
    );
    assert!(header.contains("#[StartTime: 10.000 (") && header.contains("#[BaseTime: 0.000 ("));
    for metric in Metric::ALL {
        let whole = LatencyHistogram::decode(&histograms[&metric]).expect("ours");
        assert_eq!(merged(&interval_log, metric), whole, "{}", metric.name());
    }
}
