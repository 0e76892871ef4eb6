"""Looks into an image without starting it: scripts/image_inside.py IMAGE.tar BASE.tar, as `docker save` makes them.

Every layer is read, so what a later one hides is found too. On top of its base the image may have the program, its
certificates, weights and CUDA's libraries, and nothing else; in the base there must be no compiler either. Prints what
each layer holds, and as its last line, to standard output, JSON. Ends with 1 if something is in there that should not be.
"""

import json
import re
import sys
import tarfile
import zlib

# What may come on top of the base.
OURS = re.compile(
    r"(usr/local/bin/worker|etc/ssl/certs/ca-certificates\.crt|weights/[^/]+"
    r"|usr/local/cuda/lib/lib(cublas|cublasLt|curand)\.so\.\d+)$"
)
# Programs that build, wherever they are, by their whole name.
BUILDERS = re.compile(
    r"(^|/)((\w+-)*(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|ld|as)(-[\d.]+)?"
    r"|cargo|rustc|rustup|rust-lld|nvcc|ptxas|cicc|make|cmake|pip3?|uv|npm)$"
)
# Files and folders that hold keys, or how a registry is reached; and what a build leaves.
SECRETS = re.compile(
    r"(^|/)(\.git|\.git-credentials|\.cargo|\.rustup|\.ssh|\.aws|\.docker|\.kube|\.env|\.netrc|\.npmrc|\.pypirc|pip\.conf"
    r"|credentials(\.\w+)?|id_(rsa|ed25519|ecdsa)|rustup|registry|target|cargo)(/|$)"
)
# In the environment: names of keys, and addresses.
TELLING = re.compile(r"(key|token|secret|passw|credential|proxy|index)[^=]*=|://", re.IGNORECASE)

# Each must be found, or the check sees nothing.
SEEDS = (
    (BUILDERS, "usr/bin/gcc-12 usr/bin/x86_64-linux-gnu-ld rust/bin/rustc usr/local/cargo/bin/cargo usr/bin/pip3"),
    (SECRETS, "project/.git/HEAD root/.cargo/credentials.toml usr/local/cargo/registry/cache etc/pip.conf root/.aws/config"),
    (TELLING, "AWS_SECRET_ACCESS_KEY=x CARGO_REGISTRIES_MINE_TOKEN=x PIP_INDEX_URL=x HTTPS_PROXY=x SOURCE=https://x"),
)


class Counted:
    """A file that is read once, with its bytes counted and as many as they are when compressed."""

    def __init__(self, file):
        self.file, self.bytes, self.packed, self.packer = file, 0, 0, zlib.compressobj(6)

    def read(self, size):
        piece = self.file.read(size)
        self.bytes += len(piece)
        self.packed += len(self.packer.compress(piece))
        return piece

    def rest(self):
        while self.read(1 << 20):
            pass
        self.packed += len(self.packer.flush())


def opened(path):
    """The configuration of an image, and its layers: what made each, its sizes, its files."""
    with tarfile.open(path) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(manifest["Config"]))
        made_by = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
        layers = []
        for name, by in zip(manifest["Layers"], made_by, strict=True):
            layer = Counted(archive.extractfile(name))
            with tarfile.open(fileobj=layer, mode="r|*") as tar:
                files = [member.name.removeprefix("./").strip("/") for member in tar if not member.isdir()]
            layer.rest()
            layers.append({"by": by, "bytes": layer.bytes, "packed": layer.packed, "files": files})
        return config, layers


def faults(config, layers, base_layers):
    """What should not be so, in words."""
    settings = config["config"]
    user = settings.get("User") or "root"
    if user.split(":")[0] in ("0", "root"):
        yield "its user is root"
    if not settings.get("Healthcheck"):
        yield "it has no health check"
    for setting in settings.get("Env") or []:
        if TELLING.search(setting):
            yield f"its environment tells {setting.split('=')[0]}"
    for layer in layers:
        yield from (f"it holds a compiler or a package manager: {name}" for name in layer["files"] if BUILDERS.search(name))
        yield from (f"it holds what may be a secret or a registry: {name}" for name in layer["files"] if SECRETS.search(name))
    for layer in layers[base_layers:]:
        yield from (f"it holds a file that is not ours: {name}" for name in layer["files"] if not OURS.match(name))


def main(image_path, base_path):
    for pattern, seeds in SEEDS:
        blind = [seed for seed in seeds.split() if not pattern.search(seed)]
        assert not blind, f"this check does not see {blind}"
    config, layers = opened(image_path)
    base_config, base = opened(base_path)
    ours, theirs = config["rootfs"]["diff_ids"], base_config["rootfs"]["diff_ids"]
    found = list(faults(config, layers, len(theirs)))
    if ours[: len(theirs)] != theirs:
        found.append("it is not made of its base; get the base anew, and build again")
    for place, layer in enumerate(layers):
        of = "base" if place < len(theirs) else ", ".join(layer["files"])
        print(f"{layer['bytes'] / 1e6:9.1f} MB {layer['packed'] / 1e6:9.1f} MB packed  {of}", file=sys.stderr)
    for fault in found:
        print(f"image: {fault}", file=sys.stderr)
    if found:
        sys.exit(1)
    added = layers[len(theirs) :]
    sizes = {
        "layers_bytes": [layer["bytes"] for layer in layers],
        "base_bytes": sum(layer["bytes"] for layer in base),
        "added_bytes": sum(layer["bytes"] for layer in added),
        "added_packed_bytes": sum(layer["packed"] for layer in added),
        "packed_bytes": sum(layer["packed"] for layer in layers),
    }
    print(f"it adds {sizes['added_bytes'] / 1e6:.1f} MB to its base in {len(added)} layers", file=sys.stderr)
    print(json.dumps(sizes, separators=(",", ":")))


if __name__ == "__main__":
    main(*sys.argv[1:])
