"""Prints what turn-worker is built from, as CycloneDX 1.5; see ops/release.

    ops/sbom.py FOLDER TARGET      of the sources in FOLDER, built for TARGET

The crates are those that `cargo tree` names without development dependencies; those that only run while building have the
scope `excluded`. Versions and licences are from `cargo metadata`, checksums from Cargo.lock. SOURCE_DATE_EPOCH and SOURCE_COMMIT
are the time and the commit, so that the output depends on the sources alone.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

PROGRAM = "codex-turn-worker"


def cargo(folder, *arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], cwd=folder, check=True, capture_output=True, text=True).stdout


def tree(folder, target, edges):
    """Names and versions of the crates below the program."""
    lines = cargo(folder, "tree", "--edges", edges, "--target", target, "--prefix", "none", "--format", "{p}").splitlines()
    # A line is `name v1.2.3`, with what kind of crate it is, or its folder, behind that.
    return {(name, version.removeprefix("v")) for name, version, *_ in (line.split() for line in lines if line)}


def licence(package):
    """Some crates still separate licences by `/`, which SPDX does not know."""
    expression = re.sub(r"\s*/\s*", " OR ", package["license"] or "")
    return {"licenses": [{"expression": expression}]} if expression else {}


def component(package, checksums, built_in):
    key = package["name"], package["version"]
    purl = f"pkg:cargo/{key[0]}@{key[1]}"
    found = {
        "type": "application" if key[0] == PROGRAM else "library",
        "bom-ref": purl,
        "name": key[0],
        "version": key[1],
        "scope": "required" if key in built_in else "excluded",
        "purl": purl,
        **licence(package),
    }
    if key in checksums:
        found["hashes"] = [{"alg": "SHA-256", "content": checksums[key]}]
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def main():
    folder, target = sys.argv[1:]
    commit = os.environ["SOURCE_COMMIT"]
    built_in = tree(folder, target, "normal,no-proc-macro")
    used = tree(folder, target, "normal,build")
    metadata = json.loads(cargo(folder, "metadata", "--format-version", "1", "--filter-platform", target))
    lock = tomllib.loads((Path(folder) / "Cargo.lock").read_text())
    checksums = {(package["name"], package["version"]): package["checksum"] for package in lock["package"] if "checksum" in package}

    packages = {package["id"]: package for package in metadata["packages"] if (package["name"], package["version"]) in used}
    components = {id: component(package, checksums, built_in) for id, package in packages.items()}
    [program] = [found for found in components.values() if found["name"] == PROGRAM]
    del program["scope"]
    dependencies = [
        {
            "ref": components[node["id"]]["bom-ref"],
            "dependsOn": sorted(
                components[dependency["pkg"]]["bom-ref"]
                for dependency in node["deps"]
                if dependency["pkg"] in components and any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
            ),
        }
        for node in metadata["resolve"]["nodes"]
        if node["id"] in components
    ]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"{PROGRAM}/{commit}/{target}").urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": program,
            "properties": [{"name": "commit", "value": commit}, {"name": "target", "value": target}],
        },
        "components": sorted((found for found in components.values() if found is not program), key=lambda found: found["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda found: found["ref"]),
    }
    print(json.dumps(bom, indent=2, ensure_ascii=False))


main()
