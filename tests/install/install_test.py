"""A clean install seen through: the files, and a small program of an embedder built against them.

usage: install_test.py CMAKE BUILD_DIRECTORY CXX_COMPILER HAS_KERNELS
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import tiny_model  # noqa: E402

CMAKE = BUILD = CXX = None
HAS_KERNELS = False  # of the GPU


def run(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="fireq_install_")
        cls.dir = pathlib.Path(cls.temporary.name)
        cls.prefix = cls.dir / "prefix"
        run(CMAKE, "--install", BUILD, "--prefix", cls.dir / "elsewhere")
        (cls.dir / "elsewhere").rename(cls.prefix)  # it may be moved
        cls.consumer = cls.dir / "consumer/consumer"
        run(CMAKE, "-S", HERE / "consumer", "-B", cls.consumer.parent, f"-DCMAKE_PREFIX_PATH={cls.prefix}",
            f"-DCMAKE_CXX_COMPILER={CXX}", "-DCMAKE_BUILD_TYPE=Release")
        run(CMAKE, "--build", cls.consumer.parent)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_files(self):
        self.assertRegex(run(self.prefix / "bin/fireq", "--version"), r"\d+\.\d+")
        for name in ("share/man/man1/fireq.1", "share/bash-completion/completions/fireq",
                     "include/fireq/api/fireq.h"):
            self.assertTrue((self.prefix / name).is_file(), name)
        # Only headers that can be included: what they include is there, too.
        for header in (self.prefix / "include").rglob("*.h"):
            for line in header.read_text().splitlines():
                if line.startswith('#include "fireq/'):
                    self.assertTrue((self.prefix / "include" / line.split('"')[1]).is_file(),
                                    f"{header.name}: {line}")

    def test_the_package_names_no_path_of_the_build(self):
        for file in (self.prefix / "lib").rglob("*.cmake"):
            for path in (BUILD, HERE.parents[1], self.dir):
                self.assertNotIn(str(path), file.read_text(), file.name)

    def test_an_embedder_quantises_and_generates(self):
        model = tiny_model.write_model(self.dir / "model")
        ids = [int(i) for i in run(self.consumer, model, self.dir / "quantised", "cpu").split()]
        # The installed program finds the same in the checkpoint that the library wrote.
        generated = json.loads(run(self.prefix / "bin/fireq", "generate", self.dir / "quantised", "--prompt",
                                   "Hello", "-n", 8, "--ignore-eos", "--device", "cpu", "--json"))
        self.assertEqual(ids, generated["ids"])
        self.assertEqual(len(ids), 8)

    def test_an_embedder_has_the_gpu_that_the_build_has(self):
        # In the sizes of the synthetic model "tiny", which GPUs take.
        model = tiny_model.write_model(self.dir / "wide", hidden_size=256, intermediate_size=448, vocab_size=512)
        done = subprocess.run([self.consumer, model, self.dir / "on_gpu", "cuda"], capture_output=True,
                              text=True, timeout=600, check=False)
        if done.returncode == 0:
            self.assertTrue(HAS_KERNELS)
            self.assertEqual(len(done.stdout.split()), 8)
        else:
            # Kernels that are linked ask CUDA for a Hopper GPU.
            self.assertRegex(done.stderr, "CUDA finds no GPU|no Hopper GPU" if HAS_KERNELS else "no CUDA backend")


if __name__ == "__main__":
    CMAKE, BUILD, CXX = sys.argv.pop(1), os.path.abspath(sys.argv.pop(1)), sys.argv.pop(1)
    HAS_KERNELS = sys.argv.pop(1) == "1"
    unittest.main(verbosity=2)
