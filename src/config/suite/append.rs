//! One more case at the end of a suite's file. All else in the file stays as it is, to the letter.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::{Suite, parse_suite};
use crate::config::error::ConfigErrors;

/// A case that is to be added.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewCase {
    /// For people, and to find it again.
    pub description: String,
    /// What it is about.
    pub tags: Vec<String>,
    /// What the suite's prompts and assertions name.
    pub vars: Map<String, Json>,
    /// What must hold of its answer, as it is written in a suite.
    pub assertions: Vec<Json>,
}

/// Why a case cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// `tests` is written in a way that nothing can be put behind.
    #[error(
        "line {line}: `tests` is no list with a case on lines of its own; write it as `tests:` and `  - vars: ...` below"
    )]
    NoList {
        /// Its line.
        line: usize,
    },
    /// A variable would be read as something else.
    #[error("the variable `{name}` begins with file://, which a suite takes for the name of a file")]
    NamesFile {
        /// The variable.
        name: String,
    },
    /// What came of it does not hold.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// What came of it says something else than was meant.
    #[error("with the case, the file would say something else than was meant: add it by hand")]
    Misread,
}

/// The text of a suite with a case more, and what it says. `file` names it in errors, and is the base of relative paths.
pub fn with_case(text: &str, file: &Path, case: &NewCase) -> Result<(String, Suite), AppendError> {
    let texts =
        case.vars.iter().find(|(_, value)| value.as_str().is_some_and(|text| text.starts_with("file://")));
    if let Some((name, _)) = texts {
        return Err(AppendError::NamesFile { name: name.clone() });
    }
    let place = place(text)?;
    let before = match place {
        // what has no case yet is no suite
        Place::Nowhere => None,
        Place::Behind { .. } => Some(parse_suite(text, file)?),
    };
    let appended = put(text, place, case);
    let after = parse_suite(&appended, file)?;
    let Some((last, others)) = after.cases.split_last() else { return Err(AppendError::Misread) };
    let is_meant = last.description.as_deref() == Some(&case.description)
        && case.vars.iter().all(|(name, value)| last.vars.get(name) == Some(value))
        && last.assertions.len() >= case.assertions.len();
    let is_kept = before.is_none_or(|before| {
        others == before.cases && after.prompts == before.prompts && after.providers == before.providers
    });
    if is_meant && is_kept { Ok((appended, after)) } else { Err(AppendError::Misread) }
}

/// Where a case goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind so many bytes, set in by so many spaces.
    Behind { at: usize, indent: usize },
    /// There is no `tests` yet.
    Nowhere,
}

/// Finds the end of the list below `tests:`. What this takes for the end and is none, the reading of the result shows.
fn place(text: &str) -> Result<Place, AppendError> {
    let mut lines = text.split_inclusive('\n').scan(0, |at, line| {
        *at += line.len();
        Some((*at, line))
    });
    let Some((line, (_, head))) =
        lines.by_ref().enumerate().find(|(_, (_, line))| line.starts_with("tests:"))
    else {
        return Ok(Place::Nowhere);
    };
    let none = AppendError::NoList { line: line + 1 };
    let rest = head["tests:".len()..].trim();
    if !(rest.is_empty() || rest.starts_with('#')) {
        return Err(none);
    }
    let mut found: Option<(usize, usize)> = None;
    for (end, line) in lines {
        let inside = line.trim_start_matches(' ');
        let indent = line.len() - inside.len();
        let word = inside.trim_end();
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let is_item = word == "-" || word.starts_with("- ");
        match &mut found {
            None if is_item => found = Some((end, indent)),
            None => return Err(none),
            Some((at, own)) if indent > *own || (indent == *own && is_item) => *at = end,
            Some(_) => break,
        }
    }
    found.map(|(at, indent)| Place::Behind { at, indent }).ok_or(none)
}

/// Writes the case as the files that ship are written: JSON, which is YAML, one key a line.
fn put(text: &str, place: Place, case: &NewCase) -> String {
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let (at, indent) = match place {
        Place::Behind { at, indent } => (at, indent),
        Place::Nowhere => (text.len(), 2),
    };
    let mut lines = vec![format!("- description: {}", json!(case.description))];
    if !case.tags.is_empty() {
        lines.push(format!("  metadata: {}", json!({"tags": case.tags})));
    }
    lines.push(format!("  vars: {}", Json::Object(case.vars.clone())));
    if !case.assertions.is_empty() {
        lines.push("  assert:".to_owned());
        lines.extend(case.assertions.iter().map(|assertion| format!("    - {assertion}")));
    }
    let (before, after) = text.split_at(at);
    let mut out = before.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push_str(ending);
    }
    if place == Place::Nowhere {
        out.extend([ending, "tests:", ending]);
    }
    for line in lines {
        out.extend([" ".repeat(indent).as_str(), &line, ending]);
    }
    out + after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(message: &str) -> NewCase {
        NewCase {
            description: "from chatcmpl-1: \"x\" # no".to_owned(),
            tags: vec!["late".to_owned()],
            vars: Map::from_iter([("message".to_owned(), json!(message))]),
            assertions: vec![json!({"type": "not-equals", "value": "a: b\n- c"})],
        }
    }

    fn added(text: &str, message: &str) -> Result<String, String> {
        with_case(text, Path::new("suite.yaml"), &case(message))
            .map(|(text, _)| text)
            .map_err(|e| e.to_string())
    }

    const LINES: &str = "- description: \"from chatcmpl-1: \\\"x\\\" # no\"\n  metadata: {\"tags\":[\"late\"]}\n  vars: {\"message\":\"Hi\"}\n  assert:\n    - {\"type\":\"not-equals\",\"value\":\"a: b\\n- c\"}\n";

    fn set_in(by: &str) -> String {
        LINES.lines().map(|line| format!("{by}{line}\n")).collect()
    }

    #[test]
    fn a_case_goes_behind_the_last_one_and_the_rest_stays_to_the_letter() {
        let head = "# a head\nprompts: [\"{{message}}\"] # one\n";
        for (before, by, after) in [
            ("tests:\n  - vars: {message: a}\n", "  ", ""),
            ("tests: # all\n- vars:\n    message: |\n      a\n\n      tests:\n", "", "\n# the end\n\n"),
            (
                "tests:\n\n    # the first\n    - vars: { message: a }\n      assert: [{type: is-json}]\n",
                "    ",
                "\ndescription: late\n",
            ),
            ("tests:\n  -\n    vars: {message: a}\n", "  ", "sharing: false\n"),
        ] {
            let (text, wanted) =
                (format!("{head}{before}{after}"), format!("{head}{before}{}{after}", set_in(by)));
            assert_eq!(added(&text, "Hi").unwrap(), wanted);
        }
        assert_eq!(added(head, "Hi").unwrap(), format!("{head}\ntests:\n{}", set_in("  ")));
        let bare = added("prompts: [\"{{message}}\"]\ntests:\n  - vars: {message: a}", "Hi").unwrap();
        assert!(bare.ends_with(&format!("{{message: a}}\n{}", set_in("  "))), "{bare}");
        let dos = added("prompts: [\"{{message}}\"]\r\ntests:\r\n  - vars: {message: a}\r\n", "Hi").unwrap();
        assert_eq!(dos.matches("\r\n").count(), dos.matches('\n').count(), "{dos}");
    }

    #[test]
    fn what_users_say_is_said_again_to_the_letter() {
        let text = "prompts: [\"{{message}}\"]\ntests:\n  - vars: {message: a}\n";
        for message in [
            "\"\\ \t\u{1}\n- a: b # c",
            "{{ env.HOME }} {% raw %}",
            "é 💥 \u{2028}",
            "'",
            "null",
            "&a *a",
            "",
        ] {
            let case = case(message);
            let (_, suite) = with_case(text, Path::new("suite.yaml"), &case).unwrap();
            assert_eq!(suite.cases.last().unwrap().vars["message"], message);
        }
        let error = added(text, "file:///etc/passwd").unwrap_err();
        assert!(error.contains("`message` begins with file://"), "{error}");
    }

    #[test]
    fn what_nothing_can_be_put_behind_is_told_with_its_line() {
        let head = "prompts: [\"{{message}}\"]\n";
        for tests in [
            "tests: [{vars: {message: a}}]\n",
            "tests: file://cases.yaml\n",
            "tests:\n  file://cases.yaml\n",
            "tests:\n",
        ] {
            let error = added(&format!("{head}{tests}"), "Hi").unwrap_err();
            assert!(error.contains("line 2: `tests` is no list"), "{error}");
        }
        assert!(added("prompts: [a]\ntets:\n  - a\n", "Hi").unwrap_err().contains("tets"));
        // an alias, or a key, that stands where only this looks for `tests`
        let hidden = "description: >\n  a\ntests:\n  - vars: {message: a}\n    assert:\n    - {type: is-json}\nprompts: [a]\n";
        assert!(added(hidden, "Hi").is_ok());
    }
}
