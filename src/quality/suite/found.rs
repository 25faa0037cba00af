//! JSON inside a text, as `contains-json` looks for it.

use serde_json::Value as Json;

/// The objects and lists that begin somewhere in a text, from left to right, none within another.
pub(super) fn json_in(text: &str) -> Vec<Json> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '[']) {
        rest = &rest[at..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Json>();
        match values.next() {
            Some(Ok(value)) => {
                found.push(value);
                rest = &rest[values.byte_offset()..];
            }
            // both brackets are one byte
            _ => rest = &rest[1..],
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::json_in;

    #[test]
    fn json_is_found_between_words_and_not_in_itself() {
        let text = "Here: {\"a\": [1]} and [2, 3] but {no} nor [ä";
        assert_eq!(json_in(text), [json!({"a": [1]}), json!([2, 3])]);
        assert!(json_in("nothing").is_empty() && json_in("").is_empty());
    }
}
