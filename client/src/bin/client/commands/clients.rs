//! `client clients`: who is attached. Needs no client slot.

use shmtable::exit::ExitCode;
use shmtable::{ClientInfo, Monitor};

use super::Context;
use crate::escape::escaped;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn run(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    for client in Monitor::open(&context.options())?.clients() {
        context.output.either(line(&client), || object(&client))?;
    }
    Ok(ExitCode::Done)
}

fn line(client: &ClientInfo) -> String {
    let ClientInfo { id, uid, pid, name, shard, in_flight, lag_ms, state, .. } = client;
    // The name is whatever the client wrote: escaped, it stays one column.
    let name = if name.is_empty() { "-".to_owned() } else { escaped(name.as_bytes()) };
    let lag = lag_ms.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
    format!("{id}\t{uid}\t{pid}\t{name}\t{shard}\t{in_flight}\t{lag}\t{state}")
}

fn object(client: &ClientInfo) -> Object {
    let object = Object::new()
        .number("id", client.id)
        .number("uid", client.uid)
        .number("pid", client.pid)
        .bytes("name", client.name.as_bytes())
        .number("shard", client.shard)
        .number("in_flight", client.in_flight)
        .number("requests_total", client.requests_total)
        .text("state", client.state);
    match client.lag_ms {
        Some(lag) => object.number("lag_ms", lag),
        None => object,
    }
}
