//! Benches of weighbridge's own hot paths, each in a file beside this one. The library is empty; it
//! is only there so that Cargo has a target to build.
