//! The mistakes this engine can be told to make: paritrace's ids, each perhaps in one layer only ("norm.eps@3").

pub const KNOWN: [&str; 27] = [
    "attn.kv_cache",
    "attn.kv_head_order",
    "attn.kv_swapped",
    "attn.mask_missing",
    "attn.scale",
    "embed.row_offset",
    "head.final_norm_missing",
    "head.untied",
    "linear.transposed",
    "linear.weight_scale",
    "linear.wrong_layer",
    "mlp.activation",
    "mlp.gate_up_swapped",
    "norm.eps",
    "norm.type",
    "norm.weight_missing",
    "norm.weight_twice",
    "norm.wrong_weight",
    "quant.block_scale",
    "quant.nibble_order",
    "residual.from_norm",
    "residual.missing",
    "rope.direction",
    "rope.half_split",
    "rope.k_missing",
    "rope.missing",
    "rope.theta",
];

#[derive(Default)]
pub struct Mistakes {
    made: Vec<(String, Option<usize>)>,
}

impl Mistakes {
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (id, layer) = match text.split_once('@') {
            Some((id, layer)) => (id, Some(layer.parse().map_err(|_| format!("--mistake {}: not a layer", text))?)),
            None => (text, None),
        };
        if !KNOWN.contains(&id) {
            return Err(format!("--mistake {}: not one of {}", id, KNOWN.join(" ")));
        }
        self.made.push((id.to_string(), layer));
        Ok(())
    }

    /// Whether the mistake is made in `layer`; what belongs to no layer asks with 0.
    pub fn makes(&self, id: &str, layer: usize) -> bool {
        debug_assert!(KNOWN.contains(&id));
        self.made.iter().any(|(made, only)| made == id && only.map_or(true, |wanted| wanted == layer))
    }
}
