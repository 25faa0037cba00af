use std::path::Path;

use insta::assert_snapshot;

use super::*;

const MODELS: &str = "server: { mode: dev }\nmodels: { m: { versions: { v1: { image: a } } } }\nwebhooks:\n";

fn read(webhooks: &str) -> Result<Config, ConfigErrors> {
    parse(&format!("{MODELS}{webhooks}"), Path::new("sb.yaml"), &|name| match name {
        "SLACK_URL" => Some("https://hooks.slack.com/services/T0/B0/token".to_owned()),
        "KEY" => Some("hush".to_owned()),
        "WRONG" => Some("token-without-a-scheme".to_owned()),
        _ => None,
    })
}

#[test]
fn webhooks_are_read_with_their_defaults_and_tell_no_secret() {
    let text = "  - url: {env: SLACK_URL}\n  - {url: 'http://127.0.0.1:9/path', events: [aborted, promoted], \
                format: json, secret: {env: KEY}}\n";
    let config = read(text).unwrap();
    let [slack, json] = &config.webhooks[..] else { panic!("{:?}", config.webhooks) };
    assert_eq!((slack.format, slack.secret.is_none()), (WebhookFormat::Slack, true));
    assert_eq!(slack.events, Webhook::usual_events());
    assert!(slack.events.contains(&Phase::Step) && !slack.events.contains(&Phase::Pending));
    assert_eq!(slack.url.receiver(), "hooks.slack.com-a5010d12");
    assert_eq!(json.secret.as_ref().map(WebhookSecret::expose), Some("hush"));
    assert_eq!(json.events.len(), 2);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hush") && !shown.contains("services") && !shown.contains("/path"), "{shown}");
}

#[test]
fn mistakes_in_webhooks_are_told_without_what_may_be_a_secret() {
    let text = "  - url: {env: SLACK_URL}\n  - url: {env: SLACK_URL}\n    events: [promotd, 3]\n    format: teams\n  \
                - {url: {env: MISSING}, secret: hush}\n  - {url: {env: WRONG}, events: []}\n  - 'https://x/token'\n  \
                - {url: 'https://${TOKEN}'}\n  - {events: all}\n  - {url: 'ftp://token', hook: 1}\n  \
                - {url: {env: a b}, secret: {name: KEY}}\n";
    let told = read(text).unwrap_err().to_string();
    assert!(!told.contains("hush") && !told.contains("token"), "{told}");
    assert_snapshot!(told);
    assert_snapshot!(read("  url: https://x/token\n").unwrap_err().to_string(), @"sb.yaml:4: webhooks: not a list; write a list: [{url: {env: SLACK_URL}}]");
}
