"""The question half of the demo corpus: facts, arithmetic in words, small problems, questions about a short scene."""
import words as W
from grammar import Thing, Who, article, plural_of
from stories import make_like, make_person
from words import number_word as nw


def cap(text):
    return text[0].upper() + text[1:]


def arithmetic(g):
    op = g.c(["+", "+", "+", "-", "-", "*"])
    if op == "+":
        a, b = g.number(0, 10), g.number(0, 10)
        if g.chance(0.15):
            a, b = g.number(0, 20), g.number(0, 10)
        r = a + b
        word = "plus"
        q = g.c(["What is {a} plus {b}?"] * 4 + ["How much is {a} plus {b}?", "What do you get when you add {a} and {b}?", "What is the sum of {a} and {b}?", "{A} plus {b} is what number?"])
    elif op == "-":
        a = g.number(0, 12)
        b = g.number(0, a)
        r, word = a - b, "minus"
        q = g.c(["What is {a} minus {b}?"] * 4 + ["How much is {a} minus {b}?", "What is left when you take {b} from {a}?", "{A} minus {b} is what number?"])
    else:
        a, b = g.number(0, 6), g.number(0, 10)
        if g.chance(0.5):
            a, b = b, a
        if a * b > 60:
            a, b = 2, b
        r, word = a * b, "times"
        q = g.c(["What is {a} times {b}?"] * 3 + ["How much is {a} times {b}?"])
    if g.chance(0.2):
        sign = {"plus": "+", "minus": "-", "times": "x"}[word]
        return g.c([f"What is {a} {sign} {b}?", f"How much is {a} {sign} {b}?"]), f"{a} {sign} {b} = {r}."
    slots = dict(a=nw(a), b=nw(b), A=cap(nw(a)))
    return q.format(**slots), f"{cap(nw(a))} {word} {nw(b)} is {nw(r)}."


def opposite(g):
    a, b = g.c(W.OPPOSITES)
    if g.chance(0.5):
        a, b = b, a
    return g.c([f"What is the opposite of {a}?"] * 3 + [f"Which word is the opposite of {a}?", f"What word means the opposite of {a}?"]), f"The opposite of {a} is {b}."


def animal_fact(g):
    name = g.c(list(W.ANIMALS))
    sound, young, home, legs, food, group = W.ANIMALS[name]
    an, the = article(name), "the " + name
    kind = g.c(["sound", "young", "home", "legs", "legs", "food", "group", "yes"])
    if kind == "sound" and sound:
        verb = sound[:-1] if sound not in ("hisses", "buzzes") else sound[:-2]
        return g.c([f"What does {an} do to make a sound?", f"What sound does {an} make?", f"How does {an} sound?"]), f"{cap(an)} {sound}."
    if kind == "young":
        return g.c([f"What is a young {name} called?", f"What is a baby {name} called?", f"What do we call the young of {an}?"]), f"A young {name} is called {article(young)}."
    if kind == "home":
        return g.c([f"Where does {an} live?", f"What is the home of {an}?"]), f"{cap(an)} lives in {home}." if home != "the water" else "A fish lives in the water."
    if kind == "legs":
        many = "no legs" if legs == 0 else f"{nw(legs)} legs"
        return g.c([f"How many legs does {an} have?", f"How many legs has {an}?"]), f"{cap(an)} has {many}."
    if kind == "group" and group:
        return g.c([f"What kind of animal is {an}?", f"To which group of animals does {an} belong?"]), f"{cap(an)} is {article(group) if group != 'fish' else 'a fish'}."
    if kind == "yes":
        if g.chance(0.5):
            return f"Is {an} an animal?", f"Yes, {an} is an animal."
        can = {"duck", "owl", "bee", "goose", "butterfly", "robin"}
        cannot = {"dog", "cat", "cow", "horse", "sheep", "pig", "lion", "bear", "frog", "mouse", "wolf", "goat", "fox", "rabbit", "spider", "elephant", "monkey", "camel", "penguin", "whale", "tiger", "snake"}
        if name in can:
            return f"Can {an} fly?", f"Yes, {an} can fly."
        if name in cannot:
            return f"Can {an} fly?", f"No, {an} cannot fly."
    return g.c([f"What does {an} eat?", f"What does {an} like to eat?"]), f"{cap(an)} eats {food}."


def size(g):
    i, j = sorted(g.sample(range(len(W.BY_SIZE)), 2))
    small, big = g.c(W.BY_SIZE[i]), g.c(W.BY_SIZE[j])
    x, y = (small, big) if g.chance(0.5) else (big, small)
    if g.chance(0.5):
        return f"Which is bigger, {article(x)} or {article(y)}?", f"{cap(article(big))} is bigger than {article(small)}."
    if g.chance(0.5):
        return f"Which is smaller, {article(x)} or {article(y)}?", f"{cap(article(small))} is smaller than {article(big)}."
    return f"Is {article(x)} bigger than {article(y)}?", (f"Yes, {article(x)} is bigger than {article(y)}." if x == big else f"No, {article(x)} is smaller than {article(y)}.")


def calendar(g):
    kind = g.number(0, 8)
    if kind <= 3:
        i = g.number(0, 6)
        d, after, before = W.DAYS[i], W.DAYS[(i + 1) % 7], W.DAYS[(i - 1) % 7]
        return g.c([(f"What day comes after {d}?", f"{after} comes after {d}."), (f"Which day comes before {d}?", f"{before} comes before {d}."),
                    (f"Which day comes after {d}?", f"{after} comes after {d}."), (f"What day comes before {d}?", f"{before} comes before {d}."),
                    (f"Today is {d}. What day is tomorrow?", f"Tomorrow is {after}."), (f"Today is {d}. What day was yesterday?", f"Yesterday was {before}."),
                    (f"If today is {d}, what day is tomorrow?", f"If today is {d}, tomorrow is {after}.")])
    if kind <= 5:
        i = g.number(0, 11)
        m, after, before = W.MONTHS[i], W.MONTHS[(i + 1) % 12], W.MONTHS[(i - 1) % 12]
        return g.c([(f"Which month comes after {m}?", f"{after} comes after {m}."), (f"Which month comes before {m}?", f"{before} comes before {m}."),
                    (f"What month comes after {m}?", f"{after} comes after {m}."),
                    (f"What is the {W.ORDINALS[i]} month of the year?", f"The {W.ORDINALS[i]} month of the year is {m}.")])
    if kind == 6:
        i = g.number(0, 3)
        s, after, before = W.SEASONS[i], W.SEASONS[(i + 1) % 4], W.SEASONS[(i - 1) % 4]
        return g.c([(f"Which season comes after {s}?", f"{cap(after)} comes after {s}."), (f"Which season comes before {s}?", f"{cap(before)} comes before {s}."),
                    (f"What is the weather like in {s}?", {"spring": "In spring, it is mild, and the flowers bloom.", "summer": "In summer, it is warm and sunny.",
                     "autumn": "In autumn, it is windy, and the leaves fall.", "winter": "In winter, it is cold, and it often snows."}[s])])
    return g.c([("How many days are there in a week?", "There are seven days in a week."), ("How many months are there in a year?", "There are twelve months in a year."),
                ("How many seasons are there in a year?", "There are four seasons in a year."), ("How many hours are there in a day?", "There are twenty-four hours in a day."),
                ("How many minutes are there in an hour?", "There are sixty minutes in an hour."), ("How many seconds are there in a minute?", "There are sixty seconds in a minute."),
                ("What is the first day of the week?", "The first day of the week is Monday."), ("What is the last day of the week?", "The last day of the week is Sunday."),
                ("Which days are the weekend?", "Saturday and Sunday are the weekend."), ("How many days are there in a year?", "There are three hundred and sixty-five days in a year."),
                ("What are the four seasons?", "The four seasons are spring, summer, autumn and winter.")])


def colour(g):
    thing, col = g.c(W.THING_COLOURS)
    return g.c([f"What colour is {thing}?"] * 3 + [f"What is the colour of {thing}?", f"Which colour does {thing} have?"]), f"{cap(thing)} is {col}."


def worker(g):
    who, does, where = g.c(W.WORKERS)
    return g.c([(f"What does {who} do?", f"{cap(who)} {does}."), (f"Who {does}?", f"{cap(who)} {does}."), (f"Where does {who} work?", f"{cap(who)} works {where}.")])


def tool(g):
    thing, use = g.c(W.TOOLS)
    s = "are" if thing == "scissors" else "is"
    return g.c([(f"What do we use {thing} for?", f"We use {thing} to {use}."), (f"What {s} {thing} for?", f"We use {thing} to {use}."), (f"What do we use to {use}?", f"We use {thing} to {use}."),
                (f"What do you need to {use}?", f"To {use}, you need {thing}.")])


def body(g):
    part, use = g.c(W.SENSES)
    counts = [("eyes", "two"), ("ears", "two"), ("hands", "two"), ("feet", "two"), ("legs", "two"), ("fingers", "ten"), ("toes", "ten")]
    p, n = g.c(counts)
    return g.c([(f"What do we do with our {part}?", f"We {use} with our {part}."), (f"What do we {use} with?" if "things" not in use and "food" not in use else f"With what do we {use}?", f"We {use} with our {part}."),
                (f"How many {p} does a person have?", f"A person has {n} {p}.")])


def counting(g):
    n = g.number(0, 30)
    if g.chance(0.5):
        return g.c([f"What number comes after {nw(n)}?", f"Which number comes after {nw(n)}?"]), f"{cap(nw(n + 1))} comes after {nw(n)}."
    if g.chance(0.5):
        return g.c([f"What number comes before {nw(n + 1)}?", f"Which number comes before {nw(n + 1)}?"]), f"{cap(nw(n))} comes before {nw(n + 1)}."
    a, b = g.sample(range(0, 21), 2)
    if g.chance(0.5):
        return f"Which number is bigger, {nw(a)} or {nw(b)}?", f"{cap(nw(max(a, b)))} is bigger than {nw(min(a, b))}."
    if g.chance(0.5):
        lo = g.number(1, 8)
        hi = lo + g.number(2, 6)
        return f"Can you count from {nw(lo)} to {nw(hi)}?", "Yes. " + cap(", ".join(nw(i) for i in range(lo, hi + 1))) + "."
    return f"Which number is smaller, {nw(a)} or {nw(b)}?", f"{cap(nw(min(a, b)))} is smaller than {nw(max(a, b))}."


def grammar(g):
    if g.chance(0.5):
        noun = g.c(W.PLURALS)
        return g.c([f"What is the plural of {noun}?", f"One {noun}, two what?"]), (f"The plural of {noun} is {plural_of(noun)}.")
    a, b = g.c(W.PAST)
    return g.c([f"What is the past of {a}?", f"What is the past form of {a}?"]), f"The past of {a} is {b}."


def shape(g):
    s, n = g.c(W.SHAPES)
    return g.c([(f"How many sides does {article(s)} have?", f"{cap(article(s))} has {nw(n)} sides."), (f"How many corners does {article(s)} have?", f"{cap(article(s))} has {nw(n)} corners."),
                ("What shape is a ball?", "A ball is round."), ("What shape is a wheel?", "A wheel is round.")])


def category(g):
    cat, members = g.c(W.CATEGORIES)
    m = g.c(members)
    bare = cat in ("colour", "month", "day of the week") or m in W.MASS
    thing = m if bare else article(m)
    kind = g.number(0, 3)
    if kind == 0:
        other, om = g.c([c for c in W.CATEGORIES if c[0] != cat and not (cat == "animal" and c[0] == "bird") and not (cat in ("bird", "colour", "flower", "fruit"))] or W.CATEGORIES[4:5])
        if m in om or other == cat or (cat == "vegetable" and other == "fruit"):
            return f"Is {thing} {article(cat)}?", f"Yes, {thing} is {article(cat)}."
        if cat == "drink" and other == "colour":
            return f"Is {thing} {article(cat)}?", f"Yes, {thing} is {article(cat)}."
        return f"Is {thing} {article(other)}?", f"No, {thing} is not {article(other)}. {cap(thing)} is {article(cat)}."
    if kind == 1:
        return f"Is {thing} {article(cat)}?", f"Yes, {thing} is {article(cat)}."
    if kind == 2:
        three = g.sample(members, min(3, len(members)))
        return f"Can you name three {plural_of(cat) if cat != 'piece of clothing' else 'pieces of clothing'}?", \
               f"Three {plural_of(cat)} are " + (", ".join(x if bare else article(x) for x in three[:2])) + " and " + (three[2] if bare else article(three[2])) + "."
    return f"What is {thing}?", f"{cap(thing)} is {article(cat)}."


def problem(g):
    """A word problem; names, things and numbers vary freely."""
    a = make_person(g)
    b = make_like(g, a)
    noun = g.c(["apple", "pear", "nut", "coin", "shell", "book", "egg", "flower", "stone", "cherry", "plum", "carrot", "button", "cake", "ball", "fish", "potato", "feather", "leaf", "star"])
    many = lambda k: ("one " + noun) if k == 1 else ("no " if k == 0 else nw(k) + " ") + plural_of(noun)
    kind = g.number(0, 4)
    nouns = plural_of(noun)
    if kind == 0:
        x, y = g.number(1, 10), g.number(1, 9)
        gets = g.c(["gets", "finds", "buys"])
        return f"{a} has {many(x)}. {cap(a.he)} {gets} {nw(y)} more. How many {nouns} does {a} have now?", f"{cap(nw(x))} plus {nw(y)} is {nw(x + y)}. {a} has {many(x + y)} now."
    if kind == 1:
        x = g.number(2, 12)
        y = g.number(1, x)
        gives = g.c([f"gives {nw(y)} to {b}", f"loses {nw(y)}"])
        return f"{a} has {many(x)}. {cap(a.he)} {gives}. How many {nouns} are left?", f"{cap(nw(x))} minus {nw(y)} is {nw(x - y)}. {cap(many(x - y))} {'is' if x - y == 1 else 'are'} left."
    if kind == 2:
        x, y = g.number(1, 10), g.number(1, 10)
        return f"{a} has {many(x)}, and {b} has {many(y)}. How many {nouns} do they have together?", f"{cap(nw(x))} plus {nw(y)} is {nw(x + y)}. Together, they have {many(x + y)}."
    if kind == 3:
        x, y = g.sample(range(1, 16), 2)
        more, w = (a, "more") if x > y else (b, "more")
        return f"{a} has {many(x)}, and {b} has {many(y)}. Who has more {nouns}?", f"{more} has more {nouns}."
    x, y = g.number(2, 6), g.number(2, 5)
    box = g.c(["basket", "box", "bag"])
    return f"There are {nw(x)} {plural_of(box)}. In each {box}, there are {many(y)}. How many {nouns} are there?", f"{cap(nw(x))} times {nw(y)} is {nw(x * y)}. There are {many(x * y)}."


def logic(g):
    kind = g.number(0, 4)
    a = make_person(g)
    b = make_like(g, a)
    c = make_like(g, a)
    while c.name in (a.name, b.name):
        c = make_like(g, a)
    comp, sup = g.c([("taller", "tallest"), ("older", "oldest"), ("faster", "fastest"), ("stronger", "strongest"), ("younger", "youngest")])
    if kind == 0:
        return f"{a} is {comp} than {b}. {b} is {comp} than {c}. Who is the {sup}?", f"{a} is the {sup}."
    if kind == 1:
        toy, col = g.c(W.TOYS), g.c(W.COLOURS)
        return f"{a} has {article(col + ' ' + toy)}. What colour is the {toy}?", f"The {toy} is {col}."
    if kind == 2:
        toy, place = g.c(W.SMALL_TOYS), g.c(W.IN_PLACES + W.OUT_PLACES)
        return f"The {toy} is {place}. Where is the {toy}?", f"The {toy} is {place}."
    if kind == 3:
        p1, p2 = g.sample(["in the kitchen", "in the garden", "at school", "at the market", "in the barn", "at home", "in the forest", "by the river"], 2)
        x, px = (a, p1) if g.chance(0.5) else (b, p2)
        return f"{a} is {p1}. {b} is {p2}. Where is {x}?", f"{x} is {px}."
    t1, t2 = g.sample(W.TOYS, 2)
    x, tx = (a, t1) if g.chance(0.5) else (b, t2)
    return f"{a} has {article(t1)}, and {b} has {article(t2)}. What does {x} have?", f"{x} has {article(tx)}."


FACTS = [
    ("What do plants need to grow?", "Plants need water and light to grow."), ("Where does the sun rise?", "The sun rises in the east."), ("Where does the sun set?", "The sun sets in the west."),
    ("What do bees make?", "Bees make honey."), ("What do we get from cows?", "We get milk from cows."), ("What do we get from hens?", "We get eggs from hens."), ("What do we get from sheep?", "We get wool from sheep."),
    ("What is ice made of?", "Ice is made of water."), ("What is bread made of?", "Bread is made of flour and water."), ("What falls from the clouds?", "Rain falls from the clouds."),
    ("What do we see in the sky at night?", "At night, we see the moon and the stars."), ("What do we see in the sky by day?", "By day, we see the sun in the sky."), ("When do we sleep?", "We sleep at night."),
    ("When do we eat breakfast?", "We eat breakfast in the morning."), ("What do we drink when we are thirsty?", "When we are thirsty, we drink water."), ("What do we do when we are tired?", "When we are tired, we sleep."),
    ("What do we do when we are hungry?", "When we are hungry, we eat."), ("What happens to ice in the sun?", "In the sun, ice melts and turns into water."), ("What happens to water when it is very cold?", "When it is very cold, water turns into ice."),
    ("Where do fish live?", "Fish live in the water."), ("Where do birds sleep?", "Birds sleep in their nests."), ("What covers a bird?", "A bird is covered with feathers."), ("What covers a sheep?", "A sheep is covered with wool."),
    ("What do we say when we meet somebody?", "When we meet somebody, we say hello."), ("What do we say when somebody helps us?", "When somebody helps us, we say thank you."), ("What do we say when we have made a mistake?", "When we have made a mistake, we say that we are sorry."),
    ("What do we say before we go to sleep?", "Before we go to sleep, we say good night."), ("Is fire hot or cold?", "Fire is hot."), ("Is ice hot or cold?", "Ice is cold."), ("Is a stone hard or soft?", "A stone is hard."),
    ("Is a pillow hard or soft?", "A pillow is soft."), ("Is a feather heavy or light?", "A feather is light."), ("Is sugar sweet or sour?", "Sugar is sweet."), ("Is a lemon sweet or sour?", "A lemon is sour."),
    ("Is the sea salty or sweet?", "The sea is salty."), ("What colours are in a rainbow?", "A rainbow is red, orange, yellow, green, blue and purple."), ("When do we see a rainbow?", "We see a rainbow when the sun shines through the rain."),
    ("What do we wear when it is cold?", "When it is cold, we wear a coat and a scarf."), ("What do we wear on our feet?", "We wear shoes on our feet."), ("What do we wear on our head?", "We wear a hat on our head."),
    ("What do we wear on our hands when it is cold?", "When it is cold, we wear gloves on our hands."), ("Where do we buy bread?", "We buy bread at the bakery."), ("Where do children learn to read?", "Children learn to read at school."),
    ("Where do we keep books?", "We keep books on a shelf."), ("Where do apples grow?", "Apples grow on trees."), ("Where do carrots grow?", "Carrots grow under the ground."), ("How many wheels does a bicycle have?", "A bicycle has two wheels."),
    ("How many wheels does a car have?", "A car has four wheels."), ("How many wings does a bird have?", "A bird has two wings."), ("What does a caterpillar become?", "A caterpillar becomes a butterfly."),
    ("What does a tadpole become?", "A tadpole becomes a frog."), ("What does a seed become?", "A seed becomes a plant."), ("What color is the sky?", "The sky is blue."), ("Why do we wash our hands?", "We wash our hands to keep them clean."),
    ("Why do birds build nests?", "Birds build nests to keep their eggs safe."), ("Why do we sleep?", "We sleep to rest."), ("Why do we need rain?", "We need rain because plants need water."),
    ("Why is it dark at night?", "It is dark at night because the sun has set."), ("Why do we tell the truth?", "We tell the truth so that others can trust us."), ("Why should we share?", "We should share because sharing makes everyone happy."),
    ("What is a friend?", "A friend is somebody who likes you and helps you."), ("What is a story?", "A story tells us what happened to somebody."), ("What is the moon?", "The moon is a big ball of rock that we see at night."),
    ("What is the sun?", "The sun is a star that gives us light."), ("What is snow?", "Snow is frozen water that falls from the clouds."), ("What is a forest?", "A forest is a place with many trees."), ("What is a river?", "A river is water that flows to the sea."),
    ("What is a village?", "A village is a small place where people live."), ("What is an island?", "An island is land with water all around it."), ("What is a mountain?", "A mountain is a very high hill."), ("What is the sea?", "The sea is a very big body of salty water."),
    ("Who are you?", "I am a small model that tells stories and answers simple questions."), ("What are you?", "I am a small model that tells stories and answers simple questions."), ("What is your name?", "I am a small demo model. I have no name of my own."),
    ("What can you do?", "I can tell short stories and answer simple questions."), ("How are you?", "I am well, thank you."), ("Hello!", "Hello! How can I help you?"), ("Hello, how are you?", "Hello! I am well, thank you."), ("Good morning!", "Good morning! How can I help you?"),
    ("Thank you!", "You are welcome."), ("Thank you very much!", "You are welcome."), ("Goodbye!", "Goodbye!"), ("Can you help me?", "Yes, I can tell you a story or answer a simple question."),
]


def fact(g):
    return g.c(FACTS)


KINDS = [(arithmetic, 7), (opposite, 3), (animal_fact, 6), (size, 2), (calendar, 3), (colour, 3), (worker, 2), (tool, 2), (body, 1), (counting, 2), (grammar, 2), (shape, 0.5), (category, 2),
         (problem, 5), (logic, 5), (fact, 5)]
KIND_LIST = [k for k, w in KINDS for _ in range(int(w * 2))]


def make_question(g, sums=0):
    if sums and g.chance(sums):
        return arithmetic(g)
    return g.c(KIND_LIST)(g)


def scene(g):
    """A few sentences and the questions they answer; each returned as (text, [(question, answer)])."""
    a = make_person(g)
    b = make_like(g, a)
    toy = Thing(g.c(W.TOYS), g.c(W.COLOURS))
    place, day = g.c(W.IN_PLACES + W.OUT_PLACES), g.c(W.DAYS)
    food, food2 = g.sample(["bread", "soup", "cheese", "cake", "apples", "nuts", "berries", "carrots", "honey", "pears"], 2)
    weather, wq = g.c([("It was raining", "It was raining."), ("It was snowing", "It was snowing."), ("The sun was shining", "The sun was shining."), ("The wind was blowing", "The wind was blowing."), ("It was foggy", "It was foggy.")])
    went = g.c(["to the market", "to the lake", "to the forest", "to the mill", "to the sea", "to the river", "to the hill", "to the farm", "to the village"])
    n = nw(g.number(2, 9))
    things = g.c(["shells", "flowers", "stones", "birds", "ducks", "boats", "mushrooms", "feathers", "butterflies"])
    sees = things in ("birds", "ducks", "boats", "butterflies")
    feel = g.c(["happy", "tired", "glad", "sad", "proud", "cold", "hungry"])
    adj = article(g.c(W.ANIMAL_ADJ if a.animal else W.CHILD_ADJ) + " " + a.child)
    slots = dict(a=a, b=b, o=toy, place=place, day=day, food=food, food2=food2, weather=weather, went=went, n=n, things=things, feel=feel, adj=adj, saw="saw" if sees else "found")
    bits = [
        ("[{a} was {adj}.|There was {adj} named {a}.]", [("Who was {a}?", "{a} was {adj}.")]),
        ("[On {day}, {a} and {b} went {went}.|On {day}, {a} went {went} with {b}.]", [("Where did {a} go?", "{a} went {went}."), ("On which day did {a} go {went}?", "{a} went {went} on {day}."), ("Who went with {a}?", "{b} went with {a}.")]),
        ("[{weather}.|{weather} all day.|{weather} that day.]", [("What was the weather like?", wq)]),
        ("[There, {a} {saw} {n} {things}.|{a} {saw} {n} {things} on the way.]", [("How many {things} did {a} [" + ("see" if sees else "find") + "]?", "{a} {saw} {n} {things}."), ("What did {a} [" + ("see" if sees else "find") + "]?", "{a} {saw} {n} {things}.")]),
        ("[{b} had {o.a}.|{b} brought {o.a}.]", [("What colour was the {o.noun}?", "The {o.noun} was {o.adj}."), ("Who had the {o.noun}?", "{b} had the {o.noun}.")]),
        ("[{b} left the {o} {place}.|Later, {b} put the {o} {place}.]", [("Where was the {o.noun}?", "The {o.noun} was {place}.")]),
        ("[{a} ate {food}, and {b} ate {food2}.|For lunch, {a} had {food}, and {b} had {food2}.]", [("What did {a} eat?", "{a} ate {food}."), ("What did {b} eat?", "{b} ate {food2}.")]),
        ("[In the evening, {a} was {feel}.|When they came home, {a} was {feel}.]", [("How was {a} in the evening?", "In the evening, {a} was {feel}.")]),
    ]
    chosen = [i for i in range(len(bits)) if g.chance(0.62)] or [1, 4]
    if 5 in chosen and 4 not in chosen:
        chosen.append(4)
    chosen.sort()
    text = " ".join(g.t(bits[i][0], **slots) for i in chosen)
    facts = [(g.t(q, **slots), g.t(x, **slots)) for i in chosen for q, x in bits[i][1]]
    return text, facts
