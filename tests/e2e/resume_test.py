#!/usr/bin/env python3
"""A quantisation that is killed, again and again, ends with the bytes of one that was not.

usage: resume_test.py FIREQ"""

import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_model  # noqa: E402

LAYERS = 10


class Resume(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.tmp.name)
        cls.model = tiny_model.write_model(cls.dir / "model", num_hidden_layers=LAYERS)
        rng = random.Random(7)
        cls.text = cls.dir / "calib.txt"
        cls.text.write_text("".join(chr(rng.randrange(32, 127)) for _ in range(6000)))
        start = time.monotonic()
        cls.whole = cls.dir / "whole"
        subprocess.run(cls.command(cls.whole), check=True, capture_output=True)
        cls.seconds = time.monotonic() - start

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    @classmethod
    def command(cls, out, *more, recipe="default", tokens=4096):
        return [FIREQ, "quantize", str(cls.model), "-o", str(out), "--calib", str(cls.text), "--recipe", recipe,
                "--calib-context", "128", "--calib-tokens", str(tokens), "--save-every", "0", *map(str, more)]

    def run_whole(self, out, *more, code=0, **kwargs):
        preexec = kwargs.pop("preexec_fn", None)
        done = subprocess.run(self.command(out, *more, **kwargs), capture_output=True, text=True, timeout=300,
                              preexec_fn=preexec)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def saved_blocks(self, out):
        try:
            return json.loads((self.work(out) / "state.json").read_text())["state"]["blocks"]
        except FileNotFoundError:
            return 0

    def work(self, out):
        return out.with_name(out.name + ".resume")

    def kill_behind_block(self, out, blocks, **kwargs):
        """Starts a run and kills it once it has saved so many blocks; again, if it was faster than that."""
        for _ in range(100):
            child = subprocess.Popen(self.command(out, **kwargs), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            while self.saved_blocks(out) < blocks and child.poll() is None:
                time.sleep(0.002)
            child.kill()
            if child.wait() == -signal.SIGKILL and not out.exists():
                return
            self.assertIn(child.returncode, (0, -signal.SIGKILL))
            shutil.rmtree(out)
            shutil.rmtree(self.work(out), ignore_errors=True)
        self.fail("no run could be killed in time")

    def expect_same(self, out, whole):
        self.expect_same_bytes(out, whole)
        self.assertFalse(self.work(out).exists())
        self.assertFalse(out.with_name(out.name + ".partial").exists())

    def expect_same_bytes(self, out, whole):
        """All bytes but the seconds that the report counts."""
        self.assertEqual(sorted(p.name for p in out.iterdir()), sorted(p.name for p in whole.iterdir()))
        for path in whole.iterdir():
            if path.name == "quantisation_report.json":
                mine, theirs = (json.loads((d / path.name).read_text()) for d in (out, whole))
                mine.pop("seconds"), theirs.pop("seconds")
                self.assertEqual(mine, theirs)
            elif path.name != "quantisation_report.html":  # the same report as a page
                self.assertEqual((out / path.name).read_bytes(), path.read_bytes(), path.name)

    def run_with_kills(self, out, rng, seconds):
        """Runs until it is done, killed at random; how often it went on from saved work."""
        resumed = 0
        for _ in range(500):
            child = subprocess.Popen(self.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                said = child.communicate(timeout=rng.uniform(0.02, 1) * seconds)[1]
            except subprocess.TimeoutExpired:
                child.kill()
                said = child.communicate()[1]
            resumed += "going on after block" in said
            if child.returncode == 0:
                return resumed
            self.assertEqual(child.returncode, -signal.SIGKILL, said)
            if out.exists():  # killed behind the rename: then it is whole
                self.expect_same_bytes(out, self.whole)
                shutil.rmtree(out)
                shutil.rmtree(self.work(out), ignore_errors=True)
        self.fail("never finished")

    def test_killed_at_random_points(self):
        seed = random.randrange(1 << 30)
        rng = random.Random(seed)
        print(f"(seed {seed}) ", end="", file=sys.stderr)
        resumed, seconds = 0, self.seconds * 0.6
        for attempt in range(16):
            out = self.dir / f"killed{attempt}"
            went_on = self.run_with_kills(out, rng, seconds)
            self.expect_same(out, self.whole)
            resumed += went_on
            if resumed >= 3:
                return
            if went_on == 0:  # the machine is less busy than when `seconds` were counted
                seconds *= 0.7
        self.fail(f"only {resumed} runs went on from saved work")

    def test_plain_recipe_without_calibration(self):
        whole = self.dir / "rtn_whole"
        self.run_whole(whole, recipe="rtn")
        out = self.dir / "rtn"
        self.kill_behind_block(out, 3, recipe="rtn")
        self.assertIn("going on after block", self.run_whole(out, recipe="rtn"))
        self.expect_same(out, whole)

    def test_another_job_is_refused_and_restart_begins_anew(self):
        out = self.dir / "other"
        self.kill_behind_block(out, 2)
        blocks = self.saved_blocks(out)
        for change, word in ((dict(recipe="fireq"), "quantization."), (dict(tokens=2048), "calibration.sha256")):
            said = self.run_whole(out, code=2, **change)
            self.assertIn(word, said)
            self.assertIn("--restart", said)
            self.assertEqual(self.saved_blocks(out), blocks)
        self.assertNotIn("going on", self.run_whole(out, "--restart"))
        self.expect_same(out, self.whole)

    def test_a_changed_model_is_another_job(self):
        out = self.dir / "changed"
        self.kill_behind_block(out, 2)
        weights = self.model / "model.safetensors"
        before = weights.stat()
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
        self.assertIn("weights", self.run_whole(out, code=2))
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertIn("going on", self.run_whole(out))
        self.expect_same(out, self.whole)

    def test_damaged_work_is_refused(self):
        out = self.dir / "damaged"
        self.kill_behind_block(out, 2)
        intact = self.dir / "intact"
        shutil.copytree(self.work(out), intact)

        def damage(relative, edit):
            shutil.rmtree(self.work(out))
            shutil.copytree(intact, self.work(out))
            path = self.work(out) / relative
            edit(path)
            return str(path.relative_to(self.work(out)).parts[0])

        def flip(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

        streams = next(self.work(out).glob("streams-*")).name + "/model.safetensors"
        for relative, edit, code in (
                ("state.json", flip, 4), ("state.json", lambda p: p.write_text("{}"), 4),
                ("state.json", lambda p: p.write_text("[" * 1000), 4),
                ("block-00001/model.safetensors", flip, 4), (streams, flip, 4),
                (streams, lambda p: p.write_bytes(p.read_bytes()[:100]), 4),
                ("block-00000/model.safetensors", lambda p: p.unlink(), 5)):
            part = damage(relative, edit)
            said = self.run_whole(out, code=code)
            self.assertIn(part, said)
            self.assertFalse(out.exists())
        # A state that is well formed and sealed, but not true.
        part = damage("state.json", lambda p: None)
        path = self.work(out) / part
        state = json.loads(path.read_text())["state"]
        state["report"] = {}
        text = json.dumps(state, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        path.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": state}))
        self.assertIn("not a report", self.run_whole(out, code=4))
        self.run_whole(out, "--restart")
        self.expect_same(out, self.whole)

    def test_a_strangers_directory_is_left_alone(self):
        out = self.dir / "stranger"
        self.work(out).mkdir()
        (self.work(out) / "theirs").write_text("x")
        self.assertIn("not made by FireQ", self.run_whole(out, code=2))
        self.assertEqual((self.work(out) / "theirs").read_text(), "x")

    def test_full_disk_keeps_what_was_saved(self):
        out = self.dir / "full"
        size = (self.whole / "model.safetensors").stat().st_size
        streams = 4096 * 64 * 4
        self.assertLess(size, streams)  # the limit lets the checkpoint pass and not the streams

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (streams - 1, streams - 1))

        said = self.run_whole(out, code=6, preexec_fn=small_files)
        self.assertIn("streams-00001", said)
        self.assertFalse(self.work(out).exists())
        self.kill_behind_block(out, 3)
        blocks = self.saved_blocks(out)
        self.run_whole(out, code=6, preexec_fn=small_files)
        self.assertEqual(self.saved_blocks(out), blocks)
        self.assertIn("going on after block", self.run_whole(out))
        self.expect_same(out, self.whole)


if __name__ == "__main__":
    FIREQ = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
