//! The command line: one file a command, each a thin shell over the library or the admin API.
//!
//! In: arguments. Out: text for people on standard output (or one JSON document with `--json`),
//! progress and errors on standard error. Exit status: 0 done, 1 failed, 2 the arguments are wrong.
//! May import `api` and what lies below it; nothing imports `cli`.

mod admin_client;
mod args;
mod bar;
mod bench;
mod check;
mod config_args;
mod diff;
mod doctor;
mod error;
mod eval;
mod experiment;
mod flag;
mod images;
mod models;
mod plan;
mod prompt;
mod pull;
mod residency;
mod rollback;
mod rollout;
mod route;
mod serve;
mod simulate;
mod suite;
mod table;

pub use args::main;
