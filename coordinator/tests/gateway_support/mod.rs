//! What the gateway's tests share.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;

/// The folder of Hugging Face's own results, where it lies beside the checkout.
pub fn oracle() -> Option<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle");
    if !dir.is_dir() {
        eprintln!("SKIPPED: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}
