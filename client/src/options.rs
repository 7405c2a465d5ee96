//! How to attach.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shmqueue::wait::WaitMode;

/// What a call under way does when the server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerGone {
    /// Wait so long for its successor, which completes the request; never beyond the call's timeout.
    Wait(Duration),
    /// Fail at once with [`crate::Error::ServerGone`].
    FailFast,
}

impl Default for ServerGone {
    fn default() -> Self {
        Self::Wait(Duration::MAX)
    }
}

/// Where and how to attach.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) timeout: Duration,
    pub(crate) wait: WaitMode,
    pub(crate) wait_for_server: Duration,
    pub(crate) server_gone: ServerGone,
    pub(crate) client_name: String,
    pub(crate) interrupt: Option<Arc<AtomicBool>>,
    pub(crate) map_table: bool,
    pub(crate) window: usize,
}

impl Options {
    /// Attach to the region `name` in `/dev/shm`: calls time out after 5 s, waits adapt, a missing server is an error at once,
    /// and a call under way when the server dies waits for its successor until it times out.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: PathBuf::from("/dev/shm"),
            timeout: Duration::from_secs(5),
            wait: WaitMode::Adaptive,
            wait_for_server: Duration::ZERO,
            server_gone: ServerGone::default(),
            client_name: String::new(),
            interrupt: None,
            map_table: true,
            window: 0,
        }
    }

    /// The folder of the region's files.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// How long a call waits for its reply.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How calls wait.
    pub fn wait(mut self, wait: WaitMode) -> Self {
        self.wait = wait;
        self
    }

    /// How long [`crate::Client::attach`] waits for a server to appear.
    pub fn wait_for_server(mut self, wait: Duration) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// What a call does when the server dies under it.
    pub fn server_gone(mut self, server_gone: ServerGone) -> Self {
        self.server_gone = server_gone;
        self
    }

    /// A name for `client clients`, cut to 32 bytes.
    pub fn client_name(mut self, name: &str) -> Self {
        self.client_name = name.to_owned();
        self
    }

    /// How many requests the poll level ([`crate::Client::try_submit`]) will have in flight, so that the lane has room for them from the
    /// start. Without it a lane begins small, and grows when it was full and nothing is unanswered.
    pub fn window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// A flag that ends waits with [`crate::Error::Interrupted`] when it is raised; a signal that arrives makes a sleeping wait look at it.
    pub fn interrupt(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = Some(flag);
        self
    }

    /// Whether to map the table for reading where this process has the right to, which is the default. Without it values that do not
    /// fit a reply travel through the lane, as for a process without that right.
    pub fn map_table(mut self, map: bool) -> Self {
        self.map_table = map;
        self
    }
}
