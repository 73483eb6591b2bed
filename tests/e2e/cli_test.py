"""The program end to end on a small random model, and what it says to hostile input.

usage: cli_test.py FIREQ_PROGRAM [unittest arguments]
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import tiny_model

FIREQ = None
TEXT = "The quick brown fox jumps over the lazy dog. " * 60


def run(*arguments, stdin: str = "", code: int | None = 0, **kwargs) -> subprocess.CompletedProcess:
    done = subprocess.run([FIREQ, *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=300, check=False, **kwargs)
    if code is not None and done.returncode != code:
        raise AssertionError(f"fireq {arguments}: exit {done.returncode}, expected {code}\n"
                             f"{done.stdout}{done.stderr}")
    return done


def run_json(*arguments, **kwargs) -> dict:
    return json.loads(run(*arguments, "--json", **kwargs).stdout)


class WithModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="fireq_e2e_"))
        cls.model = tiny_model.write_model(cls.dir / "model")
        cls.text = cls.dir / "text.txt"
        cls.text.write_text(TEXT)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def quantise(self, name: str, *more, model=None, **kwargs):
        out = self.dir / name
        done = run("quantize", model or self.model, "-o", out, "--calib", self.text, "--calib-tokens", 512,
                   "--calib-context", 128, *more, **kwargs)
        return out, done


class MainJob(WithModel):
    def test_quantise_inspect_eval_generate(self):
        reports = {}
        for recipe in ("rtn", "fireq", "default"):
            out, _ = self.quantise(recipe, "--recipe", recipe)
            self.assertTrue((out / "config.json").exists())
            self.assertEqual(json.loads((out / "config.json").read_text())["quantization_config"]
                             ["quant_method"], "fireq")
            self.assertTrue((out / "tokenizer.json").exists())
            self.assertIn("quant", run("inspect", out).stdout)
            reports[recipe] = run_json("eval", "perplexity", out, "--text", self.text, "--context", 128,
                                       "--max-tokens", 1024, "--reference", self.model)
            self.assertEqual(reports[recipe]["tokens"], 1024)
            self.assertGreater(reports[recipe]["kl_mean"], 0)
            self.assertLess(reports[recipe]["kl_mean"], 1)
        self.assertLess(reports["default"]["kl_mean"], reports["rtn"]["kl_mean"])

    def test_report_measures_on_text_behind_the_calibration(self):
        out, done = self.quantise("held_out", "--recipe", "rtn", "--held-out-tokens", 200, "--json")
        report = json.loads(done.stdout)
        self.assertEqual(report, json.loads((out / "quantisation_report.json").read_text()))
        held_out = report["held_out"]
        self.assertEqual((held_out["tokens"], held_out["context"]), (128, 128))  # whole windows
        behind = self.dir / "behind.txt"
        behind.write_text(TEXT[512:])  # every letter is a token
        whole = run_json("eval", "perplexity", out, "--text", behind, "--context", 128, "--max-tokens", 128,
                         "--products", "exact", "--reference", self.model)
        for key in ("perplexity", "kl_mean", "kl_p99", "top1_agreement"):
            self.assertAlmostEqual(held_out["exact"][key], whole[key], delta=1e-6 * abs(whole[key]))
        _, done = self.quantise("not_held_out", "--recipe", "rtn", "--held-out-tokens", 0, "--json")
        self.assertNotIn("held_out", json.loads(done.stdout))

    def test_a_short_calibration_text_is_said(self):
        short = self.dir / "short.txt"
        short.write_text(TEXT[:300])
        for recipe, said in (("fireq", True), ("rtn", False)):  # rtn needs no text
            done = run("quantize", self.model, "-o", self.dir / "short", "--calib", short, "--calib-tokens", 512,
                       "--calib-context", 128, "--recipe", recipe)
            self.assertEqual("has 300 tokens: 256 of them are used, in windows of 128, and 512 were" in done.stderr, said)
        _, done = self.quantise("enough", "--recipe", "fireq")
        self.assertNotIn("are used", done.stderr)

    def test_float_model_is_its_own_reference(self):
        r = run_json("eval", "perplexity", self.model, "--text", self.text, "--context", 128,
                     "--max-tokens", 512, "--reference", self.model)
        self.assertEqual(r["kl_mean"], 0)
        self.assertEqual(r["top1_agreement"], 1)
        self.assertEqual(r["reference_perplexity"], r["perplexity"])
        self.assertEqual(r["reference_perplexity_stderr"], r["perplexity_stderr"])

    def test_reference_has_a_device_of_its_own(self):
        args = ("eval", "perplexity", self.model, "--text", self.text, "--context", 128, "--max-tokens", 128,
                "--reference", self.model, "--device", "cpu", "--reference-device")
        self.assertEqual(run_json(*args, "cpu")["kl_mean"], 0)
        self.assertIn('"abacus"', run(*args, "abacus", code=2).stderr)

    def test_products_can_be_forced(self):
        out, _ = self.quantise("products", "--recipe", "rtn")
        ppl = {p: run_json("eval", "perplexity", out, "--text", self.text, "--context", 128, "--max-tokens",
                           512, "--products", p)["perplexity"] for p in ("table", "exact", "served")}
        self.assertNotEqual(ppl["table"], ppl["exact"])
        self.assertEqual(ppl["table"], ppl["served"])  # windows of 128 tokens are served by the table

    def test_windows_in_chunks_and_an_int4_head(self):
        out, _ = self.quantise("chunks", "--recipe", "rtn")
        args = ("eval", "perplexity", out, "--text", self.text, "--context", 128, "--max-tokens", 256,
                "--products", "exact", "--reference", out)
        whole = run_json(*args)
        for chunk in (1, 50):
            self.assertAlmostEqual(run_json(*args, "--chunk", chunk)["perplexity"], whole["perplexity"],
                                   delta=0.01 * whole["perplexity"])
        self.assertEqual(whole["kl_mean"], 0)
        self.assertGreater(run_json(*args, "--lm-head", "int4")["kl_mean"], 0)
        run("eval", "perplexity", self.model, "--text", self.text, "--lm-head", "int4", code=2)

    def test_trace_and_bench_of_a_synthetic_model(self):
        trace = run_json("eval", "trace", "--synthetic", "tiny", "--tokens", 20, "--device", "cpu")
        self.assertEqual(trace["first_beyond_tolerance"], "none")
        row = run_json("bench", "serve", "--synthetic", "tiny", "--shape", "2x9x5", "--requests", 3,
                       "--device", "cpu")
        self.assertEqual((row["requests"], row["decode_tokens"]), (3, 12))
        self.assertGreater(row["tokens_per_second"], 0)
        self.assertIsNone(row["ratio"])
        self.assertEqual(row["max_tokens"], 16896)
        row = run_json("bench", "serve", "--synthetic", "tiny", "--shape", "6x4x2", "--device", "cpu", "--max-tokens", 3)
        self.assertEqual(row["max_tokens"], 12)  # as many as so many sequences need
        row = run_json("bench", "decode", "--synthetic", "tiny", "--shape", "2x9x5", "--device", "cpu",
                       "--tensor-parallel", 2)
        self.assertTrue(row["backend"].startswith("2 x cpu"), row)
        run("bench", "decode", "--synthetic", "tiny", "--shape", "2x9x5", "--device", "cpu",
            "--tensor-parallel", 3, code=3)
        run("bench", "decode", "--synthetic", "tiny", "--shape", "2x9x5", "--device", "cpu",
            "--tensor-parallel", 2, "--memory-gib", 0.00001, code=7)
        run("bench", "decode", "--synthetic", "huge", "--shape", "1x1x1", code=5)
        for broken in (["--shape", "1x1"], ["--shape", "1x1x0"], ["--shape", "99999999999999999999x1x1"],
                       ["--shape", "1x1x1", "--layers", "-1"], ["--shape", "1x1x1", "--max-tokens", "0"],
                       ["--shape", "1x1x1", "--memory-gib", "-1"], ["--shape", "1x1x1", "--baseline", "-1"]):
            done = run("bench", "decode", "--synthetic", "tiny", *broken, code=2)
            self.assertEqual(done.stdout, "")
            self.assertIn(broken[-1], done.stderr)
        run("bench", "serve", "--synthetic", "tiny", "--shape", "1x1x1", "--requests", "-1", code=2)
        run("bench", "decode", self.model, "--shape", "1x1x1", "--layers", "1", code=2)

    def test_quantise_a_synthetic_model(self):
        out = self.dir / "synthetic"
        args = ("quantize", "--synthetic", "tiny", "-o", out, "--calib-tokens", 300, "--calib-context", 100,
                "--device", "cpu")
        report = run_json(*args, "--layers", 1)
        self.assertEqual((report["calibration_tokens"], len(report["linears"])), (300, 7))
        self.assertIn("quant", run("inspect", out).stdout)
        run(*args[:4], self.dir / "no", "--calib", self.text, code=2)
        run(*args[:2], "huge", "-o", self.dir / "no", code=5)
        run("quantize", self.model, "--synthetic", "tiny", "-o", self.dir / "no", code=2)
        run("quantize", "-o", self.dir / "no", code=2)

    def test_ranks_share_a_model(self):
        shape = {"hidden_size": 256, "intermediate_size": 512}  # whole groups of 128 on each of two
        model = tiny_model.write_model(self.dir / "shared", **shape)
        prompt = ("--prompt", TEXT[:80], "-n", 12)
        alone, shared = (run_json("generate", model, *prompt, "--tensor-parallel", n) for n in (1, 2))
        self.assertEqual(alone["ids"], shared["ids"])  # in float: sums in another order
        out, _ = self.quantise("shared_rtn", "--recipe", "rtn", model=model)
        both = [run_json("eval", "perplexity", out, "--text", self.text, "--context", 128, "--max-tokens", 512,
                         "--device", "cpu", "--tensor-parallel", n)["perplexity"] for n in (1, 2)]
        self.assertNotEqual(both[0], both[1])  # inputs of o and down have a scale a part
        self.assertLess(abs(both[1] / both[0] - 1), 0.03)
        two = run("chat", out, "-n", 5, "--seed", 3, "--device", "cpu", "--tensor-parallel", 2,
                  stdin="hello\nagain\n/reset\nhello\n").stdout
        self.assertGreaterEqual(two.count("\n"), 3)
        refused = run("generate", out, *prompt, "--device", "cpu", "--tensor-parallel", 3, code=None)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("3 ranks", refused.stderr)

    def test_kernel_benchmarks_need_a_gpu(self):
        # Either this build has none, or there is no GPU to run them on.
        run("bench", "gemm", "--tokens", 1, code=3)

    def test_quantising_twice_gives_the_same_bytes(self):
        first, _ = self.quantise("again1", "--threads", 1)
        second, _ = self.quantise("again2", "--threads", 2)
        self.assertEqual((first / "model.safetensors").read_bytes(),
                         (second / "model.safetensors").read_bytes())

    def test_exclude_keeps_whole_groups_in_bf16(self):
        out, _ = self.quantise("excluded", "--set", r"exclude=layers\.0\.self_attn\.k_proj")
        header = (out / "model.safetensors").read_bytes()
        names = json.loads(header[8:8 + struct.unpack("<Q", header[:8])[0]])
        for p in ("q", "k", "v"):
            self.assertEqual(names[f"model.layers.0.self_attn.{p}_proj.weight"]["dtype"], "BF16")
        self.assertIn("model.layers.1.self_attn.k_proj.weight_codes", names)
        run("generate", out, "--prompt", "abc", "-n", 3)

    def test_generate_is_deterministic_and_agrees_with_ids(self):
        a = run_json("generate", self.model, "--prompt", "Hello", "-n", 12, "--ignore-eos")
        b = run_json("generate", self.model, "--prompt-ids", ",".join(map(str, a["prompt_ids"])), "-n", 12,
                     "--ignore-eos")
        self.assertEqual(a["ids"], b["ids"])
        self.assertEqual(len(a["ids"]), 12)
        seeds = [run_json("generate", self.model, "--prompt", "Hello", "-n", 12, "--ignore-eos",
                          "--temperature", 1, "--seed", s)["ids"] for s in (1, 1, 2)]
        self.assertEqual(seeds[0], seeds[1])
        self.assertNotEqual(seeds[0], seeds[2])

    def test_tokenize(self):
        ids = run_json("tokenize", self.model, "--file", self.text)["ids"]
        self.assertEqual(len(ids), len(TEXT))

    def test_chat_streams_an_answer_a_line(self):
        done = run("chat", self.model, "--temperature", 0, "-n", 4, stdin="hi\nthere\n")
        self.assertGreaterEqual(len(done.stdout.splitlines()), 2)

    def test_chat_outgrows_the_context(self):
        done = run("chat", self.model, "--temperature", 0, "-n", 4, "--system", "be brief",
                   stdin="a message of some length\n" * 30)
        self.assertIn("oldest messages are left out: the context is 256 tokens", done.stderr)
        self.assertGreaterEqual(done.stdout.count("\n"), 30)
        self.assertIn("256", run("chat", self.model, stdin="x" * 300 + "\n", code=2).stderr)

    def test_interrupt_ends_an_answer_then_the_program(self):
        model = tiny_model.write_model(self.dir / "long", max_position_embeddings=1 << 16)
        with subprocess.Popen([FIREQ, "chat", model, "--temperature", "0", "-n", "60000"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as chat:
            chat.stdin.write(b"hello\n")
            answer = chat.stdout.read(1)
            chat.send_signal(signal.SIGINT)
            chat.stdin.write(b"/exit\n")
            answer += chat.stdout.read()
            self.assertEqual(chat.wait(timeout=60), 0)
        self.assertLess(len(answer), 50000)
        with subprocess.Popen([FIREQ, "chat", model], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as chat:
            time.sleep(0.5)
            chat.send_signal(signal.SIGINT)
            self.assertEqual(chat.wait(timeout=60), -signal.SIGINT)

    def test_repetition_penalty_acts(self):
        plain, penalised = (run_json("generate", self.model, "--prompt", "aaaa", "-n", 40, "--ignore-eos",
                                     "--repetition-penalty", x)["ids"] for x in (1, 1e6))
        self.assertLess(len(set(plain)), 40)
        # No id twice while there are others with a positive logit.
        self.assertGreater(len(set(penalised)), len(set(plain)))

    def test_what_is_wrong_with_an_argument_is_said_in_one_line(self):
        for arguments, words in (((), ["subcommand", "fireq --help"]),
                                 (("qantize", "model"), ["no command 'fireq qantize'"]),
                                 (("--versoin",), ["no option 'fireq --versoin'"]),
                                 (("eval", "foo"), ["no command 'fireq eval foo'", "fireq eval --help"]),
                                 (("quantize", "model"), ["--output is required", "fireq quantize --help"]),
                                 (("generate", "model", "--prompt", "x", "--seed", "-1"), ["--seed", "-1"]),
                                 (("generate", "model", "--prompt", "x", "--threads", "0"), ["--threads", "0"]),
                                 (("generate", "model", "--prompt-ids", ""), ["--prompt-ids: must not be empty"]),
                                 (("generate", "model", "--prompt", "x", "-n", ""), ["must not be empty"]),
                                 (("generate", "", "--prompt", "x"), ["MODEL: must not be empty"])):
            done = run(*arguments, code=2)
            self.assertEqual((done.stdout, done.stderr.count("\n")), ("", 1))
            for word in ["fireq: invalid argument: ", *words]:
                self.assertIn(word, done.stderr)

    def test_help_teaches_and_versions_print(self):
        self.assertIn("quantize", run("--help").stdout)
        self.assertIn("rtn", run("quantize", "--help").stdout)
        self.assertRegex(run("--version").stdout, r"\d+\.\d+")

    def test_progress_on_a_terminal_leaves_the_result_its_own_line(self):
        primary, secondary = os.openpty()
        out = self.dir / "on_terminal"
        run_on = {"stdout": secondary, "stderr": secondary, "stdin": subprocess.DEVNULL}
        subprocess.run([FIREQ, "quantize", self.model, "-o", out, "--recipe", "rtn"], timeout=300, check=True, **run_on)
        os.close(secondary)
        with open(primary, "rb", buffering=0) as terminal:
            shown = b""
            try:
                while part := terminal.read(4096):
                    shown += part
            except OSError:  # its other end is closed
                pass
            shown = shown.decode()
        self.assertIn("100 %", shown)
        self.assertEqual(shown.splitlines()[-1], f"wrote {out}")

    def test_what_cannot_be_written_is_an_error(self):
        for command in (["--help"], ["eval", "--help"], ["--version"], ["inspect", self.model],
                        ["generate", self.model, "--prompt", "a", "-n", "1"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([FIREQ, *map(str, command)], stdout=full, stderr=subprocess.PIPE,
                                      text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 6, command)
            self.assertIn("cannot write to standard output", done.stderr)


class Hostile(WithModel):
    """Each case: what is broken, which words the message must have, which exit code."""

    def refuse(self, model, code, *words, command=("generate", "--prompt", "x", "-n", "1")):
        done = run(command[0], model, *command[1:], code=code)
        self.assertEqual(done.stdout, "")
        for word in words:
            self.assertIn(word, done.stderr)

    def broken(self, name, **changes):
        return tiny_model.write_model(self.dir / name, **changes)

    def test_not_found(self):
        self.refuse(self.dir / "nowhere", 5, "nowhere")

    def test_unknown_architecture(self):
        self.refuse(self.broken("arch", architectures=["FooForCausalLM"], model_type="foo"), 3, "FooForCausalLM")

    def test_active_sliding_window(self):
        self.refuse(self.broken("window", sliding_window=16, model_type="mistral",
                                architectures=["MistralForCausalLM"]), 3, "sliding_window")

    def test_truncated_weights(self):
        model = self.broken("truncated")
        path = model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refuse(model, 4, "model.safetensors")

    def test_header_claims_4_gb(self):
        model = self.broken("claim")
        path = model / "model.safetensors"
        path.write_bytes(struct.pack("<Q", 1 << 32) + path.read_bytes()[8:])
        self.refuse(model, 4, "4294967296")

    def edit_header(self, name, edit):
        model = self.broken(name)
        path = model / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        text = edit(header)
        text = (text if isinstance(text, str) else json.dumps(header)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
        return model

    def test_overlapping_tensors(self):
        def edit(header):
            header["model.norm.weight"]["data_offsets"] = [0, 256]
        self.refuse(self.edit_header("overlap", edit), 4, "model.")

    def test_wrong_shape_and_dtype(self):
        def shape(header):
            header["model.norm.weight"]["shape"] = [32, 2]
        self.refuse(self.edit_header("shape", shape), 4, "model.norm.weight")

        def dtype(header):
            header["model.norm.weight"]["dtype"] = "I32"
        self.refuse(self.edit_header("dtype", dtype), None, "model.norm.weight")

    def test_overflowing_shape(self):
        def edit(header):
            header["model.norm.weight"]["shape"] = [2**62, 4]
        self.refuse(self.edit_header("overflow", edit), 4, "model.norm.weight")

    def test_duplicate_key(self):
        def edit(header):
            return json.dumps(header)[:-1] + ', "model.norm.weight": {}}'
        self.refuse(self.edit_header("duplicate", edit), 4, "model.norm.weight")

    def test_deep_nesting(self):
        model = self.broken("deep")
        (model / "config.json").write_text("[" * 100000)
        self.refuse(model, 4, "config.json")

    def test_weights_that_are_not_finite(self):
        for value, name in (("nan", "model.layers.1.mlp.up_proj"), ("inf", "model.embed_tokens"),
                            ("-inf", "model.norm")):
            model = self.broken(name + value)
            path = model / "model.safetensors"
            data = bytearray(path.read_bytes())
            size = struct.unpack("<Q", data[:8])[0]
            header = json.loads(data[8:8 + size])
            at = 8 + size + header[name + ".weight"]["data_offsets"][0] + 4 * 5
            data[at:at + 4] = struct.pack("<f", float(value))
            path.write_bytes(data)
            self.refuse(model, 4, name + ".weight", value)
            out, done = self.quantise("not_finite", model=model, code=4)
            self.assertIn(name + ".weight", done.stderr)
            self.assertFalse(out.exists())

    def test_missing_shard(self):
        model = self.broken("shard")
        (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps(
            {"metadata": {}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}))
        self.refuse(model, None, "model-00002-of-00002.safetensors")

    def test_empty_and_enormous_prompts(self):
        self.assertIn("prompt", run("generate", self.model, "--prompt", "", "-n", 1, code=2).stderr)
        self.assertIn("256", run("generate", self.model, "--prompt", "x" * 20000, "-n", 1, code=2).stderr)
        self.assertIn("260", run("generate", self.model, "--prompt-ids", "1,99999", code=2).stderr)

    def test_unknown_recipe_key_and_value(self):
        _, done = self.quantise("no_recipe", "--recipe", "nonsense", code=5)
        self.assertIn("default", done.stderr)
        _, done = self.quantise("no_key", "--set", "wheights=1", code=2)
        self.assertIn("wheights", done.stderr)

    def test_a_gpu_that_is_not_here(self):
        done = run("bench", "prefill", "--synthetic", "tiny", "--shape", "1x16x4", "--device", "cuda:77", code=3)
        self.assertRegex(done.stderr, "no CUDA backend|cuda:77: (CUDA finds no GPU|the GPUs here number)")

    def test_only_a_synthetic_model_is_cut(self):
        done = run("quantize", self.model, "-o", self.dir / "cut", "--recipe", "rtn", "--layers", 1, code=2)
        self.assertIn("1 layers of", done.stderr)

    def test_calibration_that_cannot_be(self):
        for arguments, word in ((("--calib", self.text, "--calib-context", 0), "context must be >= 2, got 0"),
                                (("--calib", self.text, "--calib-tokens", -5), "tokens must be >= 1, got -5"),
                                (("--calib", self.text, "--held-out-tokens", -1), "must be >= 0, got -1"),
                                (("--calib", "/dev/null"), "needs calibration text"),
                                ((), "needs calibration text")):
            out = self.dir / "cannot_be"
            done = run("quantize", self.model, "-o", out, *arguments, code=2)
            self.assertIn(word, done.stderr)
            self.assertFalse(out.exists())

    def test_refused_settings_of_the_sampler_print_nothing(self):
        for arguments in (("--temperature", -1), ("--top-p", 3), ("-n", -3)):
            done = run("generate", self.model, "--prompt", "abc", *arguments, code=2)
            self.assertEqual(done.stdout, "")
            self.assertIn(str(arguments[1]), done.stderr)

    def test_text_shorter_than_a_window(self):
        short = self.dir / "short.txt"
        short.write_text("tiny")
        self.assertIn("window", run("eval", "perplexity", self.model, "--text", short, code=2).stderr)

    def test_text_that_cannot_be_read(self):
        for text, code, said in ((self.dir, 2, "is a directory"), (self.dir / "nowhere", 5, "cannot open"),
                                 (self.text / "below", 6, "cannot open .*below: Not a directory")):
            self.assertRegex(run("eval", "perplexity", self.model, "--text", text, code=code).stderr, said)

    def test_full_disk_leaves_nothing(self):
        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        out, done = self.quantise("full", code=6, preexec_fn=small_files)
        self.assertFalse(out.exists())
        self.assertIn("full", done.stderr)
        self.assertEqual([p.name for p in self.dir.iterdir() if p.name.startswith("full")], [])

    def test_killed_run_leaves_no_half_checkpoint(self):
        big = tiny_model.write_model(self.dir / "big", num_hidden_layers=6)
        out = self.dir / "killed"
        for delay in (0.05, 0.2, 0.4):
            child = subprocess.Popen([FIREQ, "quantize", str(big), "-o", str(out), "--calib", str(self.text),
                                      "--calib-context", "128", "--calib-tokens", "2048"],
                                     stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(delay)
            child.kill()
            child.wait()
            if out.exists():  # it was faster than the kill: then it is whole
                run("generate", out, "--prompt", "x", "-n", 1)
                shutil.rmtree(out)

    def test_lying_gguf(self):
        path = self.dir / "lie.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
        self.refuse(path, 4, "lie.gguf")


if __name__ == "__main__":
    FIREQ = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
