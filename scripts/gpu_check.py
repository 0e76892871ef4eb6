"""Runs the sections of scripts/gpu-check one after the other, races forebay against PyTorch, and writes the table.

Owns the state of what was run (a section that is done is not run again), the race of interleaved blocks, and the
verdicts. What could not be run is said and never counts as passed. Standard library only: torch is imported by the
child that races (gpu_check_torch.py).
"""

import argparse
import ctypes
import datetime
import glob
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Seconds that a section may take.
LIMIT = 235
PAIRS = 10
# What all rounds of a race take, about.
ROUNDS_TAKE = 90
LENGTHS = (32, 128, 512)
BATCHES = (128, 512, 32)
LIBRARIES = ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10")
VARIANTS = ("plain", "tracked", "unpooled", "padded")


class CannotRun(Exception):
    """Something that a section needs is missing: it has neither passed nor failed."""


# ---- processes ----------------------------------------------------------------------------------------------------


def last_json(text):
    """The last line that is a JSON object, or nothing."""
    for line in reversed(text.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def last_words(path):
    """The last line of a log, which mostly says why a program ended."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return next((line.strip() for line in reversed(file.readlines()) if line.strip()), "nothing")


class Racer:
    """A child that embeds on demand: see `gpu-check serve` for what it is told and what it says."""

    def __init__(self, name, command, environment, log):
        self.name, self.log, self.vram = name, log, None
        try:
            self.child = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )
        except OSError as why:
            raise CannotRun(f"{name}: cannot start {command[0]}: {why}") from why
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def hear(self, seconds):
        """The next object that it prints."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise CannotRun(f"{self.name}: no answer in {seconds:.0f} s") from None
            if line is None:
                raise CannotRun(f"{self.name}: ended with {self.child.wait()}, and said {last_words(self.log.name)}")
            value = last_json(line)
            if value is not None:
                return value

    def go(self, seconds, batch, mode, patience):
        """Items a second of one block."""
        try:
            self.child.stdin.write(f"go {seconds} {batch} {mode}\n")
            self.child.stdin.flush()
        except OSError as why:
            raise CannotRun(f"{self.name}: ended, and said {last_words(self.log.name)}") from why
        answer = self.hear(patience)
        self.vram = answer.get("vram_mib")
        if not answer["items"] or not answer["seconds"] > 0:
            raise CannotRun(f"{self.name}: did nothing in a block")
        return answer["items"] / answer["seconds"]

    def end(self):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.reader.join()
        self.child.stdout.close()
        self.log.close()


# ---- the race -----------------------------------------------------------------------------------------------------


def spread(values):
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0], "n": len(values)}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "n": len(values)}


def interleave(lanes, against, seconds, pairs, deadline):
    """Blocks of all lanes in turn, forwards and backwards, until there are so many or the time is over.

    `lanes` is {name: block}, where block(seconds) gives items a second; `against` is {name: the lane it is held against}.
    Answers the spread of every lane's rate, and of each ratio that lane / name, the two of a pair being of one round.
    """
    rates = {name: [] for name in lanes}
    order = list(lanes)
    slowest = 0.0
    for turn in range(pairs):
        started = time.monotonic()
        if turn and started + slowest > deadline:
            break
        for name in order if turn % 2 == 0 else reversed(order):
            rates[name].append(lanes[name](seconds))
        slowest = max(slowest, time.monotonic() - started)
    ratios = {name: spread([a / b for a, b in zip(rates[first], rates[name])]) for name, first in against.items()}
    return {"rates": {name: spread(values) for name, values in rates.items()}, "ratios": ratios}


def best_batch(racer, seconds, sizes, until, deadline):
    """The batch size of the highest rate, and all rates; each size is warmed up first, which may compile.

    Sizes for which there is no time before `until`, if they take as long as the last one, are left out.
    """
    found = {}
    took = 0.0
    for size in sizes:
        started = time.monotonic()
        if found and started + took > until:
            break
        racer.go(min(seconds, 0.2), size, "texts", deadline - time.monotonic())
        found[size] = racer.go(seconds, size, "texts", deadline - time.monotonic())
        took = time.monotonic() - started
    return max(found, key=found.get), found


# ---- the check ----------------------------------------------------------------------------------------------------


class Check:
    def __init__(self, options):
        self.options = options
        self.quick = options.quick
        self.shapes = ("tiny",) if self.quick else ("minilm", "bert-large")
        self.block = 0.05 if self.quick else 1.0
        self.out = os.path.abspath(options.out)
        self.work = os.path.abspath(options.work)
        os.makedirs(self.out, exist_ok=True)
        os.makedirs(self.work, exist_ok=True)
        self.state_file = os.path.join(self.out, "gpu-check-state.json")
        self.state = {} if options.fresh else self._load()
        self.binary = find_binary()
        self.environment = dict(os.environ)
        self.torch = options.torch or [sys.executable, os.path.join(HERE, "gpu_check_torch.py")]

    def _load(self):
        try:
            with open(self.state_file, encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return {}

    def _save(self):
        part = self.state_file + ".part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(self.state, file, indent=1)
        os.replace(part, self.state_file)

    def log(self, name):
        return open(os.path.join(self.work, f"{name}.log"), "w+", encoding="utf-8")

    def program(self, *arguments, limit=LIMIT, log="program"):
        """Runs the program; its last line."""
        with self.log(log) as errors:
            try:
                ended = subprocess.run(
                    [self.binary, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=errors, text=True, timeout=limit, check=False,
                )
            except subprocess.TimeoutExpired:
                return {"passed": False, "why": f"still ran after {limit:.0f} s; its log is {errors.name}"}
            except OSError as why:
                raise CannotRun(f"cannot start {self.binary}: {why}") from why
        found = last_json(ended.stdout)
        if found is None:
            return {"passed": False, "why": f"ended with {ended.returncode}, and said {last_words(errors.name)}"}
        if found.get("passed") and ended.returncode != 0:
            return {**found, "passed": False, "why": f"ended with {ended.returncode}"}
        return found

    def model(self, shape):
        """The directory of a model, made if it is not there."""
        directory = os.path.join(self.work, shape)
        if not os.path.exists(os.path.join(directory, "model.safetensors")):
            made = self.program("model", directory, "--shape", shape, log=f"model-{shape}")
            if not made.get("passed"):
                raise CannotRun(f"the model could not be made: {made.get('why', made)}")
        return directory

    # -- sections

    def sections(self):
        """All of them, in order."""
        plan = {"device": lambda: self.program("device", log="device")}
        for shape in self.shapes:
            plan[f"parity-{shape}"] = self.with_model("parity", shape)
        small = self.shapes[0]
        plan["dynamics"] = lambda: self.program("dynamics", log="dynamics")
        for name in ("finetune", "memory", "bad"):
            plan[name] = self.with_model(name, small)
        plan["sticky"] = lambda: self.program("sticky", log="sticky")
        for shape in self.shapes:
            plan[f"first-{shape}"] = lambda shape=shape: self.first(shape)
            plan[f"busy-{shape}"] = lambda shape=shape: self.busy(shape)
        for shape in self.shapes:
            for length in LENGTHS:
                plan[f"race-{shape}-{length}"] = lambda shape=shape, length=length: self.race(shape, length)
        plan["variants"] = lambda: self.variants(small, 128)
        return plan

    def with_model(self, command, shape):
        return lambda: self.program(command, "--model", self.model(shape), log=f"{command}-{shape}")

    def first(self, shape):
        directory = self.model(shape)
        times = []
        for _ in range(3):
            started = time.monotonic()
            child = subprocess.Popen(
                [self.binary, "first", "--model", directory], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            line = child.stdout.readline()
            times.append(time.monotonic() - started)
            child.communicate(timeout=60)
            found = last_json(line) or {"passed": False, "why": f"ended with {child.returncode}"}
            if not found.get("passed"):
                return found
        return {**found, "figures": {**found["figures"], "from_start_s": min(times), "first_from_start_s": times[0]}}

    def busy(self, shape):
        more = ["--seconds", "1", "--documents", "4000", "--batch-tokens", "4096"] if self.quick else []
        return self.program("busy", "--model", self.model(shape), *more, log=f"busy-{shape}")

    def ours(self, shape, length, *more):
        return [self.binary, "serve", "--model", self.model(shape), "--length", str(length), *more]

    def race(self, shape, length):
        """forebay against sentence-transformers: from texts, and the device alone."""
        deadline = time.monotonic() + LIMIT
        name = f"race-{shape}-{length}"
        directory = self.model(shape)
        theirs = [*self.torch, "--model", directory, "--length", str(length)]
        racers, missing = {}, []

        def start(lane, command):
            racers[lane] = Racer(lane, command, self.environment, self.log(f"{name}-{lane}"))

        try:
            small = ["--batch-tokens", "4096"] if self.quick else []
            start("ours", self.ours(shape, length, *small))
            start("ours, ids", self.ours(shape, length, "--ids", *small))
            for lane, more in (("eager", []), ("compiled", ["--compile"])):
                start(lane, [*theirs, *more])
            ready = {}
            for lane in list(racers):
                try:
                    ready[lane] = racers[lane].hear(min(120, deadline - time.monotonic()))
                except CannotRun as why:
                    if lane.startswith("ours"):
                        raise
                    missing.append(str(why))
                    racers.pop(lane).end()
            probed, sizes = {}, {}
            for lane in ("eager", "compiled"):
                if lane not in racers:
                    continue
                # The compiled one begins with what was best for the other: each size is compiled, which takes its time.
                known = sorted(BATCHES, key=lambda size: -probed.get("eager", {}).get(size, 0))
                until = deadline - (ROUNDS_TAKE + 40 if lane == "eager" else ROUNDS_TAKE)
                try:
                    sizes[lane], probed[lane] = best_batch(racers[lane], self.block, known, until, deadline - 20)
                    racers[lane].go(self.block / 4, sizes[lane], "ids", deadline - time.monotonic())
                except CannotRun as why:
                    missing.append(str(why))
                    racers.pop(lane).end()
            lanes = {}
            for mode in ("texts", "ids"):
                for lane in ("ours", "eager", "compiled"):
                    racer = racers.get("ours, ids" if (lane, mode) == ("ours", "ids") else lane)
                    if racer is not None:
                        lanes[f"{lane} {mode}"] = lambda seconds, racer=racer, size=sizes.get(lane, 0), mode=mode: racer.go(
                            seconds, size, mode, max(5.0, deadline - time.monotonic())
                        )
            for lane in ("ours texts", "ours ids"):
                lanes[lane](self.block)  # Kernels loaded, pools grown.
            against = {lane: f"ours {lane.split()[1]}" for lane in lanes if not lane.startswith("ours")}
            found = interleave(lanes, against, self.block, PAIRS, deadline - 5)
        finally:
            for racer in racers.values():
                racer.end()
        blocks = found["rates"]["ours texts"]["n"]
        result = {**found, "ready": ready, "batch": sizes, "probed": probed, "pairs": blocks, "missing": missing}
        result["vram_mib"] = {lane: racer.vram for lane, racer in racers.items() if racer.vram}
        if "eager" not in sizes or "compiled" not in sizes:
            return {**result, "passed": None, "why": "; ".join(missing)}
        if blocks < PAIRS:
            result["note"] = f"only {blocks} of {PAIRS} pairs in the time"
        return {**result, "passed": True}

    def variants(self, shape, length):
        """forebay with one thing left out at a time, the device alone."""
        deadline = time.monotonic() + LIMIT
        racers, missing = {}, []
        small = ["--batch-tokens", "4096"] if self.quick else []
        try:
            for lane in ("packed", *VARIANTS):
                command = self.ours(shape, length, "--ids", "--variant", lane, *small)
                racers[lane] = Racer(lane, command, self.environment, self.log(f"variants-{lane}"))
            for lane in list(racers):
                try:
                    racers[lane].hear(min(60, deadline - time.monotonic()))
                    racers[lane].go(self.block, 0, "ids", deadline - time.monotonic())
                except CannotRun as why:
                    missing.append(str(why))
                    racers.pop(lane).end()
            if "packed" not in racers:
                raise CannotRun("; ".join(missing))
            lanes = {
                lane: lambda seconds, racer=racer: racer.go(seconds, 0, "ids", max(5.0, deadline - time.monotonic()))
                for lane, racer in racers.items()
            }
            against = {lane: "packed" for lane in lanes if lane != "packed"}
            found = interleave(lanes, against, self.block, PAIRS, deadline - 5)
        finally:
            for racer in racers.values():
                racer.end()
        found["missing"] = missing
        return {**found, "passed": None if missing else True, "why": "; ".join(missing)}

    # -- the run

    def run(self):
        plan = self.sections()
        wanted = self.options.sections or list(plan)
        unknown = [name for name in wanted if name not in plan]
        if unknown:
            sys.exit(f"gpu-check: no section {', '.join(unknown)}; there are {', '.join(plan)}")
        self.prepare()
        until = time.monotonic() + self.options.minutes * 60 if self.options.minutes else None
        for name in wanted:
            done = self.state.get(name, {})
            # Who names a section wants it run; else only what has not been, or could not be, is.
            if done.get("passed") is not None and not self.options.sections:
                continue
            if until and time.monotonic() > until:
                print("gpu-check: the time is over; call it again to go on", file=sys.stderr)
                break
            print(f"== {name} ({time.strftime('%T')})", flush=True)
            started = time.monotonic()
            try:
                result = plan[name]()
            except CannotRun as why:
                result = {"passed": None, "why": str(why)}
            result["took_s"] = round(time.monotonic() - started, 1)
            result["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            self.state[name] = result
            self._save()
            word = {True: "passed", False: "FAILED", None: "not run"}[result.get("passed")]
            print(f"   {word} in {result['took_s']} s {summary(result)}", flush=True)
        return self.finish(plan)

    def prepare(self):
        """Finds CUDA's libraries, and says where."""
        self.environment.setdefault("FOREBAY_DEVICE", "cuda:0")
        self.environment.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(self.work, "inductor"))
        self.environment.pop("RUST_BACKTRACE", None)
        if self.environment["FOREBAY_DEVICE"] == "cpu":
            where = "not looked for: FOREBAY_DEVICE is cpu"
        else:
            where, folders = libraries()
            if folders:
                path = [*folders, self.environment.get("LD_LIBRARY_PATH", "")]
                self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(part for part in path if part)
        print(f"cuBLAS and cuRAND: {where}")
        self.state["libraries"] = {"where": where}
        self._save()

    def finish(self, plan):
        verdicts = judge(self.state, self.shapes)
        name = self.options.name or slug(self.state.get("device", {}).get("figures", {}).get("card", "unknown"))
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
        folder = os.path.join(self.out, "docs", "gpu")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{name}-{date}.md")
        text = table(self.state, verdicts, self.shapes, [section for section in plan], date)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        everything = {"date": date, "verdicts": verdicts, "sections": self.state}
        with open(os.path.join(self.out, "gpu-check.json"), "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)
        print(text)
        print(f"written: {path} and {os.path.join(self.out, 'gpu-check.json')}")
        if self.quick:
            print("this was a trial of the script itself (--quick): no verdict counts")
        return 0 if verdicts and all(verdict["passed"] for verdict in verdicts) else 1


def summary(result):
    if result.get("why"):
        return f"({result['why']})"
    failed = [check["what"] for check in result.get("checks", []) if not check["passed"]]
    return f"({'; '.join(failed)})" if failed else ""


def slug(text):
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split()[:4]) or "unknown"


# ---- what is found on the machine ---------------------------------------------------------------------------------


def find_binary():
    """GPU_CHECK, or the program beside this script, or what scripts/cuda-build built."""
    named = os.environ.get("GPU_CHECK")
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "target"))
    built = sorted(glob.glob(os.path.join(target, "cuda-*", "x86_64-unknown-linux-gnu", "release", "gpu-check")))
    for path in [named] if named else [os.path.join(HERE, "bin", "gpu-check"), *built]:
        if os.access(path, os.X_OK):
            return os.path.abspath(path)
    sys.exit(
        f"gpu-check: there is no program at {named or os.path.join(HERE, 'bin', 'gpu-check')}; unpack the archive of "
        "scripts/gpu-archive, or build with `scripts/cuda-build -p forebay-gpu-check gpu-check`"
    )


def loadable(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def libraries():
    """Where CUDA's libraries are, in words, and the folders to look for them in."""
    if all(loadable(name) for name in LIBRARIES):
        return "the system's", []
    places = [*sorted(glob.glob("/usr/local/cuda*/lib64")), *sorted(glob.glob("/usr/local/cuda*/targets/*/lib"))]
    for root in sys.path:
        places += sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib")))
    folders = []
    for name in LIBRARIES:
        holding = next((place for place in places if os.path.exists(os.path.join(place, name))), None)
        if holding is None and not loadable(name):
            return f"not found: there is no {name}, neither the system's nor beside {sys.executable}", []
        if holding and holding not in folders:
            folders.append(holding)
    return f"in {', '.join(folders)}", folders


# ---- verdicts and the table ---------------------------------------------------------------------------------------


def judge(state, shapes):
    """One verdict for each thing that is to be shown: passed, not passed, or None where it was not run."""

    def held(sections):
        found = [state.get(name, {}).get("passed") for name in sections]
        return None if None in found else all(found)

    device = state.get("device", {})
    card = device.get("figures", {}).get("capability")
    verdicts = [{
        "what": "models run on a card",
        "measured": "not run" if not device else f"compute capability {card}" if card else "the CPU",
        "passed": device.get("passed") and card is not None if device else None,
    }, {
        "what": "no result differs from the CPU's beyond the tolerance",
        "measured": difference(state, shapes),
        "passed": held([*(f"parity-{shape}" for shape in shapes), "dynamics", "finetune"]),
    }]
    for what, section in (
        ("batches that do not fit are halved", "memory"),
        ("a lost card ends the process, its job is free", "sticky"),
        ("what cannot work is refused in words", "bad"),
    ):
        passed = held([section])
        verdicts.append({"what": what, "measured": {True: "yes", False: "no", None: "not run"}[passed], "passed": passed})
    for shape in shapes:
        section = state.get(f"busy-{shape}", {})
        busy = section.get("figures", {}).get("busy_percent")
        verdicts.append({
            "what": f"device busy >= 99 % in the pipeline, {shape}",
            "measured": "not run" if busy is None else f"{busy:.2f} %",
            "passed": None if busy is None else bool(section.get("passed")) and busy >= 99.0,
        })
    for limit, lane in ((1.5, "eager"), (1.0, "compiled")):
        for shape in shapes:
            ratios = [state.get(f"race-{shape}-{n}", {}).get("ratios", {}).get(f"{lane} texts") for n in LENGTHS]
            known = [ratio["median"] for ratio in ratios if ratio]
            verdicts.append({
                "what": f"throughput >= {limit} x {lane}, {shape}",
                "measured": ", ".join(f"{ratio['median']:.2f}" if ratio else "not run" for ratio in ratios),
                "passed": all(value >= limit for value in known) if len(known) == len(LENGTHS) else None,
            })
    return verdicts


def difference(state, shapes):
    """The largest 1 - cosine of all parity sections, in words."""
    checks = [check for shape in shapes for check in state.get(f"parity-{shape}", {}).get("checks", [])]
    values = [check["measured"] for check in checks if check["what"].endswith("1 - cosine")]
    if not values:
        return "not run"
    return "not a number" if None in values else f"{max(values):.1e}"


def table(state, verdicts, shapes, sections, date):
    figures = lambda section: state.get(section, {}).get("figures", {})  # noqa: E731
    device = figures("device")
    racing = next((state[name]["ready"] for name in state if name.startswith("race-") and "ready" in state[name]), {})
    theirs = racing.get("eager", {})
    lines = [f"# {device.get('card', 'No card was described')}, {date}", ""]
    lines += [
        f"{key}: {value}  "
        for key, value in (
            ("Driver serves CUDA", device.get("cuda", "unknown")),
            ("cuBLAS", state.get("libraries", {}).get("where", "unknown")),
            ("CPUs", device.get("cpus", "unknown")),
            ("Matrix product", f"{device['tflops']:.0f} TFLOP/s" if "tflops" in device else "not measured"),
            ("PyTorch", f"{theirs.get('torch', 'none')}, sentence-transformers {theirs.get('sentence_transformers', 'none')}, "
             f"{theirs.get('dtype', '')}, attention {theirs.get('attention', '')}"),
            ("Python", platform.python_version()),
        )
    ]
    word = {True: "shown", False: "**not met**", None: "not run"}
    lines += ["", "| to be shown | measured | |", "|---|---|---|"]
    lines += [f"| {verdict['what']} | {verdict['measured']} | {word[verdict['passed']]} |" for verdict in verdicts]

    lines += ["", "Texts a second, medians of interleaved blocks; ratios are medians of pairs, with quartiles.", ""]
    lines += ["| model, tokens | forebay | eager | compiled | x eager | x compiled | device alone: forebay | x eager | x compiled |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for shape in shapes:
        for length in LENGTHS:
            lines.append(race_row(f"{shape}, {length}", state.get(f"race-{shape}-{length}", {})))

    lines += ["", "| pipeline with real reading and writing | busy by forebay | by nvidia-smi | mean fill | passages/s | VRAM, MiB | W |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for shape in shapes:
        keys = (("busy_percent", ".2f"), ("smi_busy_percent", ".1f"), ("mean_fill", ".2f"), ("passages_per_s", ".0f"),
                ("vram_mib", ".0f"), ("smi_watts", ".0f"))
        lines.append(f"| {shape} | " + " | ".join(number(figures(f"busy-{shape}").get(key), form) for key, form in keys) + " |")

    lines += ["", "| from process start | first answer, s | the first time, s |", "|---|---|---|"]
    for shape in shapes:
        first = figures(f"first-{shape}")
        lines.append(f"| {shape} | {number(first.get('from_start_s'), '.2f')} | {number(first.get('first_from_start_s'), '.2f')} |")

    ratios = state.get("variants", {}).get("ratios", {})
    lines += ["", f"| left out ({shapes[0]}, 128 tokens, device alone) | what is gained by having it |", "|---|---|"]
    lines += [f"| {name} | {quartiles(ratios.get(name))} |" for name in VARIANTS]

    lines += ["", "| section | | s | |", "|---|---|---|---|"]
    ended = {True: "passed", False: "**failed**", None: "not run"}
    for name in sections:
        section = state.get(name, {})
        note = summary(section).strip("()") or section.get("note", "")
        lines.append(f"| {name} | {ended[section.get('passed')]} | {section.get('took_s', '')} | {note.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def race_row(title, race):
    rates, ratios = race.get("rates", {}), race.get("ratios", {})
    cells = [number(rates.get(f"{lane} texts", {}).get("median"), ".0f") for lane in ("ours", "eager", "compiled")]
    cells += [quartiles(ratios.get(f"{lane} texts")) for lane in ("eager", "compiled")]
    cells.append(number(rates.get("ours ids", {}).get("median"), ".0f"))
    cells += [quartiles(ratios.get(f"{lane} ids")) for lane in ("eager", "compiled")]
    return f"| {title} | " + " | ".join(cells) + " |"


def number(value, form):
    return "not run" if value is None else format(value, form)


def quartiles(ratio):
    return "not run" if not ratio else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def arguments():
    options = argparse.ArgumentParser(prog="gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("sections", nargs="*", metavar="SECTION", help="run these, also if they are done (default: all that are not)")
    options.add_argument("--fresh", action="store_true", help="forget what was run before")
    options.add_argument("--out", default="gpu-check-out", help="where table, JSON and state go (default: %(default)s)")
    options.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "forebay-gpu-check"), help="for models and logs (default: %(default)s)")
    options.add_argument("--name", help="of the table's file (default: the card's)")
    options.add_argument("--minutes", type=float, help="begin no section after so many")
    options.add_argument("--quick", action="store_true", help="try the script itself, on a tiny model: no verdict counts")
    options.add_argument("--torch", nargs=1, help=argparse.SUPPRESS)
    return options


if __name__ == "__main__":
    sys.exit(Check(arguments().parse_args()).run())
