//! Switchback: a self-hosted LLM inference server with built-in versioning.
//!
//! The rooms, in the way of a request; `ARCHITECTURE.md` is the map, and
//! `tests/architecture.rs` holds the arrows between them.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dialect;
pub mod engine;
pub mod gateway;
pub mod ids;
pub mod image;
pub mod model;
pub mod notify;
pub mod prompt;
pub mod quality;
pub mod release;
pub mod sandbox;
pub mod store;
pub mod telemetry;
pub mod tensor;
