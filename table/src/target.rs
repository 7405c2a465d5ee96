//! Where a lookup puts the value that it copies.
//!
//! P1: a lookup asks for a place once per try, before it knows whether the copy will count, and writes no more than it was told.

/// Where a lookup puts the value.
///
/// # Safety
/// What `place` hands out must be writable for as many bytes as it says, which are at most `len`, and private to the caller.
pub(crate) unsafe trait Target {
    /// A place for a value of so many bytes, and how many of them are wanted.
    fn place(&mut self, len: usize) -> (*mut u8, usize);
}

/// The value's first bytes, as many as fit.
pub(crate) struct Slice<'o>(pub(crate) &'o mut [u8]);

// SAFETY: the slice's own bytes, at most as many as there are.
unsafe impl Target for Slice<'_> {
    #[inline(always)]
    fn place(&mut self, len: usize) -> (*mut u8, usize) {
        (self.0.as_mut_ptr(), len.min(self.0.len()))
    }
}

/// The whole value, over what the vector held.
pub(crate) struct Whole<'o>(pub(crate) &'o mut Vec<u8>);

// SAFETY: the vector's own spare capacity, reserved before.
unsafe impl Target for Whole<'_> {
    #[inline(always)]
    fn place(&mut self, len: usize) -> (*mut u8, usize) {
        self.0.clear();
        self.0.reserve(len);
        (self.0.as_mut_ptr(), len)
    }
}
