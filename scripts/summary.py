"""Prints what a meson test log came to: every loud skip, then one closing line."""
import json
import sys

counts = {"passed": 0, "failed": 0, "skipped": 0}
skips = []
for line in open(sys.argv[1], encoding="utf-8"):
    test = json.loads(line)
    key = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}.get(test["result"], "failed")
    counts[key] += 1
    for stream in ("stdout", "stderr"):
        skips += [f"{test['name']}: {text.strip()}" for text in test.get(stream, "").splitlines() if "SKIPPED" in text]
for text in sorted(set(skips)):
    print(text)
print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
