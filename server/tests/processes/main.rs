//! The real server as processes of the outside see it: ready line, exit codes, signals, files, what it takes over.

mod ending;
mod files;
mod harness;
mod limits;
mod starting;
mod takeover;
