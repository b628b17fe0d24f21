"""Prints what a meson test log came to: every loud skip, then one closing line. Exit code 1 when no test ran."""
import json
import os
import sys

counts = {"passed": 0, "failed": 0, "skipped": 0}
skips = []
partly = set()
if os.path.exists(sys.argv[1]):
    for line in open(sys.argv[1], encoding="utf-8"):
        test = json.loads(line)
        key = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}.get(test["result"], "failed")
        counts[key] += 1
        for stream in ("stdout", "stderr"):
            for text in test.get(stream, "").splitlines():
                if "SKIPPED" in text:
                    skips.append(f"{test['name']}: {text.strip()}")
                    if key == "passed":
                        partly.add(test["name"])
for text in sorted(set(skips)):
    print(text)
if partly:
    print(f"{len(partly)} of the passed tests skipped a part of their cases: {', '.join(sorted(partly))}")
if not any(counts.values()):
    print("no test ran")
    sys.exit(1)
print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
