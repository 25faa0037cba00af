//! Writes the regression suite of the demo's task, `suites/support.yaml`:
//!
//! ```sh
//! cargo run --release --example demo-suite > suites/support.yaml
//! ```
//!
//! Held-out messages, which no version was trained on, with what a good desk answers to each. The reply's wording is free.

use std::fmt::Write as _;

use serde_json::json;
use switchback::demo::{Case, Expected, Priority, SYSTEM_PROMPT, held_out};

const CASES: usize = 120;

const HEAD: &str = r#"# The regression suite of the demo's support desk, written by `cargo run --example demo-suite`: 120 messages that no version was
# trained on. `switchback eval suites/support.yaml --model support-assistant@v2 --baseline support-assistant@v1`, or by
# promptfoo: `export SWITCHBACK_URL=http://127.0.0.1:8080 SWITCHBACK_MODEL=support-assistant@v2; npx promptfoo eval -c suites/support.yaml`.
description: The support desk

prompts:
  - label: support
    raw: |
      [
        {"role": "system", "content": "SYSTEM"},
        {"role": "user", "content": {{ message | dump }}}
      ]

providers:
  - id: openai:chat:{{env.SWITCHBACK_MODEL}}
    label: support
    config:
      # read by promptfoo alone
      apiBaseUrl: "{{env.SWITCHBACK_URL or 'http://127.0.0.1:8080'}}/v1"
      apiKey: "{{env.SWITCHBACK_KEY or 'none'}}"
      temperature: 0
      max_tokens: 200

defaultTest:
  assert:
    - type: is-json
      metric: format
      value:
        type: object
        required: [intent, product, order_id, priority, reply]
        additionalProperties: false
        properties:
          intent: { type: string }
          product: { type: string, minLength: 1 }
          order_id: { type: [string, "null"], pattern: "^[A-Z]-[0-9]{5}$" }
          priority: { enum: [low, normal, high] }
          reply: { type: string, minLength: 1 }
    - { type: contains, metric: intent, value: '"intent":"{{ intent }}"' }
    - { type: contains, metric: product, value: '"product":"{{ product }}"' }
    - { type: contains, metric: order, value: '"order_id":{{ order_id | dump }}' }
    - { type: contains, metric: priority, value: '"priority":"{{ priority }}"' }
    - { type: not-is-refusal, metric: help }

tests:
"#;

/// What a case is about.
fn tags(case: &Case) -> Vec<&'static str> {
    let Expected { intent, order_id, priority, .. } = &case.expected;
    let mut tags = vec![*intent, if order_id.is_some() { "with-order" } else { "without-order" }];
    if *priority == Priority::High {
        tags.push("urgent");
    }
    if case.angry {
        tags.push("angry");
    }
    tags
}

fn main() -> std::fmt::Result {
    let mut out = HEAD.replace("SYSTEM", SYSTEM_PROMPT);
    for case in held_out(2026, CASES) {
        let Expected { intent, product, order_id, priority, .. } = &case.expected;
        let vars = json!({
            "message": case.message, "intent": intent, "product": product, "order_id": order_id, "priority": priority,
        });
        // JSON is YAML, too
        writeln!(out, "  - description: {}", json!(case.message))?;
        writeln!(out, "    metadata: {}", json!({"tags": tags(&case)}))?;
        writeln!(out, "    vars: {vars}")?;
    }
    print!("{out}");
    Ok(())
}
