//! Reads GGUF version 2 and 3: metadata, the tensors' table, and rows decoded to f32 (F32, F16, Q8_0, Q4_0).
//! Source: the GGUF specification and ggml's block layouts.
use std::collections::HashMap;
use std::convert::TryInto;

pub enum Value {
    Number(f64),
    Text(String),
    List(Vec<Value>),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    F32,
    F16,
    Q4_0,
    Q8_0,
}

impl Kind {
    /// (values in a block, its bytes)
    fn block(self) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4),
            Kind::F16 => (1, 2),
            Kind::Q4_0 => (32, 18),
            Kind::Q8_0 => (32, 34),
        }
    }
}

pub struct Tensor {
    pub kind: Kind,
    pub columns: usize,
    pub rows: usize,
    start: usize, // in the file
}

pub struct File {
    path: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, Tensor>,
}

/// How blocks are decoded, and how they may be decoded wrongly.
#[derive(Clone, Copy, Default)]
pub struct Decoding {
    pub scale_of_first_block: bool, // every block of a row takes the scale of the row's first
    pub nibbles_swapped: bool,      // high nibble first
}

fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = ((bits >> 15) as u32, (bits >> 10 & 31) as i32, (bits & 1023) as f32);
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    };
    if sign == 1 { -size } else { size }
}

struct Reader<'a> {
    path: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: u64, what: &str) -> Result<&'a [u8], String> {
        let left = (self.bytes.len() - self.at) as u64;
        if size > left {
            return Err(format!("{}: at byte {}: expected {} bytes of {}, found {} bytes left", self.path, self.at, size, what, left));
        }
        let taken = &self.bytes[self.at..self.at + size as usize];
        self.at += size as usize;
        Ok(taken)
    }
    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.take(4, what)?.try_into().unwrap()))
    }
    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take(8, what)?.try_into().unwrap()))
    }
    fn text(&mut self, what: &str) -> Result<String, String> {
        let size = self.u64(what)?;
        Ok(String::from_utf8_lossy(self.take(size, what)?).into_owned())
    }
    fn value(&mut self, kind: u32) -> Result<Value, String> {
        let what = "metadata";
        Ok(match kind {
            0 => Value::Number(self.take(1, what)?[0] as f64),
            1 => Value::Number(self.take(1, what)?[0] as i8 as f64),
            2 => Value::Number(u16::from_le_bytes(self.take(2, what)?.try_into().unwrap()) as f64),
            3 => Value::Number(i16::from_le_bytes(self.take(2, what)?.try_into().unwrap()) as f64),
            4 => Value::Number(self.u32(what)? as f64),
            5 => Value::Number(self.u32(what)? as i32 as f64),
            6 => Value::Number(f32::from_bits(self.u32(what)?) as f64),
            7 => Value::Number(self.take(1, what)?[0] as f64),
            8 => Value::Text(self.text(what)?),
            9 => {
                let kind = self.u32(what)?;
                let count = self.u64(what)?;
                if kind == 9 {
                    return Err(format!("{}: at byte {}: a list of lists is not supported", self.path, self.at));
                }
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind)?);
                }
                Value::List(list)
            }
            10 => Value::Number(self.u64(what)? as f64),
            11 => Value::Number(self.u64(what)? as i64 as f64),
            12 => Value::Number(f64::from_bits(self.u64(what)?)),
            _ => return Err(format!("{}: at byte {}: expected a metadata type from 0 to 12, found {}", self.path, self.at, kind)),
        })
    }
}

impl File {
    pub fn open(path: &str) -> Result<File, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {}", path, error))?;
        let mut reader = Reader { path, bytes: &bytes, at: 0 };
        if reader.take(4, "magic")? != b"GGUF" {
            return Err(format!("{}: at byte 0: expected \"GGUF\"", path));
        }
        let version = reader.u32("version")?;
        if version != 2 && version != 3 {
            return Err(format!("{}: at byte 4: expected version 2 or 3, found {}", path, version));
        }
        let (tensor_count, pair_count) = (reader.u64("tensor count")?, reader.u64("metadata count")?);
        let mut metadata = HashMap::new();
        for _ in 0..pair_count {
            let key = reader.text("a metadata key")?;
            let kind = reader.u32("a metadata type")?;
            let value = reader.value(kind)?;
            metadata.insert(key, value);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let name = reader.text("a tensor's name")?;
            let axes = reader.u32("a tensor's axes")?;
            let mut sizes = Vec::new();
            for _ in 0..axes {
                sizes.push(reader.u64("a tensor's shape")? as usize);
            }
            let kind = match reader.u32("a tensor's type")? {
                0 => Kind::F32,
                1 => Kind::F16,
                2 => Kind::Q4_0,
                8 => Kind::Q8_0,
                other => return Err(format!("{}: {}: type {} is not supported", path, name, other)),
            };
            let start = reader.u64("a tensor's offset")? as usize;
            // GGUF names the innermost axis first: {columns, rows}.
            let columns = sizes.first().copied().unwrap_or(1);
            let rows = sizes.iter().skip(1).product();
            tensors.insert(name, Tensor { kind, columns, rows, start });
        }
        let alignment = match metadata.get("general.alignment") {
            Some(Value::Number(value)) if *value >= 1.0 => *value as usize,
            _ => 32,
        };
        let data = (reader.at + alignment - 1) / alignment * alignment;
        for (name, tensor) in tensors.iter_mut() {
            let (values, size) = tensor.kind.block();
            let end = tensor.columns.checked_mul(tensor.rows).and_then(|count| (count / values).checked_mul(size));
            let end = end.and_then(|size| size.checked_add(tensor.start)).and_then(|end| end.checked_add(data));
            if tensor.columns % values != 0 || end.map_or(true, |end| end > bytes.len()) {
                return Err(format!("{}: {}: its data does not lie in the file", path, name));
            }
            tensor.start += data;
        }
        Ok(File { path: path.to_string(), bytes, metadata, tensors })
    }

    pub fn number(&self, key: &str) -> Result<f64, String> {
        match self.metadata.get(key) {
            Some(Value::Number(value)) => Ok(*value),
            _ => Err(format!("{}: metadata: expected a number \"{}\"", self.path, key)),
        }
    }

    pub fn piece(&self, token: usize) -> String {
        match self.metadata.get("tokenizer.ggml.tokens") {
            Some(Value::List(pieces)) => match pieces.get(token) {
                Some(Value::Text(text)) => text.clone(),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn tensor(&self, name: &str) -> Result<&Tensor, String> {
        self.tensors.get(name).ok_or(format!("{}: expected a tensor \"{}\", found none", self.path, name))
    }

    /// Row `row` of `tensor`, decoded into `out` [columns].
    pub fn decode_row(&self, tensor: &Tensor, row: usize, decoding: Decoding, out: &mut [f32]) {
        let (values, size) = tensor.kind.block();
        let row_bytes = tensor.columns / values * size;
        let bytes = &self.bytes[tensor.start + row * row_bytes..][..row_bytes];
        let bits = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        match tensor.kind {
            Kind::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes(raw.try_into().unwrap());
                }
            }
            Kind::F16 => (0..out.len()).for_each(|i| out[i] = half(bits(2 * i))),
            Kind::Q8_0 | Kind::Q4_0 => {
                for (block, decoded) in out.chunks_exact_mut(values).enumerate() {
                    let at = block * size;
                    let scale = half(bits(if decoding.scale_of_first_block { 0 } else { at }));
                    let codes = &bytes[at + 2..at + size];
                    for (i, value) in decoded.iter_mut().enumerate() {
                        *value = scale
                            * match tensor.kind {
                                Kind::Q8_0 => codes[i] as i8 as f32,
                                _ => {
                                    let low = (i < 16) != decoding.nibbles_swapped;
                                    let byte = codes[i % 16];
                                    (if low { byte & 15 } else { byte >> 4 }) as f32 - 8.0
                                }
                            };
                    }
                }
            }
        }
    }

    pub fn decode(&self, name: &str) -> Result<Vec<f32>, String> {
        let tensor = self.tensor(name)?;
        let mut out = vec![0.0; tensor.rows * tensor.columns];
        for (row, values) in out.chunks_exact_mut(tensor.columns).enumerate() {
            self.decode_row(tensor, row, Decoding::default(), values);
        }
        Ok(out)
    }
}
