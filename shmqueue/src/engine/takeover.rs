//! What a new server does with the lanes of clients that were attached to its predecessor.
//!
//! The reply lane tells what was answered: `complete` is published after each pass, and replies of the pass in which the
//! predecessor died stand behind it with the tags of their positions. The next position is the first without its tag.

use crossbeam_utils::CachePadded;

use crate::claim::{self, ClaimState};
use crate::lane::{RawReply, ReplyLane, RequestLane, most_span};
use crate::region::ServerRegion;
use crate::sync::{AtomicU64, Ordering, fence};

use super::lanes::Lanes;
use super::leaving::slots_at;
use super::shard::{Pass, Shard};

/// Adopts every client whose slot is not free, and has its lane looked at in the first pass: its word may have been taken
/// from the ring without the lane having been served.
pub(super) fn adopt_clients(region: &ServerRegion, lanes: &Lanes, shards: &[CachePadded<Shard>]) {
    let shape = region.layout().shape;
    for client in 0..shape.clients {
        region.client_status(client).attached.store(0, Ordering::Relaxed);
        let Some(claim) = claim::load(&region.claim(client).word) else { continue };
        if claim.state == ClaimState::Free || u32::from(claim.shard) >= shape.shards || region.commit_lane(client).is_err() {
            continue;
        }
        let (head, words) = region.reply_lane(client);
        // ORDER(complete): pairs with the predecessor's Release in `announce`.
        let position = next_unanswered(region, client, words, head.complete.load(Ordering::Acquire));
        region.client_status(client).position.store(position, Ordering::Relaxed);
        head.hot.store(0, Ordering::Relaxed);
        let index = u32::from(claim.shard);
        // SAFETY: no worker runs yet, so nobody holds the serving word.
        let mut pass = unsafe { Pass::new(region, lanes, &shards[index as usize], index) };
        if pass.adopt(client) {
            pass.enqueue(client);
        }
    }
    // ORDER(hot): a client that saw a lane hot published before this fence, and the first pass finds its request.
    fence(Ordering::SeqCst);
}

/// The first position from `complete` on that has no reply.
fn next_unanswered(region: &ServerRegion, client: u32, words: &[AtomicU64], complete: u64) -> u64 {
    let mut position = complete;
    loop {
        let replies = ReplyLane::in_use(words, slots_at(region, client, position));
        let Some(reply) = replies.read(position) else { return position };
        position += u64::from(reply.span.clamp(1, most_span(replies.slots())));
        if position - complete >= u64::from(region.layout().shape.lane_slots) {
            return position;
        }
    }
}

/// See [`super::Engine::answer_recovered`].
pub(super) fn answer(
    region: &ServerRegion,
    lanes: &Lanes,
    client: u32,
    generation: u32,
    position: u64,
    status: u8,
    words: [u64; 3],
) -> bool {
    if client >= region.layout().shape.clients || lanes.owner(client) == super::lanes::NOBODY {
        return false;
    }
    // SAFETY: no worker runs yet, so nobody holds any serving word.
    let lane = unsafe { lanes.lane(client) };
    let request = RequestLane::in_use(region.request_lane(client).1, lane.slots);
    if lane.generation != generation || lane.position != position {
        return false;
    }
    let Some(envelope) = request.read(position) else { return false };
    let [a, b, c] = words;
    ReplyLane::in_use(region.reply_lane(client).1, lane.slots).write(position, RawReply { status, span: envelope.span, a, b, c });
    lane.position = position + u64::from(envelope.span);
    region.client_status(client).position.store(lane.position, Ordering::Relaxed);
    // ORDER(complete): as in `announce`; the client is woken by the first pass, which finds the lane in the run queue.
    region.reply_lane(client).0.complete.store(lane.position, Ordering::Release);
    true
}
