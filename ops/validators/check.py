"""Reads docker-compose.yml and ops/kubernetes as docker and Kubernetes would; see ops/validate."""

import json
import pathlib
import re
import subprocess
import sys

import compose_spec
import kubernetes_validate
import yaml

# The newest whose schemas are there.
KUBERNETES = kubernetes_validate.latest_version()


def interpolated(value):
    """`${NAME:-default}` becomes its default, as where nobody sets NAME."""
    if isinstance(value, dict):
        return {name: interpolated(part) for name, part in value.items()}
    if isinstance(value, list):
        return [interpolated(part) for part in value]
    if isinstance(value, str):
        return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)
    return value


def compose(path):
    # With what YAML's anchors and merges stand for.
    compose_spec.PyCompose.from_json(json.dumps(interpolated(yaml.safe_load(path.read_text()))))
    yield "services, networks, volumes, secrets"


def kubernetes(folder):
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            kind, group = document["kind"], document["apiVersion"]
            if kind == "Kustomization":
                continue  # no object of a cluster
            if group.startswith("keda.sh/"):
                script = pathlib.Path(__file__).with_name("keda.js")
                subprocess.run(["node", script], input=json.dumps(document), text=True, check=True)
                yield f"{kind} ({group}, KEDA 2.10's schema)"
            else:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
                yield f"{kind} ({group}, Kubernetes {KUBERNETES})"


def main():
    wrong = 0
    for check, name in ((compose, "docker-compose.yml"), (kubernetes, "ops/kubernetes")):
        try:
            for what in check(pathlib.Path(name)):
                print(f"✓ {name}: {what}")
        except (ValueError, kubernetes_validate.ValidationError, subprocess.CalledProcessError) as error:
            print(f"✗ {name}: {error}", file=sys.stderr)
            wrong = 1
    return wrong


sys.exit(main())
