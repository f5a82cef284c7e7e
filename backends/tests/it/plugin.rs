//! Plugins built here with the system's C compiler: the example, and one for each thing that can be
//! wrong. Without a compiler the tests say that they are skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use backends::engine::{
    Batch, Capacity, Executor, NewSequence, PrefixCache, Progress, Scheduler, SequenceId,
};
use backends::plugin::{PluginExecutor, PluginOptions, abi};
use models::{BLOCK_TOKENS, ModelInfo, ModelSource, SamplingParams, load_tokenizer};
use tempfile::TempDir;

const WANTED: Capacity = Capacity {
    blocks: 64,
    max_sequences: 8,
    max_batch_tokens: 96,
    max_context: 512,
};

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compiles a C file into `folder`; `None` without a compiler.
fn compile(folder: &TempDir, source: &str, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let built = folder.path().join(name);
    let output = Command::new("cc")
        .args([
            "-std=c11",
            "-D_DEFAULT_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O1",
        ])
        .args(flags)
        .arg("-I")
        .arg(package("include"))
        .arg(package(source))
        .arg("-o")
        .arg(&built)
        .output();
    let Ok(output) = output else {
        skipped();
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source}: {errors}");
    Some(built)
}

fn library(folder: &TempDir, source: &str, flags: &[&str]) -> Option<PathBuf> {
    compile(
        folder,
        source,
        "plugin.so",
        &[&["-shared", "-fPIC"], flags].concat(),
    )
}

fn model() -> ModelInfo {
    let source = ModelSource::parse("ref-tiny").expect("built in");
    load_tokenizer(&source).expect("made in memory").0
}

fn options(path: PathBuf) -> PluginOptions {
    PluginOptions {
        path,
        arguments: String::new(),
        gguf: None,
        wanted: WANTED,
        kv_memory_bytes: 1 << 20,
        step_limit: Duration::from_millis(300),
    }
}

/// Answers prompts together, in a cache of so many blocks; also how often a sequence was preempted.
fn answer(
    path: &Path,
    prompts: &[Vec<u32>],
    blocks: u32,
    cache: PrefixCache,
) -> (Vec<Vec<u32>>, u64) {
    let mut options = options(path.to_owned());
    options.wanted.blocks = blocks;
    let mut executor = PluginExecutor::open(&options, &model()).expect("the example works");
    let mut scheduler = Scheduler::new(executor.capacity(), cache);
    for (id, prompt) in (0..).zip(prompts) {
        let new = NewSequence {
            id: SequenceId(id),
            prompt: Arc::from(prompt.as_slice()),
            max_tokens: 40,
            end_tokens: Arc::from([]),
            min_tokens: 0,
            params: params(id),
        };
        scheduler.add(new).expect("it fits");
    }
    let (mut batch, mut answers) = (Batch::default(), BTreeMap::<u64, Vec<u32>>::new());
    loop {
        scheduler.plan(&mut batch);
        if batch.rows.is_empty() {
            return (answers.into_values().collect(), scheduler.preemptions());
        }
        let output = step(&mut executor, &batch).expect("the example runs");
        scheduler.apply(&output, |SequenceId(id), progress| {
            if let Progress::Token(token) = progress {
                answers.entry(id).or_default().push(token);
            }
        });
    }
}

fn params(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 0.7,
        top_k: None,
        top_p: None,
        seed,
    }
}

fn step(
    executor: &mut PluginExecutor,
    batch: &Batch,
) -> Result<backends::engine::StepOutput, backends::engine::DeviceError> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(executor.step(batch)).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => unreachable!("a plugin's step is waited for"),
    }
}

#[test]
fn the_header_and_our_structs_have_one_layout() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(program) = compile(&folder, "tests/it/plugin_layout.c", "layout", &[]) else {
        return;
    };
    let output = Command::new(program).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("ASCII");
    let ours = abi::layout().into_iter();
    let ours: Vec<String> = ours
        .map(|(name, size, last)| format!("{name} {size} {last}"))
        .collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), ours);
}

#[test]
fn the_example_answers_the_same_alone_together_cached_and_preempted() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(path) = library(&folder, "plugins/tiny.c", &[]) else {
        return;
    };
    let shared: Vec<u32> = (0..2 * BLOCK_TOKENS as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..6)
        .map(|index| {
            let own = (0..10 + 25 * index).map(|token| token * 7 + index);
            shared.iter().copied().chain(own).collect()
        })
        .collect();
    let (together, none) = answer(&path, &prompts, 64, PrefixCache::On);
    assert_eq!((together.len(), none), (6, 0));
    assert!(together.iter().all(|tokens| tokens.len() == 40));
    for cache in [PrefixCache::Off, PrefixCache::On] {
        // Ten blocks hold one or two of the sequences at a time.
        let (tight, preempted) = answer(&path, &prompts, 10, cache);
        assert!(preempted > 0, "ten blocks are too few for six sequences");
        assert_eq!(tight, together);
    }
    // Alone each request has number 0, and so another seed; the first is the same.
    let (alone, _) = answer(&path, &prompts[..1], 64, PrefixCache::Off);
    assert_eq!(alone[0], together[0]);
    let executor = PluginExecutor::open(&options(path), &model()).expect("it opens again");
    assert_eq!(executor.device(), "tiny example device");
}

#[test]
fn whatever_a_plugin_does_wrong_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let opening = [
        (
            "ABI",
            "made for version 7 of the interface; this is version 1",
        ),
        ("SHORT_TABLE", "has 16 bytes"),
        ("NULL_FUNCTION", "a function of its table is null"),
        ("UNKNOWN_VERSION", "does not know version 1"),
        ("OPEN_FAILS", "did not open: the coolant boiled"),
        ("OPEN_FAILS_SILENTLY", "did not open: it does not say why"),
        (
            "CAPACITY_FAILS",
            "capacity is not known: the coolant boiled",
        ),
        ("CAPACITY_ZERO", "blocks = 0; accepted is 1 to 64"),
        (
            "CAPACITY_TOO_LARGE",
            "blocks = 1073741824; accepted is 1 to 64",
        ),
    ];
    for (fault, expected) in opening {
        let Some(path) = library(&folder, "tests/it/plugin_faults.c", &[&define(fault)]) else {
            return;
        };
        let error = PluginExecutor::open(&options(path.clone()), &model()).expect_err(fault);
        assert!(error.to_string().contains(expected), "{fault}: {error}");
        std::fs::remove_file(path).expect("the next has its name");
    }
    let stepping = [
        ("STEP_FAILS", "a step failed: the coolant boiled"),
        ("STEP_TOO_FEW", "gave 0 tokens for 1 rows"),
        ("STEP_TOO_MANY", "gave 2 tokens for 1 rows"),
        (
            "STEP_WRONG_TOKEN",
            "drew token 4294967295; the vocabulary has",
        ),
        ("STEP_WRITES_NOTHING", "drew token 4294967295"),
        ("STEP_WRITES_BEYOND", "wrote beyond its room for 1 tokens"),
        ("STEP_HANGS", "did not end within 0.3 s"),
    ];
    for (fault, expected) in stepping {
        let path = library(&folder, "tests/it/plugin_faults.c", &[&define(fault)]).expect("built");
        let mut executor = PluginExecutor::open(&options(path.clone()), &model()).expect(fault);
        let mut scheduler = Scheduler::new(executor.capacity(), PrefixCache::Off);
        let ask = NewSequence {
            id: SequenceId(1),
            prompt: Arc::from([1, 2, 3]),
            max_tokens: 4,
            end_tokens: Arc::from([]),
            min_tokens: 0,
            params: params(0),
        };
        scheduler.add(ask).expect("it fits");
        let mut batch = Batch::default();
        scheduler.plan(&mut batch);
        let error = step(&mut executor, &batch).expect_err(fault).to_string();
        assert!(error.contains(expected), "{fault}: {error}");
        if fault == "STEP_HANGS" {
            let again = step(&mut executor, &batch)
                .expect_err("given up")
                .to_string();
            assert!(again.contains("an earlier step did not end"), "{again}");
        }
        std::fs::remove_file(path).expect("the next has its name");
    }
}

fn define(fault: &str) -> String {
    format!("-DFAULT={fault}")
}

#[test]
fn files_that_are_no_plugins_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text.so");
    std::fs::write(&text, "not a library").expect("writable");
    for path in [text, folder.path().join("nowhere.so")] {
        let error = PluginExecutor::open(&options(path), &model()).expect_err("no library");
        assert!(error.to_string().contains("it does not load"), "{error}");
    }
    if let Some(path) = library(&folder, "tests/it/plugin_layout.c", &["-Dmain=other"]) {
        let error = PluginExecutor::open(&options(path), &model()).expect_err("no plugin");
        assert!(error.to_string().contains("is it a plugin?"), "{error}");
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skipped() {
    eprintln!("skipped: there is no C compiler `cc`");
}
