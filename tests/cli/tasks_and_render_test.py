"""`fireq eval tasks` and `fireq render` on a small random model, and on real chat templates.

usage: tasks_and_render_test.py FIREQ_PROGRAM [unittest arguments]
"""

import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import tiny_model  # noqa: E402

FIREQ = None
DATA = os.environ.get("FIREQ_TEST_DATA")


def run(*arguments, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([FIREQ, *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=300, check=False)
    if done.returncode != code:
        raise AssertionError(f"fireq {arguments}: exit {done.returncode}, expected {code}\n{done.stderr}")
    return done


class WithModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="fireq_cli_")
        cls.dir = pathlib.Path(cls.temporary.name)
        cls.model = tiny_model.write_model(cls.dir / "model")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()


class Tasks(WithModel):
    def write(self, name: str, lines: list) -> None:
        (self.dir / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def evaluate(self, tasks: str, *more) -> dict:
        done = run("eval", "tasks", self.model, "--data", self.dir, "--tasks", tasks, "--json", *more)
        return json.loads(done.stdout)["tasks"]

    def test_json_and_limit(self):
        questions = [{"query": f"Question: {i}\n", "choices": ["yes", "no, never"], "gold": i % 2} for i in range(9)]
        self.write("piqa", questions)
        self.write("lambada_openai", [{"context": "the end of the", "continuation": "day"}])
        tasks = self.evaluate("piqa,lambada_openai")
        self.assertEqual(list(tasks), ["piqa", "lambada_openai"])
        for scores in tasks.values():
            self.assertEqual(set(scores), {"acc", "acc_norm", "stderr", "n"})
        self.assertEqual(tasks["piqa"]["n"], 9)
        # The same two choices behind almost the same words: one of them wins every time.
        self.assertIn(round(tasks["piqa"]["acc"] * 9), (4, 5))
        self.assertEqual(self.evaluate("piqa", "--limit", 4)["piqa"]["n"], 4)
        self.assertEqual(self.evaluate("piqa", "--threads", 1), self.evaluate("piqa", "--threads", 2))
        # Golds turned round: what was right is wrong.
        self.write("boolq", [q | {"gold": 1 - q["gold"]} for q in questions])
        self.assertAlmostEqual(self.evaluate("boolq")["boolq"]["acc"], 1 - tasks["piqa"]["acc"])

    def test_texts_beyond_the_context_are_truncated(self):
        self.write("arc_easy", [{"query": "word " * 200, "choices": ["a", "b"], "gold": 0}])
        self.assertEqual(self.evaluate("arc_easy")["arc_easy"]["n"], 1)
        self.write("arc_easy", [{"query": "q", "choices": ["a" * 300, "b"], "gold": 0}])
        done = run("eval", "tasks", self.model, "--data", self.dir, "--tasks", "arc_easy", code=2)
        self.assertIn("context of 256", done.stderr)

    def test_refusals(self):
        (self.dir / "winogrande.jsonl").write_text('{"context_options": ["a", "b"], "continuation": "c", "gold": 0}\n'
                                                   '{"context_options": ["a"], "continuation": "c", "gold": 0}\n')
        done = run("eval", "tasks", self.model, "--data", self.dir, "--tasks", "winogrande", "--limit", 1, code=4)
        self.assertIn("winogrande.jsonl:2", done.stderr)
        self.assertEqual(done.stdout, "")
        done = run("eval", "tasks", self.model, "--data", self.dir, "--tasks", "piqb", code=2)
        self.assertIn("lambada_openai", done.stderr)
        done = run("eval", "tasks", self.model, "--data", self.dir, "--tasks", "hellaswag", code=5)
        self.assertIn("hellaswag_val_full.txt.bz2", done.stderr)


class Render(WithModel):
    def test_template_of_a_model(self):
        messages = json.dumps([{"role": "user", "content": "hi"}])
        self.assertEqual(run("render", self.model, "--messages", "-", stdin=messages).stdout,
                         "<|user|>hi<|assistant|>")
        done = run("render", self.model, "--messages", "-", "--no-generation-prompt", "--json", stdin=messages)
        self.assertEqual(json.loads(done.stdout), {"text": "<|user|>hi"})
        wrapped = json.dumps({"messages": json.loads(messages), "tools": []})
        self.assertEqual(run("render", self.model, "--messages", "-", stdin=wrapped).stdout,
                         "<|user|>hi<|assistant|>")

    def test_refusals(self):
        self.assertIn("messages", run("render", self.model, "--messages", "-", stdin='{"a": 1}', code=2).stderr)
        run("render", self.model, "--messages", "-", stdin="[", code=4)
        run("render", self.model, "--messages", self.dir / "nowhere.json", code=5)
        folder = self.dir / "template"
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes((self.model / "tokenizer.json").read_bytes())
        (folder / "chat_template.jinja").write_text("{{ '{}'.format(1) }}")
        done = run("render", folder, "--messages", "-", stdin="[]", code=3)
        self.assertIn("line 1: the method 'format' of str is not supported", done.stderr)

    @unittest.skipUnless(DATA, "FIREQ_TEST_DATA is not set")
    def test_real_templates_exactly(self):
        data = pathlib.Path(DATA)
        for source in (data / "tokenizers").iterdir():
            target = self.dir / source.name
            target.mkdir()
            for file in source.iterdir():
                (target / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        # Some: each loads its tokenizer anew. The tests of text/ go through all of them.
        cases = [c for c in json.loads((data / "golden/chat_templates.json").read_text()) if c["case"] != "user"]
        for case in cases[::3]:
            with self.subTest(tokenizer=case["tokenizer"], case=case["case"]):
                flags = [] if case["add_generation_prompt"] else ["--no-generation-prompt"]
                done = run("render", self.dir / case["tokenizer"], "--messages", "-", *flags,
                           stdin=json.dumps(case["messages"]))
                self.assertEqual(done.stdout, case["rendered"])


if __name__ == "__main__":
    FIREQ = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
