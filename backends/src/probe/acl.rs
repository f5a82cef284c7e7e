//! Ascend's name of its chip as a system (`Ascend910_9391`), from `AscendCL`, the run-time library
//! of the toolkit.
//!
//! DCMI's name is shorter on some chips, and `npu-smi` prints the short one only. Invariant: only
//! what reads a table is called; no device is opened, and a host without the toolkit has no name.

use std::path::PathBuf;

use super::Places;
use super::ffi::Foreign;

/// The newer library first; the older is still shipped.
const NAMES: [&str; 2] = ["libacl_rt.so", "libascendcl.so"];

/// The name, where the toolkit is there and knows it.
pub(super) fn soc_name(places: &Places) -> Option<String> {
    let toolkits = places.ascend_toolkits().into_iter();
    let folders = toolkits.map(|toolkit| toolkit.join("lib64"));
    let found = folders.flat_map(|folder| NAMES.map(|name| folder.join(name)));
    let mut found: Vec<PathBuf> = found.filter(|path| path.is_file()).collect();
    if let Some(named) = places.acl() {
        found = vec![named];
    }
    found.iter().find_map(|path| {
        let library = Foreign::load(path);
        let library = library.map_err(|reason| {
            tracing::debug!(path = %path.display(), reason, "AscendCL does not load");
        });
        let name = library.ok()?.text_of("aclrtGetSocName").ok()?;
        (!name.is_empty()).then_some(name)
    })
}
