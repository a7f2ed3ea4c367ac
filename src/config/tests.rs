//! Tests of the configuration: faults come all at once, and the checked-in file is the registry.

use std::path::Path;

use super::registry::KEYS;
use super::*;

const CHECKED_IN: &str = include_str!("../../cluster.toml");
const MINIMAL: &str = "[[coordinators]]\nid = 1\ninternal = '127.0.0.1:7000'\nadmin = '127.0.0.1:8443'\npublic = '127.0.0.1:8000'\n[deployment]\nmodel = '/m/nano'\n";

fn settle(text: &str, overrides: &[Override]) -> Result<Config, ConfigError> {
    RawConfig::parse(text, "cluster.toml", Path::new("/base"))?.settle(overrides)
}

fn faults(text: &str) -> Vec<String> {
    match settle(text, &[]) {
        Err(ConfigError::Faults { faults, .. }) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn the_checked_in_file_carries_every_key_with_its_default_unit_and_reason() {
    let table: toml::Table = CHECKED_IN.parse().expect("TOML");
    for key in KEYS {
        let (section, name) = key.path.split_once('.').expect("a section");
        let value = match &table[section.trim_end_matches("[]")] {
            toml::Value::Array(entries) => &entries[0][name],
            section => &section[name],
        };
        assert!(key.admits(value), "{} = {value}", key.path);
        if let Some(default) = key.default_value() {
            assert_eq!(*value, default, "{}: the file shows the default", key.path);
        }
        let line = CHECKED_IN
            .lines()
            .find(|l| l.starts_with(&format!("{name} =")) && l.contains(key.reason))
            .unwrap_or_else(|| panic!("{}: no line `{name} = … # … {}`", key.path, key.reason));
        assert!(line.contains(&key.accepts()) || line.contains(key.unit), "{}: its unit in `{line}`", key.path);
    }
    settle(CHECKED_IN, &[]).expect("the checked-in file is valid");
}

#[test]
fn every_registered_key_has_a_typed_field_and_the_effective_file_round_trips() {
    let config = settle(MINIMAL, &[]).expect("valid");
    let text = config.to_toml();
    let table: toml::Table = text.parse().expect("TOML");
    let count: usize =
        table.values().map(|v| v.as_table().map_or_else(|| v[0].as_table().map_or(0, |t| t.len()), |t| t.len())).sum();
    assert_eq!(count, KEYS.len(), "{text}");
    assert_eq!(settle(&text, &[]).expect("the effective file is valid"), config);
}

#[test]
fn all_faults_come_at_once_with_path_value_and_range() {
    let found = faults(
        "[cluster]\nname = 'Not A Label'\n[[coordinators]]\nid = 0\ninternal = 'here'\nadmin = '127.0.0.1:1'\n\
         [deployment]\nmodle = 'x'\ntp = 'two'\ndtype = 'f16'\n[gateways]\nx = 1\n",
    );
    let expect = [
        "coordinators[0].id = 0: accepted: a whole number 1..=65535",
        "coordinators[0].internal = \"here\": accepted: an ip:port",
        "coordinators[0].public: missing",
        "deployment.modle: no such key; did you mean `deployment.model`?",
        "deployment.model: missing",
        "deployment.tp = \"two\": accepted: a whole number 1..=64 ranks",
        "deployment.dtype = \"f16\": accepted: one of f32, bf16",
        "gateways: no such key; did you mean `gateway`?",
        "cluster.name = \"Not A Label\": accepted: a DNS label",
    ];
    for e in expect {
        assert!(found.iter().any(|f| f.contains(e)), "{e} in {found:#?}");
    }
    assert_eq!(found.len(), expect.len(), "{found:#?}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let second =
        "[[coordinators]]\nid = 1\ninternal = '127.0.0.1:7000'\nadmin = '127.0.0.1:8000'\npublic = '127.0.0.1:0'\n";
    let found = faults(&format!(
        "{second}{MINIMAL}kv_tokens = 8\ncontext_tokens = 16\nmax_seqs = 64\nstep_tokens = 32\n\
         [raft]\nheartbeat_ms = 500\nelection_max_ms = 400\n[lease]\nlease_ms = 600\n"
    ));
    for path in [
        "coordinators[1].id = 1",
        "coordinators[1].internal = 127.0.0.1:7000",
        "coordinators[1].public = 127.0.0.1:8000",
        "coordinators[0].public = 127.0.0.1:0",
        "deployment.kv_tokens = 8",
        "deployment.step_tokens = 32",
        "raft.election_min_ms = 500",
        "raft.election_max_ms = 400",
        "lease.lease_ms = 600",
    ] {
        assert!(found.iter().any(|f| f.starts_with(path)), "{path} in {found:#?}");
    }
}

#[test]
fn a_section_that_is_no_table_and_too_many_coordinators_are_faults() {
    let found = faults("coordinators = 3\nraft = 'fast'\n[deployment]\nmodel = '/m'\n");
    assert!(found.iter().any(|f| f.starts_with("coordinators = 3: accepted: 1..=9 tables")), "{found:#?}");
    assert!(found.iter().any(|f| f.starts_with("raft = \"fast\": accepted: a table `[raft]`")), "{found:#?}");
}

#[test]
fn flags_override_the_file_and_relative_paths_count_from_it() {
    let text = MINIMAL.replace("/m/nano", "models/nano");
    let set = ["deployment.tp=4", "deployment.served_names=a,b", "paths.state_dir=/s"];
    let overrides: Vec<Override> = set.iter().map(|s| s.parse().expect("known")).collect();
    let config = settle(&text, &overrides).expect("valid");
    assert_eq!(config.deployment.tp.get(), 4);
    assert_eq!(config.deployment.names(), ["a", "b"]);
    assert_eq!(config.deployment.model, Path::new("/base/models/nano"));
    assert_eq!(config.paths.state_dir, Path::new("/s"));
    assert!("deployment.tpp=4".parse::<Override>().expect_err("unknown").contains("did you mean `deployment.tp`"));
    assert!(settle(&text, &[Override::new("deployment.tp", "x")]).is_err());
}

#[test]
fn what_is_not_toml_names_its_line() {
    let error = settle("[cluster]\nname = \n", &[]).expect_err("no value").to_string();
    assert!(error.starts_with("cluster.toml is not TOML: line 2: "), "{error}");
}
