//! An independent forward pass: one sequence, dense, in f64, written from the formulas.

use crate::support::{HEADS, LAYERS, ModelFile, VOCAB};

/// Logits after every token of one sequence.
pub(crate) fn forward(file: &ModelFile, hidden: usize, tokens: &[u32]) -> Vec<Vec<f64>> {
    let embedding = file.weights("token_embd.weight");
    let mut rows: Vec<Vec<f64>> = tokens
        .iter()
        .map(|token| {
            let start = *token as usize * hidden;
            embedding[start..start + hidden]
                .iter()
                .map(|x| f64::from(*x))
                .collect()
        })
        .collect();
    for layer in 0..LAYERS {
        let weights = |part: &str| file.weights(&format!("blk.{layer}.{part}.weight"));
        let normed: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| norm(row, &weights("attn_norm")))
            .collect();
        let project = |part: &str| -> Vec<Vec<f64>> {
            let matrix = weights(part);
            normed.iter().map(|row| multiply(&matrix, row)).collect()
        };
        let rotate = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            let rotated = rows.iter().enumerate();
            rotated
                .map(|(position, row)| rope(row, position, hidden / HEADS))
                .collect()
        };
        let (queries, keys) = (rotate(project("attn_q")), rotate(project("attn_k")));
        let attended = attend(&queries, &keys, &project("attn_v"), hidden / HEADS);
        let output = weights("attn_output");
        for (row, attended) in rows.iter_mut().zip(&attended) {
            add(row, &multiply(&output, attended));
        }
        let (gate, up, down) = (weights("ffn_gate"), weights("ffn_up"), weights("ffn_down"));
        let norm_weights = weights("ffn_norm");
        for row in &mut rows {
            let normed = norm(row, &norm_weights);
            let gated: Vec<f64> = multiply(&gate, &normed)
                .into_iter()
                .zip(multiply(&up, &normed))
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            add(row, &multiply(&down, &gated));
        }
    }
    let tied = !file.tensors.contains_key("output.weight");
    let head = if tied {
        embedding
    } else {
        file.weights("output.weight")
    };
    assert_eq!(head.len(), VOCAB * hidden);
    let output_norm = file.weights("output_norm.weight");
    rows.iter()
        .map(|row| multiply(&head, &norm(row, &output_norm)))
        .collect()
}

fn multiply(matrix: &[f32], row: &[f64]) -> Vec<f64> {
    let dot = |weights: &[f32]| {
        weights
            .iter()
            .zip(row)
            .map(|(w, x)| f64::from(*w) * x)
            .sum()
    };
    matrix.chunks(row.len()).map(dot).collect()
}

fn norm(row: &[f64], weights: &[f32]) -> Vec<f64> {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + 1e-5).sqrt();
    row.iter()
        .zip(weights)
        .map(|(x, weight)| x * scale * f64::from(*weight))
        .collect()
}

fn rope(row: &[f64], position: usize, head_dim: usize) -> Vec<f64> {
    let mut out = row.to_vec();
    for (index, pair) in out.chunks_mut(2).enumerate() {
        let exponent = -((index * 2 % head_dim) as f64) / head_dim as f64;
        let angle = position as f64 * 10_000.0_f64.powf(exponent);
        let (x, y) = (pair[0], pair[1]);
        pair[0] = x * angle.cos() - y * angle.sin();
        pair[1] = x * angle.sin() + y * angle.cos();
    }
    out
}

fn attend(
    queries: &[Vec<f64>],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
    head_dim: usize,
) -> Vec<Vec<f64>> {
    let attend_row = |position: usize, query: &[f64]| -> Vec<f64> {
        let mut out = Vec::new();
        for head in query.chunks(head_dim) {
            let score = |key: &Vec<f64>| -> f64 {
                head.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = keys[..=position].iter().map(score).collect();
            let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|d| {
                let terms = weights
                    .iter()
                    .zip(values)
                    .map(|(weight, value)| weight * value[d]);
                terms.sum::<f64>() / total
            }));
        }
        out
    };
    queries
        .iter()
        .enumerate()
        .map(|(position, query)| attend_row(position, query))
        .collect()
}

fn add(row: &mut [f64], other: &[f64]) {
    for (x, y) in row.iter_mut().zip(other) {
        *x += y;
    }
}
