#!/usr/bin/env python3
"""Writes the text of the demo model: seeded, all of it from our own grammar (stories.py, questions.py).

    make_text.py --out DIR [--mix MIX] [--megabytes 45] [--seed 1] [--exclude train.jsonl ...]

Training goes through four mixes: stories first (stories), then more questions (questions), then still more, a third of
them arithmetic (answers), at last the same with more kinds of first sentences (openings).

DIR/train.jsonl       one document per line, as a JSON string; no document twice, except that after the first mix a
                      single question may recur: there are only some thousands of the simplest
DIR/heldout.txt       documents of another seed that do not occur in train.jsonl, joined by one blank line
DIR/heldout.jsonl     the same documents, one JSON string per line
"""
import argparse
import json
import os

from grammar import Grammar
from questions import make_question, scene
from stories import PLOTS, make_story

QA = "Question: {}\nAnswer: {}"
SYSTEM = ["You are a helpful assistant.", "You tell stories for children.", "You answer simple questions.", "Answer in one short sentence.",
          "You are a friendly teacher.", "Be kind and brief."]


def questions(g, first_stop, later_stop, sums):
    pairs = [make_question(g, sums)]
    while not g.chance(first_stop if len(pairs) == 1 else later_stop) and len(pairs) < 8:
        pairs.append(make_question(g, sums))
    return "\n".join(QA.format(q, a) for q, a in pairs)


def story_questions(g):
    story, text = make_story(g)
    facts = g.sample(story.facts, min(len(story.facts), g.number(1, 3)))
    return text + "\n" + "\n".join(QA.format(q, a) for q, a in facts)


def scene_questions(g):
    text, facts = scene(g)
    facts = g.sample(facts, min(len(facts), g.number(1, 4)))
    return text + "\n" + "\n".join(QA.format(q, a) for q, a in facts)


def ask_for_story(g, story):
    a = story.slots["a"]
    about = g.c([f"a {a.child} named {a}", f"a {a.child}", f"a {a.child} called {a}", a.name])
    if about[:3] in ("a o", "a a", "a e", "a i"):
        about = "an" + about[1:]
    return g.c([f"Tell me a story about {about}.", f"Please tell me a story about {about}.", f"Tell me a short story about {about}.",
                f"Write a story about {about}.", f"Can you tell me a story about {about}?", "Tell me a story.", "Please tell me a story.", "Tell me a story!",
                "Write a short story.", "Can you tell me a story?"])


def chat(g, stories, sums):
    """The Llama 2 form, so that chat requests are answered in kind: [INST] request [/INST] answer."""
    if g.chance(stories):
        story, text = make_story(g)
        turns = [(ask_for_story(g, story), text)]
        if g.chance(0.25):
            turns.append(g.c(story.facts))
    else:
        turns = [make_question(g, sums)]
        while g.chance(0.35) and len(turns) < 4:
            turns.append(make_question(g, sums))
    if g.chance(0.15):
        turns[0] = ("<<SYS>>\n" + g.c(SYSTEM) + "\n<</SYS>>\n\n" + turns[0][0], turns[0][1])
    # turns are separate sequences in the Llama 2 form; train.py puts EOS and BOS where "\x1e" stands
    return "\x1e".join(f"[INST] {q} [/INST] {a}" for q, a in turns)


def two_stories(g):
    """Long documents: a story, some questions on it, then another one."""
    parts = [make_story(g)[1] for _ in range(g.number(2, 3))]
    return "\n* * *\n".join(parts)


# shares, added up: story, story with questions, scene with questions, questions, chat, the rest long; then the share of
# stories in the chats, the chance that a row of questions stops after the first and after a later one, and the share of
# plain arithmetic added to the questions
MIXES = {"stories": ((0.42, 0.50, 0.62, 0.88, 0.985), 0.45, 0.45, 0.45, 0),
         "questions": ((0.20, 0.25, 0.39, 0.87, 0.99), 0.30, 0.65, 0.35, 0),
         "answers": ((0.22, 0.25, 0.37, 0.87, 0.99), 0.35, 0.75, 0.40, 0.3),
         "openings": ((0.30, 0.33, 0.42, 0.87, 0.99), 0.40, 0.80, 0.45, 0.25)}


def make_document(g, mix):
    shares, chat_stories, first_stop, later_stop, sums = MIXES[mix]
    x = g.rng.random()
    if x < shares[0]:
        return make_story(g)[1]
    if x < shares[1]:
        return story_questions(g)
    if x < shares[2]:
        return scene_questions(g)
    if x < shares[3]:
        return questions(g, first_stop, later_stop, sums)
    if x < shares[4]:
        return chat(g, chat_stories, sums)
    return two_stories(g)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--megabytes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heldout-kib", type=int, default=96)
    parser.add_argument("--heldout-seed", type=int, default=2)
    parser.add_argument("--mix", choices=list(MIXES), default="stories")
    parser.add_argument("--exclude", nargs="*", default=[], help="train.jsonl files whose documents stay out of the held-out text too")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    seen, size, count = set(), 0, 0
    g = Grammar(args.seed, more_openings=args.mix == "openings")
    with open(os.path.join(args.out, "train.jsonl"), "w") as out:
        while size < args.megabytes * 1e6:
            doc = make_document(g, args.mix)
            if doc in seen and not (args.mix != "stories" and len(doc) < 160):
                continue
            seen.add(doc)
            size, count = size + len(doc), count + 1
            out.write(json.dumps(doc) + "\n")
    print(f"train: {count} documents, {len(seen)} different, {size} bytes")
    for path in args.exclude:
        seen.update(json.loads(line) for line in open(path))

    g, held, size = Grammar(args.heldout_seed), [], 0
    mine = set()
    while size < args.heldout_kib * 1024:
        doc = make_document(g, "stories")
        if doc in seen or doc in mine or "[INST]" in doc:   # the held-out text is plain text
            continue
        mine.add(doc)
        held.append(doc)
        size += len(doc) + 2
    with open(os.path.join(args.out, "heldout.txt"), "w") as out:
        out.write("\n\n".join(held) + "\n")
    with open(os.path.join(args.out, "heldout.jsonl"), "w") as out:
        out.writelines(json.dumps(doc) + "\n" for doc in held)
    print(f"heldout: {len(held)} documents, {size} bytes, none of them in train")


if __name__ == "__main__":
    main()
