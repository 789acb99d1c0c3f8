//! `ops/deploy/kubernetes`, held against the worker, the image, and its own parts. That kustomize builds it, and that it keeps to the
//! schemas of Kubernetes, KEDA and the Prometheus Operator, is checked by `ops/validate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use turn_worker::metrics::{Backlog, Metrics};

use super::{SETTLING, image, needed_privileges, path, settings, sorted, words, yaml};

const FOLDER: &str = "ops/deploy/kubernetes";

fn manifest(name: &str) -> Value {
    yaml(&format!("{FOLDER}/{name}.yaml"))
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn environment(container: &Value) -> BTreeMap<String, String> {
    let mut environment = image::environment();
    for one in container["env"].as_array().unwrap() {
        let value = one["value"].as_str().unwrap_or("from a secret");
        environment.insert(one["name"].as_str().unwrap().to_owned(), value.to_owned());
    }
    environment
}

#[test]
fn every_setting_in_the_deployment_is_one_and_has_a_value_that_it_takes() {
    let deployment = manifest("deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = named(&pod["containers"], "worker");
    let environment = environment(container);
    let settings = settings("the deployment", &environment);

    // No drain cuts a turn off, and the kubelet waits for it.
    assert!(settings.shutdown_grace > settings.turn_timeout);
    let grace = settings.shutdown_grace + SETTLING;
    assert_eq!(pod["terminationGracePeriodSeconds"], grace.as_secs());
    // As long as clouds wait when they replace a node.
    assert!(grace.as_secs() <= 3600);

    let port = settings.http_addr.port();
    assert!(settings.http_addr.ip().is_unspecified());
    assert_eq!(named(&container["ports"], "metrics")["containerPort"], port);
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(
            container[probe]["httpGet"],
            json!({"path": path, "port": "metrics"}),
            "{probe}"
        );
    }
    let service = manifest("service");
    assert_eq!(named(&service["spec"]["ports"], "metrics")["port"], port);
    let ingress = &manifest("network")["spec"]["ingress"][0]["ports"][0]["port"];
    assert_eq!(*ingress, port);

    let mounts = container["volumeMounts"].as_array().unwrap();
    let mounted = |at: &str| mounts.iter().find(|mount| mount["mountPath"] == at);
    let root = mounted(&environment["TURN_WORKER_WORKSPACE_ROOT"]).unwrap();
    let volume = named(&pod["volumes"], root["name"].as_str().unwrap());
    let claim = manifest("claim");
    assert_eq!(
        volume["persistentVolumeClaim"]["claimName"],
        claim["metadata"]["name"]
    );
    assert_eq!(words(&claim["spec"]["accessModes"]), ["ReadWriteMany"]);
    for writable in ["/tmp", "/home/agent"] {
        let mount = mounted(writable).unwrap();
        let volume = named(&pod["volumes"], mount["name"].as_str().unwrap());
        assert!(volume.get("emptyDir").is_some(), "{writable}");
    }
    // The files of secrets are mounted where they are looked for, and made.
    let secrets = named(&pod["volumes"], "secrets");
    let (file, mount) = (
        &environment["TURN_WORKER_AMQP_URL_FILE"],
        "/run/secrets/turn-worker",
    );
    assert_eq!(mounted(mount).unwrap()["name"], "secrets");
    assert_eq!(secrets["secret"]["defaultMode"], 0o400);
    let item = &secrets["secret"]["items"][0];
    assert_eq!(*file, format!("{mount}/{}", item["path"].as_str().unwrap()));
    let kustomization = manifest("kustomization");
    let generated = &kustomization["secretGenerator"][0];
    assert_eq!(generated["name"], secrets["secret"]["secretName"]);
    let made: BTreeSet<&str> = words(&generated["files"])
        .iter()
        .map(|file| file.split_once('=').unwrap().0)
        .collect();
    let key = &named(&container["env"], "CODEX_API_KEY")["valueFrom"]["secretKeyRef"];
    assert_eq!(key["name"], generated["name"]);
    let asked: BTreeSet<&str> = [&item["key"], &key["key"]]
        .iter()
        .map(|key| key.as_str().unwrap())
        .collect();
    assert_eq!(made, asked);
}

#[test]
fn the_pod_is_sealed() {
    let deployment = manifest("deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let context = &named(&pod["containers"], "worker")["securityContext"];
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(words(&context["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(
        sorted(words(&context["capabilities"]["add"])),
        needed_privileges()
    );
}

#[test]
fn the_parts_find_each_other() {
    let kustomization = manifest("kustomization");
    let mut files: Vec<String> = fs::read_dir(path(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    files.sort();
    assert_eq!(sorted(words(&kustomization["resources"])), files);
    assert_eq!(
        kustomization["namespace"],
        manifest("namespace")["metadata"]["name"]
    );

    let deployment = manifest("deployment");
    let template = &deployment["spec"]["template"];
    let image = &kustomization["images"][0];
    assert_eq!(template["spec"]["containers"][0]["image"], image["name"]);
    assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        template["spec"]["serviceAccountName"],
        manifest("serviceaccount")["metadata"]["name"]
    );
    let labels = &template["metadata"]["labels"];
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], *labels);
    assert_eq!(manifest("service")["spec"]["selector"], *labels);
    assert_eq!(
        manifest("disruption")["spec"]["selector"]["matchLabels"],
        *labels
    );
    assert_eq!(
        manifest("network")["spec"]["podSelector"]["matchLabels"],
        *labels
    );
    let spread = &template["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"]["matchLabels"], *labels);
}

#[test]
fn the_pool_is_scaled_by_what_could_run() {
    let (deployment, scaled) = (manifest("deployment"), manifest("scaledobject"));
    let spec = &scaled["spec"];
    assert_eq!(
        spec["scaleTargetRef"]["name"],
        deployment["metadata"]["name"]
    );
    assert!(
        deployment["spec"].get("replicas").is_none(),
        "an apply would fight the scaler"
    );
    assert!(
        spec["minReplicaCount"].as_u64().unwrap() >= 2,
        "a sequencer has no standby"
    );
    let trigger = &spec["triggers"][0]["metadata"];
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        trigger["threshold"],
        environment(container)["TURN_WORKER_SLOTS"]
    );
    // Of one pool: its job and, where targets have that label, its namespace.
    let namespace = &manifest("kustomization")["namespace"];
    let pool = format!(
        r#"{{job="turn-worker", namespace=~"{}|"}}"#,
        namespace.as_str().unwrap()
    );
    let [backlog, connected] = [
        "turn_worker_backlog_workspaces",
        "turn_worker_amqp_connected",
    ];
    // A pool with a connection and no turn since its start is empty. Without a
    // connection there is no value, and that must not count as 0.
    let expected = format!("max({backlog}{pool}) or 0 * (max({connected}{pool}) == 1)");
    assert_eq!(trigger["query"].as_str().unwrap(), expected);
    assert_eq!(trigger["ignoreNullValues"], "false");
    let metrics = Metrics::new(None);
    assert!(!metrics.gather_text().unwrap().contains(backlog));
    metrics.set_backlog(Some(Backlog::default()));
    let text = metrics.gather_text().unwrap();
    for metric in [backlog, connected] {
        assert!(text.contains(&format!("# TYPE {metric} gauge\n")));
    }
}

/// What the Prometheus Operator and Grafana's sidecar take up.
#[test]
fn the_components_for_monitoring_fit_the_pod() {
    let deployment = manifest("deployment");
    let template = &deployment["spec"]["template"];
    let monitor = yaml("ops/deploy/prometheus/podmonitor.yaml");
    let spec = &monitor["spec"];
    let labels = &template["metadata"]["labels"];
    assert_eq!(spec["selector"]["matchLabels"], *labels);
    // The job by which alerts know a pool.
    let job = &labels[spec["jobLabel"].as_str().unwrap()];
    assert!(job.as_str().unwrap().starts_with("turn-worker"), "{job}");
    let container = named(&template["spec"]["containers"], "worker");
    let port = spec["podMetricsEndpoints"][0]["port"].as_str().unwrap();
    named(&container["ports"], port);
    let dashboards = yaml("ops/deploy/grafana/kustomization.yaml");
    let generated = dashboards["configMapGenerator"].as_array().unwrap();
    let mut files: Vec<String> = (generated.iter().flat_map(|one| words(&one["files"])))
        .map(str::to_owned)
        .collect();
    files.sort();
    let mut there: Vec<String> = fs::read_dir(path("ops/deploy/grafana/dashboards"))
        .unwrap()
        .map(|entry| {
            format!(
                "dashboards/{}",
                entry.unwrap().file_name().to_str().unwrap()
            )
        })
        .collect();
    there.sort();
    assert_eq!(files, there);
}
