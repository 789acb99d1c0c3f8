"""Reads docker-compose.yml and the manifests as docker and Kubernetes would; see ops/validate."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import compose_spec
import kubernetes_validate
import yaml

# The newest with schemas here.
KUBERNETES = kubernetes_validate.latest_version()
NODE_MODULES = pathlib.Path(os.environ["NODE_PATH"])


def interpolated(value):
    """`${NAME:-default}` becomes its default, as without NAME."""
    if isinstance(value, dict):
        return {name: interpolated(part) for name, part in value.items()}
    if isinstance(value, list):
        return [interpolated(part) for part in value]
    if isinstance(value, str):
        return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)
    return value


def compose():
    # With what YAML's anchors and merges stand for.
    file = pathlib.Path("docker-compose.yml").read_text()
    compose_spec.PyCompose.from_json(json.dumps(interpolated(yaml.safe_load(file))))
    yield "docker-compose.yml: services, networks, volumes, secrets"


def validated(document):
    """Which schema an object of a cluster keeps to."""
    kind, group = document["kind"], document["apiVersion"]
    if group.startswith(("keda.sh/", "monitoring.coreos.com/")):
        script = shutil.copy(pathlib.Path(__file__).with_name("custom.mjs"), NODE_MODULES.parent)
        subprocess.run(["node", script], input=json.dumps(document), text=True, check=True, capture_output=True)
        return f"{kind} ({group})"
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return f"{kind} (Kubernetes {KUBERNETES})"


def manifests():
    for folder in ("ops/deploy/kubernetes", "ops/deploy/kubernetes-local", "ops/deploy/prometheus"):
        for path in sorted(pathlib.Path(folder).glob("*.yaml")):
            for document in yaml.safe_load_all(path.read_text()):
                if not document["apiVersion"].startswith("kustomize."):
                    yield f"{path}: {validated(document)}"


def built():
    """What `kubectl apply -k` would send: as shipped, with all components, and without shared storage."""
    for components in ([], [r"  - \.\./(?:prometheus|grafana)"], [r"  - \.\./kubernetes-local"]):
        with tempfile.TemporaryDirectory() as folder:
            deploy = pathlib.Path(folder)
            for part in ("kubernetes", "kubernetes-local", "prometheus", "grafana"):
                shutil.copytree(f"ops/deploy/{part}", deploy / part, ignore=shutil.ignore_patterns("secrets"))
            (deploy / "kubernetes/secrets").mkdir()
            for secret in ("amqp-url", "codex-api-key"):
                (deploy / "kubernetes/secrets" / secret).write_text("x")
            if components:
                file = deploy / "kubernetes/kustomization.yaml"
                enabled = re.sub(rf"^# ?(components:|{components[0]})", r"\1", file.read_text(), flags=re.MULTILINE)
                file.write_text(enabled)
            made = subprocess.run(["kubectl", "kustomize", deploy / "kubernetes"], text=True, check=True, capture_output=True)
            kinds = [validated(document).split()[0] for document in yaml.safe_load_all(made.stdout)]
            expected = {"PodMonitor", "PrometheusRule", "ConfigMap"}
            if components and "local" in components[0]:
                expected = {"StatefulSet"}
                if {"Deployment", "PersistentVolumeClaim", "ScaledObject"} & set(kinds):
                    raise ValueError(f"without shared storage: found {kinds}, expected a StatefulSet in their place")
            if components and not expected <= set(kinds):
                raise ValueError(f"with components: found {kinds}, expected also {expected}")
            yield f"kubectl kustomize, with {components or 'no component'}: {', '.join(kinds)}"


def main():
    wrong = 0
    checks = [compose, manifests]
    if shutil.which("kubectl"):
        checks.append(built)
    for check in checks:
        try:
            for what in check():
                print(f"✓ {what}")
        except subprocess.CalledProcessError as error:
            print(f"✗ {check.__name__}: {error.cmd[0]}: {error.stderr}", file=sys.stderr)
            wrong = 1
        except (ValueError, kubernetes_validate.ValidationError) as error:
            print(f"✗ {check.__name__}: {error}", file=sys.stderr)
            wrong = 1
    return wrong


sys.exit(main())
