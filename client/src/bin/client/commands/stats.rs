//! `client stats`: the server's counters, once or again and again. Needs no client slot.

use std::time::{Duration, Instant};

use shmtable::exit::ExitCode;
use shmtable::{Monitor, StatValue, Stats};

use super::Context;
use crate::args;
use crate::failure::Failure;
use crate::interrupt::Stop;
use crate::output::Object;
use crate::prometheus;

pub(super) fn run(context: &mut Context<'_>, args: &args::Stats) -> Result<ExitCode, Failure> {
    if args.watch && args.prometheus {
        return Err(Failure::Usage("stats failed: found both --watch and --prometheus against one; give one of them".into()));
    }
    let monitor = Monitor::open(&context.options())?;
    if args.watch {
        return watch(context, &monitor, args.interval);
    }
    let stats = monitor.stats();
    if args.prometheus {
        context.output.raw(prometheus::exposition(&context.global.name, &stats).as_bytes())?;
    } else {
        print(context, &stats, None)?;
    }
    Ok(ExitCode::Done)
}

fn watch(context: &mut Context<'_>, monitor: &Monitor, interval: Duration) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let mut before: Option<(Instant, u64)> = None;
    while !stop.asked() && !context.output.is_closed() {
        let stats = monitor.stats();
        let now = (Instant::now(), requests(&stats));
        let rate = before.map(|(then, old)| {
            let seconds = now.0.duration_since(then).as_secs_f64().max(1e-9);
            (now.1.saturating_sub(old) as f64 / seconds) as u64
        });
        if before.is_some() && !context.output.json() {
            context.output.line("")?;
        }
        print(context, &stats, rate)?;
        context.output.flush()?;
        if !monitor.server_alive() {
            return Err(Failure::Client(shmtable::Error::ServerGone { write: false }));
        }
        before = Some(now);
        stop.pause(interval);
    }
    Ok(ExitCode::Done)
}

fn requests(stats: &Stats) -> u64 {
    stats.shards.iter().map(|shard| shard.requests_total).sum()
}

fn print(context: &mut Context<'_>, stats: &Stats, rate: Option<u64>) -> Result<(), Failure> {
    let rate = rate.map(|rate| ("requests_per_second".to_owned(), StatValue::Whole(rate)));
    let values = stats.values.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let shards = stats.shards.iter().enumerate().flat_map(|(index, shard)| {
        [("clients", shard.clients), ("requests_total", shard.requests_total), ("backlog", shard.backlog)]
            .map(|(name, value)| (format!("shard.{index}.{name}"), StatValue::Whole(value)))
    });
    let mut all = values.chain(rate).chain(shards);
    if context.output.json() {
        let object = all.fold(Object::new(), |object, (name, value)| match value {
            StatValue::Text(text) => object.text(&name, &text),
            number => object.number(&name, number),
        });
        return context.output.object(object);
    }
    all.try_for_each(|(name, value)| context.output.line(format_args!("{name} {value}")))
}
