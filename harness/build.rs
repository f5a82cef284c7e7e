//! Tells the binary which commit it was built from, when it was built from a checkout.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../.git/logs/HEAD");
    let head = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    let commit = head.ok().filter(|output| output.status.success());
    if let Some(commit) = commit.and_then(|output| String::from_utf8(output.stdout).ok()) {
        println!("cargo::rustc-env=WEIGHBRIDGE_GIT_COMMIT={}", commit.trim());
    }
}
