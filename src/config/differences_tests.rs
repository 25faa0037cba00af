use std::path::Path;

use insta::assert_snapshot;

use super::*;

const BEFORE: &str = "server: { mode: dev }
policies: { slow: { steps: [{ setWeight: 5 }, { pause: { duration: 1h } }, { setWeight: 100 }] } }
models:
  desk:
    policy: slow
    versions:
      v1: { image: a }
      v2: { image: b, residency: cold }
      v3: { image: c }
    version: v1
    checks: [is-json]
";

fn read(text: &str) -> Result<Config, String> {
    parse(text, Path::new("sb.yaml"), &|_| None).map_err(|errors| errors.to_string())
}

fn told(after: &str) -> String {
    let lines = differences(&read(BEFORE).unwrap(), &read(after).unwrap());
    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_difference_says_when_it_takes_effect() {
    let after = "server: { mode: dev, listen: 127.0.0.1:9 }
policies: { slow: { steps: [{ setWeight: 10 }, { pause: { duration: 1h } }, { setWeight: 100 }] } }
models:
  desk:
    policy: slow
    sticky_header: x-user
    versions:
      v1: { image: other, tool_parser: hermes, flag: { enabled: false } }
      v2: { image: b }
      v4: { image: d, residency: warm }
    version: v2
    checks: [is-json, refusal]
  other:
    versions: { v1: { image: a } }
";
    assert_snapshot!(told(after), @r###"
    server: changed, which takes a restart
    policies.slow: changed
    models.desk.checks: changed, which takes a restart
    models.desk.sticky_header: changed
    models.desk.policy: changed
    desk@v1: image changed under the same name
    desk@v1: tool_parser changed, which counts when it is loaded next
    models.desk.versions.v1.flag: changed
    desk@v2: hot
    desk@v3: removed
    desk@v4: added, warm
    desk: version v1 -> v2
    models.other: changed, which takes a restart
    "###);
}

#[test]
fn where_a_thing_stands_is_no_difference() {
    let moved = BEFORE.replace("models:\n", "\n# the models\nmodels:\n");
    assert_eq!(told(&moved), "");
}

#[test]
fn a_model_has_a_wanted_version_or_a_route_and_the_version_is_declared_and_hot() {
    let with = |line: &str| read(&BEFORE.replace("    version: v1\n", line)).map(|_| String::new());
    let config = read(BEFORE).unwrap();
    let desk = &config.models[&"desk".parse().unwrap()];
    assert_eq!(desk.route.keys().map(ToString::to_string).collect::<Vec<_>>(), ["v1"]);
    let mistakes = [
        "    version: v9\n",
        "    version: v2\n",
        "    version: v1\n    route: { v1: 100 }\n",
        "    version: 3\n",
    ];
    let told: Vec<String> = mistakes.iter().map(|line| with(line).unwrap_err()).collect();
    assert_snapshot!(told.join("\n"), @r###"
    sb.yaml:10: models.desk.version: the model has no such version; did you mean `v1`?
    sb.yaml:10: models.desk.version: only a hot version can take traffic; set its residency to hot
    sb.yaml:11: models.desk.route: the model has `version`, too; keep `version`, which rolls out by itself, or `route`
    sb.yaml:10: models.desk.version: found the number 3; write a text, in quotes
    "###);
}
