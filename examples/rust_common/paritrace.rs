//! paritrace's C functions, as include/paritrace/capture.h has them: no crate, only `extern "C"`. Nothing is recorded unless
//! PARITRACE_DIR says where.
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;

const OK: c_int = 0;
const F32: c_int = 1;

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

fn last_error() -> String {
    unsafe { CStr::from_ptr(paritrace_error()) }.to_string_lossy().into_owned()
}

/// The process's trace, completed when it is dropped.
pub struct Trace;

impl Trace {
    /// For the header: the engine's name, its model's file and architecture; "" where there is none.
    pub fn open(engine: &str, model_file: &str, architecture: &str) -> Result<Trace, String> {
        let text = |value: &str| CString::new(value).map_err(|_| format!("{:?} holds a NUL", value));
        let (engine, version, arithmetic) = (text(engine)?, text("1.0")?, text("f32")?);
        let (file, architecture) = (text(model_file)?, text(architecture)?);
        let known = |value: &CString| if value.as_bytes().is_empty() { ptr::null() } else { value.as_ptr() };
        let info = Info {
            size: std::mem::size_of::<Info>(),
            directory: ptr::null(),
            engine: engine.as_ptr(),
            engine_version: version.as_ptr(),
            model: ptr::null(),
            architecture: known(&architecture),
            model_file: known(&file),
            arithmetic: arithmetic.as_ptr(),
        };
        if unsafe { paritrace_open(&info) } != OK {
            return Err(last_error());
        }
        Ok(Trace)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if unsafe { paritrace_close() } != OK {
            eprintln!("{}", last_error());
        }
    }
}

/// Begins the next forward call.
pub fn step(start: usize, tokens: &[i32]) {
    unsafe { paritrace_step(start as i64, tokens.as_ptr(), tokens.len() as i64) };
}

/// Records `values`, row-major in `shape`; layer -1: of none.
pub fn record(site: &str, layer: i32, values: &[f32], shape: &[usize]) {
    debug_assert_eq!(values.len(), shape.iter().product::<usize>());
    let name = CString::new(site).expect("a site without NUL");
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    // The slice outlives the call, and paritrace keeps no pointer to it.
    let code = unsafe {
        paritrace_record(name.as_ptr(), layer, values.as_ptr().cast(), F32, shape.len() as c_int, shape.as_ptr(), ptr::null())
    };
    if code != OK {
        eprintln!("{}: {}", site, last_error());
    }
}
