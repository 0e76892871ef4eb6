"""Tests of scripts/gpu_check.py without a card: a program and a PyTorch that only speak its protocol.

Both are shell scripts that claim what a test wants them to, so that nothing waits and every ratio is known.
"""

import contextlib
import io
import json
import os
import stat
import sys
import tempfile
import time
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gpu_check  # noqa: E402

PROGRAM = """#!/bin/sh
echo "$1" >>"{log}"
case $1 in
    {special}
    model) mkdir -p "$2" && : >"$2/model.safetensors" ;;
    serve)
        echo '{{"ready": true}}'
        while read -r line; do echo '{{"items": {rate}, "seconds": 1.0}}'; done
        exit ;;
esac
echo some text before the last line
checks='[{{"what": "x: 1 - cosine", "passed": true, "measured": 1e-6, "wanted": "less"}}]'
figures='{{"busy_percent": {busy}, "card": "NVIDIA Fake 9000 of 9 GB", "capability": "9.0", "tflops": 1.0}}'
echo '{{"passed": true, "checks": '"$checks"', "figures": '"$figures"'}}'
"""

# The batch of 512 is its best, and compiled it is half as fast again.
TORCH = """#!/bin/sh
rate=100
case "$*" in *--compile*) rate=150 ;; esac
echo a warning of some library
echo '{"ready": true, "torch": "9.9", "dtype": "torch.float16"}'
while read -r go seconds batch mode; do
    case $batch in 512) now=$((rate * 2)) ;; *) now=$rate ;; esac
    echo "{\\"items\\": $now, \\"seconds\\": 1.0}"
done
"""


def script(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return path


class Driven(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.calls_file = os.path.join(self.folder, "calls")
        self.program()
        self.torch = script(os.path.join(self.folder, "torch"), TORCH)

    def program(self, rate=600, busy=99.5, special="nothing) ;;"):
        text = PROGRAM.format(log=self.calls_file, rate=rate, busy=busy, special=special)
        script(os.path.join(self.folder, "program"), text)

    def run_check(self, *arguments):
        given = ["--quick", "--out", os.path.join(self.folder, "out"), "--work", os.path.join(self.folder, "work")]
        options = gpu_check.arguments().parse_args([*given, "--torch", self.torch, *arguments])
        environment = {"GPU_CHECK": os.path.join(self.folder, "program"), "FOREBAY_DEVICE": "cpu"}
        with mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(io.StringIO()) as said:
            code = gpu_check.Check(options).run()
        self.said = said.getvalue()
        with open(os.path.join(self.folder, "out", "gpu-check.json"), encoding="utf-8") as file:
            self.found = json.load(file)
        return code

    def calls(self):
        with open(self.calls_file, encoding="utf-8") as file:
            return file.read().split()

    def verdict(self, words):
        return next(verdict for verdict in self.found["verdicts"] if words in verdict["what"])

    def test_all_is_run_and_written_down(self):
        self.assertEqual(self.run_check(), 0, "all passes")
        race = self.found["sections"]["race-tiny-128"]
        self.assertEqual(race["batch"], {"eager": 512, "compiled": 512}, "the best batch of each")
        self.assertEqual(race["ratios"]["eager texts"], {"median": 3.0, "low": 3.0, "high": 3.0, "n": gpu_check.PAIRS})
        self.assertEqual(race["ratios"]["compiled ids"]["median"], 2.0)
        self.assertEqual(self.found["sections"]["variants"]["ratios"]["plain"]["median"], 1.0)
        tables = os.listdir(os.path.join(self.folder, "out", "docs", "gpu"))
        self.assertEqual(len(tables), 1)
        self.assertRegex(tables[0], r"^nvidia-fake-9000-of-\d{4}-\d\d-\d\d\.md$")
        for line in ("| tiny, 128 | 600 | 200 | 300 | 3.00 (3.00 to 3.00) | 2.00 (2.00 to 2.00) | 600 |",
                     "| device busy >= 99 % in the pipeline, tiny | 99.50 % | shown |", "| sticky | passed |"):
            self.assertIn(line, self.said)
        # What is done is not run again; what is named is; and all is, if it shall be.
        before = len(self.calls())
        self.assertEqual(self.run_check(), 0)
        self.assertEqual(len(self.calls()), before)
        self.run_check("sticky")
        self.assertEqual(self.calls()[before:], ["sticky"])
        self.assertEqual(self.run_check("--fresh", "device"), 1, "what was forgotten is not shown")
        self.assertIsNone(self.verdict("differs")["passed"])

    def test_a_run_that_was_cut_goes_on(self):
        self.run_check("device", "dynamics")
        before = len(self.calls())
        self.assertEqual(self.run_check(), 0)
        after = self.calls()[before:]
        self.assertNotIn("device", after)
        self.assertNotIn("dynamics", after)
        self.assertEqual(after.count("sticky"), 1)

    def test_without_pytorch_nothing_counts_as_passed(self):
        self.torch = script(os.path.join(self.folder, "torch"), "#!/bin/sh\necho no module >&2\nexit 1\n")
        self.assertEqual(self.run_check("race-tiny-32"), 1)
        race = self.found["sections"]["race-tiny-32"]
        self.assertIsNone(race["passed"])
        self.assertIn("ended with 1", race["why"])
        self.assertEqual(race["rates"]["ours texts"]["median"], 600, "our own rate is known all the same")
        self.assertIsNone(self.verdict("eager")["passed"])
        # It is tried again, since it was not run.
        self.torch = script(os.path.join(self.folder, "torch"), TORCH)
        self.run_check()
        self.assertTrue(self.found["sections"]["race-tiny-32"]["passed"])

    def test_what_does_not_hold_is_said(self):
        said = """dynamics) echo '{"passed": false, "checks": [{"what": "drift", "passed": false}]}' && exit 1 ;;
    sticky) echo '{"passed": true}' && exit 3 ;;
    bad) echo words >&2; exit 70 ;;"""
        self.program(rate=190, busy=98.9, special=said)
        self.assertEqual(self.run_check(), 1)
        self.assertEqual([verdict["passed"] for verdict in self.found["verdicts"]],
                         [True, False, True, False, False, False, False, False])
        self.assertIn("(drift)", self.said)
        self.assertIn("ended with 70, and said words", self.said)
        self.assertEqual(self.verdict("eager")["measured"], "0.95, 0.95, 0.95")

    def test_a_racer_that_ends_or_hangs_is_missed(self):
        with open(os.path.join(self.folder, "log"), "w+", encoding="utf-8") as log:
            hanging = gpu_check.Racer("hanging", ["sleep", "60"], dict(os.environ), log)
            with self.assertRaisesRegex(gpu_check.CannotRun, "no answer"):
                hanging.hear(0.05)
            hanging.end()
        with self.assertRaisesRegex(gpu_check.CannotRun, "cannot start"):
            gpu_check.Racer("absent", [os.path.join(self.folder, "absent")], dict(os.environ), None)

    def test_an_unknown_section_and_an_absent_program_end_it(self):
        with self.assertRaisesRegex(SystemExit, "no section nonsense"):
            self.run_check("nonsense")
        os.remove(os.path.join(self.folder, "program"))
        with self.assertRaisesRegex(SystemExit, "no program at"):
            self.run_check()


class Measured(unittest.TestCase):
    def test_ratios_are_of_pairs(self):
        ours, theirs = iter([100.0, 10.0, 100.0]), iter([50.0, 5.0, 200.0])
        lanes = {"a": lambda _: next(ours), "b": lambda _: next(theirs)}
        found = gpu_check.interleave(lanes, {"b": "a"}, 1.0, 3, time.monotonic() + 60)
        self.assertEqual(found["ratios"]["b"]["median"], 2.0)
        self.assertEqual(found["ratios"]["b"]["n"], 3)

    def test_blocks_alternate(self):
        order = []
        lanes = {name: lambda _, name=name: order.append(name) or 1.0 for name in "abc"}
        gpu_check.interleave(lanes, {}, 1.0, 2, time.monotonic() + 60)
        self.assertEqual("".join(order), "abccba")

    def test_when_the_time_is_over_there_are_fewer_pairs(self):
        found = gpu_check.interleave({"a": lambda _: 1.0}, {}, 1.0, 10, time.monotonic())
        self.assertEqual(found["rates"]["a"]["n"], 1)

    def test_the_last_object_of_many_lines_is_found(self):
        self.assertEqual(gpu_check.last_json('{"a": 1}\n{"b": 2}\nwords\n3\n'), {"b": 2})
        self.assertIsNone(gpu_check.last_json("words\n"))

    def test_what_ran_on_the_cpu_shows_no_card(self):
        for state, passed in (({}, None), ({"device": {"passed": True, "figures": {"card": "none"}}}, False)):
            self.assertEqual(gpu_check.judge(state, ("tiny",))[0]["passed"], passed)

    def test_one_length_missing_is_not_shown(self):
        ratio = {"ratios": {"eager texts": {"median": 9.0}}}
        state = {"race-tiny-32": ratio, "race-tiny-128": ratio}
        verdict = next(v for v in gpu_check.judge(state, ("tiny",)) if "eager" in v["what"])
        self.assertIsNone(verdict["passed"])
        self.assertEqual(verdict["measured"], "9.00, 9.00, not run")


if __name__ == "__main__":
    unittest.main()
