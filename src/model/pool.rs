//! Tensors shared between versions: equal bytes are held once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::tensor::{Device, Encoding, WeakWeight, Weight};

/// Bytes that are read between two reports of progress.
const CHUNK: usize = 8 << 20;

/// The weights that are loaded for a device, by content. Cloning it clones a handle; it keeps no weight alive.
#[derive(Clone, Default)]
pub struct WeightPool {
    device: Device,
    // Guards the index of weights. Versions load on threads of their own, and two that load the same tensor at
    // the same time must agree on one: find-or-insert is one step, which a message would only move elsewhere.
    entries: Arc<Mutex<HashMap<Key, Vec<WeakWeight>>>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    fingerprint: u128,
    encoding: Encoding,
    rows: usize,
    cols: usize,
}

impl WeightPool {
    /// A pool without weights, for the host's processor.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pool without weights, for a device.
    pub fn of(device: Device) -> Self {
        Self { device, ..Self::default() }
    }

    /// Where models that take their weights from here compute.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// How many different weights are alive.
    pub fn len(&self) -> usize {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().flatten().filter(|w| w.is_alive()).count()
    }

    /// Whether no weight is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pool's own weight with the same content, or else `weight`, which is the pool's from now on.
    /// Reads all of it, and calls `read` with the bytes read so far.
    pub(super) fn adopt(&self, weight: Weight, mut read: impl FnMut(u64)) -> Weight {
        let mut hash = Xxh3::new();
        let mut done = 0;
        for chunk in weight.bytes().chunks(CHUNK) {
            hash.update(chunk);
            done += chunk.len() as u64;
            read(done);
        }
        let (encoding, rows, cols) = (weight.encoding(), weight.rows(), weight.cols());
        let key = Key { fingerprint: hash.digest128(), encoding, rows, cols };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let same = entries.entry(key).or_default();
        same.retain(WeakWeight::is_alive);
        // the fingerprint is not cryptographic, so equality is decided by the bytes
        let held = same.iter().filter_map(WeakWeight::upgrade).find(|held| held.bytes() == weight.bytes());
        if let Some(held) = held {
            weight.release_pages();
            return held;
        }
        same.push(weight.downgrade());
        weight
    }

    /// Forgets the weights that nobody holds.
    pub(super) fn sweep(&self) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, same| {
            same.retain(WeakWeight::is_alive);
            !same.is_empty()
        });
    }
}

impl fmt::Debug for WeightPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightPool({} alive)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ElementType;

    fn weight(bytes: &[u8], shape: &[usize]) -> Weight {
        Weight::owned(bytes.to_vec(), ElementType::F16, shape).unwrap()
    }

    #[test]
    fn equal_tensors_are_held_once_and_only_while_somebody_holds_them() {
        let pool = WeightPool::new();
        let first = pool.adopt(weight(&[1, 2, 3, 4], &[2]), |_| ());
        assert!(pool.adopt(weight(&[1, 2, 3, 4], &[2]), |_| ()).is(&first));
        let others = [weight(&[1, 2, 3, 5], &[2]), weight(&[1, 2, 3, 4], &[2, 1])];
        let others = others.map(|w| pool.adopt(w, |_| ()));
        assert!(others.iter().all(|w| !w.is(&first)), "other bytes or another shape");
        assert_eq!(pool.len(), 3);
        drop((first, others));
        pool.sweep();
        assert!(pool.is_empty() && pool.entries.lock().unwrap().is_empty());
    }
}
