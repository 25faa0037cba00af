use std::path::Path;

use insta::assert_snapshot;

use super::*;

const BASE: &str = "server: { mode: dev, listen: 127.0.0.1:9000 }\nengine: { max_running: 8 }\nmodels:\n  desk:\n    versions:\n      \
                    v1: { image: a }\n      v2: { image: b, residency: cold }\n    route: { v1: 100 }\n    checks: [is-json]\n";

/// A configuration and its overlay as `prod`, read for that environment.
fn read(overlay: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sb.yaml");
    std::fs::write(&file, BASE).unwrap();
    std::fs::create_dir(folder.path().join("env")).unwrap();
    std::fs::write(folder.path().join("env/prod.yaml"), overlay).unwrap();
    let read = load_for(&file, Some(&"prod".parse().unwrap()));
    read.map_err(|errors| errors.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn mappings_are_merged_and_all_else_takes_its_place() {
    let overlay = "server: { listen: 127.0.0.1:80 }\nmodels:\n  desk:\n    versions:\n      v2: { residency: hot }\n      \
                   v3: { image: c }\n    route: { v1: 90, v2: 10 }\n    checks:\n";
    let config = read(overlay).unwrap();
    let desk = &config.models[&"desk".parse().unwrap()];
    let told = format!(
        "{} {:?} {} {:?} {:?} {}",
        config.server.listen,
        config.server.mode,
        desk.engine.max_running,
        desk.versions.iter().map(|(name, v)| format!("{name}: {}", v.residency.as_str())).collect::<Vec<_>>(),
        desk.route.iter().map(|(name, weight)| format!("{name}: {}", weight.percent())).collect::<Vec<_>>(),
        desk.checks.len(),
    );
    assert_snapshot!(told, @r###"
    127.0.0.1:80 Dev 8 ["v1: hot", "v2: hot", "v3: hot"] ["v1: 90", "v2: 10"] 0
    "###);
    let image = desk.versions[&"v2".parse().unwrap()].image.to_string();
    assert!(image.ends_with("/b") && !image.contains("env"), "{image}: relative to the configuration");
}

#[test]
fn mistakes_are_told_by_the_file_that_they_are_in() {
    let told = [
        read("server: { mode: production }\n\nengine: { max_runing: 3 }\n").unwrap_err(),
        read("models: { desk: { route: { v1: 90, v9: 10 } } }\n").unwrap_err(),
        read("models: [\n").unwrap_err(),
    ];
    assert_snapshot!(told.join("\n\n"), @r###"
    sb.yaml:6: models.desk.versions.v1.digest: missing; add the digest that `switchback images add` or `pull` prints, or set server.mode to dev
    sb.yaml:7: models.desk.versions.v2.digest: missing; add the digest that `switchback images add` or `pull` prints, or set server.mode to dev
    env/prod.yaml:3: engine.max_runing: unknown key; did you mean `max_running`?

    env/prod.yaml:1: models.desk.route.v9: the model has no such version; did you mean `v1`?

    env/prod.yaml:1: the file is not readable YAML: unclosed bracket '[' at line 1, column 9; check the indentation, the colons and the quotes near this line
    "###);
}

#[test]
fn an_environment_that_is_not_there_names_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sb.yaml");
    std::fs::write(&file, BASE).unwrap();
    let told = |env: &str| load_for(&file, Some(&env.parse().unwrap())).unwrap_err().to_string();
    assert!(told("prod").contains("or leave --env out"), "{}", told("prod"));
    std::fs::create_dir(folder.path().join("env")).unwrap();
    for name in ["prod", "dev"] {
        std::fs::write(folder.path().join(format!("env/{name}.yaml")), "").unwrap();
    }
    assert!(told("stagin").contains("environments there are: dev, prod"), "{}", told("stagin"));
    assert!(load_for(&file, Some(&"dev".parse().unwrap())).is_ok(), "an empty overlay changes nothing");
    for bad in ["", "../x", "a b", Path::new("/etc/x").to_str().unwrap()] {
        assert!(bad.parse::<EnvName>().is_err(), "{bad}");
    }
}
