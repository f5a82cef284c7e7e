//! Values of the measured window, kept by cell of time so that blocks can be resampled.
//!
//! Invariant: the histogram of a metric is the sum of its cells. Cells are a second long, longer
//! only in windows of more than an hour. What it does not do: decide which requests count.

use std::ops::Range;

use crate::capacity::GoodBlock;
use crate::histogram::{LatencyHistogram, SparseCounts};
use crate::schema::{Metric, MetricSummary};
use crate::stats::{
    LatencyBlock, LatencyIntervals, Quantile, RateBlock, block_count, latency_intervals,
    nearest_rank, rate_interval,
};

use super::{SECOND_NS, Window, seconds};

/// Most cells, so that a day-long run stays small.
const MAX_CELLS: u64 = 3_600;

/// How the window is cut into cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    window: Window,
    /// Length of a cell.
    pub(super) cell_ns: u64,
    cells: usize,
}

impl Grid {
    pub(super) fn new(window: Window) -> Self {
        let length_ns = window.end_ns.saturating_sub(window.start_ns);
        let cell_ns = length_ns.div_ceil(MAX_CELLS).div_ceil(SECOND_NS).max(1) * SECOND_NS;
        Self {
            window,
            cell_ns,
            cells: length_ns.div_ceil(cell_ns) as usize,
        }
    }

    /// The cell of an instant; `None` outside the window.
    fn cell(self, instant_ns: u64) -> Option<usize> {
        let inside = self.window.contains(instant_ns);
        inside.then(|| ((instant_ns - self.window.start_ns) / self.cell_ns) as usize)
    }

    /// Length of a cell in seconds; the last one may be shorter.
    fn cell_s(self, cell: usize) -> f64 {
        let start_ns = self.window.start_ns + cell as u64 * self.cell_ns;
        seconds(self.cell_ns.min(self.window.end_ns - start_ns))
    }

    /// Cells of each block, as ranges; `None` when the window is too short for intervals.
    fn blocks(self) -> Option<Vec<Range<usize>>> {
        let blocks = block_count(self.window.seconds())?.min(self.cells);
        let bound = |block: usize| block * self.cells / blocks;
        Some(
            (0..blocks)
                .map(|block| bound(block)..bound(block + 1))
                .collect(),
        )
    }
}

/// Events by cell.
#[derive(Debug)]
pub(super) struct Counter(Vec<u64>);

impl Counter {
    fn new(grid: Grid) -> Self {
        Self(vec![0; grid.cells])
    }

    /// Counts events at an instant, if it lies in the window.
    pub(super) fn add(&mut self, grid: Grid, instant_ns: u64, events: u64) {
        if let Some(cell) = grid.cell(instant_ns) {
            self.0[cell] += events;
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// 95 % interval of the events per second.
    pub(super) fn interval(&self, grid: Grid) -> Option<(f64, f64)> {
        let block = |cells: Range<usize>| RateBlock {
            count: self.0[cells.clone()].iter().sum(),
            seconds: cells.map(|cell| grid.cell_s(cell)).sum(),
        };
        rate_interval(&grid.blocks()?.into_iter().map(block).collect::<Vec<_>>())
    }
}

/// What the rates are made of.
#[derive(Debug)]
pub(super) struct RateCells {
    pub(super) completed: Counter,
    pub(super) output_tokens: Counter,
    pub(super) good: Counter,
    pub(super) judged: Counter,
    pub(super) arrived: Counter,
}

impl RateCells {
    pub(super) fn new(grid: Grid) -> Self {
        Self {
            completed: Counter::new(grid),
            output_tokens: Counter::new(grid),
            good: Counter::new(grid),
            judged: Counter::new(grid),
            arrived: Counter::new(grid),
        }
    }

    /// What met the SLO, by block; by cell in a window that is too short for blocks.
    pub(super) fn good_blocks(&self, grid: Grid) -> Vec<GoodBlock> {
        let sum = |counter: &Counter, cells: &Range<usize>| -> u64 {
            counter.0[cells.clone()].iter().sum()
        };
        let cells = || (0..grid.cells).map(|cell| cell..cell + 1).collect();
        let blocks: Vec<Range<usize>> = grid.blocks().unwrap_or_else(cells);
        let block = |cells: &Range<usize>| GoodBlock {
            arrived: sum(&self.arrived, cells),
            good: sum(&self.good, cells),
            judged: sum(&self.judged, cells),
        };
        blocks.iter().map(block).collect()
    }
}

/// All values of one metric.
#[derive(Debug)]
pub(super) struct MetricCells {
    /// The sum of the cells.
    pub(super) histogram: LatencyHistogram,
    cells: Vec<LatencyBlock>,
    /// Raw values of a per-request metric; `None` for one that has many values per request.
    raw: Option<Vec<u64>>,
    requests: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl MetricCells {
    pub(super) fn new(metric: Metric, grid: Grid) -> Self {
        let per_request = !matches!(metric, Metric::Itl | Metric::ChunkGap);
        Self {
            histogram: LatencyHistogram::new(),
            cells: vec![LatencyBlock::default(); grid.cells],
            raw: per_request.then(Vec::new),
            requests: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }

    /// Records the one value of a request.
    pub(super) fn record(&mut self, grid: Grid, at_ns: u64, value_ns: u64) {
        self.add(grid, at_ns, value_ns, value_ns, 1);
        if let Some(raw) = &mut self.raw {
            raw.push(value_ns);
        }
        self.requests += 1;
    }

    /// Records the gaps of a request, each shared by its tokens.
    pub(super) fn record_gaps(
        &mut self,
        grid: Grid,
        at_ns: u64,
        gaps: impl Iterator<Item = (u64, u32)>,
    ) {
        let mut any = false;
        for (gap_ns, tokens) in gaps.filter(|&(_, tokens)| tokens > 0) {
            let tokens = u64::from(tokens);
            self.add(grid, at_ns, gap_ns / tokens, gap_ns, tokens);
            any = true;
        }
        self.requests += u64::from(any);
    }

    fn add(&mut self, grid: Grid, at_ns: u64, value_ns: u64, sum_ns: u64, count: u64) {
        let Some(cell) = grid.cell(at_ns) else { return };
        self.histogram.record_n(value_ns, count);
        self.sum_ns += u128::from(sum_ns);
        self.max_ns = self.max_ns.max(value_ns);
        let cell = &mut self.cells[cell];
        cell.counts.add(value_ns, count);
        cell.sum_ns += u128::from(sum_ns);
        cell.count += count;
    }

    /// Counts by cell.
    pub(super) fn counts(&self) -> Vec<&SparseCounts> {
        self.cells.iter().map(|cell| &cell.counts).collect()
    }

    /// Raw values, sorted once [`Self::summary`] was called.
    pub(super) fn sorted(&self) -> &[u64] {
        self.raw.as_deref().unwrap_or_default()
    }

    /// Sorts the raw values and computes every figure.
    pub(super) fn summary(&mut self, grid: Grid) -> MetricSummary {
        if let Some(raw) = &mut self.raw {
            raw.sort_unstable();
        }
        let count = self.histogram.count();
        let mut summary = MetricSummary {
            count,
            requests: self.requests,
            ..MetricSummary::default()
        };
        if count == 0 {
            let reason = "no request gave a value".to_owned();
            let keys = ["mean", "max"]
                .into_iter()
                .chain(Quantile::ALL.map(Quantile::key));
            summary.null_reasons = keys.map(|key| (key.to_owned(), reason.clone())).collect();
            return summary;
        }
        summary.mean = Some(self.sum_ns as f64 / count as f64 / SECOND_NS as f64);
        summary.max = Some(seconds(self.max_ns));
        for quantile in Quantile::ALL {
            self.fill_quantile(quantile, &mut summary);
        }
        if let Some(intervals) = self.intervals(grid) {
            self.fill_intervals(&intervals, &mut summary);
        }
        summary
    }

    fn fill_quantile(&self, quantile: Quantile, summary: &mut MetricSummary) {
        if let Some(reason) = quantile.null_reason(self.requests) {
            summary
                .null_reasons
                .insert(quantile.key().to_owned(), reason);
            return;
        }
        let value = match &self.raw {
            Some(raw) => nearest_rank(raw, quantile),
            None => self
                .histogram
                .value_at(quantile)
                .map(|value| value.min(self.max_ns)),
        };
        *figure(summary, quantile) = value.map(seconds);
    }

    fn fill_intervals(&self, intervals: &LatencyIntervals, summary: &mut MetricSummary) {
        let (low, high) = intervals.mean;
        let scale = SECOND_NS as f64;
        summary
            .ci95
            .insert("mean".to_owned(), (low / scale, high / scale));
        for (&quantile, &(low, high)) in &intervals.quantiles {
            if figure(summary, quantile).is_some() {
                let ends = (seconds(low), seconds(high.min(self.max_ns)));
                summary.ci95.insert(quantile.key().to_owned(), ends);
            }
        }
    }

    fn intervals(&self, grid: Grid) -> Option<LatencyIntervals> {
        let merge = |cells: Range<usize>| {
            let mut block = LatencyBlock::default();
            for cell in &self.cells[cells] {
                block.counts.merge(&cell.counts);
                block.sum_ns += cell.sum_ns;
                block.count += cell.count;
            }
            block
        };
        latency_intervals(&grid.blocks()?.into_iter().map(merge).collect::<Vec<_>>())
    }
}

fn figure(summary: &mut MetricSummary, quantile: Quantile) -> &mut Option<f64> {
    match quantile {
        Quantile::P50 => &mut summary.p50,
        Quantile::P90 => &mut summary.p90,
        Quantile::P95 => &mut summary.p95,
        Quantile::P99 => &mut summary.p99,
        Quantile::P999 => &mut summary.p999,
    }
}

/// Takes back the figures that lie among requests which had no value when the run ended: their true
/// value is larger than anything recorded, so a quantile up there would be that of the survivors.
pub(super) fn censor(summary: &mut MetricSummary, missing: u64) {
    let all = summary.requests + missing;
    if missing == 0 || summary.requests == 0 {
        return;
    }
    let reason = format!(
        "{} of {} requests had no value when the run ended",
        crate::stats::thousands(missing),
        crate::stats::thousands(all)
    );
    let mut take_back = |key: &str, value: &mut Option<f64>| {
        *value = None;
        summary.ci95.remove(key);
        summary
            .null_reasons
            .entry(key.to_owned())
            .or_insert_with(|| reason.clone());
    };
    take_back("mean", &mut summary.mean);
    take_back("max", &mut summary.max);
    for quantile in Quantile::ALL {
        let beyond = all * (1_000 - quantile.per_mille());
        if missing * 1_000 > beyond {
            let value = match quantile {
                Quantile::P50 => &mut summary.p50,
                Quantile::P90 => &mut summary.p90,
                Quantile::P95 => &mut summary.p95,
                Quantile::P99 => &mut summary.p99,
                Quantile::P999 => &mut summary.p999,
            };
            take_back(quantile.key(), value);
        }
    }
}
