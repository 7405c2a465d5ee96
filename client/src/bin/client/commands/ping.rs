//! `client ping`.

use shmtable::exit::ExitCode;

use super::Context;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn run(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let round_trip = context.attach()?.ping()?.as_nanos();
    let text = format!("{}.{:03}us", round_trip / 1000, round_trip % 1000);
    context.output.either(text, || Object::new().number("round_trip_ns", round_trip))?;
    Ok(ExitCode::Done)
}
