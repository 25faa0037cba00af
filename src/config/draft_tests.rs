use std::path::Path;

use insta::assert_snapshot;

use super::*;

fn read(engine: &str, v1: &str, v2: &str) -> Result<Config, ConfigErrors> {
    let text = format!(
        "server: {{ mode: dev }}\nengine: {{ {engine} }}\nmodels:\n  desk:\n    versions:\n      v1: {{ image: a{v1} }}\n      \
         v2: {{ image: b, residency: cold{v2} }}\n    route: {{ v1: 100 }}\n  small:\n    versions: {{ v1: {{ image: c }} }}\n"
    );
    parse(&text, Path::new("sb.yaml"), &|_| None)
}

#[test]
fn a_draft_may_be_of_another_model_that_comes_later() {
    let config = read("speculative_tokens: 4", ", draft: small@v1", ", draft: desk@v1").unwrap();
    let desk = &config.models[&"desk".parse().unwrap()];
    let drafts = desk.versions.values().map(|version| version.draft.as_ref().unwrap().version.to_string());
    assert_eq!(drafts.collect::<Vec<_>>(), ["small@v1", "desk@v1"]);
}

#[test]
fn a_draft_with_the_same_weights_and_one_that_is_itself_wrong_are_told_once() {
    let config = "server: { mode: dev }\nengine: { speculative_tokens: 2 }\nmodels:\n  desk:\n    versions:\n      \
                  v1: { image: a, draft: desk@v2 }\n      v2: { image: a, prompt: p.md, draft: desk@v3 }\n      \
                  v3: { imagge: b }\n    route: { v1: 100 }\n";
    let told = parse(config, Path::new("sb.yaml"), &|_| None).unwrap_err().to_string();
    assert_snapshot!(told, @"
    sb.yaml:6: models.desk.versions.v1.draft: desk@v2 has the very weights that it would guess for; name a smaller version, or remove this
    sb.yaml:8: models.desk.versions.v3.imagge: unknown key; did you mean `image`?
    sb.yaml:8: models.desk.versions.v3.image: missing; give a folder, a GGUF file or `hf://org/name@<commit>`
    ");
}

#[test]
fn mistakes_in_drafts_are_told_with_line_and_fix() {
    let told = |engine: &str, v1: &str, v2: &str| read(engine, v1, v2).unwrap_err().to_string();
    let some = "speculative_tokens: 4";
    let cases = [
        told(some, ", draft: small", ", draft: [small@v1]"),
        told(some, ", draft: smal@v1", ", draft: other@v7"),
        told(some, ", draft: desk@v1", ""),
        told(some, ", draft: desk@v2", ", adapter: d"),
        told("", ", draft: small@v1", ""),
    ];
    assert_snapshot!(cases.join("\n\n"), @r###"
    sb.yaml:6: models.desk.versions.v1.draft: "small" names no version; write `model@version`, such as `small@v1`
    sb.yaml:7: models.desk.versions.v2.draft: found a list with 1 items; write a text, in quotes

    sb.yaml:6: models.desk.versions.v1.draft: there is no version smal@v1; did you mean `small@v1`?
    sb.yaml:7: models.desk.versions.v2.draft: there is no version other@v7; declared: desk@v1, desk@v2, small@v1

    sb.yaml:6: models.desk.versions.v1.draft: a version is no draft of itself; name a smaller one, or remove this

    sb.yaml:6: models.desk.versions.v1.draft: desk@v2 has an adapter, and a draft is an image alone; name a version without one

    sb.yaml:6: models.desk.versions.v1.draft: the draft has nothing to guess: speculative_tokens is 0; set speculative_tokens of `engine` to 1 to 7, or remove this
    "###);
}
