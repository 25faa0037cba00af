//! A prompt around a conversation: its system text first, then its examples, then what the client says.

use serde_json::{Map, Value as Json, json};

use super::file::Prompt;
use crate::config::{Example, Variable, VariableKind};
use crate::sandbox::{BUSY, Failure, Stopped};

/// The longest system text that a prompt may give.
const MOST_TEXT_BYTES: usize = 256 << 10;

/// Why a prompt cannot be put around a conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// A variable is at fault.
    #[error("{fault}")]
    Variable {
        /// Its name, as the client wrote it.
        name: String,
        /// What is wrong.
        fault: VariableFault,
    },
    /// The template looked at the variables and raised an exception.
    #[error("the prompt refuses these variables: {0}")]
    Refused(String),
    /// The template failed on these variables, or wrote too much.
    #[error("the prompt failed on these variables: {0}")]
    Failed(String),
    /// It was not begun, as too much was being rendered. Neither the prompt nor the variables are to blame.
    #[error("{BUSY}")]
    Busy,
}

/// What is wrong with a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableFault {
    /// It has no default, and the request does not give it.
    #[error("the prompt needs this variable; give {0}")]
    Missing(VariableKind),
    /// The prompt has none of this name.
    #[error("the prompt has no such variable; {known}", known = known(.0))]
    Unknown(Vec<String>),
    /// Its value is of another kind.
    #[error("the prompt takes {wanted} here; found {found}")]
    Kind {
        /// What it may be.
        wanted: VariableKind,
        /// What was found.
        found: &'static str,
    },
}

fn known(names: &[String]) -> String {
    if names.is_empty() { "it has none".to_owned() } else { format!("it has: {}", names.join(", ")) }
}

impl VariableFault {
    fn kind(wanted: VariableKind, value: &Json) -> Self {
        let found = match value {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) if wanted == VariableKind::List => "a list of other things",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        };
        Self::Kind { wanted, found }
    }
}

impl Prompt {
    /// The conversation with the prompt around it. A system message that the client begins with is added to the
    /// prompt's own system text, below an empty line: templates expect one, and the operator's word comes first.
    pub async fn wrap(&self, messages: &[Json], given: &Map<String, Json>) -> Result<Vec<Json>, WrapError> {
        let values = self.values(given)?;
        Ok(self.around(messages, told(self.rendered(values).await)?))
    }

    /// The same. Blocks.
    pub fn wrap_blocking(
        &self,
        messages: &[Json],
        given: &Map<String, Json>,
    ) -> Result<Vec<Json>, WrapError> {
        Ok(self.around(messages, self.system_blocking(given)?))
    }

    fn around(&self, messages: &[Json], system: String) -> Vec<Json> {
        let instructs = |m: &&Json| m["role"] == "system" || m["role"] == "developer";
        let (instructions, turns) = messages.split_at(messages.iter().take_while(instructs).count());
        let mut out = Vec::with_capacity(1 + 2 * self.spec.examples.len() + messages.len());
        if system.is_empty() {
            out.extend_from_slice(instructions);
        } else {
            let own =
                instructions.iter().filter_map(|m| m["content"].as_str()).filter(|text| !text.is_empty());
            let texts: Vec<&str> = std::iter::once(system.as_str()).chain(own).collect();
            out.push(json!({"role": "system", "content": texts.join("\n\n")}));
        }
        for Example { user, assistant } in &self.spec.examples {
            out.push(json!({"role": "user", "content": user}));
            out.push(json!({"role": "assistant", "content": assistant}));
        }
        out.extend_from_slice(turns);
        out
    }

    /// The system text, without the blank space around it. Blocks.
    pub fn system_blocking(&self, given: &Map<String, Json>) -> Result<String, WrapError> {
        let values = self.values(given)?;
        told(self.rendered_blocking(values))
    }

    /// The value of each variable: the client's, else the default.
    fn values(&self, given: &Map<String, Json>) -> Result<Map<String, Json>, WrapError> {
        let variables = &self.spec.variables;
        if let Some(name) = given.keys().find(|name| !variables.contains_key(*name)) {
            let fault = VariableFault::Unknown(variables.keys().cloned().collect());
            return Err(WrapError::Variable { name: name.clone(), fault });
        }
        let value = |(name, variable): (&String, &Variable)| {
            let wrong = |fault| WrapError::Variable { name: name.clone(), fault };
            match (given.get(name), &variable.default) {
                (Some(value), _) if variable.kind.takes(value) => Ok((name.clone(), value.clone())),
                (Some(value), _) => Err(wrong(VariableFault::kind(variable.kind, value))),
                (None, Some(default)) => Ok((name.clone(), default.clone())),
                (None, None) => Err(wrong(VariableFault::Missing(variable.kind))),
            }
        };
        variables.iter().map(value).collect()
    }
}

/// What a client is told of a rendering.
fn told(rendered: Result<String, Failure>) -> Result<String, WrapError> {
    let text = rendered.map_err(|failure| match failure.stopped {
        Stopped::Raised(why) => WrapError::Refused(why),
        Stopped::Failed(why) => WrapError::Failed(why),
        Stopped::Busy => WrapError::Busy,
        Stopped::OutOfFuel => {
            WrapError::Failed("it did not finish within its bounds of work and memory".into())
        }
    })?;
    match too_long(&text) {
        None => Ok(text),
        Some(why) => Err(WrapError::Failed(why)),
    }
}

/// What is wrong with a text that is too long.
pub(super) fn too_long(text: &str) -> Option<String> {
    (text.len() > MOST_TEXT_BYTES).then(|| {
        format!("its text has {} bytes, more than the {MOST_TEXT_BYTES} that it may have", text.len())
    })
}
