//! A notice in the words of Slack's incoming webhooks: a text for notifications, and blocks.
//!
//! Limits and escapes: <https://docs.slack.dev/reference/block-kit/blocks/section-block> and
//! <https://docs.slack.dev/messaging/formatting-message-text>.

use serde_json::{Value, json};

use crate::store::RolloutNotice;

/// The longest text of a section, in characters.
const SECTION: usize = 3000;
/// The longest field of a section.
const FIELD: usize = 2000;
/// What is left of either for the words around the text that is cut.
const AROUND: usize = 200;

/// The message.
pub(super) fn message(notice: &RolloutNotice) -> Value {
    let RolloutNotice { model, canary, stable, .. } = notice;
    let title = format!("{model}: {canary} {}", happened(notice));
    let mut blocks = vec![section(&format!("*{title}*\n{}", escaped(&notice.reason, SECTION - AROUND)))];
    let shares: Vec<_> =
        notice.weights.iter().map(|(version, weight)| format!("{version} {weight} %")).collect();
    let fields = [
        ("Traffic", shares.join(", ")),
        ("Compared with", stable.to_string()),
        ("Was", notice.from.clone().unwrap_or_else(|| "not begun".to_owned())),
        ("By", notice.actor.clone()),
    ];
    let field =
        |(name, text): (&str, String)| mrkdwn(&format!("*{name}*\n{}", escaped(&text, FIELD - AROUND)));
    blocks.push(json!({ "type": "section", "fields": fields.map(field) }));
    // a verdict's own reason repeats the finding
    if let Some(finding) = notice.finding.as_ref().filter(|finding| !notice.reason.contains(&**finding)) {
        blocks.push(section(&format!("*Analysis*\n{}", escaped(finding, SECTION - AROUND))));
    }
    if let Some(command) = wanted(notice) {
        blocks.push(section(&format!("An operator is waited for: `switchback rollout {command} {model}`")));
    }
    let context = mrkdwn(&format!("rollout {}, {}", notice.rollout, notice.at));
    blocks.push(json!({ "type": "context", "elements": [context] }));
    json!({ "text": title, "blocks": blocks })
}

fn happened(notice: &RolloutNotice) -> String {
    let weight = notice.weights.get(&notice.canary).map(ToString::to_string).unwrap_or_default();
    match &*notice.event {
        "pending" => "is to be rolled out".to_owned(),
        "suite" => "is in its regression suite".to_owned(),
        "step" => format!("is in {} with {weight} % of the traffic", notice.to),
        "paused" => format!("is paused at {weight} %"),
        "awaiting_approval" => "awaits approval".to_owned(),
        "held" => format!("is held at {weight} %, as the evidence does not suffice"),
        "promoted" => "is promoted".to_owned(),
        "aborted" => "is aborted".to_owned(),
        "rolled_back" => "is no longer rolled out, as the route was changed by hand".to_owned(),
        "superseded" => "is superseded by a newer rollout".to_owned(),
        // of a newer release, whose store this one has opened
        other => escaped(other, FIELD),
    }
}

/// What an operator has to say before anything moves.
fn wanted(notice: &RolloutNotice) -> Option<&'static str> {
    match &*notice.waits_for {
        "resume" => Some("resume"),
        "approval" => Some("approve"),
        _ => None,
    }
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": mrkdwn(text) })
}

fn mrkdwn(text: &str) -> Value {
    json!({ "type": "mrkdwn", "text": text })
}

/// Text that Slack takes for no markup of its own, such as a mention of everybody; cut to `most` characters between
/// two characters of the text.
fn escaped(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    let mut length = 0;
    for c in text.chars() {
        let mut one = [0; 4];
        let shown = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            c if c.is_control() && c != '\n' => " ",
            c => c.encode_utf8(&mut one),
        };
        length += shown.chars().count();
        if length >= most {
            out.push('…');
            break;
        }
        out.push_str(shown);
    }
    out
}

#[cfg(test)]
mod tests {
    use insta::assert_json_snapshot;
    use proptest::prelude::*;

    use super::*;

    fn notice(event: &str, reason: &str) -> RolloutNotice {
        serde_json::from_value(json!({
            "event": event, "at": "2026-11-25T02:20:03Z", "model": "desk", "rollout": 3,
            "stable": "v1", "canary": "v2", "from": "step 2", "to": event, "weights": {"v1": 100},
            "waits_for": "nothing", "actor": "switchback", "reason": reason,
            "verdict": "abort", "finding": "abort: `is-json`: 31.0 % against 92.0 %",
        }))
        .unwrap()
    }

    #[test]
    fn an_abort_tells_why_and_what_the_traffic_is_now() {
        let message =
            message(&notice("aborted", "the analysis says abort: `is-json`: 31.0 % against 92.0 %"));
        assert_json_snapshot!(message);
    }

    #[test]
    fn who_is_waited_for_is_told_what_to_type() {
        let waiting = RolloutNotice {
            waits_for: "approval".to_owned(),
            ..notice("awaiting_approval", "ada <!channel> & all")
        };
        assert_json_snapshot!(message(&waiting));
    }

    fn texts(value: &Value, out: &mut Vec<(String, usize)>) {
        for block in value["blocks"].as_array().unwrap() {
            if let Some(text) = block["text"]["text"].as_str() {
                out.push((text.to_owned(), SECTION));
            }
            for part in ["fields", "elements"] {
                for field in block[part].as_array().into_iter().flatten() {
                    out.push((field["text"].as_str().unwrap().to_owned(), FIELD));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_told_keeps_to_the_limits_and_mentions_nobody(reason in "[<>&@!a-zé\n]{0,4000}", actor in "[<>&]{0,3000}") {
            let notice = RolloutNotice { actor, finding: Some(reason.clone() + "x"), ..notice("held", &reason) };
            let mut all = Vec::new();
            texts(&message(&notice), &mut all);
            for (text, most) in all {
                prop_assert!(text.chars().count() <= most);
                prop_assert!(!text.contains(['<', '>']));
                let entities = ["&amp;", "&lt;", "&gt;"];
                for (at, _) in text.match_indices('&') {
                    prop_assert!(entities.iter().any(|entity| text[at..].starts_with(entity)));
                }
            }
        }
    }
}
