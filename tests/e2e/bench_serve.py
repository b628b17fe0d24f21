#!/usr/bin/env python3
"""`any4 bench serve` against a real `any4 serve`: counts agree with the server's own counters, the exit codes are those
of the documentation, and a server that dies under load is a reported error.

usage: bench_serve.py TEST_ANY4        (exit 77: skipped, the model is not there)
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

BINARY = None
MODEL = None


def model_folder():
    base = os.environ.get("ANY4_FIXTURES")
    if not base:
        source = os.environ.get("ANY4_SOURCE_ROOT") or os.path.join(os.path.dirname(__file__), "..", "..")
        base = os.path.join(source, "..", "shared", "fixtures")
    return os.path.join(base, "stories260K")


class Server:
    """`any4 serve` on a port of its own; `with` ends it."""

    def __init__(self, *flags):
        self.folder = tempfile.TemporaryDirectory()
        port_file = os.path.join(self.folder.name, "port")
        self.log = open(os.path.join(self.folder.name, "log"), "w+")
        self.process = subprocess.Popen([BINARY, "serve", MODEL, "--port", "0", "--port-file", port_file, *flags],
                                        stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while True:
            try:
                with open(port_file) as file:
                    self.url = "http://127.0.0.1:%d" % int(file.read())
                with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (OSError, ValueError):
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError("the server did not start:\n" + self.log.read())
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def counter(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.startswith((name + "{", name + " ")))


def bench(url, *flags, code=0):
    run = subprocess.run([BINARY, "bench", "serve", "--url", url, "--json", *flags], capture_output=True, text=True,
                         timeout=300)
    if run.returncode != code:
        raise AssertionError("exit %d, expected %d\n%s\n%s" % (run.returncode, code, run.stdout, run.stderr))
    return json.loads(run.stdout) if run.stdout else run.stderr


LENGTHS = ("--input-tokens", "20,10", "--output-tokens", "24,8", "--ignore-eos")


class BenchServe(unittest.TestCase):
    def test_counts_agree_with_the_server(self):
        with Server() as server:
            for mode in (("--concurrency", "4"), ("--rate", "100")):
                tokens = server.counter("any4_generation_tokens_total")
                prompts = server.counter("any4_prompt_tokens_total")
                result = bench(server.url, "--requests", "60", *mode, *LENGTHS)
                self.assertEqual(result["requests"]["succeeded"], 60, result["errors"])
                self.assertEqual(result["requests"]["without_usage"], 0)
                self.assertEqual(result["statuses"], {"200": 60})
                self.assertEqual(result["completion_tokens"], server.counter("any4_generation_tokens_total") - tokens)
                self.assertEqual(result["prompt_tokens"], server.counter("any4_prompt_tokens_total") - prompts)
                self.assertEqual(result["ttft_ms"]["n"], 60)
                self.assertEqual(result["server"]["ttft_ms"]["n"], 60)
                self.assertLessEqual(result["itl_ms"]["n"], result["completion_tokens"] - 60)
                self.assertGreater(result["ttft_ms"]["mean"], 0)
                self.assertGreaterEqual(result["e2e_ms"]["max"], result["ttft_ms"]["max"])
                self.assertIsNone(result["stopped"])

    def test_the_same_seed_asks_the_same(self):
        with Server() as server:
            totals = {(r["prompt_tokens"], r["completion_tokens"]) for r in
                      (bench(server.url, "--requests", "30", "--seed", "7", *mode, *LENGTHS)
                       for mode in (("--concurrency", "1"), ("--concurrency", "8"), ("--rate", "300")))}
            self.assertEqual(len(totals), 1)

    def test_prompts_and_replay(self):
        with Server() as server, tempfile.TemporaryDirectory() as folder:
            prompts = os.path.join(folder, "prompts")
            with open(prompts, "w") as file:
                file.write('Once upon a time\n"Lily \\u00e4nd Tom"\n{"prompt": [5, 6, 7], "output_tokens": 3}\n')
            result = bench(server.url, "--prompts", prompts, "--requests", "9", *LENGTHS[2:])
            self.assertEqual(result["requests"]["succeeded"], 9, result["errors"])
            replay = os.path.join(folder, "replay")
            with open(replay, "w") as file:
                for i in range(10):
                    file.write(json.dumps({"at": i * 0.05, "input_tokens": 10 + i, "output_tokens": 5}) + "\n")
            result = bench(server.url, "--replay", replay, "--ignore-eos")
            self.assertEqual(result["requests"]["succeeded"], 10, result["errors"])
            self.assertEqual(result["completion_tokens"], 50)
            self.assertGreaterEqual(result["window_s"], 0.45)

    def test_whole_answers(self):
        with Server() as server:
            tokens = server.counter("any4_generation_tokens_total")
            for endpoint in "completions", "chat":
                result = bench(server.url, "--no-stream", "--endpoint", endpoint, "--requests", "20", "--concurrency", "4",
                               *LENGTHS)
                self.assertEqual(result["requests"]["succeeded"], 20, result["errors"])
                self.assertEqual(result["completion_tokens"], server.counter("any4_generation_tokens_total") - tokens)
                self.assertEqual((result["ttft_ms"]["n"], result["itl_ms"]["n"], result["e2e_ms"]["n"]), (0, 0, 20))
                tokens += result["completion_tokens"]

    def test_chat(self):
        with Server() as server, tempfile.TemporaryDirectory() as folder:
            result = bench(server.url, "--endpoint", "chat", "--requests", "20", "--concurrency", "4", *LENGTHS)
            self.assertEqual(result["requests"]["succeeded"], 20, result["errors"])
            self.assertEqual(result["requests"]["without_usage"], 0)
            self.assertEqual(result["ttft_ms"]["n"], 20)
            ids = os.path.join(folder, "ids")
            with open(ids, "w") as file:
                file.write('{"prompt": [5, 6, 7]}\n')
            self.assertIn("line 1", bench(server.url, "--endpoint", "chat", "--prompts", ids, code=2))

    def test_exit_codes(self):
        with Server("--api-key", "key") as server:
            self.assertIn("401", bench(server.url, "--requests", "1", code=1))
            key = ("--api-key", "key", "--requests", "4", *LENGTHS)
            self.assertTrue(bench(server.url, *key, "--slo", "ttft_p99=100000")["slo"][0]["met"])
            self.assertFalse(bench(server.url, *key, "--slo", "e2e_p1=0.001", code=10)["slo"][0]["met"])
            self.assertIn("--no-such-flag", bench(server.url, "--no-such-flag", code=2))
            self.assertIn("context", bench(server.url, "--api-key", "key", "--input-tokens", "600", code=2))
            failed = bench(server.url, *key, "--model", "another", code=1)
            self.assertEqual([(e["status"], e["detail"], e["count"]) for e in failed["errors"]],
                             [(404, "model_not_found", 4)])
            url = server.url
        self.assertIn("refused", bench(url, "--requests", "1", code=1))

    def test_a_server_that_dies_is_reported(self):
        with Server() as server:
            run = subprocess.Popen([BINARY, "bench", "serve", "--url", server.url, "--json", "--concurrency", "4",
                                    "--duration", "60", *LENGTHS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(1)
            server.process.kill()
            out, _ = run.communicate(timeout=60)
            result = json.loads(out)
            self.assertEqual(run.returncode, 1)
            self.assertIn("no connections", result["stopped"])
            self.assertGreater(result["requests"]["succeeded"], 0)
            self.assertIn("connect", {e["class"] for e in result["errors"]})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARY = os.path.abspath(sys.argv.pop(1))
    MODEL = model_folder()
    if not os.path.exists(os.path.join(MODEL, "config.json")):
        print("\n*** SKIPPED: model %s not found (set ANY4_FIXTURES) ***" % MODEL, file=sys.stderr)
        sys.exit(77)
    unittest.main(verbosity=2)
