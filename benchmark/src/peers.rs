//! Hash maps that other crates offer to the threads of one process: the peers that the table is compared with.
//!
//! Each is used as its documentation recommends, and where there is a choice in the way that is fastest for it; all hash with
//! [`rapidhash`] over the bytes of the key alone, as the table does. Every thread works through a [`Handle`] of its own and calls
//! [`Handle::rest`] between batches of operations, where a peer may do what it must not do for each.
//!
//! | peer | get | insert, update | delete | between batches |
//! |---|---|---|---|---|
//! | dashmap | `get` | `insert`, `get_mut` | `remove` | |
//! | papaya | `get` under a pin that is kept | `insert` | `remove` | pins anew, so that memory is freed |
//! | scc `HashMap` | `read_sync` | `insert_sync`, `update_sync` | `remove_sync` | |
//! | `RwLock<HashMap>` | read lock, `get` | write lock, `insert`, `get_mut` | write lock, `remove` | |

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use papaya::{HashMapRef, LocalGuard};
use rapidhash::fast::RandomState;

use crate::keys::{KEY_LEN, Key};

/// Names of all peers, as their figures begin.
pub const NAMES: [&str; 4] = [DashMap::NAME, Papaya::NAME, Scc::NAME, RwLocked::NAME];

/// Operations of a thread between two calls of [`Handle::rest`].
pub const BATCH: usize = 64;

/// A map that threads share.
pub trait Map: Sync {
    /// What a thread works through.
    type Handle<'a>: Handle
    where
        Self: 'a;

    /// A handle for the calling thread.
    fn handle(&self) -> Self::Handle<'_>;
}

/// A map of another crate.
pub trait Peer: Map + Sized {
    /// Name, as its figures begin.
    const NAME: &'static str;

    /// An empty map with room for so many items; 0: as small as it may be.
    fn with_capacity(items: usize) -> Self;
}

/// One thread's access to a map.
pub trait Handle {
    /// The value of a key.
    fn get(&mut self, key: &Key) -> Option<u64>;

    /// Adds a key; whether it was absent. A key that is present keeps its value or gets the new one, as the map likes.
    fn insert(&mut self, key: &Key, value: u64) -> bool;

    /// Changes the value of a key; whether it was present, as it must be: a map may add one that was not.
    fn update(&mut self, key: &Key, value: u64) -> bool;

    /// Removes a key; whether it was present.
    fn delete(&mut self, key: &Key) -> bool;

    /// Called between batches of [`BATCH`] operations.
    fn rest(&mut self) {}
}

/// A key that hashes as its bytes: an array would also hash its length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bytes([u8; KEY_LEN]);

impl Hash for Bytes {
    #[inline]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(&self.0);
    }
}

/// `dashmap::DashMap`.
pub struct DashMap(dashmap::DashMap<Bytes, u64, RandomState>);

impl Peer for DashMap {
    const NAME: &'static str = "dashmap";

    fn with_capacity(items: usize) -> Self {
        Self(dashmap::DashMap::with_capacity_and_hasher(items, RandomState::new()))
    }
}

impl Map for DashMap {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }
}

impl Handle for &DashMap {
    #[inline]
    fn get(&mut self, key: &Key) -> Option<u64> {
        self.0.get(&Bytes(*key)).map(|found| *found)
    }

    #[inline]
    fn insert(&mut self, key: &Key, value: u64) -> bool {
        self.0.insert(Bytes(*key), value).is_none()
    }

    #[inline]
    fn update(&mut self, key: &Key, value: u64) -> bool {
        self.0.get_mut(&Bytes(*key)).map(|mut found| *found = value).is_some()
    }

    #[inline]
    fn delete(&mut self, key: &Key) -> bool {
        self.0.remove(&Bytes(*key)).is_some()
    }
}

/// `papaya::HashMap`.
pub struct Papaya(papaya::HashMap<Bytes, u64, RandomState>);

/// A pinned `papaya::HashMap`.
pub struct Pinned<'a> {
    map: &'a Papaya,
    /// Always there but for the moment between two pins: holding both at once would free nothing.
    pinned: Option<HashMapRef<'a, Bytes, u64, RandomState, LocalGuard<'a>>>,
}

impl<'a> Pinned<'a> {
    #[inline]
    fn pinned(&self) -> &HashMapRef<'a, Bytes, u64, RandomState, LocalGuard<'a>> {
        self.pinned.as_ref().expect("a handle is pinned outside of `rest`")
    }
}

impl Peer for Papaya {
    const NAME: &'static str = "papaya";

    fn with_capacity(items: usize) -> Self {
        Self(papaya::HashMap::with_capacity_and_hasher(items, RandomState::new()))
    }
}

impl Map for Papaya {
    type Handle<'a> = Pinned<'a>;

    fn handle(&self) -> Pinned<'_> {
        Pinned { map: self, pinned: Some(self.0.pin()) }
    }
}

impl Handle for Pinned<'_> {
    #[inline]
    fn get(&mut self, key: &Key) -> Option<u64> {
        self.pinned().get(&Bytes(*key)).copied()
    }

    #[inline]
    fn insert(&mut self, key: &Key, value: u64) -> bool {
        self.pinned().insert(Bytes(*key), value).is_none()
    }

    #[inline]
    fn update(&mut self, key: &Key, value: u64) -> bool {
        self.pinned().insert(Bytes(*key), value).is_some()
    }

    #[inline]
    fn delete(&mut self, key: &Key) -> bool {
        self.pinned().remove(&Bytes(*key)).is_some()
    }

    fn rest(&mut self) {
        self.pinned = None;
        self.pinned = Some(self.map.0.pin());
    }
}

/// `scc::HashMap`.
pub struct Scc(scc::HashMap<Bytes, u64, RandomState>);

impl Peer for Scc {
    const NAME: &'static str = "scc";

    fn with_capacity(items: usize) -> Self {
        Self(scc::HashMap::with_capacity_and_hasher(items, RandomState::new()))
    }
}

impl Map for Scc {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }
}

impl Handle for &Scc {
    #[inline]
    fn get(&mut self, key: &Key) -> Option<u64> {
        self.0.read_sync(&Bytes(*key), |_, value| *value)
    }

    #[inline]
    fn insert(&mut self, key: &Key, value: u64) -> bool {
        self.0.insert_sync(Bytes(*key), value).is_ok()
    }

    #[inline]
    fn update(&mut self, key: &Key, value: u64) -> bool {
        self.0.update_sync(&Bytes(*key), |_, found| *found = value).is_some()
    }

    #[inline]
    fn delete(&mut self, key: &Key) -> bool {
        self.0.remove_sync(&Bytes(*key)).is_some()
    }
}

/// `std::sync::RwLock` around `std::collections::HashMap`.
pub struct RwLocked(RwLock<HashMap<Bytes, u64, RandomState>>);

impl RwLocked {
    #[inline]
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Bytes, u64, RandomState>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Bytes, u64, RandomState>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer for RwLocked {
    const NAME: &'static str = "rwlock";

    fn with_capacity(items: usize) -> Self {
        Self(RwLock::new(HashMap::with_capacity_and_hasher(items, RandomState::new())))
    }
}

impl Map for RwLocked {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }
}

impl Handle for &RwLocked {
    #[inline]
    fn get(&mut self, key: &Key) -> Option<u64> {
        self.read().get(&Bytes(*key)).copied()
    }

    #[inline]
    fn insert(&mut self, key: &Key, value: u64) -> bool {
        self.write().insert(Bytes(*key), value).is_none()
    }

    #[inline]
    fn update(&mut self, key: &Key, value: u64) -> bool {
        self.write().get_mut(&Bytes(*key)).map(|found| *found = value).is_some()
    }

    #[inline]
    fn delete(&mut self, key: &Key) -> bool {
        self.write().remove(&Bytes(*key)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRange;

    /// Two threads, each with keys of its own, through every operation and its refusal.
    fn keeps_what_it_is_given<P: Peer>() {
        const KEYS: u32 = 1000;
        let map = P::with_capacity(0);
        std::thread::scope(|scope| {
            for owner in 0..2 {
                let map = &map;
                scope.spawn(move || {
                    let (range, mut handle) = (KeyRange::new(owner), map.handle());
                    for index in 0..KEYS {
                        let key = range.key(index);
                        assert!(!handle.delete(&key) && handle.get(&key).is_none(), "{}", P::NAME);
                        assert!(handle.insert(&key, range.word(index, 0)), "{}", P::NAME);
                        assert_eq!(handle.get(&key), Some(range.word(index, 0)), "{}", P::NAME);
                    }
                    handle.rest();
                    for index in 0..KEYS {
                        let key = range.key(index);
                        assert!(handle.update(&key, range.word(index, 1)), "{}", P::NAME);
                        assert!(!handle.insert(&key, range.word(index, 1)), "{}", P::NAME);
                    }
                    handle.rest();
                    for index in 0..KEYS {
                        let key = range.key(index);
                        assert_eq!(handle.get(&key), Some(range.word(index, 1)), "{}", P::NAME);
                        assert!(handle.delete(&key) && !handle.delete(&key), "{}", P::NAME);
                    }
                });
            }
        });
    }

    #[test]
    fn every_peer_answers_as_a_map_does() {
        keeps_what_it_is_given::<DashMap>();
        keeps_what_it_is_given::<Papaya>();
        keeps_what_it_is_given::<Scc>();
        keeps_what_it_is_given::<RwLocked>();
    }
}
