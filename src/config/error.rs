//! The mistakes in a config file, in the order of its lines.

use std::fmt;
use std::path::PathBuf;

use super::raw::OVERLAY;

/// One mistake: where it is, what was found there and what would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The line in the file, from 1; 0 when the mistake concerns the file as a whole. Lines of an overlay begin far beyond.
    pub line: u64,
    /// The field, such as `models.support.route.v2`; empty for the file as a whole.
    pub path: String,
    /// What was found.
    pub found: String,
    /// What would do instead.
    pub fix: String,
}

/// Every mistake found in one file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file as it was named by the caller.
    pub file: PathBuf,
    /// What was laid over it, if something was.
    pub overlay: Option<PathBuf>,
    /// The mistakes, by line.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub(super) fn new(file: PathBuf, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|e| e.line);
        Self { file, overlay: None, errors }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let (file, line) = match &self.overlay {
                Some(overlay) if e.line >= OVERLAY => (overlay, e.line - OVERLAY),
                _ => (&self.file, e.line),
            };
            write!(f, "{}:", file.display())?;
            if line > 0 {
                write!(f, "{line}:")?;
            }
            if !e.path.is_empty() {
                write!(f, " {}:", e.path)?;
            }
            write!(f, " {}; {}", e.found, e.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
