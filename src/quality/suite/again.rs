//! A case that asks what a user has asked: the variables that make a suite's prompts into his very messages.

use serde_json::{Map, Value as Json};

use super::assertion;
use super::render::{messages, names};
use crate::config::suite::{CaseSpec, Suite, SuitePrompt};

/// The variables that `prompts` need beside `given` so that each asks exactly `asked`; those are among what comes back. An
/// error says which prompt cannot.
pub fn vars_for(
    prompts: &[SuitePrompt],
    asked: &[Json],
    given: Map<String, Json>,
) -> Result<Map<String, Json>, String> {
    let mut vars = given;
    for prompt in prompts {
        let failed = |why: String| format!("the prompt {:?} {why}", shortened(&prompt.label));
        let names = names(&prompt.template).map_err(failed)?;
        let open: Vec<&String> = names.iter().filter(|name| !vars.contains_key(*name)).collect();
        if names.iter().any(|name| name == "_conversation") {
            return Err(failed("asks what was said before: add the case by hand".to_owned()));
        }
        let found = match open.as_slice() {
            [] => asks(prompt, &vars, asked).then(|| vars.clone()),
            [name] => candidates(asked).into_iter().find_map(|value| {
                let mut with = vars.clone();
                with.insert((*name).clone(), value);
                asks(prompt, &with, asked).then_some(with)
            }),
            names => {
                let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
                return Err(failed(format!("has the variables {}: give all but one", names.join(", "))));
            }
        };
        vars = found.ok_or_else(|| {
            let roles: Vec<&str> = asked.iter().filter_map(|message| message["role"].as_str()).collect();
            failed(format!(
                "cannot ask what was asked, messages of {}; `{{{{ messages | dump }}}}` asks any conversation",
                roles.join(", ")
            ))
        })?;
    }
    Ok(vars)
}

/// What a prompt's only variable may be: what was said last, or all that was said.
fn candidates(asked: &[Json]) -> Vec<Json> {
    let last = asked.last().map(|message| &message["content"]).filter(|content| content.is_string());
    last.cloned().into_iter().chain([Json::Array(asked.to_vec())]).collect()
}

fn asks(prompt: &SuitePrompt, vars: &Map<String, Json>, asked: &[Json]) -> bool {
    messages(&prompt.template, vars).is_ok_and(|messages| messages == asked)
}

/// Refuses a case in which an assertion cannot be judged, such as one that names a variable which the case has not.
pub fn check_case(case: &CaseSpec) -> Result<(), String> {
    case.assertions.iter().try_for_each(|spec| assertion::check_with(spec, &case.vars))
}

/// Whether a suite has a case of this answer.
pub fn has_case_of(suite: &Suite, response: &str) -> bool {
    let names = |case: &CaseSpec| case.description.as_ref().is_some_and(|text| text.contains(response));
    suite.cases.iter().any(names)
}

fn shortened(label: &str) -> String {
    label.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prompt(template: &str) -> SuitePrompt {
        SuitePrompt { label: "p".to_owned(), template: template.to_owned() }
    }

    fn found(templates: &[&str], asked: Json, given: Json) -> Result<Json, String> {
        let prompts: Vec<_> = templates.iter().map(|template| prompt(template)).collect();
        vars_for(&prompts, asked.as_array().unwrap(), given.as_object().cloned().unwrap()).map(Json::Object)
    }

    fn user(text: &str) -> Json {
        json!({"role": "user", "content": text})
    }

    #[test]
    fn a_prompts_variable_is_what_was_said_last_or_all_that_was_said() {
        let says = "Is it {{late}}?\n \"yes\"";
        let system = json!({"role": "system", "content": "Be kind."});
        let whole = r#"[{"role": "system", "content": "Be kind."}, {"role": "user", "content": {{ message | dump }}}]"#;
        assert_eq!(
            found(&["{{message}}"], json!([user(says)]), json!({})).unwrap(),
            json!({"message": says})
        );
        let asked = json!([system, user(says)]);
        assert_eq!(found(&[whole], asked.clone(), json!({})).unwrap(), json!({"message": says}));
        let talk = json!([user("a"), {"role": "assistant", "content": "b"}, user("c")]);
        assert_eq!(
            found(&["{{ messages | dump }}"], talk.clone(), json!({})).unwrap(),
            json!({"messages": talk})
        );
        let toned = "{{ tone }}: {{ message }}";
        let given = json!({"tone": "calm"});
        let vars = found(&[toned], json!([user("calm: hi")]), given.clone());
        // what stands around the variable is not what was asked
        assert!(vars.unwrap_err().contains("cannot ask what was asked"), "a variable is all of a text");
        assert!(found(&[toned], json!([user("hi")]), json!({})).unwrap_err().contains("message, tone"));
    }

    #[test]
    fn a_prompt_that_asks_something_else_is_named() {
        let error = found(&["Be brief. {{message}}"], json!([user("hi")]), json!({})).unwrap_err();
        assert_eq!(
            error,
            "the prompt \"p\" cannot ask what was asked, messages of user; `{{ messages | dump }}` asks any conversation"
        );
        assert!(found(&["hello"], json!([user("hi")]), json!({})).is_err());
        assert!(found(&["{{message}}", "{{ messages | dump }}"], json!([user("hi")]), json!({})).is_ok());
        assert!(found(&["{{ _conversation }}{{message}}"], json!([user("hi")]), json!({})).is_err());
    }
}
