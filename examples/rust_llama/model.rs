//! The forward pass of `llama`, with a KV cache.
use crate::gguf::{Decoding, File, Tensor};
use crate::mistakes::Mistakes;
use crate::{ops, trace};

const THREADS: usize = 2;

pub struct Llama<'a> {
    file: &'a File,
    mistakes: &'a Mistakes,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    lanes: usize, // of a head
    eps: f32,
    theta: f64,
    keys: Vec<Vec<f32>>,   // of each layer [positions, kv_heads * lanes]
    values: Vec<Vec<f32>>, // of each layer [positions, kv_heads * lanes]
    positions: usize,
}

/// What a matrix is read as: the right tensor, or a mistaken one.
struct Weight<'a> {
    tensor: &'a Tensor,
    decoding: Decoding,
    transposed: bool,
    factor: f32,
}

impl<'a> Llama<'a> {
    pub fn new(file: &'a File, mistakes: &'a Mistakes) -> Result<Llama<'a>, String> {
        let count = |key: &str| file.number(key).map(|value| value as usize);
        let hidden = count("llama.embedding_length")?;
        let heads = count("llama.attention.head_count")?;
        let layers = count("llama.block_count")?;
        if heads == 0 || hidden % heads != 0 {
            return Err(format!("llama.attention.head_count {} does not divide {}", heads, hidden));
        }
        Ok(Llama {
            file,
            mistakes,
            layers,
            hidden,
            heads,
            kv_heads: count("llama.attention.head_count_kv")?,
            lanes: hidden / heads,
            eps: file.number("llama.attention.layer_norm_rms_epsilon")? as f32,
            theta: file.number("llama.rope.freq_base").unwrap_or(10000.0),
            keys: vec![Vec::new(); layers],
            values: vec![Vec::new(); layers],
            positions: 0,
        })
    }

    /// Logits of the last token; `tokens` go behind those of earlier calls.
    pub fn forward(&mut self, tokens: &[i32]) -> Result<Vec<f32>, String> {
        trace::step(self.positions, tokens);
        let mut x = self.embed(tokens)?;
        trace::record("embed", -1, &x, &[tokens.len(), self.hidden]);
        for layer in 0..self.layers {
            x = self.attention(layer, &x)?;
            x = self.feed_forward(layer, &x)?;
            trace::record("out", layer as i32, &x, &[tokens.len(), self.hidden]);
        }
        self.positions += tokens.len();
        let normed = if self.mistakes.makes("head.final_norm_missing", 0) { x } else { self.norm("output_norm", 0, &x)? };
        trace::record("final_norm", -1, &normed, &[tokens.len(), self.hidden]);
        let own_head = self.file.has("output.weight") && !self.mistakes.makes("head.untied", 0);
        let head = if own_head { "output.weight" } else { "token_embd.weight" };
        let logits = self.linear(&normed, &self.plain(head)?);
        let vocabulary = logits.len() / tokens.len();
        trace::record("logits", -1, &logits, &[tokens.len(), vocabulary]);
        Ok(logits[logits.len() - vocabulary..].to_vec())
    }

    fn embed(&self, tokens: &[i32]) -> Result<Vec<f32>, String> {
        let table = self.file.tensor("token_embd.weight")?;
        let mut x = vec![0.0; tokens.len() * self.hidden];
        for (row, &token) in x.chunks_exact_mut(self.hidden).zip(tokens) {
            let shift = self.mistakes.makes("embed.row_offset", 0) as usize;
            if token < 0 || token as usize >= table.rows {
                return Err(format!("token {}: expected 0 to {}", token, table.rows - 1));
            }
            self.file.decode_row(table, (token as usize + shift) % table.rows, Decoding::default(), row);
        }
        Ok(x)
    }

    fn attention(&mut self, layer: usize, x: &[f32]) -> Result<Vec<f32>, String> {
        let mistakes = self.mistakes;
        let makes = |id: &str| mistakes.makes(id, layer);
        let (lanes, heads, kv_heads) = (self.lanes, self.heads, self.kv_heads);
        let tokens = x.len() / self.hidden;
        let record = |site: &str, values: &[f32]| trace::record(site, layer as i32, values, &[tokens, values.len() / tokens]);

        let normed = self.norm(&format!("blk.{}.attn_norm", layer), layer, x)?;
        record("attn.norm", &normed);
        let mut q = self.linear(&normed, &self.weight(layer, "attn_q")?);
        let mut k = self.linear(&normed, &self.weight(layer, "attn_k")?);
        let mut v = self.linear(&normed, &self.weight(layer, "attn_v")?);
        if makes("attn.kv_swapped") {
            std::mem::swap(&mut k, &mut v);
        }
        record("attn.q", &q);
        record("attn.k", &k);
        record("attn.v", &v);
        let theta = if makes("rope.theta") { 500000.0 } else { self.theta };
        let sign = if makes("rope.direction") { -1.0 } else { 1.0 };
        let split = makes("rope.half_split");
        if !makes("rope.missing") {
            ops::rope(&mut q, heads * lanes, lanes, self.positions, theta, split, sign);
            if !makes("rope.k_missing") {
                ops::rope(&mut k, kv_heads * lanes, lanes, self.positions, theta, split, sign);
            }
        }
        record("attn.q_rope", &q);
        record("attn.k_rope", &k);
        // A cache whose slot is one too low in decode steps overwrites the last key.
        if makes("attn.kv_cache") && self.positions > 0 {
            let kept = self.keys[layer].len() - kv_heads * lanes;
            self.keys[layer].truncate(kept);
            let again = k.clone();
            self.keys[layer].extend_from_slice(&again);
        }
        self.keys[layer].extend_from_slice(&k);
        self.values[layer].extend_from_slice(&v);

        let total = self.positions + tokens;
        let scale = if makes("attn.scale") { 1.0 } else { 1.0 / (lanes as f32).sqrt() };
        let row = |cache: &[f32], position: usize, head: usize| {
            let start = (position * kv_heads + head) * lanes;
            cache[start..start + lanes].to_vec()
        };
        let kv_head = |head: usize| if makes("attn.kv_head_order") { head % kv_heads } else { head / (heads / kv_heads) };
        let mut scores = vec![f32::NEG_INFINITY; heads * tokens * total];
        for head in 0..heads {
            for token in 0..tokens {
                let query = &q[(token * heads + head) * lanes..][..lanes];
                let seen = if makes("attn.mask_missing") { total } else { self.positions + token + 1 };
                for position in 0..seen {
                    let key = row(&self.keys[layer], position, kv_head(head));
                    scores[(head * tokens + token) * total + position] = scale * ops::dot(query, &key);
                }
            }
        }
        trace::record("attn.scores", layer as i32, &scores, &[heads, tokens, total]);
        scores.chunks_exact_mut(total).for_each(ops::softmax);
        trace::record("attn.probs", layer as i32, &scores, &[heads, tokens, total]);
        let mut context = vec![0.0; tokens * heads * lanes];
        for head in 0..heads {
            for token in 0..tokens {
                for position in 0..total {
                    let prob = scores[(head * tokens + token) * total + position];
                    let value = row(&self.values[layer], position, kv_head(head));
                    for lane in 0..lanes {
                        context[(token * heads + head) * lanes + lane] += prob * value[lane];
                    }
                }
            }
        }
        record("attn.ctx", &context);
        let out = self.linear(&context, &self.weight(layer, "attn_output")?);
        record("attn.out", &out);
        let residual = self.residual(layer, x, &normed, out);
        record("attn.residual", &residual);
        Ok(residual)
    }

    fn feed_forward(&self, layer: usize, x: &[f32]) -> Result<Vec<f32>, String> {
        let makes = |id: &str| self.mistakes.makes(id, layer);
        let tokens = x.len() / self.hidden;
        let record = |site: &str, values: &[f32]| trace::record(site, layer as i32, values, &[tokens, values.len() / tokens]);
        let norm = if makes("norm.wrong_weight") { "attn_norm" } else { "ffn_norm" };
        let normed = self.norm(&format!("blk.{}.{}", layer, norm), layer, x)?;
        record("mlp.norm", &normed);
        let gate = self.linear(&normed, &self.weight(layer, "ffn_gate")?);
        let up = self.linear(&normed, &self.weight(layer, "ffn_up")?);
        record("mlp.gate", &gate);
        record("mlp.up", &up);
        let activation = if makes("mlp.activation") { ops::gelu_tanh } else { ops::silu };
        let (through, times) = if makes("mlp.gate_up_swapped") { (&up, &gate) } else { (&gate, &up) };
        let act: Vec<f32> = through.iter().zip(times).map(|(a, b)| activation(*a) * b).collect();
        record("mlp.act", &act);
        let out = self.linear(&act, &self.weight(layer, "ffn_down")?);
        record("mlp.out", &out);
        Ok(ops::add(x, &out))
    }

    fn residual(&self, layer: usize, x: &[f32], normed: &[f32], out: Vec<f32>) -> Vec<f32> {
        if self.mistakes.makes("residual.missing", layer) {
            return out;
        }
        ops::add(if self.mistakes.makes("residual.from_norm", layer) { normed } else { x }, &out)
    }

    fn norm(&self, name: &str, layer: usize, x: &[f32]) -> Result<Vec<f32>, String> {
        let mut weight = self.file.decode(&format!("{}.weight", name))?;
        if weight.len() != self.hidden {
            return Err(format!("{}.weight: expected {} values, found {}", name, self.hidden, weight.len()));
        }
        let makes = |id: &str| self.mistakes.makes(id, layer);
        if makes("norm.weight_missing") {
            weight.iter_mut().for_each(|value| *value = 1.0);
        }
        if makes("norm.weight_twice") {
            weight.iter_mut().for_each(|value| *value *= *value);
        }
        let eps = if makes("norm.eps") { 1e-2 } else { self.eps };
        if makes("norm.type") {
            let centred: Vec<f32> = x
                .chunks_exact(self.hidden)
                .flat_map(|row| {
                    let mean = row.iter().sum::<f32>() / row.len() as f32;
                    row.iter().map(move |value| value - mean)
                })
                .collect();
            return Ok(ops::rms_norm(&centred, &weight, eps));
        }
        Ok(ops::rms_norm(x, &weight, eps))
    }

    fn plain(&self, name: &str) -> Result<Weight<'a>, String> {
        Ok(Weight { tensor: self.file.tensor(name)?, decoding: Decoding::default(), transposed: false, factor: 1.0 })
    }

    fn weight(&self, layer: usize, role: &str) -> Result<Weight<'a>, String> {
        let makes = |id: &str| self.mistakes.makes(id, layer);
        let from = if makes("linear.wrong_layer") && role == "attn_v" { (layer + 1) % self.layers } else { layer };
        let mut weight = self.plain(&format!("blk.{}.{}.weight", from, role))?;
        weight.transposed = makes("linear.transposed") && role == "attn_q";
        weight.factor = if makes("linear.weight_scale") && role == "attn_output" { 1.25 } else { 1.0 };
        weight.decoding.scale_of_first_block = makes("quant.block_scale") && role == "ffn_down";
        weight.decoding.nibbles_swapped = makes("quant.nibble_order") && role == "ffn_up";
        Ok(weight)
    }

    /// x [tokens, columns] times the weight's rows: [tokens, rows]. The rows are shared out among the threads.
    fn linear(&self, x: &[f32], weight: &Weight) -> Vec<f32> {
        let (rows, columns) = (weight.tensor.rows, weight.tensor.columns);
        let tokens = x.len() / columns;
        let share = (rows + THREADS - 1) / THREADS;
        let mut parts: Vec<Vec<f32>> = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|worker| {
                    scope.spawn(move || {
                        let mut part = Vec::new(); // [rows of this worker, tokens]
                        let mut decoded = vec![0.0; columns];
                        for row in (worker * share).min(rows)..((worker + 1) * share).min(rows) {
                            self.read_row(weight, row, &mut decoded);
                            part.extend(x.chunks_exact(columns).map(|token| weight.factor * ops::dot(token, &decoded)));
                        }
                        part
                    })
                })
                .collect();
            parts = workers.into_iter().map(|worker| worker.join().expect("a worker that does not panic")).collect();
        });
        let mut y = vec![0.0; tokens * rows];
        for (row, values) in parts.iter().flat_map(|part| part.chunks_exact(tokens)).enumerate() {
            for (token, value) in values.iter().enumerate() {
                y[token * rows + row] = *value;
            }
        }
        y
    }

    fn read_row(&self, weight: &Weight, row: usize, out: &mut [f32]) {
        if !weight.transposed {
            return self.file.decode_row(weight.tensor, row, weight.decoding, out);
        }
        let mut whole = vec![0.0; weight.tensor.columns];
        for (source, value) in out.iter_mut().enumerate() {
            self.file.decode_row(weight.tensor, source, weight.decoding, &mut whole);
            *value = whole[row];
        }
    }
}
