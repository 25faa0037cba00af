//! `tool-call-valid`: calls of known tools, with arguments that their schemas allow.

use serde_json::Value as Json;

use super::checks::{Check, Finding};
use super::json::{misfit, validator};
use super::response::{Subject, Tool, ToolCall};
use super::verdict::{Judgement, shown};

/// Each call names a tool of the request and gives it arguments that fit.
pub(super) struct ToolCallsValid;

impl Check for ToolCallsValid {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let calls = &subject.response.tool_calls;
        if calls.is_empty() {
            return Ok(Judgement::pass("no tool calls"));
        }
        Ok(match calls.iter().find_map(|call| fault(call, &subject.response.tools)) {
            None => Judgement::pass(format!("{} valid tool calls", calls.len())),
            Some(why) => Judgement::fail(why),
        })
    }
}

/// What is wrong with a call; none if it is right.
fn fault(call: &ToolCall, tools: &[Tool]) -> Option<String> {
    let name = shown(&call.name);
    let Some(tool) = tools.iter().find(|tool| tool.name == call.name) else {
        return Some(format!("the request has no tool {name}"));
    };
    let arguments: Json = match serde_json::from_str(&call.arguments) {
        Ok(arguments) => arguments,
        Err(why) => {
            return Some(format!("the arguments of {name} are not JSON ({why}): {}", shown(&call.arguments)));
        }
    };
    // A client's schema that does not compile says nothing against the answer.
    let validator = validator(&tool.parameters).ok()?;
    misfit(&validator, &arguments).map(|why| format!("the arguments of {name} do not fit: {why}"))
}
