//! Whether the host has the libraries. cudarc panics on any call into one that is absent, so this comes first.
#![expect(unsafe_code, reason = "loading a library and reading its text")]

use std::ffi::CStr;

use cudarc::nccl::sys::{self, ncclResult_t};

use super::NcclError;

/// Oldest NCCL that is taken: cudarc's bindings know none that is older. Non-blocking communicators came with 2.14.
const NCCL_VERSION_MIN: i32 = 21_800;

/// Looks for the CUDA driver and for NCCL on this host.
///
/// # Errors
/// [`NcclError::LibraryMissing`], [`NcclError::TooOld`].
pub fn check() -> Result<(), NcclError> {
    // SAFETY: loads and unloads a shared library; libcuda's initialisers have no preconditions.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(NcclError::LibraryMissing { library: "the CUDA driver", file: "libcuda.so" });
    }
    check_nccl()
}

/// As [`check`], for NCCL alone: an id can be made without a device.
pub(super) fn check_nccl() -> Result<(), NcclError> {
    // SAFETY: loads and unloads a shared library; NCCL's initialisers have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(NcclError::LibraryMissing { library: "NCCL", file: "libnccl.so" });
    }
    let found = cudarc::nccl::result::get_nccl_version().map_err(|e| nccl_error("asking for its version", e.0))?;
    if found < NCCL_VERSION_MIN {
        return Err(NcclError::TooOld { found, least: NCCL_VERSION_MIN });
    }
    Ok(())
}

/// NCCL's code with its last words. Only after [`check_nccl`] found the library.
pub(super) fn nccl_error(doing: &'static str, result: ncclResult_t) -> NcclError {
    // SAFETY: the library is loaded, as it gave `result`; a null communicator asks for the thread's last error.
    let text = unsafe { sys::ncclGetLastError(std::ptr::null_mut()) };
    let detail = if text.is_null() {
        "no text".to_owned()
    } else {
        // SAFETY: not null, and NCCL documents a string that ends with a zero and stays valid until the next error of
        // this thread; it is copied at once.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    NcclError::Nccl { doing, result: format!("{result:?}"), detail }
}
