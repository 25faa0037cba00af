//! `webhooks`: from the tree to [`Webhook`]s. What may be a secret is never shown, not even where it is wrong.

use std::collections::BTreeSet;

use super::phase::Phase;
use super::raw::{Node, Value};
use super::reader::{Problem, Reader, Section, nearest, text};
use super::values::word;
use super::webhook::{Webhook, WebhookFormat, WebhookSecret, WebhookUrl};

pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// More than this is a mistake: each is told every event.
const MOST: usize = 32;

/// Reads `webhooks`.
pub(super) fn read_webhooks(r: &mut Reader, node: &Node, env: Environment<'_>) -> Vec<Webhook> {
    let items = match &node.value {
        Value::Null => return Vec::new(),
        Value::List(items) if items.len() <= MOST => items,
        Value::List(items) => {
            let found = format!("a list with {} items", items.len());
            r.push(node.line, "webhooks", Problem::new(found, format!("keep {MOST} at most")));
            return Vec::new();
        }
        _ => {
            let fix = "write a list: [{url: {env: SLACK_URL}}]";
            r.push(node.line, "webhooks", Problem::new("not a list", fix));
            return Vec::new();
        }
    };
    let mut webhooks: Vec<Webhook> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = format!("webhooks[{i}]");
        let Some(webhook) = webhook(r, item, &path, env) else { continue };
        if webhooks.iter().any(|other| other.url == webhook.url) {
            let fix = "name all its events in one entry";
            r.push(item.line, format!("{path}.url"), Problem::new("the URL of an earlier entry", fix));
        } else {
            webhooks.push(webhook);
        }
    }
    webhooks
}

fn webhook(r: &mut Reader, node: &Node, path: &str, env: Environment<'_>) -> Option<Webhook> {
    if !matches!(node.value, Value::Map(_)) {
        // a bare URL may stand here
        r.push(node.line, path, Problem::new("not a mapping", "write {url: {env: SLACK_URL}}"));
        return None;
    }
    let s = r.section(node, path.to_owned(), &["url", "events", "format", "secret"]);
    if s.get("url").is_none_or(|url| matches!(url.value, Value::Null)) {
        let fix = "add where it listens: `url: {env: SLACK_URL}`";
        r.push(s.line, s.path_of("url"), Problem::new("missing", fix));
    }
    let url = r.field(&s, "url", |value| url(value, env));
    let formats = [("slack", WebhookFormat::Slack), ("json", WebhookFormat::Json)];
    let format = r.field(&s, "format", |value| word(value, &formats)).unwrap_or_default();
    let secret = r.field(&s, "secret", |value| match value {
        Value::Map(_) => from_environment(value, env).map(WebhookSecret::new),
        _ => Err(Problem::new("not {env: NAME}", "keep the secret in the environment: {env: NAME}")),
    });
    let events = events(r, &s);
    Some(Webhook { url: url?, events, format, secret })
}

fn url(value: &Value, env: Environment<'_>) -> Result<WebhookUrl, Problem> {
    let written = match value {
        Value::Map(_) => from_environment(value, env)?,
        Value::Text(text) if text.contains("${") => {
            return Err(Problem::new("a variable in a text", "write `url: {env: NAME}`"));
        }
        Value::Text(text) => text.clone(),
        _ => return Err(Problem::new("neither a text nor {env: NAME}", "write `url: {env: NAME}`")),
    };
    WebhookUrl::parse(&written)
        .ok_or_else(|| Problem::new("not an address of HTTP", "give one such as https://host/path"))
}

/// `{env: NAME}`.
pub(super) fn from_environment(value: &Value, env: Environment<'_>) -> Result<String, Problem> {
    let malformed = || Problem::new("not {env: NAME}", "name one environment variable: {env: NAME}");
    let Value::Map(entries) = value else { return Err(malformed()) };
    let [(key, node)] = &entries[..] else { return Err(malformed()) };
    let name = match &node.value {
        Value::Text(name) if key.name == "env" => name,
        _ => return Err(malformed()),
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let fix = "write a name of letters, digits and `_`";
        return Err(Problem::new("not the name of an environment variable", fix));
    }
    let found = env(name).filter(|text| !text.is_empty());
    found.ok_or_else(|| {
        let found = format!("the environment variable {name} is not set, or empty");
        Problem::new(found, format!("set {name} or remove this entry"))
    })
}

fn events(r: &mut Reader, s: &Section<'_>) -> BTreeSet<Phase> {
    let path = s.path_of("events");
    let node = match s.get("events") {
        Some(node) if !matches!(node.value, Value::Null) => node,
        _ => return Webhook::usual_events(),
    };
    let known = Phase::ALL.map(Phase::as_str);
    let Value::List(items) = &node.value else {
        let fix = "write a list: [promoted, aborted]";
        r.push(node.line, path, Problem::new(format!("found {}", node.value.describe()), fix));
        return Webhook::usual_events();
    };
    if items.is_empty() {
        let fix = "name some, or leave `events` out for those that people want to hear of";
        r.push(node.line, path.clone(), Problem::new("no event", fix));
    }
    let mut events = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let read = text(&item.value).and_then(|word| {
            let event = Phase::ALL.into_iter().find(|event| event.as_str() == word);
            event.ok_or_else(|| {
                let fix = nearest(word, &known).map(|near| format!("did you mean `{near}`?"));
                let fix = fix.unwrap_or_else(|| format!("known: {}", known.join(", ")));
                Problem::new(format!("{word:?} is no event"), fix)
            })
        });
        match read {
            Ok(event) => drop(events.insert(event)),
            Err(problem) => r.push(item.line, format!("{path}[{i}]"), problem),
        }
    }
    events
}
