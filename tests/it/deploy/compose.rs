//! `docker-compose.yml`, held against the worker, the image, and the files that it mounts. That it keeps to the
//! Compose specification is checked by `ops/validate`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Map, Value};
use turn_worker::config::{Preset, SETTINGS, VARIABLE_PREFIX};

use super::{
    SETTLING, duration, image, json, needed_privileges, path, read, settings, sorted, words, yaml,
};

const COMPOSE: &str = "docker-compose.yml";
const STAND_IN: &str = "ops/deploy/docker/stand-in.env";

/// Those that are built from this project.
const OURS: [&str; 4] = ["worker", "client", "operator", "model"];

fn compose() -> Value {
    yaml(COMPOSE)
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

/// `${NAME:-default}` as without NAME.
fn interpolated(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else {
        return text.to_owned();
    };
    let (variable, after) = rest.split_once('}').unwrap();
    let default = variable.split_once(":-").unwrap().1;
    format!("{before}{default}{}", interpolated(after))
}

/// What a service's process gets, on top of what the image sets.
fn environment(service: &Value) -> BTreeMap<String, String> {
    let mut environment = image::environment();
    for (name, value) in service["environment"].as_object().unwrap() {
        // Null: the value that it has where compose runs.
        let text = value.as_str().map(interpolated);
        environment.insert(name.clone(), text.unwrap_or_default());
    }
    environment
}

/// Of `SOURCE:TARGET[:ro]`, in a short form.
fn mounts(service: &Value) -> Vec<(&str, &str)> {
    let parts = words(&service["volumes"])
        .into_iter()
        .map(|mount| mount.split_once(':').unwrap());
    parts
        .map(|(source, target)| (source, target.trim_end_matches(":ro")))
        .collect()
}

/// The capabilities that it has.
pub fn privileges() -> Vec<String> {
    words(&compose()["services"]["worker"]["cap_add"])
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_setting_in_the_compose_file_is_one_and_has_a_value_that_it_takes() {
    let compose = compose();
    let worker = &compose["services"]["worker"];
    for name in ["client", "operator"] {
        settings(name, &environment(&compose["services"][name]));
    }
    let environment = environment(worker);
    let settings = settings("the worker", &environment);

    let stop = duration(worker["stop_grace_period"].as_str().unwrap());
    assert_eq!(stop, settings.shutdown_grace + SETTLING);

    let port = settings.http_addr.port();
    assert!(
        settings.http_addr.ip().is_unspecified(),
        "Prometheus can't reach it"
    );
    assert_eq!(words(&worker["expose"]), [port.to_string()]);
    let health = words(&worker["healthcheck"]["test"]);
    assert_eq!(
        health.last().unwrap(),
        &format!("http://127.0.0.1:{port}/readyz")
    );
    let prometheus = yaml("ops/deploy/prometheus/prometheus.yml");
    let scraped = &prometheus["scrape_configs"].as_array().unwrap();
    let job = scraped
        .iter()
        .find(|job| job["job_name"] == "turn-worker")
        .unwrap();
    assert_eq!(
        job["dns_sd_configs"][0]["names"],
        serde_json::json!(["worker"])
    );
    assert_eq!(job["dns_sd_configs"][0]["port"], port);

    // What it writes to outlives it.
    let kept = mounts(worker);
    for folder in ["TURN_WORKER_WORKSPACE_ROOT", "TURN_WORKER_CODEX_HOME"] {
        let mounted = kept
            .iter()
            .find(|(_, target)| *target == environment[folder]);
        let (volume, _) = mounted.unwrap_or_else(|| panic!("{folder} is no mount"));
        assert!(compose["volumes"].get(volume).is_some(), "{volume}");
    }
}

#[test]
fn what_is_ours_is_sealed_and_everything_is_limited() {
    let compose = compose();
    for (name, service) in services(&compose) {
        let limits = &service["deploy"]["resources"]["limits"];
        for limit in ["memory", "pids"] {
            assert!(!limits[limit].is_null(), "{name}: no limit on {limit}");
        }
        // Docker refuses more than its host has, and this runs on any.
        assert!(limits.get("cpus").is_none(), "{name}");
        let log = &service["logging"]["options"];
        assert!(
            log["max-size"].is_string() && log["max-file"].is_string(),
            "{name}"
        );
        assert_eq!(
            words(&service["security_opt"]),
            ["no-new-privileges:true"],
            "{name}"
        );
        for port in words(&service["ports"]) {
            assert!(
                port.starts_with("127.0.0.1:"),
                "{name} is open to the world: {port}"
            );
        }
        for not in ["privileged", "network_mode", "pid", "ipc", "devices"] {
            assert!(service.get(not).is_none(), "{name}: {not}");
        }
        assert!(
            !mounts(service)
                .iter()
                .any(|(source, _)| source.contains("docker.sock")),
            "{name}"
        );
        if OURS.contains(&name.as_str()) {
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["init"], true, "{name}");
            assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        }
        let once = service["profiles"]
            .as_array()
            .is_some_and(|list| list.contains(&"client".into()));
        assert_eq!(service.get("restart").is_none(), once, "{name}");
    }
    let worker = &compose["services"]["worker"];
    assert_eq!(sorted(words(&worker["cap_add"])), needed_privileges());
    let home = format!(
        "/home/agent:exec,mode=0700,uid={0},gid={0},size=1g",
        image::agent()
    );
    assert!(
        words(&worker["tmpfs"]).contains(&home.as_str()),
        "{worker:#}"
    );
    assert!(
        words(&worker["tmpfs"])
            .iter()
            .any(|mount| mount.starts_with("/tmp:exec,mode=1777"))
    );
}

/// The records belong to root. And looking at an outage must not start the broker that an operator has
/// stopped.
#[test]
fn an_operator_has_the_records_and_starts_no_service() {
    let compose = compose();
    let (operator, worker) = (
        &compose["services"]["operator"],
        &compose["services"]["worker"],
    );
    assert_eq!(operator["user"], "0:0");
    assert!(operator.get("cap_add").is_none());
    assert!(operator.get("depends_on").is_none());
    let root = &image::environment()["TURN_WORKER_WORKSPACE_ROOT"];
    for service in [operator, worker] {
        assert!(mounts(service).contains(&("workspaces", root.as_str())));
    }
}

#[test]
fn what_the_compose_file_names_is_there() {
    let compose = compose();
    let secrets = secrets();
    for (name, secret) in compose["secrets"].as_object().unwrap() {
        let file = interpolated(secret["file"].as_str().unwrap());
        let file = file.strip_prefix("./.secrets/").unwrap();
        assert!(
            secrets.contains(&file.to_owned()),
            "{name}: ops/deploy/docker/secrets makes no {file}"
        );
    }
    let stages = image::stages();
    for (name, service) in services(&compose) {
        for (source, target) in mounts(service) {
            match source.strip_prefix("./") {
                Some(file) => assert!(path(file).exists(), "{name} mounts {file} at {target}"),
                None => assert!(
                    compose["volumes"].get(source).is_some(),
                    "{name}: volume {source}"
                ),
            }
        }
        for network in words(&service["networks"]) {
            assert!(
                compose["networks"].get(network).is_some(),
                "{name}: network {network}"
            );
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            let secret = secret["source"].as_str().or(secret.as_str()).unwrap();
            assert!(
                compose["secrets"].get(secret).is_some(),
                "{name}: secret {secret}"
            );
        }
        for (other, _) in service["depends_on"].as_object().into_iter().flatten() {
            let waited_for = &compose["services"][other];
            assert!(
                waited_for.get("healthcheck").is_some(),
                "{name} waits for {other}"
            );
        }
        if let Some(build) = service.get("build") {
            assert!(path(build["dockerfile"].as_str().unwrap()).exists());
            assert!(
                stages.contains(&build["target"].as_str().unwrap().to_owned()),
                "{build}"
            );
        }
        // A secret that a variable names is mounted there.
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            if let Some(file) = value
                .as_str()
                .and_then(|value| value.strip_prefix("/run/secrets/"))
            {
                assert!(
                    words(&service["secrets"]).contains(&file),
                    "{name}: {variable}"
                );
            }
        }
    }
    // Grafana finds the dashboards at the configured path.
    let provisioned = yaml("ops/deploy/grafana/provisioning/dashboards/turn-worker.yml");
    let folder = provisioned["providers"][0]["options"]["path"]
        .as_str()
        .unwrap();
    let grafana = mounts(&compose["services"]["grafana"]);
    assert!(
        grafana.contains(&("./ops/deploy/grafana/dashboards", folder)),
        "{grafana:?}"
    );
}

/// The names of what `ops/deploy/docker/secrets` makes.
fn secrets() -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(path("ops/deploy/docker/secrets"))
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let entries = std::fs::read_dir(dir.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn the_stand_in_is_asked_with_the_workers_own_arguments_besides() {
    let compose = compose();
    let text = read(STAND_IN);
    let sets: BTreeMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    let model = &compose["services"]["model"];
    assert_eq!(words(&model["profiles"]), [sets["COMPOSE_PROFILES"]]);
    let arguments = SETTINGS
        .iter()
        .find(|setting| setting.name == "CODEX_ARGS")
        .unwrap();
    let Preset::Value(default) = arguments.default else {
        panic!("CODEX_ARGS has no default");
    };
    assert!(
        sets["CODEX_ARGS"].starts_with(default),
        "{}",
        sets["CODEX_ARGS"]
    );
    let variable = format!("{VARIABLE_PREFIX}CODEX_ARGS");
    settings(
        STAND_IN,
        &BTreeMap::from([(variable.clone(), sets["CODEX_ARGS"].to_owned())]),
    );
    assert_eq!(
        compose["services"]["worker"]["environment"][variable],
        "${CODEX_ARGS:-}"
    );
    // The image's own command says on which port.
    let dockerfile = read("ops/deploy/docker/Dockerfile");
    assert!(dockerfile.contains(r#"CMD ["--host", "0.0.0.0", "--port", "8080"]"#));
    assert!(sets["CODEX_ARGS"].contains("base_url=http://model:8080/v1"));
    assert!(
        model["healthcheck"]["test"][3]
            .as_str()
            .unwrap()
            .ends_with("/8080")
    );
}

/// A broker as compose starts it has what Prometheus asks it for.
#[test]
fn the_broker_has_the_plugins_and_definitions_that_others_rest_on() {
    let compose = compose();
    let broker = &compose["services"]["broker"];
    let plugins = read("ops/deploy/rabbitmq/enabled_plugins");
    assert_eq!(plugins.trim(), "[rabbitmq_management,rabbitmq_prometheus].");
    assert_eq!(words(&broker["expose"]), ["15692"]);
    let folder = read("ops/deploy/rabbitmq/rabbitmq.conf");
    let folder = folder
        .lines()
        .find_map(|line| line.strip_prefix("load_definitions = "))
        .unwrap();
    let definitions = mounts(broker).iter().any(|(source, target)| {
        *source == "./ops/deploy/rabbitmq/definitions.json" && target.starts_with(folder)
    });
    assert!(definitions, "{broker:#}");
    let users = broker["secrets"][0]["target"].as_str().unwrap();
    assert!(users.starts_with(folder), "{users}");
    assert!(json("ops/deploy/rabbitmq/definitions.json")["vhosts"][0]["name"] == "turns");
}
