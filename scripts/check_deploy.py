"""Holds manifests against the published schemas; run by scripts/check-deploy.

SaladCloud: the models of its SDK, which say fields, types and ranges. Kubernetes: the strict JSON schemas of
kubernetes-validate. KEDA: the types of @kubernetes-models/keda, by the compiler of TypeScript. On top of these it looks
at what no schema knows: the worker's variables, its probes and its grace; and at such names in the guide. Each manifest
is also broken on purpose, everywhere once, and every break must be found, so that a check that sees nothing is seen.
"""

import copy
import inspect
import json
import pathlib
import re
import subprocess
import sys
import typing

import kubernetes_validate
import salad_cloud_sdk.models as salad
import yaml

KUBERNETES = "1.37"
# What a worker's models read, beside the table of the framework, and where the examples have weights from.
OF_MODELS = {"FOREBAY_DEVICE"}
OF_EXAMPLES = pathlib.Path("examples/src/weights.rs")
PROBES = {"/health/startup", "/health/live", "/health/ready"}
# What a drain takes beyond the grace: verdicts are told for 10 s, threads are waited for 2 s.
BEYOND_GRACE = 12
# What KEDA's scaler understands; its types only say that there are texts. From the list of scalers that KEDA generates.
TRIGGERS = {
    "aws-sqs-queue": {
        "must": {"awsRegion"},
        "may": {"activationQueueLength", "awsEndpoint", "identityOwner", "queueLength", "queueURL", "queueURLFromEnv",
                "scaleOnDelayed", "scaleOnInFlight"},
    },
}


def salad_faults(value, kind, at=""):
    """What is wrong with a value of a field that the SDK annotates with `kind`."""
    options = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    if value is None:
        return [] if type(None) in options else [f"{at}: must not be null"]
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            return [f"{at}: should be a list"]
        (item,) = typing.get_args(kind)
        return [fault for i, one in enumerate(value) for fault in salad_faults(one, item, f"{at}[{i}]")]
    if kind is dict:
        texts = isinstance(value, dict) and all(isinstance(v, str) and 0 < len(v) <= 1000 for v in value.values())
        return [] if texts else [f"{at}: should be texts of 1 to 1000 characters by name"]
    if issubclass(kind, salad.utils.base_model.BaseModel):
        return salad_object_faults(value, kind, at)
    if hasattr(kind, "_member_map_"):
        known = kind.list()
        return [] if value in known else [f"{at}: is {value!r}, but should be one of {', '.join(known)}"]
    # To Python a bool is an int.
    return [] if type(value) is kind else [f"{at}: is {value!r}, but should be of type {kind.__name__}"]


def salad_object_faults(value, kind, at):
    if not isinstance(value, dict):
        return [f"{at}: should be an object"]
    module = vars(sys.modules[kind.__module__])
    hints = typing.get_type_hints(kind.__init__, module)
    fields = {name: p for name, p in inspect.signature(kind.__init__).parameters.items() if name in hints}
    # Where a name of the API is no name of Python.
    names = {v: k for k, v in getattr(kind, "_JsonMap__json_mapping").items()}
    given = {names.get(name, name): one for name, one in value.items()}
    here = lambda name: f"{at}.{name}".lstrip(".")
    faults = [f"{here(name)}: unknown field" for name in given if name not in fields]
    must = [name for name, field in fields.items() if field.default is inspect.Parameter.empty]
    faults += [f"{here(name)}: missing" for name in must if name not in given]
    for name in fields.keys() & given.keys():
        faults += salad_faults(given[name], hints[name], here(name))
    if faults:
        return faults
    try:
        kind(**given)
    except (ValueError, TypeError) as why:
        return [f"{at or 'the group'}: {why}"]
    return []


def kubernetes_faults(document):
    faults = [f"{key}: should be a text" for key in ("apiVersion", "kind") if not isinstance(document.get(key), str)]
    if faults:
        return faults
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as why:
        return [f"{'.'.join(str(part) for part in why.absolute_path)}: {why.message}"]
    except kubernetes_validate.SchemaNotFoundError as why:
        return [f"kind: {why.message}"]
    return []


def keda_faults(documents, npm):
    """The faults of several documents, by their index; the compiler is slow to start."""
    faults = {index: [] for index in documents}
    if not documents:
        return faults
    options = {"strict": True, "noEmit": True, "skipLibCheck": True, "module": "esnext", "target": "es2022",
               "moduleResolution": "bundler", "types": []}
    for old in npm.glob("manifest-*.ts"):
        old.unlink()
    for index, document in documents.items():
        kind = re.sub(r"\W", "", str(document.get("kind")))
        text = (f'import type {{ I{kind} }} from "@kubernetes-models/keda/keda.sh/v1alpha1/{kind}";\n'
                f"export const manifest: I{kind} = {json.dumps(document, indent=1)};\n")
        (npm / f"manifest-{index}.ts").write_text(text)
    (npm / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["manifest-*.ts"]}))
    said = subprocess.run([npm / "node_modules/.bin/tsc", "--pretty", "false", "-p", "."], cwd=npm,
                          capture_output=True, text=True)
    for line in said.stdout.splitlines():
        found = re.match(r"manifest-(\d+)\.ts\(\d+,\d+\): error (.*)", line)
        if found:
            faults[int(found[1])].append(found[2])
        elif not line.startswith(" "):
            raise SystemExit(f"check-deploy: the compiler says: {line}")
    if said.returncode and not any(faults.values()):
        raise SystemExit(f"check-deploy: the compiler failed: {said.stderr}")
    return faults


def trigger_faults(document):
    faults = []
    for trigger in document.get("spec", {}).get("triggers", []):
        known = TRIGGERS.get(trigger.get("type"))
        if known is None:
            faults.append(f"spec.triggers: `{trigger.get('type')}` is not among those that are known here")
            continue
        given = set(trigger.get("metadata", {}))
        faults += [f"spec.triggers.metadata.{name}: unknown field" for name in given - known["must"] - known["may"]]
        faults += [f"spec.triggers.metadata.{name}: missing" for name in known["must"] - given]
        if not given & {"queueURL", "queueURLFromEnv"}:
            faults.append("spec.triggers.metadata.queueURL: missing")
    return faults


def worker_faults(document, variables):
    """What no schema knows: that the worker reads such variables, has such probes, and is given the time to drain."""
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    containers = pod.get("containers", [])
    environment = dict(document.get("container", {}).get("environment_variables", {}))
    kinds = ("startup", "liveness", "readiness")
    probes = [document.get(f"{kind}_probe", {}).get("http", {}) for kind in kinds]
    for container in containers:
        environment |= {one["name"]: one.get("value") for one in container.get("env", [])}
        probes += [container.get(f"{kind}Probe", {}).get("httpGet", {}) for kind in kinds]
    paths = {probe["path"] for probe in probes if "path" in probe}
    named = [name for name in environment if name.startswith("FOREBAY_")]
    faults = [f"{name}: no variable of a worker" for name in named if name not in variables]
    faults += [f"{path}: no probe of a worker" for path in paths - PROBES]
    if containers:
        pause = sum(c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for c in containers)
        least = pause + int(environment.get("FOREBAY_GRACE") or 30) + BEYOND_GRACE
        if pod.get("terminationGracePeriodSeconds", 30) < least:
            faults.append(f"spec.template.spec.terminationGracePeriodSeconds: should be at least {least}")
    return faults


def all_faults(documents, npm, variables):
    """The faults of each document. Where a schema finds none, it has a form that can be looked into further."""
    faults = [[] for _ in documents]
    of_keda = {}
    for index, document in enumerate(documents):
        if "apiVersion" not in document:
            faults[index] = salad_faults(document, salad.ContainerGroupCreationRequest)
        elif str(document["apiVersion"]).startswith("keda.sh/"):
            of_keda[index] = document
        else:
            faults[index] = kubernetes_faults(document)
    for index, found in keda_faults(of_keda, npm).items():
        faults[index] = found or trigger_faults(of_keda[index])
    return [found or worker_faults(document, variables) for found, document in zip(faults, documents)]


def breaks(document):
    """The document with an unknown field in one of its objects, or one field of the wrong type: every such document."""
    def visit(value, path):
        if isinstance(value, dict):
            yield from ((path + [name], None) for name in value)
            if not is_free(path, document.get("kind")):
                yield path + ["unknownField"], "x"
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from visit(value[key], path + [key])

    for path, new in visit(document, []):
        broken = copy.deepcopy(document)
        inside = broken
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = new if new else [[{"wrong": True}]]
        yield ".".join(map(str, path)), broken


def is_free(path, kind):
    """Whether names are the user's there: labels, limits, variables."""
    free = {"labels", "matchLabels", "requests", "limits", "environment_variables"}
    return bool(path) and path[-1] in (free | {"selector"} if kind == "Service" else free)


def load(path):
    text = path.read_text()
    if path.suffix == ".json":
        return [json.loads(text)]
    return [document for document in yaml.safe_load_all(text) if document]


def guide_faults(guide, variables):
    """Names in the guide that nobody reads or records."""
    text = guide.read_text()
    metrics = set(re.findall(r'"(forebay_\w+)"', pathlib.Path("framework/src/telemetry.rs").read_text()))
    faults = [f"{name}: no variable of a worker" for name in set(re.findall(r"\bFOREBAY_\w*[A-Z]\b", text)) - variables]
    # What ends with a star stands for all that begin so.
    for name in set(re.findall(r"\bforebay_\w+\*?", text)) - metrics:
        if not (name.endswith("*") and any(metric.startswith(name[:-1]) for metric in metrics)):
            faults.append(f"{name}: no metric of a worker")
    faults += [f"{path}: no probe of a worker" for path in set(re.findall(r"/health/\w+", text)) - PROBES]
    return [f"{guide}: {fault}" for fault in sorted(faults)]


def main():
    npm, *files = map(pathlib.Path, sys.argv[1:])
    npm = npm.resolve()
    table = pathlib.Path("framework/src/config.rs").read_text()
    variables = set(re.findall(r"^//! \| `(\w+)` \|", table, re.MULTILINE)) | OF_MODELS
    variables |= set(re.findall(r'"(FOREBAY_\w+)"', OF_EXAMPLES.read_text()))
    documents = [(path, document) for path in files for document in load(path)]
    empty = set(files) - {path for path, _ in documents}
    if empty:
        raise SystemExit("\n".join(f"{path}: holds no manifest" for path in sorted(empty)))
    broken = [(path, where, worse) for path, document in documents for where, worse in breaks(document)]
    faults = all_faults([d for _, d in documents] + [w for _, _, w in broken], npm, variables)
    bad = [f"{path}: {fault}" for (path, _), found in zip(documents, faults) for fault in found]
    bad += guide_faults(pathlib.Path("docs/deploy.md"), variables)
    missed = [f"{path}: {where}: a break that was not found"
              for (path, where, _), found in zip(broken, faults[len(documents):]) if not found]
    if bad or missed:
        raise SystemExit("\n".join(bad or missed))
    print(f"{len(documents)} manifests in {len(files)} files are right; {len(broken)} breaks were found")


main()
