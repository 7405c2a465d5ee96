//! Redis beside: the same clients, windows, keys and checks over a Unix socket, so that rates are judged in the same minute.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::board::{Board, Phase};
use crate::cleanup::{self, Leftover, Watched};
use crate::client_process::Task;
use crate::ledger::{Ledger, Seen, Step};
use crate::mix::Kind;
use crate::resp::{self, Reply};
use crate::{Error, cli, keys};

const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis server of our own: private socket, nothing written to disk.
pub struct RedisProcess {
    child: Child,
    socket: PathBuf,
    watched: Vec<Watched>,
    _dir: TempDir,
}

impl RedisProcess {
    /// Starts one; none where it is not installed.
    pub fn start() -> Result<Option<Self>, Error> {
        let dir = tempfile::Builder::new().prefix("shmtable-bench-").tempdir().map_err(Error::io("making a folder for Redis"))?;
        let mut watched = vec![cleanup::watch(Leftover::Path(dir.path().to_owned()))];
        let socket = dir.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"]).arg(&socket);
        command.arg("--dir").arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        cleanup::die_with_parent(&mut command, Signal::SIGTERM);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("starting redis-server")(error)),
        };
        watched.push(cleanup::watch(Leftover::Process(Pid::from_raw(child.id() as i32))));
        let redis = Self { child, socket, watched, _dir: dir };
        redis.wait_until_ready()?;
        Ok(Some(redis))
    }

    fn wait_until_ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                let mut connection = Connection::new(stream);
                resp::encode(&[b"PING"], &mut connection.out);
                connection.send()?;
                return connection
                    .replies(1, |reply| if reply == Reply::Simple(b"PONG") { Ok(()) } else { Err(format!("{reply:?}")) });
            }
            if cleanup::ended_within(self.nix_pid(), Duration::ZERO) || Instant::now() > deadline {
                return Error::failed("starting redis-server: its socket does not answer; try `redis-server --port 0` by hand");
            }
            std::thread::yield_now();
        }
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        cleanup::ask_to_end(self.nix_pid());
        if !cleanup::ended_within(self.nix_pid(), PATIENCE) {
            let _ = self.child.kill();
        }
        self.watched.clear();
        let _ = self.child.wait();
    }
}

struct Connection {
    stream: UnixStream,
    out: Vec<u8>,
    room: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, out: Vec::new(), room: vec![0; 256 << 10], filled: 0 }
    }

    fn send(&mut self) -> Result<(), Error> {
        self.stream.write_all(&self.out).map_err(Error::io("sending to Redis"))?;
        self.out.clear();
        Ok(())
    }

    /// Reads `count` replies and hands each over.
    fn replies(&mut self, count: usize, mut each: impl FnMut(Reply<'_>) -> Result<(), String>) -> Result<(), Error> {
        let mut left = count;
        while left > 0 {
            let mut at = 0;
            while left > 0 {
                match resp::parse(&self.room[at..self.filled]) {
                    Ok(None) => break,
                    Ok(Some((reply, len))) => {
                        each(reply).map_err(|error| Error::Failed(format!("reading from Redis: found {error}")))?;
                        at += len;
                        left -= 1;
                    }
                    Err(resp::Malformed) => return Error::failed("reading from Redis: found bytes that are no reply"),
                }
            }
            self.room.copy_within(at..self.filled, 0);
            self.filled -= at;
            if left > 0 {
                self.receive()?;
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Error> {
        if self.filled == self.room.len() {
            self.room.resize(self.room.len() * 2, 0);
        }
        match self.stream.read(&mut self.room[self.filled..]).map_err(Error::io("reading from Redis"))? {
            0 => Error::failed("reading from Redis: it closed the connection"),
            len => {
                self.filled += len;
                Ok(())
            }
        }
    }
}

/// Works until told to quit: batches of the window's size, every reply checked.
pub fn work(task: &Task, socket: &Path, board: &Board) -> Result<(), Error> {
    let stream = UnixStream::connect(socket).map_err(Error::io("connecting to Redis"))?;
    let (mut connection, mut ledger) = (Connection::new(stream), Ledger::new(&task.shape()));
    let mut value = vec![0; task.value_len];
    let slot = &board.slots()[task.index as usize];
    for key in ledger.first_keys() {
        command(&ledger.make(Kind::Insert, key), &mut value, &mut connection.out);
        round(&mut connection, &mut ledger, 1)?;
    }
    while board.rest(task.index) {
        while board.phase() == Phase::Run {
            let window = task.window.max(1);
            for _ in 0..window {
                command(&ledger.step(), &mut value, &mut connection.out);
            }
            round(&mut connection, &mut ledger, window)?;
            slot.count(ledger.checked(), ledger.errors());
        }
    }
    if let Some(error) = ledger.first_error() {
        cli::say(format_args!("client process {} of Redis: {} wrong replies; the first: {error}", task.index, ledger.errors()));
    }
    Ok(())
}

fn round(connection: &mut Connection, ledger: &mut Ledger, count: usize) -> Result<(), Error> {
    connection.send()?;
    connection.replies(count, |reply| {
        ledger.check(seen(reply));
        Ok(())
    })
}

fn command(step: &Step, value: &mut [u8], out: &mut Vec<u8>) {
    match step.kind {
        Kind::Insert => {
            keys::fill(value, step.word);
            resp::encode(&[b"SET", &step.key, value], out);
        }
        Kind::Read => resp::encode(&[b"GET", &step.key], out),
        Kind::Delete => resp::encode(&[b"DEL", &step.key], out),
    }
}

fn seen(reply: Reply<'_>) -> Seen<'_> {
    match reply {
        Reply::Simple(b"OK") => Seen::Stored(None),
        Reply::Bulk(Some(value)) => Seen::Value(value),
        Reply::Integer(1) => Seen::Deleted,
        Reply::Bulk(None) | Reply::Integer(0) => Seen::NotFound,
        _ => Seen::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_arrive_whole_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || {
            for byte in b"+OK\r\n$2\r\nab\r\n:1\r\n$-1\r\n" {
                theirs.write_all(&[*byte]).unwrap();
            }
        });
        let mut found = Vec::new();
        let mut connection = Connection::new(ours);
        connection
            .replies(4, |reply| {
                found.push(format!("{:?}", seen(reply)));
                Ok(())
            })
            .unwrap();
        sender.join().unwrap();
        assert_eq!(found, ["Stored(None)", "Value([97, 98])", "Deleted", "NotFound"]);
        assert!(connection.replies(1, |_| Ok(())).unwrap_err().to_string().contains("closed"));
    }

    #[test]
    fn a_reply_larger_than_the_room_makes_room() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || {
            theirs.write_all(b"$700000\r\n").unwrap();
            theirs.write_all(&vec![b'x'; 700_000]).unwrap();
            theirs.write_all(b"\r\n").unwrap();
        });
        let mut len = 0;
        let counted = Connection::new(ours).replies(1, |reply| {
            len = if let Reply::Bulk(Some(value)) = reply { value.len() } else { 0 };
            Ok(())
        });
        sender.join().unwrap();
        assert_eq!((counted.is_ok(), len), (true, 700_000));
    }
}
