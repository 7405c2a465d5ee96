//! A server of our own for each measurement: started by its readiness line, stopped by its process id, nothing left behind.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::cleanup::{self, Leftover, Watched};
use crate::{Error, Wait};

/// Where regions rest.
const DIR: &str = "/dev/shm";
/// How long a server may take to be ready, and to drain and end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct ServerShape {
    /// Worker threads; the server's default where none.
    pub threads: Option<u32>,
    /// Initial buckets; the server's default where none.
    pub buckets: Option<u64>,
    /// How it waits; the server's default where none.
    pub wait: Option<Wait>,
    /// Clients that will attach, where more than the default.
    pub clients: Option<u32>,
    /// CPUs that it may use; all where none.
    pub cpus: Option<String>,
    /// Further flags, as the server takes them.
    pub flags: Vec<String>,
}

/// A running server.
pub struct ServerProcess {
    child: Child,
    name: String,
    shards: u32,
    ended: bool,
    watched: Vec<Watched>,
}

impl ServerProcess {
    /// Starts a server on a region of a name that nobody else uses, and waits until it is ready.
    pub fn start(shape: &ServerShape) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(beside_us("server", "server")?);
        forget_environment(&mut command);
        command.args(arguments(shape, &name)).stdin(Stdio::null()).stdout(Stdio::piped());
        cleanup::die_with_parent(&mut command, Signal::SIGTERM);
        let child = command.spawn().map_err(Error::io("starting the server"))?;
        let mut watched = vec![cleanup::watch(Leftover::Process(Pid::from_raw(child.id() as i32)))];
        watched.extend(region_files(&name).map(|path| cleanup::watch(Leftover::Path(path))));
        let mut server = Self { child, name, shards: 0, ended: false, watched };
        let Some(stdout) = server.child.stdout.take() else {
            return Error::failed("starting the server: its output is not connected");
        };
        let line = first_line(stdout, PATIENCE)?;
        server.shards = shards_of(&line, &server.name)?;
        Ok(server)
    }

    /// Name of its region.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shards of its region.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Its table's file.
    pub fn table_path(&self) -> PathBuf {
        Path::new(DIR).join(&self.name).with_extension("table")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Stops it in its tracks and returns when it stands, so that it takes nothing from what is measured meanwhile.
    pub fn freeze(&self) -> Result<(), Error> {
        kill(self.nix_pid(), Signal::SIGSTOP).map_err(Error::io("stopping the server for a moment"))?;
        match waitid(Id::Pid(self.nix_pid()), WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Stopped(..)) => Ok(()),
            Ok(other) => Error::failed(format!("stopping the server for a moment: found {other:?}; see its messages above")),
            Err(error) => Err(Error::io("waiting for the server to stand")(error)),
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), Error> {
        kill(self.nix_pid(), Signal::SIGCONT).map_err(Error::io("letting the server go on"))
    }

    /// Ends it by SIGTERM, and checks that it ended well and left nothing.
    pub fn stop(mut self) -> Result<(), Error> {
        self.end();
        let status = self.child.wait().map_err(Error::io("waiting for the server"))?;
        let left: Vec<PathBuf> = region_files(&self.name).filter(|path| path.exists()).collect();
        if !status.success() {
            return Error::failed(format!("stopping the server: found {status} against exit 0; see its messages above"));
        }
        if !left.is_empty() {
            return Error::failed(format!("stopping the server: it left {left:?} behind, which was removed now"));
        }
        Ok(())
    }

    fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        cleanup::ask_to_end(self.nix_pid());
        if !cleanup::ended_within(self.nix_pid(), PATIENCE) {
            eprintln!("warning: the server (pid {}) did not end within {PATIENCE:?}; killing it", self.pid());
            let _ = self.child.kill();
            cleanup::ended_within(self.nix_pid(), PATIENCE);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.end();
        self.watched.clear();
        let _ = self.child.wait();
        for path in region_files(&self.name) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes settings of the surrounding shell from a command, so that they cannot change what is measured.
pub fn forget_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHMTABLE_")) {
        command.env_remove(name);
    }
}

/// A binary built together with this one: it rests in the same folder (or, for tests, in the folder above).
pub fn beside_us(name: &str, package: &str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::io("finding this binary"))?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::Failed(format!(
            "finding `{name}`: not beside {}; build it with `cargo build --profile benchmark -p {package}`",
            own.display()
        ))
    })
}

fn arguments(shape: &ServerShape, name: &str) -> Vec<String> {
    let mut arguments = vec!["--name".to_owned(), name.to_owned(), "--log-level".to_owned(), "warn".to_owned()];
    let mut push =
        |flag: &str, value: Option<String>| arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    push("-n", shape.threads.map(|threads| threads.to_string()));
    push("-s", shape.buckets.map(|buckets| buckets.to_string()));
    push("--wait", shape.wait.map(|wait| wait.to_string()));
    push("--clients", shape.clients.map(|clients| clients.to_string()));
    push("--cpus", shape.cpus.clone());
    arguments.extend(shape.flags.iter().cloned());
    arguments
}

fn region_files(name: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let stem = Path::new(DIR).join(name);
    ["rings", "table"].into_iter().map(move |kind| stem.with_extension(kind))
}

fn first_line(mut from: ChildStdout, patience: Duration) -> Result<String, Error> {
    let deadline = Instant::now() + patience;
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                return Error::failed(format!(
                    "starting the server: no readiness line within {patience:?}; see its messages above"
                ));
            }
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(Error::io("waiting for the server")(error)),
        }
        let mut part = [0; 256];
        match from.read(&mut part).map_err(Error::io("reading the server's readiness line"))? {
            0 => return Error::failed("starting the server: it ended before it was ready; see its messages above"),
            len => line.extend_from_slice(&part[..len]),
        }
    }
    Ok(String::from_utf8_lossy(&line).lines().next().unwrap_or_default().to_owned())
}

fn shards_of(line: &str, name: &str) -> Result<u32, Error> {
    let field = |wanted: &str| {
        line.split(' ').filter_map(|word| word.split_once('=')).find(|(field, _)| *field == wanted).map(|(_, value)| value)
    };
    match (line.starts_with("ready "), field("name"), field("shards").and_then(|shards| shards.parse().ok())) {
        (true, Some(found), Some(shards)) if found == name => Ok(shards),
        _ => Error::failed(format!(
            "starting the server: found {line:?} against `ready name={name} shards=N …`; rebuild the server"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readiness_line_is_understood_or_refused() {
        assert_eq!(shards_of("ready name=a shards=4 buckets=8 items=0 pid=1", "a").unwrap(), 4);
        for wrong in ["", "ready", "ready name=b shards=4", "name=a shards=4", "ready name=a shards=x"] {
            assert!(shards_of(wrong, "a").is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_passed_on() {
        assert_eq!(arguments(&ServerShape::default(), "a"), ["--name", "a", "--log-level", "warn"]);
        let shape = ServerShape {
            threads: Some(2),
            buckets: Some(10),
            wait: Some(Wait::Spin),
            clients: Some(300),
            cpus: Some("0".into()),
            flags: vec!["--evict".into()],
        };
        let expected = ["-n", "2", "-s", "10", "--wait", "spin", "--clients", "300", "--cpus", "0", "--evict"];
        assert_eq!(arguments(&shape, "a")[4..], expected);
    }

    #[test]
    fn a_region_is_two_files() {
        let files: Vec<_> = region_files("a-1").collect();
        assert_eq!(files, [Path::new("/dev/shm/a-1.rings"), Path::new("/dev/shm/a-1.table")]);
    }
}
