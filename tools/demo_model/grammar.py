"""The small template language that the stories and questions are written in.

A template is English with two kinds of holes:
    [one|two|three]   one of the alternatives, chosen by the seeded generator; they nest and may be empty
    {a} {a.he}        a slot and its attributes (str.format)
Sentences that begin with a lower-case slot ("the baker") are given their capital afterwards.
"""
import random
import re

CHOICE = re.compile(r"\[([^\[\]]*)\]")
START = re.compile(r'(^|[.!?] |\." )("?)([a-z])')
SPACES = re.compile(r" {2,}")


class Who:
    """Somebody: a name, what kind of creature, and the pronouns that go with it."""

    def __init__(self, name, kind, female, animal=False):
        self.name, self.kind, self.female, self.animal = name, kind, female, animal
        self.he, self.him, self.his = ("she", "her", "her") if female else ("he", "him", "his")
        self.himself = "herself" if female else "himself"
        self.child = ("girl" if female else "boy") if not animal else kind
        self.mother = self.his + " mother"
        self.father = self.his + " father"
        self.hers = "hers" if female else "his"

    def __str__(self):
        return self.name


class Thing:
    """Something: 'red ball' with its article and plural."""

    def __init__(self, noun, adj="", plural=None):
        self.noun, self.adj = noun, adj
        self.plural = plural or plural_of(noun)
        self.name = (adj + " " + noun).strip()
        self.a = article(self.name)
        self.the = "the " + self.name

    def __str__(self):
        return self.name


def article(words):
    return ("an " if words[0] in "aeiou" and not words.startswith(("uni", "one")) else "a ") + words


def plural_of(noun):
    irregular = {"mouse": "mice", "goose": "geese", "sheep": "sheep", "fish": "fish", "child": "children",
                 "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "leaf": "leaves",
                 "loaf": "loaves", "knife": "knives", "wolf": "wolves", "deer": "deer", "calf": "calves",
                 "shelf": "shelves", "person": "people", "box": "boxes", "scarf": "scarves",
                 "half": "halves", "potato": "potatoes", "tomato": "tomatoes"}
    if noun in irregular:
        return irregular[noun]
    if " of " in noun:
        head, tail = noun.split(" of ", 1)
        return plural_of(head) + " of " + tail
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


class Grammar:
    def __init__(self, seed, more_openings=False):
        self.rng, self.more_openings = random.Random(seed), more_openings

    def c(self, options):
        return options[int(self.rng.random() * len(options))]

    def sample(self, options, count):
        return self.rng.sample(list(options), count)

    def chance(self, p):
        return self.rng.random() < p

    def number(self, low, high):
        return self.rng.randint(low, high)

    def t(self, template, **slots):
        """Expands a template to finished English."""
        while True:
            expanded = CHOICE.sub(lambda m: self.c(m.group(1).split("|")), template)
            if expanded == template:
                break
            template = expanded
        text = expanded.format(**slots) if "{" in expanded else expanded
        text = SPACES.sub(" ", text).strip()
        return START.sub(lambda m: m.group(1) + m.group(2) + m.group(3).upper(), text)
