//! What actors say of themselves, in a file that outlives them: a line of counters for each.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;
use tempfile::NamedTempFile;

/// Lines of a board; the first is the test's own.
const LINES: usize = 64;
const WORDS: usize = 8;

/// A counter of an actor's line.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    /// Raised once the actor has attached: its slot plus one.
    Slot,
    /// Requests that may have been sent.
    Sent,
    /// Replies taken and found right.
    Acked,
    /// Errors that the actor's role allows.
    Errors,
    /// Raised when the role was played to its end.
    Done,
    /// The process's id.
    Pid,
    /// In the test's line: everybody is to end.
    Stop,
    /// What the role makes of it.
    Phase,
}

/// The counters of all actors of a test.
pub(crate) struct Board {
    map: MmapRaw,
    /// The test's handle; actors have none.
    file: Option<NamedTempFile>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let file = NamedTempFile::new().expect("a file for the board");
        file.as_file().set_len((LINES * WORDS * size_of::<u64>()) as u64).expect("room");
        Self { map: MmapRaw::map_raw(file.as_file()).expect("mapped"), file: Some(file) }
    }

    /// The board that a test made.
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the test's board");
        Self { map: MmapRaw::map_raw(&file).expect("mapped"), file: None }
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.as_ref().expect("the test's own board").path()
    }

    pub(crate) fn word(&self, line: usize, word: Word) -> &AtomicU64 {
        assert!(line < LINES);
        // SAFETY: the file has so many lines of words, the mapping is page-aligned, lives as long as the borrow of `self`, and all
        // processes use it through atomics only.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(line * WORDS + word as usize) }
    }

    pub(crate) fn get(&self, line: usize, word: Word) -> u64 {
        // ORDER(board): Acquire, pairs with `set`.
        self.word(line, word).load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, line: usize, word: Word, value: u64) {
        // ORDER(board): Release: what the actor did before it says so is done.
        self.word(line, word).store(value, Ordering::Release);
    }

    /// Tells all actors to end.
    pub(crate) fn stop(&self) {
        self.set(0, Word::Stop, 1);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.get(0, Word::Stop) != 0
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Orphans of a failed test end, too.
            self.stop();
        }
    }
}
