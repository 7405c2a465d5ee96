//! Attaching: one client, one slot, one pair of lanes.
//!
//! Order of an attach, each step undone by the kernel if the client dies after it (CRASH):
//! 1. open the file afresh and take a free slot's lock byte (a death drops the lock, the slot is free as before);
//! 2. commit and map the slot's lanes, wipe the slots that come into use, write pid, uid and name (the same; committed memory stays for the next client);
//! 3. choose the shard, then make the claim word ATTACHED (a death leaves ATTACHED without a lock, which the server drains).
//!
//! Invariants:
//! - **A1** A claim is published last: a server that sees it finds the lanes committed and the lock held.
//! - **A2** Nobody waits: a slot whose lock is taken, or whose word is not free, is passed over.
//! - **A3** In a fork's child an attachment changes nothing in the region, not even when it is dropped.
//!
//! The choice of a shard: fewest attached clients; among equals the smallest order of magnitude of recent requests (noise must not
//! send all newcomers to one shard); among equals the first from `ticket % shards` on. Tickets are handed out by one
//! `fetch_add`, so that as many simultaneous attaches as there are equal shards get one each.

use std::sync::atomic::{AtomicU64, Ordering};

use super::client::ClientRegion;
use super::file::FileId;
use super::map::Mapping;
use super::server::commit_lanes;
use crate::claim::{self, Attach, Claim, ClaimState};
use crate::error::RegionError;
use crate::lane::RequestLane;
use crate::layout::{ClientClaim, FIRST_SLOTS, ReplyLaneHead, RequestLaneHead, Section};
use crate::lock::{LockFile, Taken};

/// A client's hold on a slot: its lanes, and the lock that says it is alive.
///
/// It may move between threads. Dropping it gives the slot back, except in a fork's child, where it belongs to the parent.
#[derive(Debug)]
pub struct Attachment {
    region: ClientRegion,
    lock: LockFile,
    index: u32,
    own: Claim,
    request: Mapping,
    reply: Mapping,
    attached: bool,
}

impl Attachment {
    /// Index of the slot.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Generation of the slot that this client has.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.own.generation
    }

    /// Shard on whose rings this client works.
    #[inline]
    pub fn shard(&self) -> u32 {
        self.own.shard.into()
    }

    /// The region that this is a part of.
    pub fn region(&self) -> &ClientRegion {
        &self.region
    }

    /// The own request lane and its slots, eight words each; only this client writes it.
    ///
    /// # Panics
    /// After [`Self::detach`], when the lane may be another client's.
    pub fn request_lane(&self) -> (&RequestLaneHead, &[AtomicU64]) {
        assert!(self.attached, "invariant G5: only the holder of a slot uses its lanes");
        self.request.request_lane(self.region.layout(), self.index)
    }

    /// The own reply lane and its slots, four words each; mapped read-only, see [`ClientRegion`] on loads from it.
    ///
    /// # Panics
    /// After [`Self::detach`], when the lane may be another client's.
    pub fn reply_lane(&self) -> (&ReplyLaneHead, &[AtomicU64]) {
        assert!(self.attached, "invariant G5: only the holder of a slot uses its lanes");
        self.reply.reply_lane(self.region.layout(), self.index)
    }

    /// Whether this handle was inherited over a fork and is the parent's: one load and one comparison.
    #[inline]
    pub fn forked(&self) -> bool {
        self.lock.forked()
    }

    /// Gives the slot back: what was published before is still applied. Further calls do nothing.
    pub fn detach(&mut self) {
        if !self.attached {
            return;
        }
        self.attached = false;
        if self.forked() {
            return;
        }
        // A lost slot was taken away by the server, which resets shards that it found inconsistent: there is nothing to give back.
        let _ = claim::detach(&self.region.claim(self.index).word, self.own);
        self.lock.release_client(self.index);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Takes a free slot and the least contended shard.
pub(super) fn attach(region: &ClientRegion, client_name: &str) -> Result<Attachment, RegionError> {
    let lock = LockFile::open(region.path())?;
    if FileId::of(lock.fd()?, region.path())? != region.id() {
        return Err(RegionError::Stale { path: region.path().to_path_buf() });
    }
    let shape = region.layout().shape;
    // Relaxed: the ticket orders nothing, it only spreads.
    let ticket = region.claims_head().attach_ticket.fetch_add(1, Ordering::Relaxed);
    let first = ticket % shape.clients;
    for index in (first..shape.clients).chain(0..first) {
        let slot = region.claim(index);
        if !is_free(slot) || lock.try_client(region.path(), index)? == Taken::No {
            continue;
        }
        // Looked at again under the lock: only its holder attaches, so that the slot now stays free for us.
        let Some(Claim { state: ClaimState::Free, generation, .. }) = claim::load(&slot.word) else {
            lock.release_client(index);
            continue;
        };
        if region.client_status(index).attached.load(Ordering::Relaxed) != 0 {
            // The server still serves the slot's last client: the claim was scribbled free under it. The server's tick will free it.
            lock.release_client(index);
            continue;
        }
        let (request, reply) = map_lanes(region, &lock, index)?;
        // Whatever rests in the slots that come into use was not sent by this client.
        wipe_first_slots(region, &request, index);
        introduce(slot, client_name);
        let shard = choose_shard(region, ticket);
        let Attach::Attached(own) = claim::attach(&slot.word, generation, shard) else {
            lock.release_client(index);
            continue;
        };
        return Ok(Attachment { region: region.clone(), lock, index, own, request, reply, attached: true });
    }
    Err(RegionError::NoSlot { clients: shape.clients })
}

fn is_free(slot: &ClientClaim) -> bool {
    matches!(claim::load(&slot.word), Some(Claim { state: ClaimState::Free, .. }))
}

fn wipe_first_slots(region: &ClientRegion, request: &Mapping, index: u32) {
    let (_, words) = request.request_lane(region.layout(), index);
    RequestLane::in_use(words, FIRST_SLOTS.min(region.layout().shape.lane_slots)).wipe();
}

fn map_lanes(region: &ClientRegion, lock: &LockFile, index: u32) -> Result<(Mapping, Mapping), RegionError> {
    let (layout, path) = (region.layout(), region.path());
    commit_lanes(lock.fd()?, layout, index, path)?;
    let stride = |section| layout.section(section).stride;
    let request = layout.element(Section::RequestLanes, index);
    let reply = layout.element(Section::ReplyLanes, index);
    Ok((
        Mapping::read_write(region.fd(), request, stride(Section::RequestLanes), path)?,
        Mapping::read_only(region.fd(), reply, stride(Section::ReplyLanes), path)?,
    ))
}

/// Says who has the slot. The claim word's Release publishes it.
fn introduce(slot: &ClientClaim, client_name: &str) {
    slot.pid.store(std::process::id(), Ordering::Relaxed);
    slot.uid.store(nix::unistd::getuid().as_raw(), Ordering::Relaxed);
    let cut = client_name.floor_char_boundary(size_of_val(&slot.name));
    let mut bytes = [0; size_of::<[AtomicU64; 4]>()];
    bytes[..cut].copy_from_slice(&client_name.as_bytes()[..cut]);
    for (word, chunk) in slot.name.iter().zip(bytes.as_chunks().0) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
}

/// The least contended shard: see the module's head.
fn choose_shard(region: &ClientRegion, ticket: u32) -> u16 {
    let shape = region.layout().shape;
    let mut attached = vec![0_u32; shape.shards as usize];
    for client in 0..shape.clients {
        let claim = claim::load(&region.claim(client).word);
        if let Some(Claim { state: ClaimState::Attached, shard, .. }) = claim
            && let Some(count) = attached.get_mut(usize::from(shard))
        {
            *count += 1;
        }
    }
    let contention: Vec<_> = attached
        .into_iter()
        .zip(0..)
        .map(|(attached, shard)| {
            // Relaxed: a figure of the last second, stale by nature.
            let recent = region.shard_status(shard).recent_requests.load(Ordering::Relaxed);
            Contention { attached, magnitude: u32::BITS - recent.leading_zeros() }
        })
        .collect();
    least_contended(&contention, ticket)
}

/// What a newcomer to a shard has to expect; less is better, in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Contention {
    attached: u32,
    /// Bits of the number of recent requests.
    magnitude: u32,
}

/// The first least contended shard from `ticket % shards` on.
fn least_contended(shards: &[Contention], ticket: u32) -> u16 {
    let first = ticket as usize % shards.len();
    let shard = (first..shards.len()).chain(0..first).min_by_key(|&shard| shards[shard]).unwrap_or(0);
    u16::try_from(shard).expect("invariant G3: a checked layout has at most MAX_SHARDS shards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_who_do_not_see_each_other_spread_over_equal_shards() {
        let equal = [Contention { attached: 1, magnitude: 4 }; 16];
        for ticket in [0, 5, u32::MAX - 15] {
            let mut chosen: Vec<_> = (ticket..=ticket + 15).map(|ticket| least_contended(&equal, ticket)).collect();
            chosen.sort_unstable();
            assert_eq!(chosen, (0..16).collect::<Vec<_>>());
        }
    }

    #[test]
    fn clients_count_before_requests_and_requests_before_tickets() {
        let shard = |attached, magnitude| Contention { attached, magnitude };
        let shards = [shard(2, 0), shard(1, 9), shard(1, 3), shard(1, 3), shard(3, 0)];
        assert_eq!([0, 2, 3, 4].map(|ticket| least_contended(&shards, ticket)), [2, 2, 3, 2]);
    }
}
