//! Plain heap memory under a table, for tests and the timing example.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use table::{Commit, CommitError, Geometry, JoinError, Recovery, Table};

const ALIGNMENT: usize = 4096;

/// Zeroed memory that outlives the tables made in it.
pub(crate) struct Memory {
    bytes: Vec<u8>,
    pub(crate) geometry: Geometry,
    /// Set to make every further commit fail.
    pub(crate) refuse: Arc<AtomicBool>,
}

struct Heap(Arc<AtomicBool>);

impl Commit for Heap {
    fn commit(&self, offset: u64, len: u64) -> Result<(), CommitError> {
        if self.0.load(SeqCst) { Err(CommitError { offset, len, reason: "no memory".into() }) } else { Ok(()) }
    }
}

#[allow(dead_code, reason = "each test uses its part")]
impl Memory {
    pub(crate) fn new(limit: u64, buckets: u64, max_value: u32) -> Memory {
        Memory::of(Geometry::plan_reserved(limit, buckets, max_value, limit).expect("a plan"))
    }

    pub(crate) fn of(geometry: Geometry) -> Memory {
        let bytes = vec![0; geometry.file_len() as usize + ALIGNMENT];
        Memory { bytes, geometry, refuse: Arc::default() }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        let skip = self.bytes.as_ptr().align_offset(ALIGNMENT);
        NonNull::new(self.bytes.as_ptr().cast_mut().wrapping_add(skip)).expect("a vector's address")
    }

    pub(crate) fn len(&self) -> u64 {
        self.geometry.file_len()
    }

    /// Formats a table; one at a time.
    pub(crate) fn format(&self) -> Table {
        // SAFETY: the vector is zeroed, long enough and lives as long as `self`; it is only touched through the table.
        unsafe { Table::format(self.base(), &self.geometry, 7, *b"0123456789abcdef", Box::new(Heap(self.refuse.clone()))) }
            .expect("format")
    }

    /// Joins what stands there, as a successor does.
    pub(crate) fn join(&self) -> Result<(Table, Recovery), JoinError> {
        // SAFETY: as in `format`; the test has dropped the table before.
        unsafe { Table::join(self.base(), self.len(), Box::new(Heap(self.refuse.clone()))) }
    }

    /// The word at an offset, to write torn states with.
    pub(crate) fn word(&self, at: u64) -> &std::sync::atomic::AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len());
        // SAFETY: aligned and inside the vector.
        unsafe { std::sync::atomic::AtomicU64::from_ptr(self.base().as_ptr().add(at as usize).cast()) }
    }
}

#[allow(dead_code, reason = "each test uses its part")]
impl Memory {
    /// A copy of the memory as it is now: what a successor would find if the process died here.
    pub(crate) fn image(&self) -> Memory {
        let copy = Memory::of(self.geometry.clone());
        // SAFETY: both are len() bytes long and apart; nobody writes the source while the test makes the copy.
        unsafe { std::ptr::copy_nonoverlapping(self.base().as_ptr(), copy.base().as_ptr(), self.len() as usize) };
        copy
    }
}
