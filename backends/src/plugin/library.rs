//! The calls into a plugin's library, and the checks around each.
//!
//! Invariant: a function of the library is called only while the library is loaded and its device
//! open, and only from the thread that owns the [`Library`].

#![expect(unsafe_code, reason = "calls into a C library")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr;

use models::{BLOCK_TOKENS, ModelInfo};

use super::PluginOptions;
use super::abi::{self, Api, Entry, Functions, OK};
use crate::engine::{Batch, Capacity};

/// A loaded plugin with its device open.
pub(super) struct Library {
    functions: Functions,
    device: *mut c_void,
    /// Last, so that it is unloaded after the device is closed.
    _loaded: libloading::Library,
}

impl Library {
    /// Loads a library and opens its device; also what that can hold, and its name in words.
    pub(super) fn open(
        options: &PluginOptions,
        model: &ModelInfo,
    ) -> Result<(Self, (Capacity, String)), String> {
        let (loaded, functions) = load(&options.path)?;
        let text =
            |text: String| CString::new(text).map_err(|_| "a name has a zero byte".to_owned());
        let (name, arguments) = (text(model.name.clone())?, text(options.arguments.clone())?);
        let gguf = options
            .gguf
            .as_ref()
            .map(|path| text(path.display().to_string()));
        let gguf = gguf.transpose()?;
        let size = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let of_model = abi::Model {
            size: size_of::<abi::Model>() as u64,
            name: name.as_ptr(),
            gguf_path: gguf.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            vocabulary: size(model.vocab_size),
            layers: size(model.layers),
            hidden: size(model.hidden),
            feed_forward: size(model.feed_forward),
            heads: size(model.heads),
            kv_heads: size(model.kv_heads),
            head_dim: size(model.head_dim),
            context_limit: size(options.wanted.max_context as u64),
        };
        let wanted = abi::Options {
            size: size_of::<abi::Options>() as u64,
            kv_memory_bytes: options.kv_memory_bytes,
            block_tokens: BLOCK_TOKENS as u32,
            blocks: options.wanted.blocks,
            max_sequences: size(options.wanted.max_sequences as u64),
            max_batch_tokens: size(options.wanted.max_batch_tokens as u64),
            arguments: arguments.as_ptr(),
        };
        // SAFETY: both structs and the strings in them live until the call returns, as the header
        // promises the plugin.
        let device = unsafe { (functions.open)(&raw const of_model, &raw const wanted) };
        let library = Self {
            functions,
            device,
            _loaded: loaded,
        };
        if device.is_null() {
            return Err(format!("its device did not open: {}", library.last_error()));
        }
        let capacity = library.capacity()?;
        Ok((library, capacity))
    }

    fn capacity(&self) -> Result<(Capacity, String), String> {
        let mut capacity = abi::Capacity {
            size: size_of::<abi::Capacity>() as u64,
            blocks: 0,
            max_sequences: 0,
            max_batch_tokens: 0,
            max_context: 0,
            device: ptr::null(),
        };
        // SAFETY: the device is open, and `capacity` is a whole struct of the size it says.
        let status = unsafe { (self.functions.capacity)(self.device, &raw mut capacity) };
        if status != OK {
            return Err(format!("its capacity is not known: {}", self.last_error()));
        }
        let device = words(capacity.device).unwrap_or_else(|| "plugin device".to_owned());
        let found = Capacity {
            blocks: capacity.blocks,
            max_sequences: capacity.max_sequences as usize,
            max_batch_tokens: capacity.max_batch_tokens as usize,
            max_context: capacity.max_context as usize,
        };
        Ok((found, device))
    }

    /// Runs a step; the drawn tokens.
    pub(super) fn step(&self, batch: &Batch) -> Result<Vec<u32>, String> {
        /// Words behind the room for tokens, to which nothing may be written.
        const GUARD: usize = 256;
        let samples: Vec<Option<abi::Sample>> = batch
            .rows
            .iter()
            .map(|row| {
                let sample = row.sample.as_ref()?;
                let forbidden = sample.forbidden.as_deref().unwrap_or_default();
                Some(abi::Sample {
                    temperature: sample.params.temperature,
                    top_k: sample.params.top_k.unwrap_or(0),
                    top_p: sample.params.top_p.unwrap_or(1.0),
                    seed: sample.params.seed,
                    output_index: sample.output_index,
                    forbidden: forbidden.as_ptr(),
                    forbidden_count: forbidden.len() as u32,
                })
            })
            .collect();
        let row = |(row, sample): (&crate::engine::Row, &Option<abi::Sample>)| abi::Row {
            sequence: row.sequence.0,
            tokens: batch.tokens[row.tokens.clone()].as_ptr(),
            token_count: row.tokens.len() as u32,
            start: row.start as u32,
            blocks: batch.blocks[row.blocks.clone()].as_ptr(),
            block_count: row.blocks.len() as u32,
            sample: sample.as_ref().map_or(ptr::null(), ptr::from_ref),
        };
        let rows: Vec<abi::Row> = batch.rows.iter().zip(&samples).map(row).collect();
        let wanted = batch.samples() as u32;
        let of_batch = abi::Batch {
            size: size_of::<abi::Batch>() as u64,
            rows: rows.as_ptr(),
            row_count: rows.len() as u32,
            sample_count: wanted,
        };
        // No vocabulary has this token, so one that is not written is found out too.
        let mut tokens = vec![u32::MAX; wanted as usize + GUARD];
        let mut count = 0_u32;
        // SAFETY: the device is open; `rows`, `samples`, the batch's tokens and block tables and
        // `tokens`, with room for `wanted` and more, live until the call returns.
        let status = unsafe {
            (self.functions.step)(
                self.device,
                &raw const of_batch,
                tokens.as_mut_ptr(),
                wanted,
                &raw mut count,
            )
        };
        if tokens[wanted as usize..]
            .iter()
            .any(|&word| word != u32::MAX)
        {
            return Err(format!("a step wrote beyond its room for {wanted} tokens"));
        }
        tokens.truncate(wanted as usize);
        if status != OK {
            return Err(format!("a step failed: {}", self.last_error()));
        }
        if count != wanted {
            return Err(format!("a step gave {count} tokens for {wanted} rows"));
        }
        Ok(tokens)
    }

    fn last_error(&self) -> String {
        // SAFETY: the header allows a null device here; the string is read before the next call.
        let text = unsafe { (self.functions.last_error)(self.device) };
        words(text).unwrap_or_else(|| "it does not say why".to_owned())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if !self.device.is_null() {
            // SAFETY: the device is open, and nothing uses it after this.
            unsafe { (self.functions.close)(self.device) }
        }
    }
}

fn load(path: &Path) -> Result<(libloading::Library, Functions), String> {
    // Without a folder the system would look for it elsewhere.
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    // SAFETY: the user named this library to be loaded; its initialisers run, as those of any
    // library do.
    let loaded = unsafe { libloading::Library::new(&path) };
    let loaded = loaded.map_err(|error| format!("it does not load: {error}"))?;
    // SAFETY: the header gives the symbol this type, and the library outlives the call below.
    let entry = unsafe { loaded.get::<Entry>(b"weighbridge_executor\0") };
    let entry = *entry
        .map_err(|_| "it does not export `weighbridge_executor`: is it a plugin?".to_owned())?;
    // SAFETY: the function takes a number and returns a pointer.
    let api = unsafe { entry(abi::ABI) };
    if api.is_null() {
        return Err(format!(
            "it does not know version {} of the interface",
            abi::ABI
        ));
    }
    let whole = size_of::<Api>() as u64;
    // SAFETY: the pointer is to a struct that begins with its size, which is all that is read here.
    let size = unsafe { ptr::addr_of!((*api).size).read_unaligned() };
    if size < whole {
        return Err(format!(
            "its table of functions has {size} bytes; accepted are {whole} or more"
        ));
    }
    // SAFETY: the table is at least as large as ours, and a plugin's table is static.
    let api = unsafe { api.read_unaligned() };
    if api.abi != abi::ABI {
        return Err(format!(
            "it was made for version {} of the interface; this is version {}",
            api.abi,
            abi::ABI
        ));
    }
    match api {
        Api {
            open: Some(open),
            capacity: Some(capacity),
            step: Some(step),
            last_error: Some(last_error),
            close: Some(close),
            ..
        } => Ok((
            loaded,
            Functions {
                open,
                capacity,
                step,
                last_error,
                close,
            },
        )),
        _ => Err("a function of its table is null".to_owned()),
    }
}

/// A plugin's string; nothing for a null pointer or an empty one.
fn words(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the header says that strings end with a zero byte and live until the next call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    (!text.is_empty()).then(|| text.into_owned())
}
