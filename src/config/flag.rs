//! Flags: gates over a model or one of its versions. The same shape in the file, in the admin API and in the store.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::values::is_token;
use crate::ids::{IdError, VersionName, Weight};

/// Who is let in, and what the others get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flag {
    /// False lets nobody in, whatever else is said.
    pub enabled: bool,
    /// The share of those whom `cohorts` names that is let in.
    pub percentage: Weight,
    /// Who may be let in: whoever is in one of them. None: everybody.
    pub cohorts: Vec<Cohort>,
    /// What those get who are not let in.
    pub otherwise: Otherwise,
}

/// A group of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Written")]
pub enum Cohort {
    /// Whose requests carry a header with one of these values.
    Header(HeaderIs),
    /// Whose names begin like this.
    UserPrefix(UserPrefix),
    /// These.
    Users(Users),
}

/// A header, and the values of which one will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderIs {
    /// Its name, in lower case.
    pub header: String,
    /// The values.
    pub is: BTreeSet<String>,
}

/// The beginning of users' names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserPrefix {
    /// The beginning.
    pub user_prefix: String,
}

/// Users by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Users {
    /// Their names.
    pub users: BTreeSet<String>,
}

/// A cohort as it is written, of whatever kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    header: Option<String>,
    is: Option<BTreeSet<String>>,
    user_prefix: Option<String>,
    users: Option<BTreeSet<String>>,
}

impl TryFrom<Written> for Cohort {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written { header: Some(header), is: Some(is), user_prefix: None, users: None } => {
                Ok(Self::Header(HeaderIs { header: header.to_ascii_lowercase(), is }))
            }
            Written { header: None, is: None, user_prefix: Some(user_prefix), users: None } => {
                Ok(Self::UserPrefix(UserPrefix { user_prefix }))
            }
            Written { header: None, is: None, user_prefix: None, users: Some(users) } => {
                Ok(Self::Users(Users { users }))
            }
            _ => Err(
                "a cohort is one of {\"header\", \"is\"}, {\"user_prefix\"} and {\"users\"}, each whole and alone",
            ),
        }
    }
}

/// What those get whom a flag does not let in. Written as a word, or as `{"answer": "..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenOtherwise", into = "WrittenOtherwise")]
pub enum Otherwise {
    /// An error.
    Refuse,
    /// Of a version's flag only: what the route has besides this version.
    Rest,
    /// This version of the model.
    Version(VersionName),
    /// This text, as if a model had said it.
    Answer(Arc<str>),
}

/// [`Otherwise`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "write `refuse`, a version, of a version's flag `rest`, or {\"answer\": \"...\"}"
)]
enum WrittenOtherwise {
    Word(String),
    Answer(WrittenAnswer),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAnswer {
    answer: Arc<str>,
}

/// Of what a flag is the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagOf {
    /// A whole model.
    Model,
    /// One version.
    Version,
}

/// What is wrong with a flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {fix}")]
pub struct FlagFault {
    /// The field at fault.
    pub field: &'static str,
    /// What was found.
    pub found: String,
    /// What would do.
    pub fix: &'static str,
}

/// More than these are a mistake: each request of the model is held against all of them.
const MOST_COHORTS: usize = 32;
const MOST_NAMES: usize = 1000;
/// Sticky keys are cut at this length, so that no longer name is ever met.
const LONGEST: usize = 512;
/// The longest text that is answered.
const LONGEST_ANSWER: usize = 16 << 10;

impl Flag {
    /// A flag that lets everybody in: as good as none.
    pub fn open(of: FlagOf) -> Self {
        let otherwise = match of {
            FlagOf::Model => Otherwise::Refuse,
            FlagOf::Version => Otherwise::Rest,
        };
        Self { enabled: true, percentage: Weight::FULL, cohorts: Vec::new(), otherwise }
    }

    /// Whether it lets everybody in.
    pub fn is_open(&self) -> bool {
        self.enabled && self.percentage == Weight::FULL && self.cohorts.is_empty()
    }

    /// Whether it can work, whatever versions there are.
    pub fn check(&self, of: FlagOf) -> Result<(), FlagFault> {
        if of == FlagOf::Model && self.otherwise == Otherwise::Rest {
            let found = "`rest` leaves nothing, as the flag is the whole model's".to_owned();
            return Err(FlagFault {
                field: "otherwise",
                found,
                fix: "write `refuse`, or one of its versions",
            });
        }
        if let Otherwise::Answer(text) = &self.otherwise
            && (text.trim().is_empty() || text.len() > LONGEST_ANSWER)
        {
            let found = format!("an answer of {} bytes", text.len());
            return Err(FlagFault { field: "otherwise", found, fix: "give a text of at most 16 KiB" });
        }
        let wrong = |found: String, fix| Err(FlagFault { field: "cohorts", found, fix });
        if self.cohorts.len() > MOST_COHORTS {
            return wrong(format!("{} cohorts", self.cohorts.len()), "keep 32 at most");
        }
        for cohort in &self.cohorts {
            if let Cohort::Header(HeaderIs { header, .. }) = cohort
                && !is_header(header)
            {
                return wrong(format!("{header:?} is not the name of a header"), "write one such as x-plan");
            }
            let names: Vec<&String> = match cohort {
                Cohort::Header(HeaderIs { is, .. }) => is.iter().collect(),
                Cohort::UserPrefix(UserPrefix { user_prefix }) => vec![user_prefix],
                Cohort::Users(Users { users }) => users.iter().collect(),
            };
            if names.is_empty() || names.len() > MOST_NAMES {
                return wrong(format!("a cohort of {} names", names.len()), "give each from 1 to 1000");
            }
            if names.iter().any(|name| name.is_empty() || name.len() > LONGEST) {
                return wrong("a name that is empty or too long".to_owned(), "give names of 1 to 512 bytes");
            }
        }
        Ok(())
    }

    /// The headers that it reads.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.cohorts.iter().filter_map(|cohort| match cohort {
            Cohort::Header(HeaderIs { header, .. }) => Some(&**header),
            Cohort::UserPrefix(_) | Cohort::Users(_) => None,
        })
    }
}

/// As they are looked up: in lower case.
fn is_header(name: &str) -> bool {
    is_token(name) && name.len() <= LONGEST && !name.contains(|c: char| c.is_ascii_uppercase())
}

impl FromStr for Otherwise {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "rest" => Ok(Self::Rest),
            version => version.parse().map(Self::Version),
        }
    }
}

impl TryFrom<WrittenOtherwise> for Otherwise {
    type Error = IdError;
    fn try_from(written: WrittenOtherwise) -> Result<Self, IdError> {
        match written {
            WrittenOtherwise::Word(word) => word.parse(),
            WrittenOtherwise::Answer(WrittenAnswer { answer }) => Ok(Self::Answer(answer)),
        }
    }
}

impl From<Otherwise> for WrittenOtherwise {
    fn from(otherwise: Otherwise) -> Self {
        match otherwise {
            Otherwise::Answer(answer) => Self::Answer(WrittenAnswer { answer }),
            word => Self::Word(word.to_string()),
        }
    }
}

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::Rest => f.write_str("rest"),
            Self::Version(version) => version.fmt(f),
            Self::Answer(text) => write!(f, "the answer {text:?}"),
        }
    }
}
