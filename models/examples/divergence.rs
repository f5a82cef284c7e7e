//! How far the distributions of quantised files are from those of the F32 file.
//!
//! `cargo run --release -p models --example divergence -- F32.gguf TEXT.txt Q8_0.gguf …`
//!
//! The text is cut into windows of 512 tokens, at most 4; every position of a window counts. For
//! each file: mean and largest Kullback-Leibler divergence of the whole vocabulary, and how often
//! the most probable token is the same. `scripts/divergence-of-llama-cpp` does the same with
//! llama.cpp.

use models::{
    BLOCK_TOKENS, Cpu, CpuOptions, KvCache, KvFormat, Model, ModelSource, SequenceStep, Special,
    WeightsDtype,
};
use std::error::Error;

const WINDOW: usize = 512;
const WINDOWS: usize = 4;

/// Natural logarithms of the probabilities after every token of a window.
fn log_probabilities(
    model: &Model,
    format: KvFormat,
    window: &[u32],
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let blocks: Vec<u32> = (0..(WINDOW / BLOCK_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.llama.config(), blocks.len(), format)?;
    let threads = std::thread::available_parallelism()?;
    let mut cpu = Cpu::new(CpuOptions::new(threads));
    let steps: Vec<_> = (0..window.len())
        .map(|start| SequenceStep {
            tokens: &window[start..=start],
            start,
            blocks: &blocks,
            logits: true,
        })
        .collect();
    let mut rows = Vec::new();
    for steps in steps.chunks(64) {
        let logits = model.llama.forward(&mut cpu, &mut cache, steps)?;
        for row in 0..logits.rows() {
            let row = logits.row(row);
            let maximum = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let total: f64 = row.iter().map(|x| (f64::from(*x) - maximum).exp()).sum();
            let shift = maximum + total.ln();
            rows.push(row.iter().map(|x| (f64::from(*x) - shift) as f32).collect());
        }
    }
    Ok(rows)
}

fn best(row: &[f32]) -> usize {
    let order = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
    row.iter().enumerate().max_by(order).map_or(0, |(id, _)| id)
}

#[expect(clippy::print_stdout, reason = "the result")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, text, files @ ..] = arguments.as_slice() else {
        return Err("give the F32 file, a text, and the files to compare".into());
    };
    let load = |path: &str| -> Result<Model, Box<dyn Error>> {
        Ok(Model::load(
            &ModelSource::parse(path)?,
            WeightsDtype::AsStored,
        )?)
    };
    let original = load(reference)?;
    let text = std::fs::read_to_string(text)?;
    let tokens = original.chat.encode(&text, Special::Plain);
    let windows: Vec<_> = tokens.chunks_exact(WINDOW).take(WINDOWS).collect();
    let expected = windows
        .iter()
        .map(|window| log_probabilities(&original, KvFormat::F32, window))
        .collect::<Result<Vec<_>, _>>()?;
    println!("{} tokens", windows.len() * WINDOW);
    for file in files {
        let model = load(file)?;
        let (mut sum, mut largest, mut same, mut count) = (0.0, 0.0_f64, 0, 0);
        for (window, expected) in windows.iter().zip(&expected) {
            let found = log_probabilities(&model, KvFormat::F16, window)?;
            for (expected, found) in expected.iter().zip(&found) {
                let terms = expected.iter().zip(found);
                let divergence: f64 = terms
                    .map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q)))
                    .sum();
                sum += divergence;
                largest = largest.max(divergence);
                same += usize::from(best(expected) == best(found));
                count += 1;
            }
        }
        println!(
            "{file}: mean {:.6}, largest {largest:.4}, same best token {:.2} %",
            sum / f64::from(count),
            100.0 * same as f64 / f64::from(count)
        );
    }
    Ok(())
}
