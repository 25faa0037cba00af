//! `is-json` and `json-schema`.

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value as Json;

use super::checks::{Check, Finding};
use super::compile::Fault;
use super::response::Subject;
use super::verdict::{Judgement, shown, shown_json};

/// The largest compiled pattern of a schema, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// The answer is one JSON value. Text around it, such as a code fence, fails it.
pub(super) struct IsJson;

impl Check for IsJson {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        Ok(match subject.json() {
            Ok(_) => Judgement::pass("valid JSON"),
            Err(why) => not_json(subject, why),
        })
    }
}

fn not_json(subject: &Subject<'_>, why: &str) -> Judgement {
    Judgement::fail(format!("not JSON ({why}): {}", shown(subject.text())))
}

/// The answer is JSON that the schema allows.
pub(super) struct JsonSchema(Validator);

impl JsonSchema {
    pub(super) fn new(schema: &Json) -> Result<Self, Fault> {
        validator(schema).map(Self).map_err(|found| Fault {
            field: "schema",
            found,
            fix: "correct the schema; references to other documents and look-around in patterns are not supported"
                .to_owned(),
        })
    }
}

impl Check for JsonSchema {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        Ok(match subject.json() {
            Ok(json) => match misfit(&self.0, json) {
                None => Judgement::pass("fits the schema"),
                Some(why) => Judgement::fail(why),
            },
            Err(why) => not_json(subject, why),
        })
    }
}

/// A validator that reaches for nothing outside the schema, and whose patterns take linear time.
pub(super) fn validator(schema: &Json) -> Result<Validator, String> {
    jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES))
        .build(schema)
        .map_err(|error| told(&error, "the schema"))
}

/// Where and why a value does not fit; none if it does.
pub(super) fn misfit(validator: &Validator, json: &Json) -> Option<String> {
    validator.validate(json).err().map(|error| told(&error, "the answer"))
}

/// The place within `whole`, the message, and the value. The message is kept free of the value, which may be long: it
/// comes last, and cut.
fn told(error: &ValidationError<'_>, whole: &str) -> String {
    let place = match error.instance_path().as_str() {
        "" => whole.to_owned(),
        path => shown(path),
    };
    format!("{place}: {}; found {}", error.masked_with("the value"), shown_json(error.instance()))
}
