//! temporary
#[path = "../tests/it/synthetic.rs"]
mod synthetic;
fn main() {
    let mut all = Vec::new();
    for k in 0..8u64 { for mut r in synthetic::records(synthetic::Story::Steady) { r.intended_ns += k; all.push(r); } }
    let tokens: usize = all.iter().map(|r| r.chunk_ns.len()).sum();
    #[allow(clippy::disallowed_methods)]
    let t = std::time::Instant::now();
    let mut a = reports::Accumulator::new(synthetic::WINDOW, Some(synthetic::SLO));
    for r in &all { a.record(r); }
    let rec = t.elapsed();
    let m = a.finish();
    println!("{} requests {tokens} tokens: record {rec:?}, finish {:?}, log {} bytes", all.len(), t.elapsed() - rec, m.interval_log.len());
}
