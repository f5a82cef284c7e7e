//! Ascend's name of its chip as a system (`Ascend910_9391`), from `AscendCL`, the run-time library
//! of the toolkit.
//!
//! DCMI's name is shorter on some chips, and `npu-smi` prints the short one only. Invariant: only
//! what reads a table is called; no device is opened, and a host without the toolkit has no name.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use super::ffi::Foreign;
use super::{Places, within};

/// A name is not worth waiting longer for.
const LIMIT: Duration = Duration::from_secs(5);

/// The newer library first; the older is still shipped.
const NAMES: [&str; 2] = ["libacl_rt.so", "libascendcl.so"];

/// The toolkit's name of this host's chips, looked up once at most.
pub(super) struct Toolkit<'a> {
    places: &'a Places,
    soc: OnceCell<Option<String>>,
}

impl<'a> Toolkit<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        let soc = OnceCell::new();
        Self { places, soc }
    }

    /// The name, where the toolkit is there and knows it.
    pub(super) fn soc(&self) -> Option<String> {
        let look = || {
            let places = self.places.clone();
            within(LIMIT, move || soc_name(&places)).flatten()
        };
        self.soc.get_or_init(look).clone()
    }
}

fn soc_name(places: &Places) -> Option<String> {
    let in_toolkits = || {
        let folders = places.ascend_toolkits().into_iter();
        let paths = folders.flat_map(|folder| NAMES.map(|name| folder.join("lib64").join(name)));
        paths.filter(|path| path.is_file()).collect()
    };
    let found: Vec<PathBuf> = places.acl().map_or_else(in_toolkits, |named| vec![named]);
    found.iter().find_map(|path| {
        let library = Foreign::load(path);
        let library = library.map_err(|reason| {
            tracing::debug!(path = %path.display(), reason, "AscendCL does not load");
        });
        let name = library.ok()?.text_of("aclrtGetSocName").ok()?;
        (!name.is_empty()).then_some(name)
    })
}
