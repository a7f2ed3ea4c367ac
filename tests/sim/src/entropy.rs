//! The one way in for chance: on a thread that simulates, whoever asks the system for random bytes gets them by seed.
//!
//! The keys of `RandomState`, and with them the order in which `tokio::select!` looks at its branches, come from libc's
//! `getrandom`. The standard library looks that up as a weak symbol, so that it can be interposed; here it is. Invariant:
//! on a thread without a seed it gives the system's bytes.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;

thread_local! {
    /// State of the generator of this thread, where it has a seed.
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on all chance on this thread follows `seed`. Must come first on a fresh thread: keys that were drawn before stay.
pub fn seed_thread(seed: u64) {
    STATE.set(Some(seed));
    coordinator::sim::seed_thread(seed);
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fill(bytes: &mut [u8]) -> bool {
    match STATE.get() {
        Some(mut state) => {
            bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&next(&mut state).to_le_bytes()[..chunk.len()]));
            STATE.set(Some(state));
            true
        }
        None => File::open("/dev/urandom").and_then(|mut f| f.read_exact(bytes)).is_ok(),
    }
}

/// libc's, interposed.
///
/// # Safety
/// As libc's: `buffer` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: libc's contract, which every caller of `getrandom` keeps: `length` bytes at `buffer` may be written. They are
    // made zeros first, so that the slice is of initialised bytes.
    let bytes = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer, length)
    };
    if fill(bytes) { isize::try_from(length).unwrap_or(isize::MAX) } else { -1 }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    fn drawn(seed: Option<u64>) -> u64 {
        let draw = move || {
            seed.into_iter().for_each(seed_thread);
            RandomState::new().hash_one(1)
        };
        std::thread::spawn(draw).join().expect("no panic")
    }

    #[test]
    fn the_keys_of_hash_maps_follow_the_seed_and_only_on_threads_that_have_one() {
        assert_eq!(drawn(Some(1)), drawn(Some(1)));
        assert_ne!(drawn(Some(1)), drawn(Some(2)));
        assert_ne!(drawn(None), drawn(None));
    }
}
