//! Whether an answer is what a good desk would have said.

use serde::Deserialize;
use serde_json::Value;

use super::case::Case;

/// How a version that refuses puts it.
pub const REFUSAL: &str = "I'm sorry, but I can't help with that.";

/// One answer, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// It is one JSON object with the five fields, and nothing else.
    pub valid_json: bool,
    /// Intent, product, order and priority are all right. The reply's wording is free.
    pub correct: bool,
    /// It declines to help, as text or in its reply.
    pub refused: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    intent: String,
    product: String,
    order_id: Option<String>,
    priority: String,
    #[serde(rename = "reply")]
    _reply: String,
}

/// Judges `answer` to `case`.
pub fn score(answer: &str, case: &Case) -> Score {
    let lower = answer.to_lowercase();
    let refused = ["can't help", "cannot help", "unable to help"].iter().any(|phrase| lower.contains(phrase));
    // `order_id` may be null but not absent, which an Option alone would let pass
    let names_order = |v: &Value| v.get("order_id").is_some();
    let parsed = serde_json::from_str::<Value>(answer.trim()).ok().filter(names_order);
    let Some(found) = parsed.and_then(|v| serde_json::from_value::<Answer>(v).ok()) else {
        return Score { valid_json: false, correct: false, refused };
    };
    let expected = &case.expected;
    let priority = serde_json::to_value(expected.priority).ok();
    let correct = found.intent == expected.intent
        && found.product == expected.product
        && found.order_id == expected.order_id
        && priority == Some(Value::String(found.priority));
    Score { valid_json: true, correct, refused }
}

#[cfg(test)]
mod tests {
    use super::super::case::held_out;
    use super::*;

    #[test]
    fn the_expected_answer_is_right() {
        for case in held_out(1, 50) {
            let wanted = Score { valid_json: true, correct: true, refused: false };
            assert_eq!(score(&case.answer(), &case), wanted, "{case:?}");
        }
    }

    #[test]
    fn a_wrong_field_a_broken_object_and_a_refusal_are_told_apart() {
        let case = held_out(1, 1).remove(0);
        let answer = case.answer();
        let wrong = answer.replace(case.expected.intent, "something_else");
        assert_eq!(score(&wrong, &case), Score { valid_json: true, correct: false, refused: false });
        let broken = answer.trim_end_matches('}');
        assert_eq!(score(broken, &case), Score { valid_json: false, correct: false, refused: false });
        assert_eq!(score(REFUSAL, &case), Score { valid_json: false, correct: false, refused: true });
        let without_order = r#"{"intent":"a","product":"b","priority":"low","reply":"c"}"#;
        assert!(!score(without_order, &case).valid_json);
    }
}
