//! Telling the outside that the server is ready: one line on stdout, and a datagram to systemd where it asked for one.

use std::ffi::OsStr;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the ready line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready<'a> {
    pub(crate) name: &'a str,
    pub(crate) shards: u32,
    pub(crate) buckets: u64,
    pub(crate) items: u64,
}

/// Prints the ready line and flushes it. A stdout that nobody reads does not stop the server.
pub(crate) fn ready(ready: Ready<'_>) {
    let Ready { name, shards, buckets, items } = ready;
    let mut out = std::io::stdout().lock();
    let pid = std::process::id();
    let written =
        writeln!(out, "ready name={name} shards={shards} buckets={buckets} items={items} pid={pid}").and_then(|()| out.flush());
    if let Err(error) = written {
        tracing::warn!(%error, "cannot print the ready line; serving all the same");
    }
    systemd("READY=1");
}

/// Sends a state to the service manager, if `NOTIFY_SOCKET` names one.
pub(crate) fn systemd(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "cannot tell the service manager `{state}`");
    }
}

/// The address is a path, or after an `@` a name of the abstract namespace.
fn send(socket: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_through_path_and_abstract_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let name = format!("shmtable-notify-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).expect("bound");
        let at_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("address")).expect("bound");
        for (receiver, socket) in [(at_path, path.into_os_string()), (at_name, format!("@{name}").into())] {
            send(&socket, "READY=1").expect("sent");
            let mut room = [0; 32];
            let len = receiver.recv(&mut room).expect("received");
            assert_eq!(&room[..len], b"READY=1");
        }
    }
}
