//! A mapping of a file whose addresses lie as the file's offsets do, modulo the size of a huge page.
//!
//! Only then can the kernel map a huge page of the file by one entry. `memmap2` leaves the choice of the address to the
//! kernel, which does not look for that where huge pages of shared memory are off by default, so that it is done here:
//! a range with a huge page to spare is reserved, the file is mapped into it, and what is left over is given back.
#![allow(unsafe_code, reason = "mapping a file at a chosen address")]

use std::fs::File;
use std::io;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Size of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// The right that a mapping gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To read.
    Read,
    /// To read and to write.
    Write,
}

/// A shared mapping of a file from its first byte on, unmapped on drop.
#[derive(Debug)]
pub struct AlignedMap {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is only an address range; whoever uses its bytes answers for how.
unsafe impl Send for AlignedMap {}
// SAFETY: as above.
unsafe impl Sync for AlignedMap {}

impl AlignedMap {
    /// Maps the first `len` bytes of a file at a multiple of [`HUGE_PAGE`].
    pub fn new(file: &File, len: usize, right: Right) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let whole = len.checked_next_multiple_of(page).and_then(|len| Some((len, len.checked_add(HUGE_PAGE)?)));
        let Some((whole, reserved)) = whole.filter(|_| len > 0) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let prot = match right {
            Right::Read => ProtFlags::READ,
            Right::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a fresh range that nobody may touch yet.
        let start = unsafe { mmap_anonymous(null_mut(), reserved, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)? };
        let skip = start.cast::<u8>().align_offset(HUGE_PAGE);
        let base = start.cast::<u8>().wrapping_add(skip);
        // SAFETY: the target lies inside of the range just reserved, which nothing else uses; so do the rests around it.
        unsafe {
            if let Err(error) = mmap(base.cast(), whole, prot, MapFlags::SHARED | MapFlags::FIXED, file, 0) {
                let _ = munmap(start, reserved);
                return Err(error.into());
            }
            if skip > 0 {
                let _ = munmap(start, skip);
            }
            if reserved > skip + whole {
                let _ = munmap(base.wrapping_add(whole).cast(), reserved - skip - whole);
            }
        }
        Ok(Self { base: NonNull::new(base).expect("a mapping is never at address zero"), len })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length that was asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for AlignedMap {
    fn drop(&mut self) {
        let whole = self.len.next_multiple_of(rustix::param::page_size());
        // SAFETY: the range is this mapping's own, and whoever used its bytes borrowed it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), whole) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_file_stands_at_a_huge_page_and_the_rest_is_given_back() {
        let mut file = tempfile::tempfile_in("/dev/shm").expect("shared memory");
        file.write_all(b"first").expect("written");
        for len in [5, 4096, HUGE_PAGE, 3 * HUGE_PAGE + 4097] {
            file.set_len(len as u64).expect("lengthened");
            let map = AlignedMap::new(&file, len, Right::Write).expect("mapped");
            assert_eq!((map.base().as_ptr().addr() % HUGE_PAGE, map.len()), (0, len));
            // SAFETY: both bytes are inside of the mapping, and nobody else has it.
            unsafe {
                assert_eq!(map.base().as_ptr().read(), b'f');
                map.base().as_ptr().add(len - 1).write(7);
            }
            let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
            let start =
                format!("{:x}-{:x} ", map.base().as_ptr().addr(), map.base().as_ptr().addr() + len.next_multiple_of(4096));
            assert!(maps.lines().any(|line| line.starts_with(&start) && line.contains("rw-s")), "{start} in {maps}");
        }
    }

    #[test]
    fn a_read_only_mapping_is_one_and_nothing_is_refused_as_nothing() {
        let mut file = tempfile::tempfile_in("/dev/shm").expect("shared memory");
        file.write_all(&[1; 100]).expect("written");
        let map = AlignedMap::new(&file, 100, Right::Read).expect("mapped");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let start = format!("{:x}-", map.base().as_ptr().addr());
        assert!(maps.lines().any(|line| line.starts_with(&start) && line.contains("r--s")), "{maps}");
        assert!(AlignedMap::new(&file, 0, Right::Read).is_err());
        assert!(AlignedMap::new(&file, usize::MAX, Right::Read).is_err());
    }
}
