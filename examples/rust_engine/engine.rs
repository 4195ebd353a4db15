// A Rust engine, traced through the C functions (../rust_common/paritrace.rs). It computes the embedding and the first
// layer's projections of the engine in ../cpp_engine, from the same weights, so that `paritrace diff` can compare the two.
//
//   rustc -O engine.rs -L WHERE/PARITRACE/IS/lib -l paritrace -o rust_engine
//   PARITRACE_DIR=trace ./rust_engine
#[path = "../rust_common/paritrace.rs"]
mod paritrace;

use paritrace::{record, Trace};

const DIM: usize = 32;

fn weight_at(which: u32, row: usize, column: usize) -> f32 {
    let x = which
        .wrapping_mul(7919)
        .wrapping_add((row as u32).wrapping_mul(104729))
        .wrapping_add((column as u32).wrapping_mul(1299709));
    (x.wrapping_mul(2654435761) >> 8) as f32 / 16777216.0 * 0.4 - 0.2
}

fn linear(x: &[f32], inputs: usize, outputs: usize, which: u32) -> Vec<f32> {
    let mut y = Vec::new();
    for row in x.chunks(inputs) {
        for o in 0..outputs {
            let mut sum = 0.0f32;
            for (i, value) in row.iter().enumerate() {
                sum += value * weight_at(which, i, o);
            }
            y.push(sum);
        }
    }
    y
}

fn norm(x: &[f32]) -> Vec<f32> {
    let mut y = Vec::new();
    for row in x.chunks(DIM) {
        let mut squares = 0.0f32;
        for value in row {
            squares += value * value;
        }
        let scale = 1.0 / (squares / DIM as f32 + 1e-5).sqrt();
        y.extend(row.iter().map(|value| value * scale));
    }
    y
}

fn main() {
    let _trace = match Trace::open("rust-engine", "", "") {
        Ok(trace) => trace,
        Err(message) => {
            eprintln!("{}", message);
            std::process::exit(1);
        }
    };
    let tokens: [i32; 7] = [3, 14, 15, 92, 65, 35, 89];
    paritrace::step(0, &tokens);
    let mut x = Vec::new();
    for token in tokens {
        x.extend((0..DIM).map(|i| weight_at(0, token as usize, i) * 10.0));
    }
    let shape = [tokens.len(), DIM];
    record("embed", -1, &x, &shape);
    let normed = norm(&x);
    record("attn.norm", 0, &normed, &shape);
    for (which, site) in [(10, "attn.q"), (11, "attn.k"), (12, "attn.v")] {
        record(site, 0, &linear(&normed, DIM, DIM, which), &shape);
    }
}
