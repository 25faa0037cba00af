//! Tools of a chat request: what is offered, what may be done with it, and calls that messages bring back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use utoipa::ToSchema;

use super::decoding::too_many;
use crate::api::body::{must_be_object, typed_of};
use crate::api::error::{ApiError, shown};
use crate::api::fields::TOOLS;
use crate::gateway::{MostCalls, Tool, ToolChoice, ToolUse, schema_depth};

/// The most tools that a request may offer.
pub(in crate::api) const MAX_TOOLS: usize = 128;
/// The longest name of a tool.
const MAX_NAME: usize = 64;
/// How deep a schema of arguments may be nested.
const MAX_SCHEMA_DEPTH: usize = 32;

/// A tool that the answer may call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolBody {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: FunctionBody,
}

/// A function that the client runs.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionBody {
    /// 1 to 64 letters, digits, `_` and `-`.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object; none if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Json>,
    /// Whether arguments must keep to the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// A call, whole: of an answer, or of a message that brings it back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallBody {
    /// Names it.
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: CalledBody,
}

/// What is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CalledBody {
    /// The tool.
    pub name: String,
    /// JSON, if the model kept to it.
    pub arguments: String,
}

fn function() -> String {
    "function".into()
}

/// The parameters that speak of tools.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ToolsBody {
    /// Up to 128 tools that the answer may call.
    pub tools: Option<Vec<ToolBody>>,
    /// `auto` (if absent), `none`, `required`, `{"type": "function", "function": {"name": ..}}`, or of the type
    /// `allowed_tools`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Json>,
    /// False leaves out all calls but the first; true if absent.
    pub parallel_tool_calls: Option<bool>,
}

/// Tools for the gateway, and as the template reads them.
pub(in crate::api) type Offer = (ToolUse, Json);

impl ToolsBody {
    /// The parameters of a request that speak of tools.
    pub(in crate::api) fn parse(map: &Map<String, Json>) -> Result<Self, ApiError> {
        tools_must_be_objects(map)?;
        typed_of(map, TOOLS)
    }

    /// The tools, unless there are none or none may be called.
    pub(in crate::api) fn offer(self) -> Result<Option<Offer>, ApiError> {
        let tools = self.tools.unwrap_or_default();
        check_tools(&tools)?;
        let (tools, wanted) = allowed(tools, self.tool_choice)?;
        let Some(choice) = choice(wanted.as_ref(), &tools)? else { return Ok(None) };
        if tools.is_empty() {
            return Ok(None);
        }
        let most = if self.parallel_tool_calls == Some(false) { MostCalls::One } else { MostCalls::Any };
        let written = tools.iter().map(ToolBody::to_template).collect();
        let is_strict = |tool: &&ToolBody| tool.function.strict == Some(true);
        let strict = tools.iter().filter(is_strict).map(|tool| tool.function.name.clone()).collect();
        let tools = tools.into_iter().map(|tool| spec(tool.function)).collect();
        Ok(Some((ToolUse { tools, strict, choice, most }, written)))
    }
}

impl ToolBody {
    /// As Hugging Face's templates read a tool.
    fn to_template(&self) -> Json {
        let FunctionBody { name, description, parameters, .. } = &self.function;
        let mut function = Map::from_iter([("name".to_owned(), json!(name))]);
        if let Some(description) = description {
            function.insert("description".into(), json!(description));
        }
        let none = || json!({"type": "object", "properties": {}});
        function.insert("parameters".into(), parameters.clone().unwrap_or_else(none));
        json!({"type": "function", "function": function})
    }
}

fn spec(function: FunctionBody) -> Tool {
    Tool { name: function.name, parameters: function.parameters.unwrap_or_else(|| json!({"type": "object"})) }
}

/// Refuses entries of `tools` that are no objects, before they are read.
fn tools_must_be_objects(map: &Map<String, Json>) -> Result<(), ApiError> {
    let tools = map.get("tools").and_then(Json::as_array).into_iter().flatten();
    for (i, tool) in tools.enumerate() {
        must_be_object(Some(tool), &format!("tools[{i}]"))?;
        must_be_object(tool.get("function"), &format!("tools[{i}].function"))?;
    }
    Ok(())
}

fn check_tools(tools: &[ToolBody]) -> Result<(), ApiError> {
    let refused = |code, param: String, message: String| Err(ApiError::parameter(code, param, message));
    too_many("tools", tools.len(), MAX_TOOLS)?;
    for (i, tool) in tools.iter().enumerate() {
        if tool.kind != "function" {
            let message = format!("this server runs no tools of its own; found {}", shown(&tool.kind));
            return refused("unsupported_parameter", format!("tools[{i}].type"), message);
        }
        check_name(&tool.function.name, &format!("tools[{i}].function.name"))?;
        if tools[..i].iter().any(|other| other.function.name == tool.function.name) {
            let message = format!("{} is the name of two tools", shown(&tool.function.name));
            return refused("invalid_value", format!("tools[{i}].function.name"), message);
        }
        if let Some(parameters) = &tool.function.parameters {
            check_schema(parameters, &format!("tools[{i}].function.parameters"))?;
        }
    }
    Ok(())
}

/// The name of a tool.
pub(in crate::api) fn check_name(name: &str, param: &str) -> Result<(), ApiError> {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_letter) {
        return Ok(());
    }
    let message =
        format!("`{param}` must be 1 to {MAX_NAME} letters, digits, `_` and `-`; found {}", shown(name));
    Err(ApiError::parameter("invalid_value", param, message))
}

fn check_schema(schema: &Json, param: &str) -> Result<(), ApiError> {
    must_be_object(Some(schema), param)?;
    let depth = schema_depth(schema);
    if depth > MAX_SCHEMA_DEPTH {
        let message = format!("`{param}` is nested {depth} deep; it may be {MAX_SCHEMA_DEPTH}");
        return Err(ApiError::parameter("invalid_value", param, message));
    }
    Ok(())
}

/// Of a choice of the type `allowed_tools`, the tools that it names, and its mode as the choice among them; else all, and the
/// choice as it is. The others are not offered: what a model does not read of, it does not call.
fn allowed(tools: Vec<ToolBody>, given: Option<Json>) -> Result<(Vec<ToolBody>, Option<Json>), ApiError> {
    let is_of_type = |choice: &Json| choice["type"] == "allowed_tools";
    let Some(choice) = given.as_ref().filter(|choice| is_of_type(choice)) else { return Ok((tools, given)) };
    // in chat it stands in an object of its own, in responses it does not
    let (own, place) = match choice.get("allowed_tools") {
        Some(own) => (own, "tool_choice.allowed_tools"),
        None => (choice, "tool_choice"),
    };
    let refused = |param: String, message: String| Err(ApiError::parameter("invalid_value", param, message));
    let Some(mode @ ("auto" | "required")) = own["mode"].as_str() else {
        let message =
            format!("`{place}.mode` is `auto` or `required`; found {}", shown(&own["mode"].to_string()));
        return refused(format!("{place}.mode"), message);
    };
    let Some(named) = own["tools"].as_array().filter(|named| !named.is_empty()) else {
        let message = format!("`{place}.tools` lists the tools that may be called, at least one");
        return refused(format!("{place}.tools"), message);
    };
    let mut names = Vec::with_capacity(named.len());
    for (i, tool) in named.iter().enumerate() {
        let name = tool["function"].get("name").or_else(|| tool.get("name")).and_then(Json::as_str);
        let known = name.filter(|name| tools.iter().any(|tool| tool.function.name == *name));
        let Some(name) = known else {
            let message = format!("{} names none of `tools`", shown(&tool.to_string()));
            return refused(format!("{place}.tools[{i}]"), message);
        };
        names.push(name);
    }
    let may_be_called = |tool: &ToolBody| names.contains(&tool.function.name.as_str());
    Ok((tools.into_iter().filter(may_be_called).collect(), Some(json!(mode))))
}

/// What the client wants of the tools; nothing if they are not to be called.
fn choice(given: Option<&Json>, tools: &[ToolBody]) -> Result<Option<ToolChoice>, ApiError> {
    let refused = |code, param: &str, message: String| Err(ApiError::parameter(code, param, message));
    let choice = match given {
        None => ToolChoice::Auto,
        Some(Json::String(word)) if word == "none" => return Ok(None),
        Some(Json::String(word)) if word == "auto" => ToolChoice::Auto,
        Some(Json::String(word)) if word == "required" => ToolChoice::Required,
        Some(Json::Object(named)) if named.get("type").is_some_and(|kind| kind == "function") => {
            let name = named.get("function").and_then(|f| f.get("name")).or_else(|| named.get("name"));
            let Some(name) = name.and_then(Json::as_str) else {
                let param = "tool_choice.function.name";
                return refused("missing_required_parameter", param, format!("`{param}` is required"));
            };
            if !tools.iter().any(|tool| tool.function.name == name) {
                let message = format!("{} is none of `tools`", shown(name));
                return refused("invalid_value", "tool_choice.function.name", message);
            }
            ToolChoice::Named(name.to_owned())
        }
        Some(other) => {
            let message = format!(
                "`tool_choice` is `none`, `auto`, `required`, or an object of type `function` with its name, or of type `allowed_tools`; found {}",
                shown(&other.to_string())
            );
            return refused("invalid_value", "tool_choice", message);
        }
    };
    if choice != ToolChoice::Auto && tools.is_empty() {
        let message = "`tool_choice` asks for a call, and there are no `tools`".to_owned();
        return refused("invalid_value", "tool_choice", message);
    }
    Ok(Some(choice))
}

impl ToolCallBody {
    /// As Hugging Face's templates read a call: its arguments are an object. What is none, as a model may have written
    /// it, stays a text.
    pub(in crate::api) fn to_template(&self, param: &str) -> Result<Json, ApiError> {
        if self.kind != "function" {
            let message = format!("`{param}.type` must be `function`; found {}", shown(&self.kind));
            return Err(ApiError::parameter("invalid_value", format!("{param}.type"), message));
        }
        let CalledBody { name, arguments } = &self.function;
        let read = serde_json::from_str::<Map<String, Json>>(arguments);
        let arguments = read.map_or_else(|_| json!(arguments), Json::Object);
        Ok(json!({"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(body: Json) -> Result<Option<Offer>, ApiError> {
        serde_json::from_value::<ToolsBody>(body).unwrap().offer()
    }

    fn tool(name: &str) -> Json {
        json!({"type": "function", "function": {"name": name, "strict": true}})
    }

    #[test]
    fn templates_read_tools_with_parameters_and_without_what_is_only_for_the_server() {
        let (_, written) = offer(json!({"tools": [tool("f")]})).unwrap().unwrap();
        insta::assert_json_snapshot!(written, @r#"
        [
          {
            "type": "function",
            "function": {
              "name": "f",
              "parameters": {
                "type": "object",
                "properties": {}
              }
            }
          }
        ]
        "#);
    }

    #[test]
    fn tools_that_may_not_be_called_are_not_offered() {
        for body in [json!({}), json!({"tools": []}), json!({"tools": [tool("f")], "tool_choice": "none"})] {
            assert!(offer(body).unwrap().is_none());
        }
    }

    #[test]
    fn a_choice_is_read_in_both_of_the_forms_that_clients_write() {
        for named in
            [json!({"type": "function", "function": {"name": "f"}}), json!({"type": "function", "name": "f"})]
        {
            let (offered, _) = offer(json!({"tools": [tool("f")], "tool_choice": named})).unwrap().unwrap();
            assert_eq!(offered.choice, ToolChoice::Named("f".into()));
        }
    }

    #[test]
    fn of_tools_those_that_are_allowed_are_offered() {
        let of =
            |choice: Json| offer(json!({"tools": [tool("f"), tool("g"), tool("h")], "tool_choice": choice}));
        let names =
            |offered: &ToolUse| offered.tools.iter().map(|tool| tool.name.clone()).collect::<Vec<_>>();
        let chat = json!({"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "h"}}, {"type": "function", "function": {"name": "f"}}],
        }});
        let (offered, written) = of(chat).unwrap().unwrap();
        assert_eq!((names(&offered), &offered.choice), (vec!["f".into(), "h".into()], &ToolChoice::Required));
        assert_eq!(written.as_array().unwrap().len(), 2);
        let responses = |mode: &str, name: &str| json!({"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name}]});
        let (offered, _) = of(responses("auto", "g")).unwrap().unwrap();
        assert_eq!((names(&offered), &offered.choice), (vec!["g".into()], &ToolChoice::Auto));
        for (choice, param) in [
            (responses("any", "g"), "tool_choice.mode"),
            (responses("auto", "x"), "tool_choice.tools[0]"),
            (
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}),
                "tool_choice.allowed_tools.tools",
            ),
        ] {
            let error = format!("{:?}", of(choice).unwrap_err());
            assert!(error.contains(param), "{error}");
        }
    }

    #[test]
    fn arguments_that_are_no_object_stay_as_they_were_written() {
        let call = |arguments: &str| ToolCallBody {
            id: "1".into(),
            kind: function(),
            function: CalledBody { name: "f".into(), arguments: arguments.into() },
        };
        let written = |arguments| call(arguments).to_template("x").unwrap()["function"]["arguments"].clone();
        assert_eq!(written("{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(written("{\"a\": "), json!("{\"a\": "));
    }
}
