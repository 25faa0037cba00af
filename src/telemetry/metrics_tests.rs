use super::*;

fn version(text: &str) -> VersionRef {
    let (model, version) = text.split_once('@').unwrap();
    VersionRef { model: model.parse().unwrap(), version: version.parse().unwrap() }
}

/// A server in whose scrape each metric has a value.
fn scrape() -> String {
    let metrics = Metrics::new().unwrap();
    let v1 = version("support@v1");
    metrics.request_started();
    metrics.request_ended(
        &v1,
        &RequestSample {
            outcome: Outcome::Ok,
            elapsed: Duration::from_millis(30),
            first_token: Some(Duration::from_millis(4)),
            prompt_tokens: 7,
            cached_tokens: 2,
            generated_tokens: 5,
        },
    );
    metrics.request_refused("", "", Outcome::Invalid);
    metrics.loaded(&v1, false);
    metrics.http_answered("/v1/models/{model}", 404);
    metrics.response_checked(&v1);
    metrics.check_judged(&v1, "is-json", "failed");
    metrics.check_dropped(&v1.model);
    metrics.observation_dropped(&v1.model);
    metrics.mirrored(&v1, MirrorOutcome::Late);
    metrics.fell_back(&v1);
    metrics.flag_answered(&v1.model, Some(&v1.version));
    metrics.webhook_attempted("slack-1", WebhookOutcome::Delivered);
    metrics.webhook_given_up("slack-1");
    metrics.config_applied(ConfigNews::Another);
    let residency =
        [ResidencySample { version: v1.clone(), state: "hot", weight_bytes: 10, shared_bytes: 4 }];
    let routes = [RouteSample { version: v1.clone(), percent: 2.5, revision: 3 }];
    let engines = [EngineSample {
        version: v1,
        alive: true,
        running: 1,
        waiting: 2,
        blocks_used: 3,
        blocks_total: 4,
        preemptions: 5,
        steps: 6,
        prefix_hit_tokens: 7,
        generated_tokens: 8,
        speculated_tokens: 4,
        accepted_tokens: 3,
    }];
    metrics.render(&engines, &residency, &routes, Duration::from_millis(1500)).unwrap()
}

#[test]
fn a_scrape_shows_requests_engines_residency_and_routes() {
    let text = scrape();
    for line in [
        r#"switchback_requests_total{model="support",status="ok",version="v1"} 1"#,
        r#"switchback_requests_total{model="",status="invalid",version=""} 1"#,
        r#"switchback_tokens_total{kind="generated",model="support",version="v1"} 5"#,
        r#"switchback_loads_total{model="support",result="failed",version="v1"} 1"#,
        r#"switchback_responses_checked_total{model="support",version="v1"} 1"#,
        r#"switchback_checks_total{check="is-json",model="support",result="failed",version="v1"} 1"#,
        r#"switchback_checks_dropped_total{model="support"} 1"#,
        r#"switchback_http_requests_total{path="/v1/models/{model}",status="404"} 1"#,
        r#"switchback_engine_preemptions_total{model="support",version="v1"} 5"#,
        r#"switchback_engine_generated_tokens_total{model="support",version="v1"} 8"#,
        r#"switchback_residency{model="support",state="hot",version="v1"} 1"#,
        r#"switchback_route_weight_percent{model="support",version="v1"} 2.5"#,
        "switchback_requests_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
}

/// A row of the documentation: name, type, labels, help.
fn row(scrape: &str, name: &str, help: &str) -> String {
    let kind = format!("# TYPE {name} ");
    let kind = scrape.lines().find_map(|line| line.strip_prefix(&kind)).unwrap();
    let sample = |line: &&str| line.starts_with(name) && !line.starts_with('#');
    let sample = scrape.lines().find(sample).unwrap();
    let labels = sample.split_once('{').map_or("", |(_, labels)| labels.split_once('}').unwrap().0);
    // `le` is a histogram's own
    let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    let names: Vec<_> = names.filter(|name| *name != "le").map(|name| format!("`{name}`")).collect();
    format!("| `{name}` | {kind} | {} | {help} |", names.join(", "))
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let scrape = scrape();
    let helps = scrape.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let mut wanted: Vec<_> = helps.map(|(name, help)| row(&scrape, name, help)).collect();
    wanted.sort();
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `switchback_"));
    let mut rows: Vec<_> = rows.map(str::to_owned).collect();
    rows.sort();
    assert_eq!(rows, wanted, "docs/metrics.md wants these rows:\n{}", wanted.join("\n"));
}
