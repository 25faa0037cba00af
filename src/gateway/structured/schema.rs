//! Which JSON schemas can be kept to. Those that cannot are refused with the keyword at fault and the path to it.

use serde_json::{Map, Value as Json};

/// How deep a schema may be, its own brackets counted.
const MAX_DEPTH: usize = 64;

/// The drafts that are known by their names.
const DRAFTS: &[&str] = &[
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
];

/// Keywords that no grammar can keep to, or ours does not.
const UNSUPPORTED: &[&str] = &[
    "not",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$recursiveRef",
    "$recursiveAnchor",
    "$dynamicRef",
    "$dynamicAnchor",
];

/// Formats whose syntax is kept to.
const FORMATS: &[&str] =
    &["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Refuses a schema that is none, or that cannot be kept to.
pub(super) fn check(schema: &Json) -> Result<(), String> {
    if depth(schema) > MAX_DEPTH {
        return Err(format!("the schema is more than {MAX_DEPTH} levels deep"));
    }
    if let Some(draft) = schema.get("$schema") {
        let name = draft.as_str().unwrap_or_default().trim_end_matches('#');
        if !DRAFTS.contains(&name) {
            return Err(format!("`$schema`: {draft} is not a draft that this server knows"));
        }
    }
    jsonschema::meta::validate(schema).map_err(|error| {
        let path = error.instance_path().to_string();
        let at = if path.is_empty() { String::new() } else { format!("at `{path}`: ") };
        format!("it is no JSON schema: {at}{error}")
    })?;
    if schema.get("x-guidance").is_some() {
        return Err("`x-guidance` is not supported; leave it out".into());
    }
    Walk { root: schema }.schema(schema, "")
}

/// How deep a value is nested; the parser has bounded it.
pub fn depth(value: &Json) -> usize {
    let deepest = match value {
        Json::Array(items) => items.iter().map(depth).max(),
        Json::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

/// A walk over all subschemas.
struct Walk<'a> {
    root: &'a Json,
}

impl Walk<'_> {
    fn schema(&self, schema: &Json, path: &str) -> Result<(), String> {
        let Json::Object(members) = schema else { return Ok(()) };
        for (keyword, value) in members {
            let at = format!("{path}/{keyword}");
            if UNSUPPORTED.contains(&keyword.as_str()) {
                return Err(format!("the keyword `{keyword}` (at `{at}`) is not supported; leave it out"));
            }
            match (keyword.as_str(), value) {
                ("properties" | "patternProperties" | "$defs" | "definitions", Json::Object(schemas)) => {
                    schemas
                        .iter()
                        .try_for_each(|(name, schema)| self.schema(schema, &format!("{at}/{name}")))?;
                }
                ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Json::Array(schemas)) => {
                    let mut numbered = schemas.iter().enumerate();
                    numbered.try_for_each(|(i, schema)| self.schema(schema, &format!("{at}/{i}")))?;
                }
                ("items" | "additionalItems" | "additionalProperties", schema) => self.schema(schema, &at)?,
                ("$ref", Json::String(reference)) => self.reference(reference, &at)?,
                ("format", Json::String(name)) if may_be_string(members) => format(name, &at)?,
                ("minProperties", _) => counted(members, &at)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// References lead into the schema itself.
    fn reference(&self, reference: &str, at: &str) -> Result<(), String> {
        let target = match reference {
            "#" | "#/" => Some(self.root),
            _ => reference.strip_prefix("#/").and_then(|path| {
                path.split('/').try_fold(self.root, |value, step| match value {
                    Json::Array(items) => items.get(step.parse::<usize>().ok()?),
                    other => other.get(step),
                })
            }),
        };
        let shown: String = reference.chars().take(80).collect();
        target.map(|_| ()).ok_or_else(|| {
            format!("the `$ref` (at `{at}`) `{shown}` is not supported: it must name a place in the schema itself, as `#/$defs/name`")
        })
    }
}

fn format(name: &str, at: &str) -> Result<(), String> {
    if FORMATS.contains(&name) {
        return Ok(());
    }
    let (name, known) = (name.chars().take(80).collect::<String>(), FORMATS.join("`, `"));
    Err(format!("the `format` (at `{at}`) `{name}` is not supported; known are `{known}`"))
}

fn may_be_string(members: &Map<String, Json>) -> bool {
    match members.get("type") {
        None => true,
        Some(Json::Array(types)) => types.iter().any(|name| name == "string"),
        Some(name) => name == "string",
    }
}

/// A grammar does not see whether free keys are all different ones, so it cannot count them.
fn counted(members: &Map<String, Json>, at: &str) -> Result<(), String> {
    let least = members.get("minProperties").and_then(Json::as_u64).unwrap_or(0);
    let required = members.get("required").and_then(Json::as_array).map_or(0, Vec::len) as u64;
    let closed = members.get("additionalProperties") == Some(&Json::Bool(false));
    let free = !closed || members.contains_key("patternProperties");
    if least <= required || !free {
        return Ok(());
    }
    Err(format!(
        "the keyword `minProperties` (at `{at}`) is supported only up to the number of `required` properties, or where \
         `additionalProperties` is false and there are no `patternProperties`"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_kept_to_is_refused_with_its_keyword_and_its_path() {
        let cases = [
            (json!({"properties": {"a": {"items": {"not": {}}}}}), "`not` (at `/properties/a/items/not`)"),
            (json!({"$defs": {"x": {"uniqueItems": true}}}), "`uniqueItems` (at `/$defs/x/uniqueItems`)"),
            (json!({"anyOf": [{}, {"if": {}}]}), "`if` (at `/anyOf/1/if`)"),
            (
                json!({"additionalProperties": {"contains": {}}}),
                "`contains` (at `/additionalProperties/contains`)",
            ),
            (json!({"items": {"type": "string", "format": "iri"}}), "(at `/items/format`) `iri`"),
            (json!({"$ref": "https://example.com/schema"}), "(at `/$ref`) `https://example.com/schema`"),
            (json!({"$ref": "#/$defs/missing"}), "`#/$defs/missing`"),
            (json!({"minProperties": 1}), "`minProperties` (at `/minProperties`)"),
            (json!({"x-guidance": {"lenient": true}}), "`x-guidance`"),
            (json!({"$schema": "https://example.com/mine"}), "`$schema`"),
            (json!({"properties": {"a": {"type": "strang"}}}), "at `/properties/a/type`"),
            (json!({"minLength": -1}), "at `/minLength`"),
            (json!([1]), "it is no JSON schema"),
            ((0..70).fold(json!({}), |inner, _| json!({"items": inner})), "64 levels deep"),
        ];
        for (schema, reason) in cases {
            let error = check(&schema).unwrap_err();
            assert!(error.contains(reason), "{schema}: {error}");
        }
    }

    #[test]
    fn keywords_that_are_names_of_properties_or_data_are_not_at_fault() {
        let schemas = [
            json!({"properties": {"not": {"type": "string"}, "if": {}}, "required": ["not"]}),
            json!({"enum": [{"not": 1, "$ref": "x"}], "default": {"contains": 1}, "examples": [{"if": 1}]}),
            json!({"type": "integer", "format": "int32", "x-order": 1}),
            json!({"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"}),
            json!({"required": ["a", "b"], "minProperties": 2}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string", "format": "uuid"}),
            json!(true),
        ];
        for schema in schemas {
            check(&schema).unwrap();
        }
    }
}
