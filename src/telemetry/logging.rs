//! Log lines on stderr, as text for people or as JSON for machines.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

impl FromStr for LogFormat {
    type Err = LoggingError;
    fn from_str(s: &str) -> Result<Self, LoggingError> {
        match s {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LoggingError::Format(other.to_owned())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// A format that is neither `text` nor `json`.
    #[error("log format {0:?} is not known: use `text` or `json`")]
    Format(String),
    /// The filter's directives do not parse.
    #[error("log filter {filter:?} is not usable: {why}; write for example `info,switchback=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// Logging was set up before.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Sets up logging for the process; `filter` is in the syntax of `RUST_LOG`, such as `info,switchback=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|e| LoggingError::Filter { filter: filter.to_owned(), why: e.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let done = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| LoggingError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_format_or_filter_says_what_would_do() {
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("`json`"));
        let error = init(LogFormat::Text, "switchback=loud").unwrap_err();
        assert!(error.to_string().contains("switchback=loud"), "{error}");
    }
}
