//! What a command can fail with, as the person at the terminal reads it.

/// A failed command. Printed as `error: {self}`; the status is 1.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The configuration does not hold; lists every error in it.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigErrors),
    /// Nothing answers at the admin address.
    #[error(
        "no server answers at {address}: {cause}\n  start one with `switchback serve`, or name its admin address with --admin"
    )]
    Unreachable {
        /// The admin address that was tried.
        address: String,
        /// The transport's error.
        cause: String,
    },
    /// A server was reached with a question, and no answer came.
    #[error("the server at {address} did not answer: {cause}\n  try again; its log may say more")]
    Unanswered {
        /// The admin address.
        address: String,
        /// The transport's error.
        cause: String,
    },
    /// A server was reached with a change, and no answer came.
    #[error(
        "the server at {address} did not answer: {cause}\n  the change may have been made: look with `switchback models` or `switchback route MODEL` before you repeat it"
    )]
    Uncertain {
        /// The admin address.
        address: String,
        /// The transport's error.
        cause: String,
    },
    /// The admin API refused.
    #[error("{0}")]
    Refused(String),
    /// An answer that is not what the admin API promises.
    #[error("unexpected answer from {address}: {cause}")]
    Answer {
        /// The address asked.
        address: String,
        /// What was wrong with the answer.
        cause: String,
    },
    /// The server did not start or did not stop as it should.
    #[error("{0}")]
    Server(String),
    /// Image work failed.
    #[error("{0}")]
    Image(#[from] crate::image::ImageError),
    /// A prompt file cannot be used.
    #[error("{0}")]
    PromptFile(#[from] crate::prompt::PromptFileError),
    /// A prompt does not take what it was given.
    #[error("{0}")]
    Prompt(String),
    /// There is nothing to tell.
    #[error("{0}")]
    Doctor(String),
    /// A configuration names what does not hold; lists all of it.
    #[error("{0}")]
    Check(String),
    /// A suite does not hold, or could not be run.
    #[error("{0}")]
    Eval(String),
    /// A measurement could not be taken.
    #[error("{0}")]
    Bench(String),
    /// Arguments that parse but make no sense together.
    #[error("{0}")]
    Usage(String),
}

/// What the system says of a failure, without what lies around it.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(next) = current.source() {
        current = next;
    }
    current.to_string()
}
