//! What happens when somebody truncates the region's files under a process that has them mapped.
//!
//! The kernel sends SIGBUS to whoever touches a page whose file no longer reaches it, and SIGBUS ends a process without a word.
//! No server truncates a live region, so this is somebody's mistake (`> /dev/shm/NAME.rings`, a restored backup); nothing can be
//! rescued, but a program can say what happened. The library installs no signal handler, prints nothing and exits never, unless
//! the program asks for it here.

use std::io;

use shmqueue::sigbus::{self, Ending};

use crate::exit::ExitCode;

const RINGS: &str = "error: rings file was truncated under the client: found a page without memory, expected the whole file; a write under way has an unknown outcome; start the server again\n";
const TABLE: &str = "error: table file was truncated under the client: found a page without memory, expected the whole file; a write under way has an unknown outcome; start the server again with --fresh\n";

/// From here on a touch of a truncated region ends this process with one line on stderr and exit code 70
/// ([`ExitCode::Internal`]) instead of SIGBUS. Call it once, early in `main`; later calls change nothing.
///
/// It covers the mappings of all handles of this process, those of before and those to come. It replaces the process's
/// SIGBUS handler: a fault at any other address, and a SIGBUS that somebody sent, still go to the handler of before. The process
/// leaves by `_exit`: buffers of its own are not flushed and no destructor runs.
///
/// # Errors
/// When the system refuses the handler.
///
/// ```no_run
/// shmtable::guard::exit_on_truncation()?;
/// let client = shmtable::Client::attach(&shmtable::Options::new("shmtable"));
/// # std::io::Result::Ok(())
/// ```
pub fn exit_on_truncation() -> io::Result<()> {
    sigbus::exit_on_truncation(Ending { rings: RINGS, table: TABLE, code: ExitCode::Internal as u8, closes: None })
}
