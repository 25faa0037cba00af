//! The box that templates run in: no file, no environment, bounded work.

use std::error::Error as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};

use super::python;

/// Why a rendering ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The template raised an exception.
    Raised(String),
    /// It ran out of fuel.
    OutOfFuel,
    /// It failed in another way.
    Failed(String),
}

/// An environment as `transformers` has it: `trim_blocks`, `lstrip_blocks`, Python's methods. One rendering may do
/// about `fuel` template instructions, or write 64 times as many bytes of text.
pub(super) fn environment(fuel: u64) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_fuel(Some(fuel));
    python::install(&mut env);
    Ok(env)
}

pub(super) fn stopped(error: &Error) -> Stopped {
    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = link {
        if let Some(raised) = cause.downcast_ref::<python::Raised>() {
            return Stopped::Raised(raised.0.clone());
        }
        if cause.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return Stopped::OutOfFuel;
        }
        link = cause.source();
    }
    Stopped::Failed(describe(error))
}

/// The error with its causes, on one line.
pub(super) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut link = error.source();
    while let Some(cause) = link {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        link = cause.source();
    }
    text
}
