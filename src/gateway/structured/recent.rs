//! What was of use lately.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// At most so many values by their keys; the least recently used makes room.
#[derive(Debug)]
pub(super) struct Recent<V> {
    most: usize,
    // Guards the map for the time of one look-up; nothing is computed meanwhile.
    uses: Mutex<Uses<V>>,
}

#[derive(Debug)]
struct Uses<V> {
    values: HashMap<String, (V, u64)>,
    count: u64,
}

impl<V: Clone> Recent<V> {
    /// With room for `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, uses: Mutex::new(Uses { values: HashMap::new(), count: 0 }) }
    }

    /// The value of a key, which is used by this.
    pub(super) fn get(&self, key: &str) -> Option<V> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.count += 1;
        let now = uses.count;
        let (value, used) = uses.values.get_mut(key)?;
        *used = now;
        Some(value.clone())
    }

    /// Keeps a value.
    pub(super) fn put(&self, key: String, value: V) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.count += 1;
        let now = uses.count;
        uses.values.insert(key, (value, now));
        if uses.values.len() > self.most {
            let oldest = uses.values.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                uses.values.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_makes_room() {
        let recent = Recent::new(2);
        recent.put("a".into(), 1);
        recent.put("b".into(), 2);
        assert_eq!(recent.get("a"), Some(1));
        recent.put("c".into(), 3);
        assert_eq!((recent.get("a"), recent.get("b"), recent.get("c")), (Some(1), None, Some(3)));
        recent.put("c".into(), 4);
        assert_eq!((recent.get("a"), recent.get("c")), (Some(1), Some(4)));
    }
}
