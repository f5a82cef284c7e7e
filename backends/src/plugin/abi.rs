//! The structs of `include/weighbridge_executor.h`, field by field.
//!
//! Invariant: the layout is that of the header; a C program in the tests prints both.

use std::ffi::{c_char, c_void};

/// `WEIGHBRIDGE_EXECUTOR_ABI`.
pub const ABI: u32 = 1;
/// `WEIGHBRIDGE_OK`.
pub const OK: i32 = 0;

/// `weighbridge_model`.
#[repr(C)]
#[derive(Debug)]
pub struct Model {
    pub(super) size: u64,
    pub(super) name: *const c_char,
    pub(super) gguf_path: *const c_char,
    pub(super) vocabulary: u32,
    pub(super) layers: u32,
    pub(super) hidden: u32,
    pub(super) feed_forward: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) context_limit: u32,
}

/// `weighbridge_options`.
#[repr(C)]
#[derive(Debug)]
pub struct Options {
    pub(super) size: u64,
    pub(super) kv_memory_bytes: u64,
    pub(super) block_tokens: u32,
    pub(super) blocks: u32,
    pub(super) max_sequences: u32,
    pub(super) max_batch_tokens: u32,
    pub(super) arguments: *const c_char,
}

/// `weighbridge_capacity`.
#[repr(C)]
#[derive(Debug)]
pub struct Capacity {
    pub(super) size: u64,
    pub(super) blocks: u32,
    pub(super) max_sequences: u32,
    pub(super) max_batch_tokens: u32,
    pub(super) max_context: u32,
    pub(super) device: *const c_char,
}

/// `weighbridge_sample`.
#[repr(C)]
#[derive(Debug)]
pub struct Sample {
    pub(super) temperature: f32,
    pub(super) top_k: u32,
    pub(super) top_p: f32,
    pub(super) seed: u64,
    pub(super) output_index: u64,
    pub(super) forbidden: *const u32,
    pub(super) forbidden_count: u32,
}

/// `weighbridge_row`.
#[repr(C)]
#[derive(Debug)]
pub struct Row {
    pub(super) sequence: u64,
    pub(super) tokens: *const u32,
    pub(super) token_count: u32,
    pub(super) start: u32,
    pub(super) blocks: *const u32,
    pub(super) block_count: u32,
    pub(super) sample: *const Sample,
}

/// `weighbridge_batch`.
#[repr(C)]
#[derive(Debug)]
pub struct Batch {
    pub(super) size: u64,
    pub(super) rows: *const Row,
    pub(super) row_count: u32,
    pub(super) sample_count: u32,
}

type Open = unsafe extern "C" fn(*const Model, *const Options) -> *mut c_void;
type AskCapacity = unsafe extern "C" fn(*mut c_void, *mut Capacity) -> i32;
type Step = unsafe extern "C" fn(*mut c_void, *const Batch, *mut u32, u32, *mut u32) -> i32;
type LastError = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type Close = unsafe extern "C" fn(*mut c_void);

/// `weighbridge_executor_api`, as a plugin may fill it: any function may be missing.
#[repr(C)]
#[derive(Debug)]
pub struct Api {
    pub(super) size: u64,
    pub(super) abi: u32,
    pub(super) open: Option<Open>,
    pub(super) capacity: Option<AskCapacity>,
    pub(super) step: Option<Step>,
    pub(super) last_error: Option<LastError>,
    pub(super) close: Option<Close>,
}

/// The same, complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct Functions {
    pub(super) open: Open,
    pub(super) capacity: AskCapacity,
    pub(super) step: Step,
    pub(super) last_error: LastError,
    pub(super) close: Close,
}

/// `weighbridge_executor`.
pub(super) type Entry = unsafe extern "C" fn(u32) -> *const Api;

/// Sizes of the structs and offsets of their last fields, in the order of the header; what the
/// tests hold against a C compiler's.
pub fn layout() -> Vec<(&'static str, usize, usize)> {
    use std::mem::{offset_of, size_of};
    vec![
        (
            "model",
            size_of::<Model>(),
            offset_of!(Model, context_limit),
        ),
        (
            "options",
            size_of::<Options>(),
            offset_of!(Options, arguments),
        ),
        (
            "capacity",
            size_of::<Capacity>(),
            offset_of!(Capacity, device),
        ),
        (
            "sample",
            size_of::<Sample>(),
            offset_of!(Sample, forbidden_count),
        ),
        ("row", size_of::<Row>(), offset_of!(Row, sample)),
        ("batch", size_of::<Batch>(), offset_of!(Batch, sample_count)),
        ("executor_api", size_of::<Api>(), offset_of!(Api, close)),
    ]
}
