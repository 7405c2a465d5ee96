//! The handle: what it holds, attaching, and encoding. `polled` and `calls` are what it does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::{
    Head, INLINE_MAX, MAX_VALUE, Reply, encode_append, encode_bucket, encode_delete, encode_expire, encode_incr, encode_insert,
    encode_persist, encode_read, encode_ttl,
};
use shmqueue::port::Port;
use shmqueue::region::{ClientRegion, RegionName};

use crate::error::{Error, refusal};
use crate::operation::Operation;
use crate::options::Options;
use crate::pipeline::Pipeline;
use crate::table_map::TableMap;

/// Bytes of a value that travel in one request; longer ones stream in parts of this size.
pub(crate) const PART: usize = 16 << 10;
/// Bytes that a bucket listing makes room for at first.
const BUCKET_ROOM: usize = 224;

/// What an insert did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whether a value was there before.
    pub replaced: bool,
    /// The new item's version.
    pub version: u64,
}

/// A request whose reply has not been taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) ticket: u64,
    pub(crate) position: u64,
    pub(crate) span: u16,
    pub(crate) key_len: u16,
    pub(crate) value_len: u32,
    pub(crate) write: bool,
    /// Further parts of the same request follow: this reply is not the last.
    pub(crate) part: bool,
    /// Nobody wants to hear of it.
    pub(crate) abandoned: bool,
}

/// A handle on a region: one client slot, its lanes, and a read-only view of the table.
#[derive(Debug)]
pub struct Client {
    pub(crate) port: Port,
    pub(crate) table: Option<TableMap>,
    pub(crate) options: Options,
    pub(crate) pending: VecDeque<Pending>,
    /// Tickets in flight that are not abandoned.
    pub(crate) in_flight: usize,
    pub(crate) next_ticket: u64,
    /// The first failure among the parts of the request at the head.
    pub(crate) failed_part: Option<Reply>,
    pub(crate) scratch: Vec<u8>,
    /// The value of the inline reply that is being delivered.
    pub(crate) small: [u8; INLINE_MAX],
    /// A wait found the server gone: the next request looks for the region that has the name now.
    pub(crate) gone: bool,
    /// Slots of the lane to bring into use when nothing is unanswered; 0: as many as there are.
    pub(crate) wanted_slots: u32,
    /// Position of the newest write that was not yet seen answered by a direct read.
    pub(crate) newest_write: Option<u64>,
}

impl Client {
    /// Most requests in flight.
    pub const MAX_WINDOW: usize = 1024;
    /// Longest value that [`Client::try_submit`] takes, in bytes: what fits the lane without waiting.
    pub const MAX_POLLED_VALUE: usize = PART;

    /// Attaches to a region's least contended shard.
    ///
    /// # Errors
    /// [`Error::NoServer`] when no server is there within `wait_for_server`, [`Error::NoSlot`], [`Error::Region`] for a region of another
    /// layout, without rights, or damaged.
    pub fn attach(options: &Options) -> Result<Self, Error> {
        let name = RegionName::new(&options.dir, &options.name)?;
        let region = join(&name, options)?;
        let table = if options.map_table { TableMap::open(&name, region.header().uuid())? } else { None };
        let port = Port::attach(&region, &options.client_name, options.wait)?;
        let slots = port.most_slots() as usize;
        let wanted_slots = lane_for(options.window);
        Ok(Self {
            port,
            table,
            options: options.clone(),
            pending: VecDeque::with_capacity(slots),
            in_flight: 0,
            next_ticket: 0,
            failed_part: None,
            scratch: Vec::new(),
            small: [0; INLINE_MAX],
            gone: false,
            wanted_slots,
            newest_write: None,
        })
    }

    /// After a server was found gone: attaches to the region that has the name now, if it is another one. Requests that were under
    /// way in the old one are let go.
    #[cold]
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        let region = self.port.attachment().region();
        if !(region.is_current() && region.server_alive()) {
            if region.is_current() {
                let path = region.path().display().to_string();
                return Err(Error::NoServer(format!(
                    "region {path} is left behind by a dead server; start a server of that name"
                )));
            }
            *self = Self::attach(&self.options)?;
        }
        self.gone = false;
        Ok(())
    }

    /// The shard this handle works with.
    pub fn shard(&self) -> u32 {
        self.port.attachment().shard()
    }

    /// Index of this handle's client slot.
    pub fn id(&self) -> u32 {
        self.port.attachment().index()
    }

    /// Process id of the server, as the server sees it.
    pub fn server_pid(&self) -> u32 {
        self.port.status().server_pid.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Largest value the server takes, in bytes.
    pub fn max_value(&self) -> usize {
        (self.port.status().max_value.load(std::sync::atomic::Ordering::Relaxed) as usize).clamp(1, MAX_VALUE)
    }

    /// Requests in flight whose replies can still be polled.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests in flight over one handle; see [`Pipeline`]. `window`: 1 to [`Client::MAX_WINDOW`]; others are brought within.
    pub fn pipeline(&mut self, window: usize) -> Pipeline<'_> {
        Pipeline::new(self, window)
    }

    /// Lets go of replies that have not been polled; their requests take effect.
    pub(crate) fn abandon(&mut self) {
        if self.in_flight > 0 {
            self.pending.iter_mut().for_each(|pending| pending.abandoned = true);
            self.in_flight = 0;
        }
    }
}

/// Slots of a lane for a window of small requests.
pub(crate) fn lane_for(window: usize) -> u32 {
    (2 * window.min(Client::MAX_WINDOW)) as u32
}

pub(crate) fn unexpected(reply: &Reply, key_len: usize, value_len: usize) -> Error {
    refusal(reply, key_len, value_len).unwrap_or(Error::Protocol("a reply that does not fit the request"))
}

/// Joins the region, waiting for a server as long as the options say.
pub(crate) fn join(name: &RegionName, options: &Options) -> Result<ClientRegion, Error> {
    let start = Instant::now();
    loop {
        let error = match ClientRegion::join(name).map_err(Error::from) {
            Ok(region) if region.server_alive() => return Ok(region),
            Ok(_) => Error::NoServer(format!(
                "region {} is left behind by a dead server; start a server of that name",
                name.rings_path().display()
            )),
            Err(error) => error,
        };
        if !matches!(error, Error::NoServer(_)) || start.elapsed() >= options.wait_for_server {
            return Err(error);
        }
        if options.interrupt.as_deref().is_some_and(|flag| flag.load(std::sync::atomic::Ordering::Relaxed)) {
            return Err(Error::Interrupted { write: false });
        }
        std::thread::sleep(Duration::from_millis(2).min(options.wait_for_server));
    }
}

/// Head, key, value and room for the reply of an operation.
#[inline]
pub(crate) fn encode<'a>(operation: &Operation<'a>) -> (Head, &'a [u8], &'a [u8], usize) {
    match *operation {
        Operation::Read { key } => (encode_read(), key, &[], 0),
        Operation::Insert { key, value, condition, ttl } => {
            (encode_insert(key.len(), value.len(), condition, ttl), key, value, 0)
        }
        Operation::Delete { key, condition } => (encode_delete(condition), key, &[], 0),
        Operation::Bucket { key } => (encode_bucket(0), key, &[], BUCKET_ROOM),
        Operation::Ping => (protocol::encode_ping(), &[], &[], 0),
        Operation::Incr { key, by, ttl } => (encode_incr(by, ttl), key, &[], 0),
        Operation::Append { key, bytes } => (encode_append(key.len(), bytes.len()), key, bytes, 0),
        Operation::Ttl { key } => (encode_ttl(), key, &[], 0),
        Operation::Expire { key, ttl } => (encode_expire(ttl), key, &[], 0),
        Operation::Persist { key } => (encode_persist(), key, &[], 0),
    }
}
