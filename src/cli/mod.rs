//! cli

mod images;
mod pull;
mod table;

/// Entry point of the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
