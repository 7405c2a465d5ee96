//! What a client process of shmtable does: requests from its ledger, every reply checked, until told to pause.

use std::time::Duration;

use shmtable::{Client, Completion, Condition, Operation, Options, Outcome};

use crate::board::{Board, Phase, Slot};
use crate::client_process::Task;
use crate::clock::Clock;
use crate::ledger::{Ledger, Seen, Step};
use crate::mix::Kind;
use crate::{Error, Wait, cli, keys};

/// How long a request may wait: beyond any event that a benchmark makes, so that a stall is seen as a gap and not as an error.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Options of a client of a benchmark's region.
pub fn options(name: &str, wait: Wait) -> Options {
    Options::new(name).wait(wait.mode()).timeout(TIMEOUT).client_name("bench")
}

/// Longest gap between consecutive replies, per epoch.
struct Gaps {
    clock: Clock,
    last: u64,
    epoch: usize,
}

impl Gaps {
    /// Notes a reply. A gap that spans the change of epochs belongs to both: its cause may lie in either.
    #[inline]
    fn reply(&mut self, board: &Board, slot: &Slot) {
        let (now, epoch) = (self.clock.now(), board.epoch());
        let ns = self.clock.ns(now.saturating_sub(self.last)) as u64;
        slot.note_gap(epoch, ns);
        if epoch != self.epoch {
            slot.note_gap(self.epoch, ns);
            self.epoch = epoch;
        }
        self.last = now;
    }
}

struct Worker<'a> {
    task: &'a Task,
    board: &'a Board,
    slot: &'a Slot,
    ledger: Ledger,
    gaps: Option<Gaps>,
    value: Vec<u8>,
}

/// Works until told to quit.
pub fn work(task: &Task, name: &str, wait: Wait, board: &Board) -> Result<(), Error> {
    let mut client = Client::attach(&options(name, wait)).map_err(Error::table("attaching a client"))?;
    let gaps = task.gaps.then(|| Gaps { clock: Clock::calibrate(), last: 0, epoch: 0 });
    let slot = &board.slots()[task.index as usize];
    let mut worker = Worker { task, board, slot, ledger: Ledger::new(&task.shape()), gaps, value: vec![0; task.value_len] };
    worker.first_keys(&mut client)?;
    while board.rest(task.index) {
        if let Some(gaps) = &mut worker.gaps {
            (gaps.last, gaps.epoch) = (gaps.clock.now(), board.epoch());
        }
        match task.window {
            0 | 1 => worker.sync(&mut client)?,
            _ => worker.pipelined(&mut client)?,
        }
    }
    if let Some(error) = worker.ledger.first_error() {
        cli::say(format_args!("client process {}: {} wrong replies; the first: {error}", task.index, worker.ledger.errors()));
    }
    Ok(())
}

impl Worker<'_> {
    fn first_keys(&mut self, client: &mut Client) -> Result<(), Error> {
        for key in self.ledger.first_keys() {
            let step = self.ledger.make(Kind::Insert, key);
            keys::fill(&mut self.value, step.word);
            let stored = client.insert(&step.key, &self.value).map_err(Error::table("writing a first key"))?;
            self.ledger.check(Seen::Stored(Some(stored.replaced)));
        }
        match self.ledger.first_error() {
            None => Ok(()),
            Some(error) => Error::failed(format!("writing the first keys: {error}")),
        }
    }

    fn sync(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut out = Vec::with_capacity(self.task.value_len);
        while self.board.phase() == Phase::Run {
            let step = self.ledger.step();
            sync_call(client, &step, &mut self.value, &mut out, &mut self.ledger)?;
            self.count();
        }
        Ok(())
    }

    fn pipelined(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut pipeline = client.pipeline(self.task.window);
        let Self { board, slot, ledger, gaps, value, .. } = self;
        while board.phase() == Phase::Run {
            let step = ledger.step();
            let operation = operation(&step, value);
            let mut on_reply = |completion: Completion<'_>| replied(&completion, ledger, gaps, board, slot);
            pipeline.submit(&operation, &mut on_reply).map_err(Error::table("submitting a request"))?;
            slot.count(ledger.checked(), ledger.errors());
        }
        let mut on_reply = |completion: Completion<'_>| replied(&completion, ledger, gaps, board, slot);
        pipeline.finish(&mut on_reply).map_err(Error::table("collecting replies"))?;
        if ledger.unanswered() != 0 {
            return Error::failed(format!("collecting replies: {} requests were never answered", ledger.unanswered()));
        }
        slot.count(ledger.checked(), ledger.errors());
        Ok(())
    }

    #[inline]
    fn count(&mut self) {
        self.slot.count(self.ledger.checked(), self.ledger.errors());
        if let Some(gaps) = &mut self.gaps {
            gaps.reply(self.board, self.slot);
        }
    }
}

#[inline]
fn replied(completion: &Completion<'_>, ledger: &mut Ledger, gaps: &mut Option<Gaps>, board: &Board, slot: &Slot) {
    ledger.check(seen(&completion.outcome));
    if let Some(gaps) = gaps {
        gaps.reply(board, slot);
    }
}

/// Makes one call and checks its reply.
#[inline]
pub fn sync_call(
    client: &mut Client,
    step: &Step,
    value: &mut [u8],
    out: &mut Vec<u8>,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    match step.kind {
        Kind::Insert => {
            keys::fill(value, step.word);
            let stored = client.insert(&step.key, value).map_err(Error::table("inserting"))?;
            ledger.check(Seen::Stored(Some(stored.replaced)));
        }
        Kind::Read => {
            let found = client.read_into(&step.key, out).map_err(Error::table("reading"))?;
            ledger.check(if found.is_some() { Seen::Value(out) } else { Seen::NotFound });
        }
        Kind::Delete => {
            let found = client.delete(&step.key).map_err(Error::table("deleting"))?;
            ledger.check(if found { Seen::Deleted } else { Seen::NotFound });
        }
    }
    Ok(())
}

#[inline]
fn operation<'a>(step: &'a Step, value: &'a mut [u8]) -> Operation<'a> {
    match step.kind {
        Kind::Insert => {
            keys::fill(value, step.word);
            Operation::insert(&step.key, value)
        }
        Kind::Read => Operation::Read { key: &step.key },
        Kind::Delete => Operation::Delete { key: &step.key, condition: Condition::Always },
    }
}

#[inline]
fn seen<'a>(outcome: &'a Outcome<'_>) -> Seen<'a> {
    match outcome {
        Outcome::Stored { replaced, .. } => Seen::Stored(Some(*replaced)),
        Outcome::Value { bytes, .. } => Seen::Value(bytes),
        Outcome::Deleted { .. } => Seen::Deleted,
        Outcome::NotFound => Seen::NotFound,
        _ => Seen::Other,
    }
}

/// Attaches, makes one request per turn, and is idle otherwise.
pub fn idle(task: &Task, name: &str, board: &Board) -> Result<(), Error> {
    let mut client = Client::attach(&options(name, Wait::Adaptive)).map_err(Error::table("attaching a client"))?;
    let slot = &board.slots()[task.index as usize];
    loop {
        client.ping().map_err(Error::table("asking for a sign of life"))?;
        slot.count(slot.ops() + 1, 0);
        if !board.rest(task.index) {
            return Ok(());
        }
    }
}
