//! A mapped file that is truncated under us ends the server with a word, not with SIGBUS: what [`shmqueue::sigbus`] does, with the
//! server's words. It closes the region first, so that clients learn that nobody serves it.

use std::ptr;
use std::sync::{Arc, OnceLock};

use shmqueue::layout::Section;
use shmqueue::region::ServerRegion;
use shmqueue::sigbus::{self, Ending, Guarded, Part};

use crate::exit::{Exit, ServerError};

const RINGS: &str = "error: rings file was truncated under the server: found a page without memory, expected the whole file; start the server again\n";
const TABLE: &str = "error: table file was truncated under the server: found a page without memory, expected the whole file; start the server again with --fresh\n";

/// The table of the one region of this process, which stays mapped until the process ends.
static GUARDED: OnceLock<Guarded> = OnceLock::new();

/// Addresses of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Address of its first byte.
    pub(crate) start: usize,
    /// Its length in bytes.
    pub(crate) len: u64,
}

/// Where the server's mapping of the rings lies.
pub(crate) fn range_of(region: &ServerRegion) -> Range {
    let status = region.layout().section(Section::Status).offset as usize;
    Range { start: ptr::from_ref(region.status()).addr() - status, len: region.layout().file_len }
}

/// Guards the rings, which the region's mapping entered by itself, and the table of the one region of this process.
pub(crate) fn install(region: &Arc<ServerRegion>, table: Range) -> Result<(), ServerError> {
    GUARDED.get_or_init(|| Guarded::enter(ptr::without_provenance(table.start), table.len, Part::Table));
    let closes = Some(Arc::clone(region));
    sigbus::exit_on_truncation(Ending { rings: RINGS, table: TABLE, code: Exit::Internal as u8, closes })
        .map_err(|source| ServerError::io("cannot install the SIGBUS handler", source))
}
