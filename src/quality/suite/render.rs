//! Variables put into texts: the Jinja in which promptfoo's templates are written, in a box: no file, bounded work.

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// Template instructions of one rendering.
const FUEL: u64 = 200_000;
/// The largest text that comes of one.
const LARGEST: usize = 1 << 20;

/// Puts variables into a text. A name that is no variable is an error, as a case that asks for something else than was meant
/// tells nothing.
pub(super) fn render(text: &str, vars: &Map<String, Json>) -> Result<String, String> {
    if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
        return Ok(text.to_owned());
    }
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // promptfoo's texts are put in as they are, whatever the file's name
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.add_filter("dump", |value: Value| -> Result<String, minijinja::Error> {
        serde_json::to_string(&value)
            .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
    });
    let vars = Value::deserialize(Json::Object(vars.clone())).map_err(|e| e.to_string())?;
    let rendered = env.render_str(text, vars).map_err(|e| match e.kind() {
        ErrorKind::OutOfFuel => "the template does too much".to_owned(),
        _ => format!("the template fails: {e:#}").lines().next().unwrap_or_default().to_owned(),
    })?;
    if rendered.len() > LARGEST {
        return Err(format!("the template makes {} bytes; {LARGEST} at most are sent", rendered.len()));
    }
    Ok(rendered)
}

/// Puts variables into all texts of a value.
pub(super) fn render_all(value: &Json, vars: &Map<String, Json>) -> Result<Json, String> {
    Ok(match value {
        Json::String(text) => Json::String(render(text, vars)?),
        Json::Array(items) => {
            Json::Array(items.iter().map(|item| render_all(item, vars)).collect::<Result<_, _>>()?)
        }
        Json::Object(members) => {
            let member = |(name, value): (&String, &Json)| Ok((name.clone(), render_all(value, vars)?));
            Json::Object(members.iter().map(member).collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// The messages that a rendered prompt is: a list of them in JSON or YAML, else one of the user's.
pub(super) fn messages(rendered: &str) -> Result<Vec<Json>, String> {
    let text = rendered.trim();
    let listed: Option<Json> = if text.starts_with('[') {
        serde_json::from_str(text).ok()
    } else if text.starts_with("- role:") {
        serde_saphyr::from_str(text).ok()
    } else {
        None
    };
    match listed {
        Some(Json::Array(messages)) if messages.iter().all(|message| message["role"].is_string()) => {
            Ok(messages)
        }
        _ if text.is_empty() => Err("the prompt is empty".to_owned()),
        _ => Ok(vec![serde_json::json!({"role": "user", "content": rendered})]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vars(value: Json) -> Map<String, Json> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn variables_stand_for_themselves_in_all_texts() {
        let vars = vars(json!({"name": "<Ada>", "order": {"id": 7}, "list": ["a", "b"]}));
        let value = json!({"a": ["{{name}} {{ order.id }}"], "b": 3, "c": "{{ list | dump }}{% for i in list %}{{i}}{% endfor %}"});
        let expected = json!({"a": ["<Ada> 7"], "b": 3, "c": "[\"a\",\"b\"]ab"});
        assert_eq!(render_all(&value, &vars).unwrap(), expected);
        assert!(render("{{nobody}}", &vars).unwrap_err().contains("undefined"));
    }

    #[test]
    fn poison_is_stopped() {
        for text in [
            "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
            "{% for i in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 1000 }}{% endfor %}",
            "{% include '/etc/passwd' %}",
            "{{ ''.__class__ }}",
            "{{ x",
        ] {
            assert!(render(text, &Map::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prompt_is_a_list_of_messages_or_one() {
        let list = json!([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]);
        assert_eq!(Json::Array(messages(&list.to_string()).unwrap()), list);
        let yaml = "- role: system\n  content: a\n- role: user\n  content: b\n";
        assert_eq!(Json::Array(messages(yaml).unwrap()), list);
        for text in ["hello", "[not json", "[1, 2]"] {
            assert_eq!(messages(text).unwrap(), [json!({"role": "user", "content": text})]);
        }
        assert!(messages(" ").is_err());
    }
}
