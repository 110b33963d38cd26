use super::*;
use resolve::Sources;

fn resolve(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> Result<Config, Vec<String>> {
    let own =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let file = (!file.is_empty()).then(|| ("dejaq.toml".to_owned(), file.to_owned()));
    Config::resolve(&Sources { flags: own(flags), env: own(env), file })
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = "default-partitions = 2\nnode-id = 2\nmax-connections = 2";
    let config = resolve(
        &[("node-id", "4")],
        &[("DEJAQ_NODE_ID", "3"), ("DEJAQ_DEFAULT_PARTITIONS", "3"), ("HOME", "/root")],
        file,
    )
    .expect("all valid");
    assert_eq!(config.node_id, 4);
    assert_eq!(config.topics.default_partitions, 3);
    assert_eq!(config.limits.max_connections, 2);
    assert_eq!(config.listen, "127.0.0.1:9092");
}

#[test]
fn variables_of_the_client_and_of_ci_are_not_the_brokers() {
    let env = [("DEJAQ_BOOTSTRAP", "127.0.0.1:1"), ("DEJAQ_CI_CACHE", "/tmp/x"), ("DEJAQ_CONFIG", "x.toml")];
    assert!(resolve(&[], &env, "").is_ok(), "a shell that talks to a broker may start one");
}

#[test]
fn every_error_is_reported_at_once_with_its_source() {
    let errors = resolve(
        &[("listen", "nowhere"), ("request-max-bytes", "1TiB")],
        &[("DEJAQ_DEFAULT_PARTITIONS", "0"), ("DEJAQ_LISTEN_PORT", "1")],
        "log-format = \"xml\"\nmax-conections = 5\nlimits = [1]",
    )
    .expect_err("seven mistakes");
    insta::assert_snapshot!(errors.join("\n"), @r#"
    dejaq.toml: limits is not a plain value
    dejaq.toml: max-conections: no such setting, did you mean max-connections?
    DEJAQ_LISTEN_PORT: no such setting, did you mean listen?
    --request-max-bytes: "1TiB" is not a number of bytes, such as 1048576 or 1MiB
    DEJAQ_DEFAULT_PARTITIONS: 0 is not within 1..10000
    --listen: "nowhere" is not an address of the form HOST:PORT
    dejaq.toml: log-format: "xml" is none of human, json
    "#);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let errors = resolve(
        &[("request-max-bytes", "64MiB"), ("memory-budget-bytes", "1MiB"), ("listen", "0.0.0.0:9092")],
        &[],
        "",
    )
    .expect_err("two contradictions");
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("could never be read"), "{errors:?}");
    assert!(errors[1].contains("say with advertise"), "{errors:?}");
}

#[test]
fn a_mistyped_log_level_is_refused_before_it_silences_every_line() {
    for (given, word) in [("inof", "inof"), ("loud", "loud"), ("warn,dejaq", "dejaq"), ("6", "6")] {
        let errors = resolve(&[], &[("DEJAQ_LOG_LEVEL", given)], "").expect_err(given);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(&format!("{word:?} is none of off, error, warn")), "{errors:?}");
    }
    for given in ["info", "WARN", "off", "3", "info,dejaq::server=debug", "warn, [request]=trace,"] {
        assert!(resolve(&[("log-level", given)], &[], "").is_ok(), "{given}");
    }
}

#[test]
fn numbers_take_the_units_of_their_name_only() {
    let config =
        resolve(&[("idle-timeout-ms", "2m"), ("request-max-bytes", "1_024 KiB")], &[], "").expect("valid");
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(120));
    assert_eq!(config.limits.request_max_bytes, 1 << 20);
    assert!(resolve(&[("idle-timeout-ms", "2MiB")], &[], "").is_err());
    assert!(resolve(&[("node-id", "-1")], &[], "").is_err());
    assert!(resolve(&[("memory-budget-bytes", "99999999999999999999GiB")], &[], "").is_err());
}

#[test]
fn topic_defaults_of_the_file_are_joined_by_those_of_the_flags() {
    let file = "[topic-defaults]\nretention.ms = 1000\n\"segment.bytes\" = \"2000\"";
    let config =
        resolve(&[("topic-defaults", "segment.bytes=3000, compression.type=lz4")], &[], file).expect("valid");
    let defaults: Vec<_> = config.topics.defaults.into_iter().collect();
    let expected = [("compression.type", "lz4"), ("retention.ms", "1000"), ("segment.bytes", "3000")];
    assert_eq!(defaults, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn every_default_is_valid_and_is_shown_as_it_could_be_typed() {
    let default = Config::default();
    let typed: Vec<(String, String)> = TABLE.iter().map(|s| (s.name.to_owned(), s.default_text())).collect();
    let again = Config::resolve(&Sources { flags: typed, ..Sources::default() }).expect("defaults are valid");
    assert_eq!(again.given.len(), TABLE.len(), "everything was given");
    assert_eq!(default, Config { given: BTreeMap::new(), ..again });
}

#[test]
fn every_draw_of_the_simulator_is_valid() {
    for seed in 0_u64..500 {
        let mut state = seed;
        let config = Config::drawn(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 20
        });
        assert!(config.limits.request_max_bytes <= config.limits.memory_bytes, "seed {seed}: {config:?}");
    }
}

#[test]
fn no_two_settings_share_a_name() {
    let mut names: Vec<_> = TABLE.iter().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TABLE.len());
}
