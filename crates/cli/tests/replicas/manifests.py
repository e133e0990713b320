#!/usr/bin/env python3
"""The manifests of packaging/: each against its schema, their command lines against the programs, their names against each other, without a cluster.

Usage: manifests.py FARTHING
"""
import contextlib, io, json, pathlib, re, subprocess, sys

import jsonschema, kubernetes_validate, yaml
from smg.launch_router import parse_router_args

ROOT = pathlib.Path(__file__).resolve().parents[4]
PACKAGING, SCHEMAS = ROOT / "packaging", ROOT / "packaging/kubernetes/schemas"
KUBERNETES = ("1.31", kubernetes_validate.latest_version())
CUSTOM = {"PodMonitor": "podmonitors.yaml", "InferencePool": "inferencepools.yaml"}
# What each place says for itself; the router's other options are the same everywhere.
OWN = r"--(host|port|prometheus-\w+|worker-urls|control-plane-api-keys|service-discovery\S*|selector|shutdown-grace-period-secs)"


def strict(schema):
    """A schema that refuses fields it does not name, as a server's strict validation does."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            strict(part)
    elif isinstance(schema, list):
        for part in schema:
            strict(part)
    return schema


def custom(manifest):
    """Against the schema of a custom resource."""
    definition = yaml.safe_load((SCHEMAS / CUSTOM[manifest["kind"]]).read_text())["spec"]
    assert manifest["apiVersion"].split("/")[0] == definition["group"], manifest["apiVersion"]
    [version] = [version for version in definition["versions"] if version["name"] == manifest["apiVersion"].split("/")[1]]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(manifest, strict(schema))


def refused(check, *args):
    try:
        check(*args)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError, AssertionError):
        return True
    return False


def native(manifest):
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


def server_options(farthing, arguments):
    """Whether `farthing` takes a command line: its last word asks for help, which comes only if all before it were understood."""
    done = subprocess.run([farthing, *arguments, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def router_options(arguments):
    """The router's options as its own parser reads them; and those that are the same in all places."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parse_router_args([re.sub(r"\$[({].*?[)}]", "x:x:admin:x", word) for word in arguments])
    except SystemExit:
        raise AssertionError(f"{arguments}: {complaint.getvalue()[-300:]}") from None
    words = " ".join(arguments).replace("=", " ")
    return sorted(part.strip() for part in re.split(r" (?=--)", words) if not re.match(OWN, part.strip()))


def documented():
    """The router's options in docs/SCALE.md, whose command the test of the servers runs."""
    return re.search(r"^python -m smg launch ((?:.*\\\n)*.*)$", (ROOT / "docs/SCALE.md").read_text(), re.MULTILINE)[1].replace("\\\n", " ").split()


def pods(manifests):
    return {one["metadata"]["name"]: one["spec"]["template"] for one in manifests if one["kind"] == "Deployment"}


def names(manifests):
    """What manifests name in each other is there."""
    templates = pods(manifests)
    labels = [template["metadata"]["labels"] for template in templates.values()]
    selects = lambda wanted: any(wanted.items() <= one.items() for one in labels)
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for one in manifests:
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if one["kind"] in ("Service", "Deployment", "PodDisruptionBudget", "PodMonitor", "InferencePool", "NetworkPolicy"):
            assert selects(selector if one["kind"] == "Service" else selector["matchLabels"]), f"{one['kind']} {one['metadata']['name']} selects nothing"
        for endpoint in spec.get("podMetricsEndpoints", []):
            ports = [port["name"] for template in templates.values() if selector["matchLabels"].items() <= template["metadata"]["labels"].items()
                     for container in template["spec"]["containers"] for port in container["ports"]]
            assert endpoint["port"] in ports, f"no port {endpoint['port']} in {ports}"
        if one["kind"] == "InferencePool":
            assert ("Service", spec["endpointPickerRef"]["name"]) in there
        if one["kind"] == "RoleBinding":
            assert ("Role", one["roleRef"]["name"]) in there and ("ServiceAccount", one["subjects"][0]["name"]) in there
    for name, template in templates.items():
        spec = template["spec"]
        assert ("ServiceAccount", spec.get("serviceAccountName")) in there or not spec.get("automountServiceAccountToken", True), name
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
        volumes = {volume["name"] for volume in spec["volumes"]}
        for volume in spec["volumes"]:
            for kind, key, field in (("ConfigMap", "configMap", "name"), ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName")):
                assert key not in volume or (kind, volume[key][field]) in there, f"{name}: {volume}"
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] and container["resources"]["limits"]["memory"], name
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), name
            variables = {variable["name"] for variable in container["env"]}
            assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= variables, name
            for secret in (variable["valueFrom"]["secretKeyRef"] for variable in container["env"] if "secretKeyRef" in variable.get("valueFrom", {})):
                assert ("Secret", secret["name"]) in there, name


def main():
    farthing = sys.argv[1]
    manifests = [one for path in sorted((PACKAGING / "kubernetes").glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    for one in manifests:
        check = custom if one["kind"] in CUSTOM else native
        check(one)
        # The check can fail: a field that does not exist is refused.
        field = "spec" if "spec" in one else "metadata"
        assert refused(check, one | {field: one[field] | {"selectr": 1}}), f"{one['kind']} takes any field"
    names(manifests)
    compose = yaml.safe_load((PACKAGING / "compose.yaml").read_text())
    schema = json.loads((SCHEMAS / "compose.json").read_text())
    jsonschema.validate(compose, schema)
    assert refused(jsonschema.validate, compose | {"servces": {}}, schema)
    assert compose["services"].keys() >= {need for one in compose["services"].values() for need in one.get("depends_on", {})}

    args = lambda name: pods(manifests)[name]["spec"]["containers"][0]["args"]
    for arguments in (args("farthing"), compose["services"]["one"]["command"], compose["services"]["two"]["command"]):
        server_options(farthing, arguments)
        assert "--open-models" in arguments, "the router learns the models without a key"
    assert refused(server_options, farthing, ["serve", "--open-model"])
    wanted = router_options(documented())
    for where, arguments in (("router.yaml", args("farthing-router")), ("compose.yaml", compose["services"]["router"]["command"])):
        assert router_options(arguments) == wanted, f"{where} and docs/SCALE.md differ: {set(router_options(arguments)) ^ set(wanted)}"
    assert refused(router_options, ["--policy=cache_awar"])
    print(f"manifests: {len(manifests)} of Kubernetes (as of {' and '.join(KUBERNETES)}) and the compose file are valid, and their command lines are understood")


if __name__ == "__main__":
    main()
