//! The arithmetic: f32 throughout, sums front to back.

pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, so that the compiler may use vectors.
    let mut sums = [0.0f32; 8];
    let (whole, rest) = (a.len() / 8 * 8, a.len() % 8);
    for (x, y) in a[..whole].chunks_exact(8).zip(b[..whole].chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let tail: f32 = (0..rest).map(|i| a[whole + i] * b[whole + i]).sum();
    sums.iter().sum::<f32>() + tail
}

pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let mean = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(v, w)| v * scale * w));
    }
    out
}

pub fn softmax(row: &mut [f32]) {
    let most = row.iter().cloned().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - most).exp();
        sum += *value;
    }
    row.iter_mut().for_each(|value| *value /= sum);
}

pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

pub fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044715 * x * x * x)).tanh())
}

pub fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(x, y)| x + y).collect()
}

/// Turns each head of `x` [tokens, heads * lanes] by its position, in place. Angles in f64, as the model's were made.
///   split   pairs half a head apart, where neighbours are right for a GGUF of `llama`
pub fn rope(x: &mut [f32], row: usize, lanes: usize, start: usize, theta: f64, split: bool, sign: f64) {
    for (token, values) in x.chunks_exact_mut(row).enumerate() {
        for head in values.chunks_exact_mut(lanes) {
            for pair in 0..lanes / 2 {
                let angle = sign * (start + token) as f64 * theta.powf(-2.0 * pair as f64 / lanes as f64);
                let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                let (i, j) = if split { (pair, pair + lanes / 2) } else { (2 * pair, 2 * pair + 1) };
                let (a, b) = (head[i], head[j]);
                head[i] = a * cos - b * sin;
                head[j] = a * sin + b * cos;
            }
        }
    }
}
