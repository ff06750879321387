//! A map that forgets.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Keeps at most `most` entries, and always the `most / 2` that were asked for
/// last. What is asked for stays in, or moves to, the young half; when that is
/// full, it becomes the old one, and what was old is gone.
pub(super) struct AgingMap<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Copy, V: Default> AgingMap<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            half: most / 2,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The value of `key`; an empty one when none is known.
    pub(super) fn entry(&mut self, key: K) -> &mut V {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_default();
            if self.young.len() >= self.half {
                self.old = mem::take(&mut self.young);
            }
            self.young.insert(key, value);
        }
        self.young.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut map: AgingMap<u32, u32> = AgingMap::new(8);
        *map.entry(0) = 7;
        for key in 1..1000 {
            *map.entry(key) = key;
            assert!(map.len() <= 8);
            if key % 3 == 0 {
                assert_eq!(*map.entry(0), 7, "asked for again before four others");
            }
        }
        assert_eq!(*map.entry(997), 997);
        assert_eq!(*map.entry(5), 0, "forgotten");
    }
}
