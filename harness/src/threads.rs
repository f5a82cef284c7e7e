//! How many threads the engine computes with.
//!
//! candle reads the number from the environment, once, when it first computes; left alone it takes
//! the physical cores it believes in, which on a virtual machine may be one of two. Invariant: the
//! number is set before any thread exists, so nobody reads the environment while it is written.

/// Sets the engine's threads for this process; an environment that says so already is kept.
///
/// Called once, first thing in a command that runs the engine.
pub fn set_engine_threads(wanted: Option<usize>) -> usize {
    const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];
    let given = std::env::var(VARIABLES[0])
        .ok()
        .and_then(|text| text.parse().ok());
    let threads = wanted
        .or(given)
        .unwrap_or(crate::host::logical_cpus() as usize)
        .max(1);
    for variable in VARIABLES {
        // SAFETY: `set_var` is unsound only while another thread reads or writes the environment.
        // Commands call this before they start any thread.
        #[expect(
            unsafe_code,
            reason = "candle takes its thread count from the environment only"
        )]
        unsafe {
            std::env::set_var(variable, threads.to_string());
        }
    }
    threads
}
