// A Rust engine, traced through the C functions: no crate, only `extern "C"`. It computes the embedding and the first
// layer's projections of the engine in ../cpp_engine, from the same weights, so that `paritrace diff` can compare the two.
//
//   rustc -O engine.rs -L WHERE/PARITRACE/IS/lib -l paritrace -o rust_engine
//   PARITRACE_DIR=trace ./rust_engine
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_void};  // where Debian 12's Rust has them
use std::ptr;

const OK: c_int = 0;
const F32: c_int = 1;

// As include/paritrace/capture.h has it.
#[repr(C)]
struct Info {
    size: usize,
    directory: *const c_char,
    engine: *const c_char,
    engine_version: *const c_char,
    model: *const c_char,
    architecture: *const c_char,
    model_file: *const c_char,
    arithmetic: *const c_char,
}

extern "C" {
    fn paritrace_open(info: *const Info) -> c_int;
    fn paritrace_step(start: i64, tokens: *const i32, count: i64) -> c_int;
    fn paritrace_record(
        site: *const c_char,
        layer: c_int,
        data: *const c_void,
        dtype: c_int,
        axes: c_int,
        shape: *const i64,
        strides: *const i64,
    ) -> c_int;
    fn paritrace_close() -> c_int;
    fn paritrace_error() -> *const c_char;
}

const DIM: usize = 32;

fn record(site: &str, layer: i32, values: &[f32], tokens: usize) {
    let name = CString::new(site).expect("a name without NUL");
    let shape = [tokens as i64, (values.len() / tokens) as i64];
    // The slice outlives the call, and paritrace keeps no pointer to it.
    let code = unsafe {
        paritrace_record(name.as_ptr(), layer, values.as_ptr().cast(), F32, 2, shape.as_ptr(), ptr::null())
    };
    if code != OK {
        eprintln!("{}: {}", site, unsafe { CStr::from_ptr(paritrace_error()) }.to_string_lossy());
    }
}

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
    let engine = CString::new("rust-engine").unwrap();
    let version = CString::new("1.0").unwrap();
    let arithmetic = CString::new("f32").unwrap();
    let info = Info {
        size: std::mem::size_of::<Info>(),
        directory: ptr::null(),
        engine: engine.as_ptr(),
        engine_version: version.as_ptr(),
        model: ptr::null(),
        architecture: ptr::null(),
        model_file: ptr::null(),
        arithmetic: arithmetic.as_ptr(),
    };
    if unsafe { paritrace_open(&info) } != OK {
        std::process::exit(1);
    }
    let tokens: [i32; 7] = [3, 14, 15, 92, 65, 35, 89];
    unsafe { paritrace_step(0, tokens.as_ptr(), tokens.len() as i64) };
    let mut x = Vec::new();
    for token in tokens {
        x.extend((0..DIM).map(|i| weight_at(0, token as usize, i) * 10.0));
    }
    record("embed", -1, &x, tokens.len());
    let normed = norm(&x);
    record("attn.norm", 0, &normed, tokens.len());
    for (which, site) in [(10, "attn.q"), (11, "attn.k"), (12, "attn.v")] {
        record(site, 0, &linear(&normed, DIM, DIM, which), tokens.len());
    }
    if unsafe { paritrace_close() } != OK {
        std::process::exit(1);
    }
}
