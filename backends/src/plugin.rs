//! A device behind the C interface of `include/weighbridge_executor.h`.
//!
//! The library runs on a thread of its own, which the engine waits for. Whatever a plugin may do
//! short of crashing is a device error: another ABI version, missing functions, errors, a wrong
//! number of tokens, tokens outside the vocabulary, a step that does not end. After a step that did
//! not end the thread is given up, and every later step fails at once.
//!
//! Invariant: no pointer into a batch outlives its step, and the library stays loaded as long as
//! its thread may run. What it does not do: contain a plugin that crashes; that ends the process,
//! as it would any program that loads a library.

pub mod abi;
mod library;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use models::ModelInfo;

use crate::engine::{Batch, Capacity, DeviceError, Executor, StepOutput};
use library::Library;

/// Longest step that is waited for, when the user does not say.
pub const STEP_LIMIT: Duration = Duration::from_mins(1);

/// Why a plugin cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin `{path}`: {problem}")]
pub struct PluginError {
    /// The library.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a plugin is opened with.
#[derive(Debug, Clone)]
pub struct PluginOptions {
    /// The library.
    pub path: PathBuf,
    /// For the plugin alone: what follows a `?` in the target.
    pub arguments: String,
    /// The model's file; `None` for models made in memory.
    pub gguf: Option<PathBuf>,
    /// What the user asks for.
    pub wanted: Capacity,
    /// The same in bytes.
    pub kv_memory_bytes: u64,
    /// Longest step that is waited for.
    pub step_limit: Duration,
}

/// A plugin's device.
#[derive(Debug)]
pub struct PluginExecutor {
    path: String,
    capacity: Capacity,
    device: String,
    vocabulary: u32,
    step_limit: Duration,
    /// `None` once a step did not end.
    line: Option<Line>,
}

/// To the plugin's thread and back.
#[derive(Debug)]
struct Line {
    steps: Sender<Arc<Batch>>,
    answers: Receiver<Result<Vec<u32>, String>>,
}

impl PluginExecutor {
    /// Loads the library and opens its device.
    pub fn open(options: &PluginOptions, model: &ModelInfo) -> Result<Self, PluginError> {
        let path = options.path.display().to_string();
        let failed = |problem: String| PluginError {
            path: path.clone(),
            problem,
        };
        let (steps, batches) = channel::<Arc<Batch>>();
        let (reply, answers) = channel();
        let (opened, opening) = channel();
        let (thread_options, thread_model) = (options.clone(), model.clone());
        let work = move || {
            let library = match Library::open(&thread_options, &thread_model) {
                Ok((library, capacity)) => {
                    drop(opened.send(Ok(capacity)));
                    library
                }
                Err(problem) => {
                    drop(opened.send(Err(problem)));
                    return;
                }
            };
            while let Ok(batch) = batches.recv() {
                if reply.send(library.step(&batch)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("plugin".into());
        thread
            .spawn(work)
            .map_err(|error| failed(error.to_string()))?;
        // Loading a model may take as long as it likes.
        let capacity = opening
            .recv()
            .map_err(|_| failed("its thread ended".to_owned()))?
            .map_err(failed)?;
        let (capacity, device) = checked(capacity, options.wanted).map_err(failed)?;
        Ok(Self {
            path,
            capacity,
            device,
            vocabulary: u32::try_from(model.vocab_size).unwrap_or(u32::MAX),
            step_limit: options.step_limit,
            line: Some(Line { steps, answers }),
        })
    }

    /// The device's name in words.
    pub fn device(&self) -> &str {
        &self.device
    }

    fn run(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        let error = |problem: &str| DeviceError(format!("plugin `{}`: {problem}", self.path));
        let Some(line) = &self.line else {
            return Err(error("an earlier step did not end"));
        };
        let ended = error("its thread ended");
        if line.steps.send(Arc::new(batch.clone())).is_err() {
            return Err(ended);
        }
        let tokens = match line.answers.recv_timeout(self.step_limit) {
            Ok(answer) => answer.map_err(|problem| error(&problem))?,
            Err(RecvTimeoutError::Disconnected) => return Err(ended),
            Err(RecvTimeoutError::Timeout) => {
                let waited = self.step_limit.as_secs_f64();
                let late = error(&format!("a step did not end within {waited} s"));
                self.line = None;
                return Err(late);
            }
        };
        match tokens.iter().find(|&&token| token >= self.vocabulary) {
            Some(token) => Err(error(&format!(
                "it drew token {token}; the vocabulary has {}",
                self.vocabulary
            ))),
            None => Ok(StepOutput { tokens }),
        }
    }
}

impl Executor for PluginExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    async fn step(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        self.run(batch)
    }
}

/// A capacity that the scheduler can work with: no more than was asked for, and something of each.
fn checked(
    (found, device): (Capacity, String),
    wanted: Capacity,
) -> Result<(Capacity, String), String> {
    let sizes = [
        ("blocks", u64::from(found.blocks), u64::from(wanted.blocks)),
        (
            "max_sequences",
            found.max_sequences as u64,
            wanted.max_sequences as u64,
        ),
        (
            "max_batch_tokens",
            found.max_batch_tokens as u64,
            wanted.max_batch_tokens as u64,
        ),
        (
            "max_context",
            found.max_context as u64,
            wanted.max_context as u64,
        ),
    ];
    for (name, value, most) in sizes {
        if value == 0 || value > most {
            return Err(format!(
                "its capacity says {name} = {value}; accepted is 1 to {most}"
            ));
        }
    }
    Ok((found, device))
}
