"""The man page and the shell completion name exactly the commands and options that --help has; the documents
show no others.

usage: documents_test.py FIREQ_PROGRAM [unittest arguments]
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

FIREQ = None
ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMON = {"--help", "--threads", "--device", "--json"}


def help_of(command: str) -> str:
    return subprocess.run([FIREQ, *command.split(), "--help"], capture_output=True, text=True,
                          timeout=60, check=True).stdout


def subcommands(text: str) -> list[str]:
    part = re.search(r"^Subcommands:\n((?:  .*\n)+)", text, re.M)
    return re.findall(r"^  (\w+)", part[1], re.M) if part else []


def commands(above: str = "") -> list[str]:
    """Those that have no sub-commands: 'quantize', 'eval tasks', ..."""
    below = subcommands(help_of(above))
    if not below:
        return [above]
    return [leaf for name in below for leaf in commands(f"{above} {name}".strip())]


def options(command: str) -> set[str]:
    return set(re.findall(r"^\s+(?:-\w,)?(--[a-z][a-z-]*)", help_of(command), re.M))


class ManPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        text = (ROOT / "docs/man/fireq.1").read_text().replace("\\-", "-")
        cls.sections = {}
        name = ""
        for line in text.splitlines():
            head = re.match(r"\.S[SH] (.*)", line)
            if head:
                name = re.sub(r"^fireq | (MODEL|PATH)$", "", head[1])
                cls.sections[name] = []
            cls.sections.setdefault(name, []).append(line)

    def named(self, section: str) -> set[str]:
        """Options that open a tagged paragraph of a section."""
        lines = self.sections[section]
        tags = [lines[i + 1] for i, line in enumerate(lines) if line == ".TP"]
        return {option for tag in tags for option in re.findall(r"--[a-z][a-z-]*", tag)}

    def test_every_command_has_a_section_and_no_other(self):
        documented = {s for s in self.sections if s.split(" ")[0].islower()}
        self.assertEqual(documented, set(commands()))

    def test_options_of_every_command(self):
        self.assertEqual(self.named("COMMON OPTIONS"), COMMON)
        for command in commands():
            with self.subTest(command=command):
                self.assertEqual(self.named(command), options(command) - COMMON)

    def test_defaults_are_those_of_help(self):
        seen = 0
        for command in commands():
            paragraphs = "\n".join(self.sections[command]).split("\n.TP\n")
            for option, default in re.findall(r"^\s+(?:-\w,)?(--[a-z-]+) [^\n=]*=([a-z0-9.]+)", help_of(command), re.M):
                if option in COMMON or default in ("0", "1"):  # "all", "off" and the like
                    continue
                with self.subTest(command=command, option=option):
                    text = next(p for p in paragraphs if option in p.splitlines()[0])
                    self.assertRegex(text, rf"\b{re.escape(default)}\b")
                seen += 1
        self.assertGreater(seen, 10)

    @unittest.skipUnless(shutil.which("man"), "no man here")
    def test_it_is_well_formed(self):
        done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", str(ROOT / "docs/man/fireq.1")],
                              capture_output=True, text=True, timeout=60, check=True,
                              env=os.environ | {"MANPAGER": "cat", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
        self.assertEqual(done.stderr, "")
        self.assertIn("--calib-tokens", done.stdout)


class Completion(unittest.TestCase):
    def complete(self, *words: str) -> list[str]:
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fireq; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", str(ROOT / "tools/completion/fireq.bash"),
                               "fireq", *words], capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_commands(self):
        self.assertCountEqual(self.complete(""), subcommands(help_of("")))
        self.assertCountEqual(self.complete("eval", ""), subcommands(help_of("eval")))
        self.assertEqual(self.complete("q"), ["quantize"])

    def test_options_of_every_command(self):
        for command in commands():
            with self.subTest(command=command):
                self.assertEqual(set(self.complete(*command.split(), "model", "--")), options(command))
        self.assertEqual(set(self.complete("--")), options(""))

    def test_values(self):
        self.assertEqual(self.complete("eval", "tasks", "m", "--tasks", "piqa,arc_"),
                         ["piqa,arc_easy", "piqa,arc_challenge"])
        self.assertEqual(self.complete("quantize", "m", "--recipe", "r"), ["rtn"])
        self.assertEqual(self.complete("eval", "perplexity", "m", "--products", "t"), ["table"])
        self.assertIn("smollm2-135m", self.complete("chat", "smol"))

    def test_tasks_and_recipes_are_those_of_help(self):
        text = re.sub(r"\s+", " ", help_of("eval tasks"))
        known = re.search(r"Any of ((?:\w+, )*\w+)", text)[1].split(", ")
        self.assertEqual(self.complete("eval", "tasks", "m", "--tasks", ""), known)
        recipes = re.findall(r"^  ([a-z-]+)  +\S", help_of("quantize").split("Recipes")[1], re.M)
        self.assertTrue(recipes)
        self.assertLessEqual(set(recipes), set(self.complete("quantize", "m", "--recipe", "")))


class Documents(unittest.TestCase):
    FILES = ("README.md", "CONTRIBUTING.md", "demo.sh", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")))

    def shown(self, name: str) -> list[str]:
        """What follows `fireq` in the commands of a file: its blocks, or spans of code."""
        text = (ROOT / name).read_text()
        if name.endswith(".sh"):
            code = [text.replace("\\\n", "")]
        else:
            code = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
            code += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        return [words for block in code for line in block.splitlines()
                for words in re.findall(r"(?:^|[/$\s])fireq ((?!\$|is )[^#;\n]*)", line)]

    def test_commands_and_options_exist(self):
        known = {command: options(command) for command in commands()}
        seen = 0
        for name in self.FILES:
            for words in self.shown(name):
                used = set(re.findall(r"--[a-z][a-z-]*", words))
                if not used - {"--help"} or re.match("bench (gemm|ffn|attention) ", words):  # programs of their own
                    continue
                command = next((c for c in known if words.startswith(c + " ")), None)
                with self.subTest(file=name, command=words):
                    self.assertIsNotNone(command)
                    self.assertLessEqual(used, known[command])
                seen += 1
        self.assertGreater(seen, 10)

    def test_recipe_keys_are_those_of_the_table(self):
        text = (ROOT / "docs/QUANTISATION.md").read_text()
        table = re.search(r"^\| key \| values \| meaning \|\n((?:\|.*\n)+)", text, re.M)[1]
        documented = {key for row in table.splitlines()[1:] for key in re.findall(r"`([^`]+)`", row.split("|")[1])}
        done = subprocess.run([FIREQ, "quantize", "m", "-o", "o", "--set", "nosuch=1"], capture_output=True, text=True,
                              timeout=60, check=False)
        known = re.search(r'unknown key "nosuch"; there are: (.*)', done.stderr)[1].split()
        self.assertEqual(documented, set(known))


if __name__ == "__main__":
    FIREQ = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
