//! `client run OUTER INNER`: the verified workload and its last line.

use shmtable::exit::ExitCode;

use super::Context;
use crate::args;
use crate::failure::Failure;
use crate::interrupt::Stop;
use crate::output::Object;
use crate::workload::{Plan, Problem, Summary, Workload};

pub(super) fn run(context: &mut Context<'_>, args: &args::Run) -> Result<ExitCode, Failure> {
    if args.outer == 0 && args.inner == 0 {
        return Err(Failure::Usage("run failed: endless rounds of no keys; give at least one key per round".into()));
    }
    let stop = if args.outer == 0 { Stop::on_signals()? } else { Stop::never() };
    let plan = Plan {
        outer: args.outer,
        inner: args.inner,
        window: args.window,
        value_size: args.value_size,
        seed: args.seed.unwrap_or_else(Plan::fresh_seed),
    };
    let mut client = context.attach()?;
    let (summary, problem) = Workload::new(plan, stop).run(&mut client);
    context.output.either(summary, || object(&summary))?;
    match problem {
        None => Ok(ExitCode::Done),
        Some(Problem::Wrong(what)) => Err(Failure::NotMet(format!("verification failed: {what}; seed {}", plan.seed))),
        Some(Problem::Failed { place, error }) => Err(Failure::At { place, error }),
    }
}

fn object(summary: &Summary) -> Object {
    Object::new()
        .number("ops", summary.ops)
        .number("errors", summary.errors)
        .number("seconds", format_args!("{:.6}", summary.seconds))
        .number("ops_per_second", summary.ops_per_second())
}
