//! Why a template gave no text, in words alone: the error itself may hold values, and stays on the thread that made it.

use std::error::Error as _;

use minijinja::{Error, ErrorKind};

/// Marks an error that the template itself raised, so that it is told from a defect of the template.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);

/// Why a rendering ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The template raised an exception.
    Raised(String),
    /// It did more than it may, or took longer.
    OutOfFuel,
    /// It was not even begun: others were before it, or the system gave no thread. The template is not to blame.
    Busy,
    /// It failed in another way.
    Failed(String),
}

/// Why a template gave no text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub stopped: Stopped,
    /// What minijinja calls it.
    pub kind: ErrorKind,
    /// The line of the template, from 1, where one is to blame.
    pub line: Option<usize>,
}

/// What is told of [`Stopped::Busy`].
pub const BUSY: &str = "too many texts are being rendered; try again";

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        Self { stopped: stopped(error), kind: error.kind(), line: error.line() }
    }

    /// Its work does not end within its time.
    pub(super) fn endless() -> Self {
        Self { stopped: Stopped::OutOfFuel, kind: ErrorKind::OutOfFuel, line: None }
    }

    /// It was not begun in time.
    pub(super) fn busy() -> Self {
        Self { stopped: Stopped::Busy, kind: ErrorKind::InvalidOperation, line: None }
    }

    /// Something else than the template's words is to blame.
    pub(super) fn other(why: impl Into<String>) -> Self {
        Self { stopped: Stopped::Failed(why.into()), kind: ErrorKind::InvalidOperation, line: None }
    }

    /// What happened, on one line; `bounds` says it of a template that did too much.
    pub fn told(self, bounds: &str) -> String {
        match self.stopped {
            Stopped::Raised(why) | Stopped::Failed(why) => why,
            Stopped::OutOfFuel => bounds.to_owned(),
            Stopped::Busy => BUSY.to_owned(),
        }
    }
}

fn stopped(error: &Error) -> Stopped {
    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = link {
        if let Some(raised) = cause.downcast_ref::<Raised>() {
            return Stopped::Raised(raised.0.clone());
        }
        if cause.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return Stopped::OutOfFuel;
        }
        link = cause.source();
    }
    Stopped::Failed(described(error))
}

/// The error with its causes, on one line.
fn described(error: &Error) -> String {
    let mut text = error.to_string();
    let mut link = error.source();
    while let Some(cause) = link {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        link = cause.source();
    }
    text
}
