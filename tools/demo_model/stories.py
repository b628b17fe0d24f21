"""The story half of the demo corpus: about twenty plots, each a chain of causes and effects.

A plot gets a Cast and returns a Story: paragraphs of sentences, and facts, pairs of (question, answer) that the text
answers. Every sentence has several wordings, and what one sentence says (a colour, a place, the weather) holds in
the later ones.
"""
import words as W
from grammar import Grammar, Thing, Who, article, plural_of


class Story:
    def __init__(self, g, **slots):
        self.g, self.slots = g, slots
        self.paragraphs, self.facts = [[]], []

    def say(self, *templates, **more):
        for template in templates:
            text = self.g.t(template, **self.slots, **more)
            if text:
                self.paragraphs[-1].append(text)

    def maybe(self, p, *templates):
        if self.g.chance(p):
            self.say(*templates)

    def para(self):
        if self.paragraphs[-1]:
            self.paragraphs.append([])

    def fact(self, question, answer):
        self.facts.append((self.g.t(question, **self.slots), self.g.t(answer, **self.slots)))

    def set(self, **slots):
        self.slots.update(slots)

    def text(self, joiner):
        return joiner.join(" ".join(p) for p in self.paragraphs if p)


def make_person(g, not_names=()):
    while True:
        female = g.chance(0.5)
        if g.chance(0.6):
            who = Who(g.c(W.GIRLS if female else W.BOYS), "girl" if female else "boy", female)
        else:
            who = Who(g.c(W.PET_F if female else W.PET_M), g.c(W.FABLE_ANIMALS), female, animal=True)
        if who.name not in not_names:
            return who


def make_like(g, a):
    """A friend for a: children befriend children, animals animals; mostly of the other sex, so pronouns are clear."""
    while True:
        b = make_person(g, (a.name,))
        if b.animal == a.animal and (b.female != a.female or g.chance(0.15)) and b.kind != (a.kind if a.animal else 0):
            return b


def adjective(g, who):
    return g.c(W.ANIMAL_ADJ if who.animal else W.CHILD_ADJ)


def new_story(g, a, b=None, **slots):
    adult, adult_female = g.c(W.ADULTS)
    s = Story(g, a=a, b=b or a, m=g.c(["mother", "father", "grandmother", "grandfather"]),
              adult=Who(adult, "adult", adult_female), A=article, **slots)
    s.set(parent=Who(f"{a.his} {s.slots['m']}", "adult", s.slots["m"] in ("mother", "grandmother")))
    return s


def opening(s, who="a", weather=None):
    """One to three sentences that bring in the hero, and set home."""
    g, a = s.g, s.slots[who]
    home = g.c(W.DENS if a.animal else W.HOMES)
    adj = article(adjective(g, a) + " " + a.child)
    s.set(home=home, adja=adj, fond=g.c(FOND_ANIMAL if a.animal else FOND_CHILD))
    if g.more_openings and g.chance(0.4):
        more_openings(s, adj)
    else:
        first_sentence(s)
    if home not in s.paragraphs[-1][-1] and g.chance(0.75):
        s.say("[{a.he} lived {home}.|{a.he} lived {home} with {a.mother}.|{a.he} and {a.his} family lived {home}."
              "|{a}'s home was {home}.]")
        s.fact("Where did {a} live?", "{a} lived {home}.")
    elif home in s.paragraphs[-1][-1]:
        s.fact("Where did {a} live?", "{a} lived {home}.")
    s.maybe(0.55, "[{a.he} [loved|liked] {fond}.|Every day, {a.he} {fond2}."
            "|More than anything, {a.he} loved {fond}.|Everyone knew that {a} loved {fond}.]"
            .replace("{fond2}", g.c(DAILY_ANIMAL if a.animal else DAILY_CHILD)))
    s.facts.append(("Who is the story about?", g.t("The story is about {a}.", **s.slots)) if g.chance(0.5) else
                   (f"What is the name of the {a.child}?", f"The name of the {a.child} is {a}."))


def more_openings(s, adj):
    """First sentences of other kinds; some of them are already the day of the story (slot today)."""
    g, a, b = s.g, s.slots["a"], s.slots["b"]
    kind = g.number(0, 6)
    if kind <= 1:
        s.set(today=True)
        s.say("[It was a [rainy|sunny|cold|windy|bright|foggy|warm|quiet] [morning|day|evening].|The sun was shining.|The wind was blowing.|It was raining.|It was snowing."
              "|It was early in the morning.|It was a beautiful day.]")
        s.say("[{a}, {adja}, [looked out and smiled|was awake before all the others|was in a good mood|had nothing to do].|{adja} named {a} [looked out and smiled|was awake before all the others|had nothing to do].]")
    elif kind == 2:
        s.set(today=True)
        s.say("[One day,|One morning,|Early one morning,|One afternoon,] {adja} named {a} [went out to play|went for a walk|woke up with a smile|sat in the grass|had nothing to do].")
    elif kind == 3 and b is not a:
        s.set(adjb=article(adjective(g, b) + " " + b.child))
        s.say("{a} and {b} were [friends|good friends|best friends].", "[{a} was {adja}, and {b} was {adjb}.|{a} was {adja}.]")
    elif kind == 4:
        s.say("{home}, there [lived|was] {adja} [named|called] {a}.")
    elif kind == 5:
        s.say("[{adult} often told the story of {a}, {adja} who lived {home}.|{adult} knew {a}, {adja} who lived {home}.|{adult} had a neighbour named {a}. {a} was {adja}.]")
    else:
        s.say("[Do you know the story of {a}? {a} was {adja}.|Let me tell you about {a}, {adja} who lived {home}.|Here is a story about {a}, {adja} who lived {home}."
              "|Everyone knew {a}, {adja} who lived {home}.|My story is about {adja} named {a}.|There was {adja} named {a}.|{a} was {adja} with a big heart.]")


def first_sentence(s):
    s.say("[Once upon a time, there was {adja} named {a}.|Once upon a time, {home}, there lived {adja} named {a}."
          "|Once upon a time, {adja} named {a} lived {home}.|Once there was {adja} [named|called] {a}."
          "|There once was {adja} [named|called] {a}.|There was once {adja} [named|called] {a} who lived {home}."
          "|Long ago, {adja} [named|called] {a} lived {home}.|{a} was {adja} who lived {home}.|{a} was {adja}."
          "|In the old days, {home}, there lived {adja} named {a}.|This is the story of {a}, {adja} who lived {home}."
          "|Not so long ago, there was {adja} named {a}.|{a} lived {home}.]")


FOND_CHILD = ["to sing", "to read books", "to play outside", "to climb trees", "to draw pictures", "to run in the rain",
              "to listen to stories", "to help other people", "to swim in the river", "to look at the stars",
              "to bake bread", "to ask questions", "to collect shells", "to walk in the woods",
              "animals of every kind", "flowers and trees", "the sound of the wind", "to make things out of wood"]
FOND_ANIMAL = ["to play in the leaves", "to sleep in the sun", "to sing in the morning", "to splash in the water",
               "to listen to stories", "to explore the forest", "to count the stars", "to eat sweet berries",
               "to help others", "the smell of rain", "the first snow of the year", "to roll down the hill"]
DAILY_CHILD = ["walked to school with a smile", "fed the birds in the garden", "went for a long walk",
               "worked in the field for an hour", "carried water from the well", "read a new story",
               "played with the other children", "sang on the way to school"]
DAILY_ANIMAL = ["looked for food in the grass", "went for a walk by the stream", "sang a little song",
                "played with the other animals", "drank cold water from the stream", "gathered nuts and berries"]


def weather(g, s, fair=False):
    kind = g.c(["sunny", "warm", "cloudy", "windy"] if fair else ["sunny", "rainy", "windy", "snowy", "foggy", "cold", "warm", "cloudy"])
    line = {
        "sunny": "[The sun was shining|The sky was blue and clear|It was a bright and sunny day|There was not a cloud in the sky]",
        "rainy": "[It was raining|Rain fell on the roofs|It was a grey and rainy day|Big drops of rain fell from the sky]",
        "windy": "[A strong wind was blowing|The wind shook the trees|It was a windy day|The wind sang in the branches]",
        "snowy": "[Snow covered the ground|It was snowing|Soft white snow fell from the sky|Everything was white with snow]",
        "foggy": "[A thick fog lay over the fields|It was foggy|The fog was so thick that nobody could see far]",
        "cold": "[It was a cold day|The air was cold and clear|There was ice on the pond]",
        "warm": "[It was a warm day|The air was warm and sweet|It was a warm summer day|The flowers smelled sweet in the warm air]",
        "cloudy": "[Grey clouds covered the sky|It was a cloudy day|The clouds hung low over the hills]"}[kind]
    s.set(weather=kind)
    return line


def one_day(s, what=None):
    """The turn from how things were to what happened; ends with a comma and expects a clause."""
    if "today" in s.slots:
        return "[That day,|A little later,|Soon after that,|Before long,] "
    return ("[One day,|One morning,|One afternoon,|One fine day,|Early one morning,|One evening,|One spring morning,"
            "|One autumn day,|One Sunday,|One Saturday morning,|Then one day,|On a quiet afternoon,] ")


def setting(s, fair=False):
    g = s.g
    if "today" not in s.slots and g.chance(0.45):
        line = weather(g, s, fair)
        s.say(line + ".")
        s.fact("What was the weather like?", {"sunny": "It was sunny.", "rainy": "It was raining.",
               "windy": "It was windy.", "snowy": "It was snowy.", "foggy": "It was foggy.",
               "cold": "It was cold.", "warm": "It was warm.", "cloudy": "It was cloudy."}[s.slots["weather"]])


def ending(s, good=True):
    s.say("[From that day on, {a} and {b} were [best|good|the best of] friends.|{a} and {b} laughed together all the way home."
          "|After that, {a} and {b} played together every day.|And {a} and {b} stayed friends for many years.]"
          if s.slots["a"] is not s.slots["b"] and s.g.chance(0.5) else
          "[{a} went to bed with a smile that night.|That night, {a} slept very well.|{a} never forgot that day."
          "|It was a day that {a} would always remember.|{a} went home with a happy heart.|And so the day came to a happy end."
          "|{a} told the story to everyone [at home|{a.he} met].|{a} was the happiest {a.child} in the [whole land|world] that day.]")


def moral(s, *morals):
    g = s.g
    if g.chance(0.4):
        m = g.c(morals)
        s.para()
        s.say("[{a} learned that|From that day on, {a} knew that|That is how {a} learned that|And that is why we say that"
              "|So remember,|The story teaches us that] " + m + ".")
        s.fact("What [did {a} learn|does the story teach us]?", "[{a} learned that " + m + "]." if g.chance(0) else
               "{a} learned that " + m + ".")
        q, answer = s.facts.pop()
        s.facts.append((g.t("What did {a} learn?", **s.slots), answer))


def the_end(s):
    s.maybe(0.12, "The end.")


def felt_end(s, feeling=None):
    feeling = feeling or s.g.c(["happy", "glad", "proud", "cheerful"])
    s.set(feeling=feeling)
    s.fact("How did {a} feel [at the end|in the end]?", "In the end, {a} felt {feeling}.")
    return "{feeling}"


# --------------------------------------------------------------------------------------------------------- plots

def plot_lost(g):
    a = make_person(g)
    b = make_like(g, a)
    toy = Thing(g.c(W.SMALL_TOYS), g.c(W.COLOURS))
    inside = g.chance(0.5)
    places = g.sample(W.IN_PLACES if inside else W.OUT_PLACES, 3)
    s = new_story(g, a, b, o=toy, p1=places[0], p2=places[1], p3=places[2])
    opening(s)
    giver = g.c(["{a.his} grandmother", "{a.his} grandfather", "{a.his} aunt", "{a.his} uncle", "{a.his} best friend"])
    giver = g.t(giver, a=a).replace(a.his.capitalize(), a.his)
    s.set(giver=giver)
    s.say("[{a} had {o.a} that {a.he} loved very much.|{a.he} had {o.a}, and {a.he} took it everywhere."
          "|The thing that {a} loved most was {o.a}.|{a} owned {o.a}, and it was {a.his} greatest treasure.]")
    s.maybe(0.6, "[It was a gift from {giver}.|{giver} had given it to {a.him}.|It had come from {giver}.]")
    s.fact("What did {a} lose?", "{a} lost {o.the}.")
    s.para()
    s.say(one_day(s) + "[the {o} was gone.|{a} could not find the {o}.|{a} saw that the {o} was not in its place.]")
    setting(s, fair=True)
    s.say("[\"Where is my {o}?\" {a} [cried|asked|said].|\"Oh no! My {o} is gone!\" {a.he} cried.|{a} felt a lump in {a.his} throat."
          "|{a} began to cry.|{a} was so worried that {a.he} could not eat.]")
    s.say("[{a} looked {p1}, but it was not there.|First, {a.he} looked {p1}, but there was nothing there."
          "|{a.he} searched {p1}, but {a.he} found only dust and leaves.]".replace("dust and leaves", "dust" if inside else "leaves"))
    s.say("[Then {a.he} looked {p2}, but it was not there either.|Then {a.he} looked {p2}. It was not there."
          "|Next, {a.he} searched {p2}, but there was no {o.noun} there.]")
    s.para()
    s.say("[Just then, {b} [the " + b.kind + " ]came by.|{a.his} friend {b} came to visit.|{b}, {a.his} best friend, heard {a.him}."
          "|{b} saw {a} and stopped.]" if b.animal else
          "[Just then, {b} came by.|{a.his} friend {b} came to visit.|{b}, who lived next door, heard {a.him}.|{b} saw {a} and stopped.]")
    s.say("[\"Why are you so sad?\" asked {b}.|\"What is the matter?\" {b} asked.|\"What are you looking for?\" asked {b}.]")
    s.say("[\"I have lost my {o},\" said {a}.|\"I cannot find my {o},\" {a} said.|\"My {o} is gone, and I have looked everywhere,\" {a} said.]")
    s.say("[\"Do not worry,\" said {b}. \"I will help you.\"|\"Let us look together,\" said {b}."
          "|\"When did you last have it?\" asked {b}. \"[Yesterday|This morning|Before breakfast],\" said {a}. \"Then let us go back and look,\" said {b}.]")
    s.say("[Together they looked {p3}.|They walked back and looked {p3}.|The two friends looked everywhere, and at last they looked {p3}.]")
    s.say("[There it was!|There was the {o}!|And there lay the {o}!|Something {o.adj} was there. It was the {o}!]")
    s.fact("Where did [they|{a} and {b}] find the {o}?", "They found the {o} {p3}.")
    s.fact("Who helped {a}?", "{b} helped {a}.")
    s.fact("What colour was the {o.noun}?", "The {o.noun} was {o.adj}.")
    s.para()
    s.say("[\"Thank you, {b}!\" said {a}.|\"You found it!\" {a} shouted. \"Thank you!\"|{a} hugged {b} and thanked {b.him}."
          "|\"I would never have found it without you,\" said {a}.]")
    s.say("{a} was " + felt_end(s) + " [again|to have the {o} back].")
    s.maybe(0.5, "[After that, {a} always put the {o} back in its place.|From then on, {a} took better care of {a.his} things.]")
    ending(s)
    moral(s, "two pairs of eyes see more than one", "a good friend helps you look", "we should take care of our things",
          "it is good to ask for help")
    the_end(s)
    return s


HURT = [("bird", "its wing was hurt", "put a soft bandage on its wing", "the wing was strong again", "flew", "bread crumbs", "sang a song at the window"),
        ("dog", "its paw was hurt", "washed the paw and tied a cloth around it", "the paw was well again", "ran", "a bowl of meat", "barked happily at the gate"),
        ("rabbit", "its foot was caught in a net", "cut the net and set the foot free", "the foot was well again", "hopped", "a fresh carrot", "waited by the fence"),
        ("cat", "it was cold and hungry", "wrapped it in a warm blanket", "it was warm and strong again", "ran", "a bowl of milk", "slept in front of the door"),
        ("lamb", "it had lost its mother", "carried it back to the field", "it was not afraid any more", "ran", "some warm milk", "came running across the field"),
        ("hedgehog", "it had fallen into a hole", "lifted it out with both hands", "it was well again", "walked", "a slice of apple", "came back to the garden"),
        ("duckling", "it was caught in the reeds", "pulled the reeds apart", "it was free again", "swam", "some bread", "swam up to the shore"),
        ("squirrel", "it had fallen from a tree", "made it a bed of soft leaves", "it was strong again", "climbed", "some nuts", "left a nut on the step")]


def plot_hurt_animal(g):
    female = g.chance(0.5)
    a = Who(g.c(W.GIRLS if female else W.BOYS), "girl" if female else "boy", female)
    kind, trouble, cure, well, moved, food, later = g.c(HURT)
    adj = g.c(["small", "little", "young", "tiny", "grey", "white", "brown"])
    place = g.c(W.OUT_PLACES)
    s = new_story(g, a, x=Thing(kind, adj), trouble=trouble, cure=cure, well=well, moved=moved, food=food, later=later, place=place)
    s.set(name=g.c(W.PET_F + W.PET_M))
    opening(s)
    s.para()
    s.say(one_day(s) + "[{a} was walking home [from school|from the market|through the fields]|{a} was playing outside|{a} went out to [pick flowers|fetch water|look for berries]] "
          "when {a.he} heard a [soft|small|strange|sad] sound.")
    setting(s)
    s.say("[{a.he} looked around and saw {x.a} {place}.|{a} followed the sound and found {x.a} {place}.|It was {x.a}. It lay {place}.]")
    s.say("[{a} saw that {trouble}.|{a.he} came closer and saw that {trouble}.|The poor thing could not get away, because {trouble}.]")
    s.fact("What did {a} find?", "{a} found {x.a}.")
    s.fact("Where was the {x.noun}?", "The {x.noun} was {place}.")
    s.fact("[What was wrong with the {x.noun}?|Why did the {x.noun} need help?]", "The {x.noun} needed help because {trouble}.")
    s.para()
    s.say("[\"Do not be afraid,\" {a} said [softly|in a gentle voice]. \"I will help you.\"|\"You poor little thing,\" said {a}. \"I will take care of you.\""
          "|\"I must help you,\" {a} whispered.]")
    s.say("[Very gently, {a.he} {cure}.|{a} was very careful. {a.he} {cure}.|{a} knew what to do. {a.he} {cure}.]")
    s.say("[Then {a.he} gave it {food}.|{a} gave the {x.noun} {food}, and it ate everything.|After that, {a.he} brought it {food}.]")
    s.maybe(0.5, "[{a} named it {name}.|\"I will call you {name},\" said {a}.|{a.he} gave it a name. The name was {name}.]")
    s.maybe(0.5, "[{a.mother} smiled. \"You have a kind heart,\" she said.|{a.father} was proud of {a.him}. \"You did the right thing,\" he said."
            "|\"It needs rest,\" said {a.mother}. \"Be patient.\"]")
    s.para()
    s.say("[After {n} days, {well}.|Every day, {a} looked after the {x.noun}. Soon {well}.|Day after day, {a} sat beside it, and after {n} days, {well}.]", n=W.ONES[g.number(2, 9)])
    s.say("[The {x.noun} looked at {a} once more. Then it {moved} away.|\"It is time to go,\" said {a}, and the {x.noun} {moved} away."
          "|{a} opened the door, and the {x.noun} {moved} away into the [sunshine|morning].]")
    s.say("[{a} was a little sad, but {a.he} was also " + felt_end(s) + ".|{a} waved goodbye and felt " + "{feeling}.]")
    s.say("[But the {x.noun} did not forget. The next [day|morning|week], it {later}.|The {x.noun} never forgot {a}. Every [morning|spring|day], it {later}."
          "|The next morning, {a} had a surprise. The {x.noun} {later}!]")
    s.maybe(0.6, "[It wanted to say thank you.|It was a way to say thank you.|{a} laughed with joy.|{a} and the {x.noun} had become friends.]")
    ending(s)
    moral(s, "a kind deed is never forgotten", "kindness comes back to you", "even small creatures need our help", "a gentle hand can do great things")
    the_end(s)
    return s


def plot_share(g):
    a = make_person(g)
    b = make_like(g, a)
    food = Thing(g.c(W.SHARED_FOOD), g.c(["big", "sweet", "fresh", "warm", "large", "fine", "golden"]))
    s = new_story(g, a, b, o=food, place=g.c(W.OUT_PLACES))
    opening(s)
    kind_b = article(adjective(g, b) + " " + b.child)
    s.set(adjb=kind_b)
    s.say("[{a.his} best friend was {b}, {adjb}.|{a} had a friend named {b}, who was {adjb}.|{a} and {b} were friends.]")
    s.para()
    s.say(one_day(s) + "[{a.mother} gave {a.him} {o.a}.|{adult} gave {a} {o.a}.|{a} bought {o.a} at the market.|{a} got {o.a} as a gift.]")
    setting(s, fair=True)
    s.say("[It smelled wonderful.|It looked very good.|It was the best that {a} had ever seen.|{a} could not wait to eat it.]")
    s.fact("What did {a} have?", "{a} had {o.a}.")
    s.say("[{a} sat down {place} to eat it.|{a} carried it outside and sat down {place}.|{a.he} wanted to eat it {place}.]")
    s.fact("Where did {a} sit down?", "{a} sat down {place}.")
    s.say("[Then {b} came along.|Soon {b} came by.|Just at that moment, {b} came along the path.]")
    s.say("[\"I have had nothing to eat today,\" said {b}.|\"I am so hungry,\" said {b}.|{b} looked at the {o.noun}, but {b.he} said nothing.|\"May I have a piece, please?\" asked {b}.]")
    s.para()
    if g.chance(0.5):
        s.say("[\"No,\" said {a}. \"It is mine.\"|\"This is mine, and I will not share,\" said {a}.|{a} held the {o.noun} tight and turned away.]")
        s.say("[{b} walked away with {b.his} head down.|{b} went away without a word.|{b} felt sad and left.]")
        s.say("[{a} took a bite, but it did not taste good.|{a} began to eat, but {a.he} was not happy.|{a} ate a little, but {a.he} could only think of {b}.]")
        s.say("[\"It is no fun to eat alone,\" {a.he} thought.|\"I was not a good friend,\" {a.he} said to {a.himself}.|{a.he} felt ashamed.]")
        s.say("[So {a} ran after {b}.|{a} jumped up and ran after {b}.|{a.he} got up and went to find {b}.]")
        s.say("[\"I am sorry,\" said {a}. \"Please come back and eat with me.\"|\"Wait!\" {a} called. \"I was wrong. Half of it is yours.\"|\"Please forgive me,\" said {a}. \"Let us share it.\"]")
        s.fact("Why did {a} run after {b}?", "{a} ran after {b} to say sorry and share the {o.noun}.")
    else:
        s.say("[{a} thought for a moment.|{a} looked at the {o.noun}, and then {a.he} looked at {b}.|{a} smiled.]")
        s.say("[\"We can share it,\" said {a}.|\"Half of it is for you,\" said {a}.|\"Sit down with me,\" said {a}. \"There is enough for two.\"]")
        s.fact("What did {a} do with the {o.noun}?", "{a} shared the {o.noun} with {b}.")
    s.say("[{a} cut it into two pieces, and each of them got one.|They broke it in two and ate it together.|{a.he} gave the bigger piece to {b}.]")
    s.say("[It tasted better than anything in the world.|It tasted twice as good.|They ate until nothing was left.|They talked and laughed while they ate.]")
    s.maybe(0.6, "[\"Thank you,\" said {b}. \"You are a true friend.\"|\"Tomorrow I will bring something for you,\" said {b}.|\"That was the best meal of my life,\" said {b}.]")
    s.para()
    s.maybe(0.5, "[The next day, {b} came with a basket of [berries|nuts|plums|cherries], and the two of them shared again.|The next day, {b} had something too, and {b.he} shared it with {a}.]")
    s.say("{a} was " + felt_end(s) + ", [and so was {b}|because {a.he} had shared|because {a.he} was not alone].")
    ending(s)
    moral(s, "sharing makes everything taste better", "what we share makes us twice as happy", "a friend is worth more than a full plate", "it is good to share")
    the_end(s)
    return s


MAKE = [("cake", "bake", "baked", ["flour", "eggs", "milk", "sugar", "butter"], "the cake fell on the floor", "smelled sweet", "ate"),
        ("soup", "cook", "cooked", ["carrots", "onions", "water", "beans", "salt"], "there was too much salt in it", "smelled good", "ate"),
        ("kite", "build", "built", ["paper", "string", "sticks", "glue", "ribbon"], "the string broke", "looked beautiful", "flew"),
        ("boat", "build", "built", ["wood", "nails", "rope", "paint", "cloth"], "water came in through a hole", "looked strong", "sailed"),
        ("scarf", "knit", "knitted", ["wool", "needles", "time", "patience"], "the wool got into a knot", "felt soft", "wore"),
        ("birdhouse", "build", "built", ["wood", "nails", "a hammer", "paint"], "the roof fell off", "looked fine", "hung up"),
        ("basket", "make", "made", ["reeds", "string", "a knife", "time"], "the handle broke", "looked strong", "used"),
        ("pie", "bake", "baked", ["apples", "flour", "butter", "sugar"], "the pie got burned", "smelled sweet", "ate"),
        ("drum", "make", "made", ["wood", "string", "an old pot", "cloth"], "the cloth tore", "sounded loud and clear", "played")]


def plot_make(g):
    a = make_person(g)
    b = make_like(g, a)
    what, make, made, needs, wrong, quality, used = g.c(MAKE)
    n = g.sample(needs, 3)
    s = new_story(g, a, b, o=Thing(what), make=make, made=made, n1=n[0], n2=n[1], n3=n[2], wrong=wrong, quality=quality, used=used,
                  whom=g.c(["mother", "father", "grandmother", "grandfather", "teacher", "sister", "brother", "uncle", "aunt"]))
    opening(s)
    s.para()
    s.say(one_day(s) + "[{a} wanted to {make} {o.a}.|{a} had an idea. {a.he} would {make} {o.a}.|{a} said, \"I want to {make} {o.a}.\"|{a} decided to {make} {o.a} for {a.his} {whom}.]")
    setting(s)
    s.fact("What did {a} want to {make}?", "{a} wanted to {make} {o.a}.")
    s.say("[{a.he} needed {n1}, {n2} and {n3}.|\"I will need {n1}, {n2} and {n3},\" {a.he} said.|For that, {a.he} needed {n1}, {n2} and {n3}.]")
    s.fact("What did {a} need?", "{a} needed {n1}, {n2} and {n3}.")
    s.say("[{a} had {n1} and {n2} at home, but {a.he} had no {n3x}.|{a.he} found {n1} and {n2} in the [cupboard|kitchen|shed], but there was no {n3x}.]", n3x=n[2].replace("a ", "").replace("an ", ""))
    s.say("[So {a.he} went to {a.his} friend {b} and asked for help.|So {a} went to see {a.his} friend {b}.|\"Perhaps {b} can help me,\" {a.he} thought, and {a.he} went to {b.his} house.]")
    s.say("[\"I have plenty,\" said {b}. \"Take what you need. May I help?\"|\"You can have some of mine,\" said {b}. \"Can I help you?\"|\"I will give you some if I may help,\" said {b}.]")
    s.say("[\"Of course!\" said {a}.|\"Yes, please!\" said {a}.|\"That would be wonderful,\" said {a}.]")
    s.fact("Who helped {a}?", "{b} helped {a}.")
    s.para()
    s.say("[The two friends worked all [morning|afternoon|day].|They went to work at once.|They worked side by side, and they sang while they worked.|{a} did the first part, and {b} did the rest.]")
    s.say("[But then something went wrong. {wrong}!|But, oh dear, {wrong}.|At first, {wrong}.|Then {wrong}!]".replace("gone. {wrong}", "gone. {wrong}"))
    s.fact("What went wrong?", s.slots["wrong"][0].upper() + s.slots["wrong"][1:] + ".")
    s.say("[\"Now everything is lost,\" said {a}.|\"Oh no!\" cried {a}.|{a} wanted to give up.|{a} almost began to cry.]")
    s.say("[\"Let us try again,\" said {b}.|\"We can try once more,\" said {b}. \"The second time is always better.\"|\"Nobody gets it right the first time,\" said {b}.|\"Do not give up,\" said {b}. \"We can do it.\"]")
    s.say("[So they started again, and this time they were more careful.|They began again, slowly and carefully.|They tried a second time, and they took their time.]")
    s.para()
    s.say("[At last, the {o} was ready.|When the sun went down, the {o} was ready.|In the end, the {o} was finished.]")
    s.say("[It {quality}.|It {quality}, and {a} was " + felt_end(s) + ".|\"Look!\" said {b}. \"It is even better than I thought.\"|It {quality}, and everyone wanted to see it.]")
    s.say({"ate": "[They ate it together, and it was very good.|They shared it with everyone, and soon it was all gone.]",
           "flew": "[They took it up the hill, and it flew higher than the trees.|The wind took it, and it danced in the sky.]",
           "sailed": "[They put it on the water, and it sailed like a swan.|It sailed across the pond without a drop of water inside.]",
           "wore": "[{a} wore it all winter.|{a} put it around {a.his} neck and smiled.]",
           "hung up": "[They hung it in a tree, and the next day a small bird moved in.|In spring, a bird built its nest there.]",
           "used": "[They used it to gather berries.|{a} carried apples in it, and it did not break.]",
           "played": "[{a} played it all evening, and {b} danced.|They played it until the moon came up.]"}[used])
    s.maybe(0.5, "[\"We made it together,\" said {a}.|\"I could not have done it alone,\" said {a}.|\"Thank you for your help,\" {a} said to {b}.]")
    ending(s)
    moral(s, "it is worth trying again", "work is easier with a friend", "mistakes help us to learn", "many hands make light work")
    the_end(s)
    return s


OBSTACLES = [("a wide river", "there was no bridge", "a fisherman with a boat", "he", "took {a.him} across in his boat"),
             ("a deep ditch", "it was too wide to jump over", "a woodcutter", "he", "laid a long board over it"),
             ("a tall gate", "it was locked", "a shepherd", "he", "opened it with a big key"),
             ("a dark part of the woods", "{a.he} could not see the path", "an old woman with a lantern", "she", "walked beside {a.him} with her light"),
             ("a crossroads", "{a.he} did not know which way to go", "a postman", "he", "showed {a.him} the right road"),
             ("a big rock on the road", "{a.he} could not move it", "a strong farmer", "he", "pushed it aside"),
             ("a flock of angry geese", "they would not let {a.him} pass", "a girl with a stick", "she", "led the geese back to the field")]


def plot_journey(g):
    a = make_person(g)
    obstacle, why, helper, hhe, did = g.c(OBSTACLES)
    whom = g.c(["grandmother", "grandfather", "aunt", "uncle", "sister", "brother", "cousin"])
    gift = g.c(["a cake", "a pot of honey", "a basket of apples", "a warm scarf", "a loaf of bread", "a bunch of flowers", "a jar of jam", "some fresh eggs", "a bag of nuts"])
    whom_f = whom in ("grandmother", "aunt", "sister") or (whom == "cousin" and g.chance(0.5))
    s = new_story(g, a, w=Who(f"{a.his} {whom}", "adult", whom_f), gift=gift, obstacle=obstacle, why=g.t(why, a=a)[0].lower() + g.t(why, a=a)[1:],
                  helper=helper, did=did.format(a=a), hhe=hhe,
                  far=g.c(["on the other side of the forest", "beyond the hill", "in the next village", "across the valley", "by the sea", "at the end of the long road"]))
    s.set(whom=whom, thehelper="the " + " ".join(helper.split()[1:]).split(" with")[0])
    opening(s)
    s.say("[{a.his} {whom} lived {far}.|{far}, there lived {a.his} {whom}.]")
    s.fact("Where did {w} live?", "{w} lived {far}.")
    s.para()
    s.say(one_day(s) + "[{a.mother} said, \"Your {whom} is ill. Please take {w.him} {gift}.\"|{a} wanted to visit {a.his} {whom}. {a.he} took {gift} with {a.him}."
          "|{a} set out to visit {w}. {a.he} carried {gift}.|{a} heard that {w} was alone, so {a.he} packed {gift} and set out.]")
    setting(s)
    s.fact("What did {a} [bring|take] to {w}?", "{a} took {gift}.")
    s.say("[\"Stay on the path,\" said {a.mother}.|\"Be careful and come home before dark,\" said {a.father}.|{a} put on {a.his} [hat|boots|scarf] and went out of the door.|{a.he} was [excited|happy] and walked fast.]")
    s.say("[{a} walked past [the mill|the church|the old barn] and over [the hill|the bridge|the field].|The road was long, but {a} sang all the way.|{a.he} walked and walked, and the birds sang in the trees.]")
    s.para()
    s.say("[Then {a.he} came to {obstacle}.|Soon, {a} came to {obstacle}.|After an hour, {a.he} stood in front of {obstacle}.]")
    s.say("[It was not easy to go on, because {why}.|{a} had to stop, because {why}.|{a} did not know what to do, because {why}.]")
    s.fact("Why did {a} have to stop?", "{a} had to stop because {why}.")
    s.say("[\"What shall I do now?\" {a.he} asked {a.himself}.|\"I cannot turn back,\" said {a}. \"I have to think.\"|{a} sat down on a stone and thought.]")
    s.say("[Just then, {helper} came along.|Then {a.he} saw {helper}.|After a while, {helper} came by.]")
    s.say("[\"Can you help me, please?\" asked {a}.|\"Good day,\" said {a}. \"Could you help me?\"|\"Where are you going?\" asked {thehelper}. \"To my {whom},\" said {a}.]")
    s.say("[\"Of course,\" said {thehelper}, and {hhe} {did}.|{thehelper} smiled, and {hhe} {did}.|\"I will be glad to help,\" said {thehelper}. Then {hhe} {did}.]")
    s.fact("Who helped {a}?", "[{helper} helped {a}].".replace("[", "").replace("]", ""))
    s.say("[\"Thank you!\" said {a}.|\"Thank you very much,\" {a} said, and {a.he} waved goodbye.|{a} thanked {thehelper} and went on.]")
    s.para()
    s.say("[At last, {a.he} saw the house of {w}.|In the afternoon, {a} knocked on {w}'s door.|Before the sun went down, {a} reached the house.]")
    s.say("[\"{a}! What a surprise!\" said {w}.|\"How good to see you!\" {w} cried.|{w} opened the door and hugged {a.him}.|\"Come in, come in!\" said {w}.]")
    s.say("[{a} gave {w.him} {gift}, and {w.he} was very [glad|happy].|\"This is for you,\" said {a}, and {a.he} gave {w.him} {gift}.]")
    s.say("[They sat by the fire and talked for a long time.|They drank tea and told each other stories.|{a} told {w.him} about {obstacle} and about {thehelper}.|They ate together and looked at the stars.]")
    s.say("[{a} was tired but " + felt_end(s) + ".|{a} felt " + "{feeling}, because {a.he} had not given up.]")
    ending(s)
    moral(s, "there is help on every road", "a long road is short when you think of someone you love", "it is brave to go on", "it is good to ask for help")
    the_end(s)
    return s


FEARS = [("the dark", "light", "when the lamp was put out, {a.he} hid under the blanket", "looked at the stars", "the stars were like little lamps", "{a.he} slept without a lamp"),
         ("deep water", "swim", "when the others swam, {a.he} stayed on the shore", "put one foot into the water, and then the other", "the water was not so cold", "{a.he} swam to the other side and back"),
         ("thunder", "storm", "when a storm came, {a.he} covered {a.his} ears", "counted the seconds between the light and the sound", "the storm was far away", "{a.he} watched the storm from the window"),
         ("high places", "climb", "when the others climbed trees, {a.he} stayed on the ground", "climbed to the first branch, and then to the second", "the view was wonderful", "{a.he} climbed to the top of the hill and shouted with joy"),
         ("the big dog next door", "dog", "when the dog barked, {a.he} ran away", "held out a hand and stood very still", "the dog only wanted to play", "{a.he} walked with the dog every day"),
         ("singing in front of people", "sing", "when it was time to sing, {a.he} hid behind a chair", "sang a song for one friend, and then for two", "singing was fun", "{a.he} sang in front of the whole village"),
         ("the old bridge", "bridge", "when the others crossed the bridge, {a.he} turned back", "took one small step, and then another", "the bridge was strong", "{a.he} ran across the bridge and laughed")]


def plot_fear(g):
    a = make_person(g)
    b = make_like(g, a)
    fear, _, sign, step, found, now = g.c(FEARS)
    low = lambda t: t.format(a=a)
    s = new_story(g, a, b, fear=fear, sign=low(sign), step=low(step), found=low(found), now=low(now))
    opening(s)
    s.say("[But {a.he} was afraid of {fear}.|There was only one thing that {a} feared. It was {fear}.|But there was one problem. {a} was afraid of {fear}.]")
    s.say("[Every time, {sign}.|{a.he} told nobody, but {sign}.]".replace("Every time, when", "When"))
    if s.paragraphs[-1][-1].startswith("Every time, when"):
        s.paragraphs[-1][-1] = "W" + s.paragraphs[-1][-1][len("Every time, w"):]
    s.fact("What was {a} afraid of?", "{a} was afraid of {fear}.")
    s.para()
    s.say(one_day(s) + "[{a.his} friend {b} saw it and asked, \"Are you afraid?\"|{a.his} friend {b} sat down next to {a} and asked, \"What is wrong?\"|{a} told {a.his} friend {b} about it.]")
    setting(s)
    s.say("[\"Yes, I am afraid of {fear},\" {a} said [quietly|in a small voice].|\"I am afraid of {fear},\" said {a}. \"Please do not laugh.\"]")
    s.say("[{b} did not laugh. \"Everyone is afraid of something,\" {b.he} said.|\"I was afraid too, once,\" said {b}.|\"That is nothing to be ashamed of,\" said {b}.]")
    s.say("[\"Let us try it together, one small step at a time.\"|\"I will stay with you,\" {b} said. \"We will go slowly.\"|\"I will hold your hand,\" {b.he} said."
          "|\"A little step is enough for today,\" {b.he} said.]" if not a.animal else
          "[\"Let us try it together, one small step at a time.\"|\"I will stay with you,\" {b} said. \"We will go slowly.\"|\"A little step is enough for today,\" {b.he} said.]")
    s.fact("Who helped {a}?", "{b} helped {a}.")
    s.para()
    s.say("[{a} took a deep breath.|{a}'s heart was beating fast.|{a}'s knees were shaking.|{a} closed {a.his} eyes and opened them again.]")
    s.say("[Then {a.he} {step}.|Slowly, {a.he} {step}.|With {b} beside {a.him}, {a.he} {step}.]")
    s.say("[\"See?\" said {b}. \"You can do it.\"|\"Well done!\" said {b}.|\"That was very brave,\" said {b}.]")
    s.say("[And {a} saw that {found}.|To {a.his} surprise, {found}.|{a.he} noticed that {found}.]")
    s.say("[They tried it again the next day, and the day after that.|Every day, they tried a little more.|Day by day, the fear grew smaller.]")
    s.para()
    s.say("[After a week, {now}.|Then came the day when {now}.|A month later, {now}.]")
    s.say("[\"I am not afraid any more!\" said {a}.|\"I did it!\" {a} cried.|\"Look at me!\" {a} called.]")
    s.say("[{a} was " + felt_end(s, g.c(["proud", "happy", "brave", "glad"])) + ", and {b} was proud too.|{a} felt {feeling}.]")
    ending(s)
    moral(s, "to be brave is to try even when you are afraid", "small steps lead a long way", "fear grows small when a friend is near", "everyone is afraid of something")
    the_end(s)
    return s


SEEDS = [("sunflower", "yellow", "taller than the fence"), ("pumpkin", "orange", "bigger than a bucket"), ("rose", "red", "sweeter than honey"),
         ("bean", "green", "up to the roof"), ("tulip", "pink", "as bright as a lamp"), ("apple tree", "green", "as tall as {a.he} was"), ("tomato", "red", "round and shiny"),
         ("strawberry", "red", "small and sweet")]


def plot_seed(g):
    a = make_person(g)
    b = make_like(g, a)
    plant, colour, how = g.c(SEEDS)
    place = g.c(["in the garden", "behind the house", "next to the fence", "near the well", "in a big pot", "under the window", "beside the path"])
    s = new_story(g, a, b, plant=plant, colour=colour, how=how.format(a=a), place=place, n=W.ONES[g.number(3, 12)])
    opening(s)
    s.para()
    s.say(one_day(s) + "[{adult} gave {a} a small seed.|{a} found a small seed in {a.his} pocket.|{a.his} {m} gave {a.him} a seed.|{a} bought one small seed at the market.]"
          .replace("in {a.his} pocket", "on the path" if a.animal else "in {a.his} pocket"))
    s.maybe(0.7, "[\"This will be a {plant} one day,\" [said {a.his} {m}|somebody said].|It was the seed of a {plant}.|\"If you are patient, a {plant} will grow from it,\" said {adult}.]".replace("a {plant}", article(plant)))
    s.say("[{a} planted the seed {place}.|{a} dug a little hole {place} and put the seed inside.|{a.he} put the seed into the earth {place}.]")
    s.fact("Where did {a} plant the seed?", "{a} planted the seed {place}.")
    s.say("[{a.he} gave it some water.|Then {a.he} gave it water and sat down to wait.|{a} gave it water every morning.|{a} covered it with earth and gave it a little water.]")
    s.para()
    s.say("[The first day, nothing happened. The second day, nothing happened.|{a} waited for {n} days, but nothing happened.|A whole week passed, and there was nothing to see.]")
    s.say("[\"It will never grow,\" said {a}.|\"Why does it not grow?\" asked {a}.|{a} was sad. \"Perhaps the seed is dead,\" {a.he} said.|{a} wanted to dig it up and look.]")
    s.say("[\"Be patient,\" said {a.his} friend {b}. \"Good things take time.\"|\"Wait a little longer,\" said {a.his} friend {b}.|\"A seed has its own clock,\" said {a.his} friend {b}. \"You cannot hurry it.\"|\"It is growing under the ground, where you cannot see it,\" said {a.his} friend {b}.]")
    s.fact("Who told {a} to wait?", "{b} told {a} to wait.")
    s.say("[So {a} waited, and every day {a.he} gave the seed some water.|So {a} gave it water and waited.|{a} listened to {b} and did not give up.]")
    s.maybe(0.5, "[It rained for {n} days, and then the sun came out.|The sun shone, and the rain fell.|When it was very hot, {a} carried water from the [well|stream].]")
    s.para()
    s.say("[Then, one morning, there was a tiny green leaf.|And then, one day, something green came out of the ground.|After {n} more days, a small green tip looked out of the earth.]")
    s.say("[\"Look, {b}! It is growing!\" {a} shouted.|\"It is alive!\" cried {a}.|{a} danced around it with joy.]")
    s.say("[It grew and grew, until there was a fine {plant}, {how}.|Week after week it grew. In the end, it was a beautiful {plant}, {how}.|By the end of summer, it was a {colour} {plant}, {how}.]")
    s.fact("What grew from the seed?", "A {plant} grew from the seed.".replace("A {plant}", article(plant).capitalize()))
    s.maybe(0.5, "[Everyone in the village came to see it.|All the neighbours came to look at it.|The bees and the butterflies came to visit it.]")
    s.say("[{a} was " + felt_end(s) + ".|{a} looked at it every day and felt {feeling}.]")
    s.maybe(0.4, "[\"You were right, {b},\" said {a}. \"It was worth the wait.\"|\"Thank you for telling me to wait,\" {a} said to {b}.|{a} gave {b} some of the new seeds.]")
    ending(s)
    moral(s, "good things take time", "patience is worth the wait", "you cannot hurry a seed", "care and time make things grow")
    the_end(s)
    return s


def plot_race(g):
    a = make_person(g)
    b = make_like(g, a)
    race = g.c(["a running race", "a boat race", "a swimming race", "a race around the pond", "a race to the old oak tree", "a race up the hill"])
    prize = g.c(["a golden cup", "a big cake", "a basket of fruit", "a silver bell", "a crown of flowers", "a red ribbon", "a new hat"])
    day = g.c(W.DAYS)
    s = new_story(g, a, b, race=race, prize=prize, day=day)
    opening(s)
    s.para()
    s.say("[On {day}, there was {race}.|One {day}, there was {race}.|The whole village talked about {race}. It would be on {day}.]")
    s.fact("On which day was the race?", "The race was on {day}.")
    s.say("[The prize was {prize}.|The winner would get {prize}.|Everybody wanted to win {prize}.]")
    s.fact("What was the prize?", "The prize was {prize}.")
    if "swim" not in race and "boat" not in race:
        setting(s)
    if g.chance(0.5):  # the proud and the steady
        s.say("[{a.his} neighbour {b} was very fast. \"I will win,\" {b.he} said. \"Nobody is as fast as I am.\"|{b} laughed at {a}. \"You are too slow,\" {b.he} said.|\"You can never win against me,\" {b} said to {a}.]")
        s.say("[{a} said nothing.|\"We will see,\" said {a}.|\"I will do my best,\" said {a} quietly.]")
        s.para()
        s.say("[\"One, two, three, go!\" called {adult}.|{adult} rang a bell, and the race began.|\"Ready, steady, go!\" somebody shouted.]")
        s.say("[{b} shot forward and was soon far ahead.|{b} was so fast that {a} could not see {b.him} any more.|At first, {b} was far in front.]")
        s.say("[\"I have plenty of time,\" said {b}, and {b.he} lay down [under a tree|in the grass] to rest.|{b} stopped to [eat berries|talk to a friend|look at the flowers]. \"{a} is far behind,\" {b.he} thought.|On the way, {b} sat down and fell asleep.]")
        s.say("[But {a} went on and on, step by step, and never stopped.|But {a} kept going, slowly and steadily.|{a} was tired, but {a.he} did not stop.]")
        s.say("[When {b} looked up, {a} was almost at the end.|When {b} looked around again, it was too late.|{b} jumped up and ran as fast as {b.he} could, but it was too late.]")
        s.say("[{a} had won!|{a} came in first, and everybody cheered.|{a} won the race.]")
        s.fact("Who won the race?", "{a} won the race.")
        s.fact("Why did {b} lose?", "{b} lost because {b.he} stopped on the way.")
        s.para()
        s.say("[\"You did not give up,\" said {b}. \"You are better than I thought.\"|{b} was ashamed. \"I will not laugh at you again,\" {b.he} said.|\"I was too proud,\" said {b}. \"Well done, {a}.\"]")
        s.maybe(0.6, "[{a} shared {prize} with {b}.|{a} took {prize} and smiled.]".replace("shared a", "showed a").replace("{a} shared {prize} with {b}", "{a} showed the prize to {b}"))
        s.say("{a} was " + felt_end(s) + ".")
        ending(s)
        moral(s, "slow and steady wins the race", "it is foolish to be too proud", "those who never give up go far")
    else:  # stopping to help
        s.say("[{a} had practised for weeks.|{a} wanted to win more than anything.|{a} was very fast, and everyone thought that {a.he} would win.]")
        s.para()
        s.say("[\"One, two, three, go!\" called {adult}.|{adult} rang a bell, and the race began.|\"Ready, steady, go!\" somebody shouted.]")
        s.say("[Soon {a} was in front.|{a} was first from the start.|{a} took the lead.]")
        s.say("[Then {a.he} heard a cry. {b} had fallen down.|Suddenly there was a cry behind {a.him}. {b} had fallen and could not get up.|But then {b} fell and hurt {b.his} leg.]")
        s.say("[{a} could see the end of the race. But {a.he} turned around.|{a} thought of {prize}. Then {a.he} stopped and went back.|\"A friend is more important than a race,\" thought {a}, and {a.he} turned back.]")
        s.fact("Why did {a} stop?", "{a} stopped because {b} had fallen.")
        s.say("[\"Are you hurt?\" asked {a}.|\"Give me your hand,\" said {a}.|\"Hold on to me,\" said {a}.]" if not a.animal else "[\"Are you hurt?\" asked {a}.|\"Hold on to me,\" said {a}.]")
        s.say("[{a} helped {b} to stand up, and they walked to the end together.|Side by side, they went on slowly to the end.|{b} held on to {a}, and together they came in last.]")
        s.para()
        s.say("[Somebody else won the race. But everyone cheered for {a} and {b}.|They did not win, but all the people cheered for them.|They were the last, but the people clapped louder for them than for the winner.]")
        s.say("[\"You have the best heart of all,\" said {adult}, and {a} got a prize too.|{adult} gave {a} a prize for being kind.|\"Thank you, {a},\" said {b}. \"You are the true winner.\"]")
        s.say("{a} was " + felt_end(s) + ", [even without the prize|although {a.he} had not won|and {b} was thankful].".replace("even without the prize|", ""))
        ending(s)
        moral(s, "a friend is more important than a prize", "helping is better than winning", "a kind heart is the best prize")
    the_end(s)
    return s


BROKEN = [("vase", "fell from the table and broke"), ("cup", "fell on the floor and broke"), ("window", "broke with a loud crash"), ("plate", "slipped from the shelf and broke"),
          ("lamp", "fell over and broke"), ("mirror", "fell from the wall and broke"), ("jar of honey", "fell down and broke"), ("clock", "fell from the shelf and stopped")]


def plot_truth(g):
    female = g.chance(0.5)
    a = Who(g.c(W.GIRLS if female else W.BOYS), "girl" if female else "boy", female)
    thing, how = g.c(BROKEN)
    s = new_story(g, a, o=Thing(thing, g.c(["old", "blue", "beautiful", "big", "white", "green"])), how=how,
                  doing=g.c(["was playing with a ball in the house", "was dancing around the room", "was running through the house", "was jumping on the chairs", "was chasing the cat"]),
                  blame=g.c(["the cat", "the wind", "the dog", "a bird"]))
    opening(s)
    s.para()
    s.say(one_day(s) + "{a} {doing}.")
    setting(s)
    s.say("[{a.his} {m} had told {a.him} not to do that.|\"Be careful,\" {a.his} {m} had said, but {a} did not listen.|It was great fun.]")
    s.say("[Suddenly, the {o} {how}.|{a} was not careful, and the {o} {how}.|Crash! The {o} {how}.]")
    s.fact("What broke?", "The {o} broke.")
    s.fact("What was {a} doing?", "{a} {doing}.")
    s.say("[{a} stood very still.|{a}'s face turned red.|\"Oh no,\" whispered {a}.|{a} was frightened.]")
    s.para()
    s.say("[{a.his} {m} came in. \"What happened here?\" {parent.he} asked.|\"What was that noise?\" asked {parent}.|Soon {parent} came home and saw it. \"Who did this?\" {parent.he} asked.]")
    s.say("[\"It was {blame},\" said {a}.|{a} looked at the floor. \"{blame} did it,\" {a.he} said.|\"I think it was {blame},\" {a} answered.]")
    s.fact("Who did {a} blame?", "{a} blamed {blame}.")
    s.say("[But it was not true.|That was a lie, and {a} knew it.|{a.his} {m} said nothing and swept the floor.]")
    s.say("[All day, {a} felt bad.|{a} could not eat that evening.|At night, {a} could not sleep.|The lie felt like a stone in {a.his} heart.]")
    s.maybe(0.6, "[\"I must tell the truth,\" {a.he} thought.|\"I should not have lied,\" {a.he} said to {a.himself}.|The longer {a.he} waited, the worse {a.he} felt.]")
    s.para()
    s.say("[In the end, {a} went to {parent}.|The next morning, {a} went to {parent}.|So {a} got up and went to {parent}.]")
    s.say("[\"I broke the {o},\" {a.he} said. \"I am sorry that I lied.\"|\"It was not {blame},\" said {a}. \"It was me. I am very sorry.\"|\"I have to tell you something,\" {a.he} said. \"I did it, and I lied to you.\"]")
    s.say("[{a.his} {m} was quiet for a moment. Then {parent.he} smiled.|{parent} took {a} in {parent.his} arms.|{parent} looked at {a} for a long time.]")
    s.say("[\"Thank you for telling me the truth,\" {parent.he} said.|\"I am glad that you told me,\" {parent.he} said. \"A {o.noun} is only a thing.\"|\"That was brave,\" said {parent}. \"I forgive you.\"]")
    s.say("[Together they mended the {o.noun}.|Together they cleaned up the rest.|{a} saved {a.his} coins to buy a new one.|{a} helped {parent} in the [kitchen|garden] for a week to make up for it.]".replace("mended the {o.noun}", "picked up the last pieces"))
    s.say("[{a}'s heart was light again, and {a.he} felt " + felt_end(s, g.c(["glad", "happy", "better"])) + ".|{a} felt {feeling}, and {a.he} slept well that night.]")
    ending(s)
    moral(s, "it is best to tell the truth", "the truth makes the heart light", "a lie is a heavy thing to carry", "it is brave to say that you are sorry")
    the_end(s)
    return s


def plot_market(g):
    a = make_person(g)
    n = g.number(5, 12)
    cost1, = [g.number(1, n - 3)]
    left1 = n - cost1
    cost2 = g.number(1, left1 - 1)
    left2 = left1 - cost2
    coins = lambda k: W.ONES[k] + (" coin" if k == 1 else " coins")
    o1, o2 = g.sample(["a loaf of bread", "a jar of honey", "a basket of eggs", "a bag of flour", "a piece of cheese", "a pot of jam", "a fat hen", "a bottle of milk",
                       "a woollen hat", "a ball of wool", "a wooden spoon", "a box of nails", "a new cup", "a big cabbage"], 2)
    s = new_story(g, a, o1=o1, o2=o2, n=coins(n), c1=coins(cost1), l1=coins(left1), c2=coins(cost2), l2=coins(left2), o1n="the " + o1.split(" ", 1)[1], o2n="the " + o2.split(" ", 1)[1])
    opening(s)
    s.para()
    s.say(one_day(s) + "[{a.his} {m} gave {a.him} {n} and said, \"Please go to the market.\"|{a} took {n} and went to the market.|{a} went to the market with {n} in {a.his} [bag|basket].]")
    setting(s)
    s.fact("How many coins did {a} have at first?", "{a} had {n} at first.")
    s.say("[The market was full of people.|There was so much to see.|The market smelled of bread and flowers.|Somebody played a drum, and the children danced.]")
    s.say("[First, {a} bought {o1}. It cost {c1}.|First, {a.he} bought {o1} for {c1}.|{a} bought {o1} and paid {c1}.]")
    s.say("[Now {a.he} had {l1} left.|That left {a.him} with {l1}.|\"Now I have {l1},\" {a.he} counted.]")
    s.fact("How much did {o1n} cost?", "[It cost {c1}|{o1n} cost {c1}].")
    s.say("[Then {a.he} bought {o2} for {c2}.|Then {a.he} saw {o2}. It cost {c2}, and {a.he} bought it.|After that, {a.he} bought {o2}, which cost {c2}.]")
    s.say("[Now {a.he} had {l2} left.|Then there was only {l2} in {a.his} [bag|basket].|\"I have {l2} left,\" {a.he} said.]".replace("there was only", "there was only" if left2 == 1 else "there were only"))
    s.fact("How many coins were left?" if left2 > 1 else "How many coins were left?", ("{l2} were left." if left2 > 1 else "One coin was left."))
    s.fact("What did {a} buy?", "{a} bought {o1} and {o2}.")
    s.para()
    who, he = g.c([("a poor old man", "he"), ("a poor old woman", "she"), ("a hungry child", "it"), ("a tired sailor", "he")])
    if he == "it":
        who, he = "a hungry little boy", "he"
    s.set(who=who, whe=he, thewho="the " + who.split(" ", 1)[1])
    if left2 == 1:
        give, rest = "the last coin", "nothing"
    else:
        k = g.number(1, left2 - 1)
        give, rest = coins(k), coins(left2 - k)
    s.set(give=give, rest=rest)
    s.say("[On the way home, {a} met {who}.|At the gate, {who} sat on the ground.|Near the well, {a} saw {who}.]")
    s.say("[\"I have had nothing to eat today,\" said {thewho}.|\"Please help me,\" said {thewho}. \"I am so hungry.\"|{thewho} looked cold and hungry.]")
    s.say("[{a} did not think for long. {a.he} gave {thewho} {give}.|{a} gave {thewho} {give}.|\"Here,\" said {a}, and {a.he} gave {thewho} {give}.]")
    s.fact("What did {a} give to {thewho}?", "{a} gave {thewho} {give}.")
    s.say("[Now {a.he} had {rest} left, but {a.he} did not mind.|\"Thank you,\" said {thewho}. \"You are very kind.\"|{thewho} thanked {a.him} with tears in {whis} eyes.]", whis={"he": "his", "she": "her"}[he])
    s.say("[At home, {a} told {parent} everything.|When {a} came home, {a.he} told {parent} what had happened.|{a} ran home to {parent}.]")
    s.say("[\"You did well,\" said {parent}.|\"I am proud of you,\" said {parent}.|{parent} smiled and kissed {a.him}.]")
    s.say("[{a} felt " + felt_end(s) + ".|{a} was {feeling}.]")
    ending(s)
    moral(s, "it is better to give than to keep", "a small gift can be a great help", "coins are made to be shared")
    the_end(s)
    return s


NOISES = [("a tapping at the window", "a branch that the wind was moving", "tied the branch back"), ("a scratching at the door", "a kitten that wanted to come in", "let the kitten in and gave it milk"),
          ("a soft crying in the barn", "a lost lamb", "brought the lamb back to its mother"), ("a hooting in the tree", "a young owl that was learning to sing", "listened to the owl until it was morning"),
          ("a splashing in the pond", "a frog that was jumping after flies", "watched the frog and laughed"), ("a rustling in the leaves", "a hedgehog that was looking for food", "gave the hedgehog a slice of apple"),
          ("a knocking on the roof", "the rain", "made a cup of tea and listened to the rain"), ("a squeaking under the floor", "a family of mice", "gave the mice some cheese")]


def plot_noise(g):
    a = make_person(g)
    b = make_like(g, a)
    noise, cause, did = g.c(NOISES)
    s = new_story(g, a, b, noise=noise, cause=cause, did=did, guess=g.c(["a ghost", "a wolf", "a thief", "a monster", "a giant"]),
                  light=g.c(["a lamp", "a candle", "a lantern"]))
    opening(s)
    s.para()
    s.say("[One night, {a} woke up.|In the middle of the night, {a} woke up.|One dark night, {a} could not sleep.|Late one evening, {a} lay in bed.]")
    s.say("[There was a strange sound. It was {noise}.|{a.he} heard {noise}.|Then {a.he} heard it. It was {noise}.]")
    s.fact("What did {a} hear?", "{a} heard {noise}.")
    s.say("[\"What is that?\" whispered {a}.|{a} sat up and listened.|{a} pulled the blanket over {a.his} head.|{a}'s heart beat very fast.]")
    s.say("[\"It must be {guess},\" {a.he} thought.|\"Perhaps it is {guess}!\" {a.he} whispered.|{a.he} was sure that it was {guess}.]")
    s.fact("What did {a} think it was?", "{a} thought that it was {guess}.")
    s.para()
    s.say("[{a} woke {b}, who was [staying for the night|sleeping in the next room].|{a} went to wake {b}, who was sleeping in the next room.|{b}, who was staying for the night, woke up too.]")
    s.say("[\"Did you hear that?\" asked {a}.|\"Listen!\" said {a}. \"There it is again.\"|\"{b}, wake up! There is {guess}!\" said {a}.]")
    s.say("[\"Let us go and look,\" said {b}.|\"There is only one way to find out,\" said {b}.|\"I do not think so,\" said {b}. \"Come, we will look together.\"]")
    s.say("[They took {light} and went out very quietly.|{b} lit {light}, and they went step by step.|With {light} in front of them, they went to look.]")
    s.maybe(0.5, "[The floor was cold under their feet.|The moon was shining, and everything was still.|{a} stayed close behind {b}.]")
    s.say("[The sound came nearer.|There it was again.|The sound grew louder and louder.]")
    s.para()
    s.say("[Then {b} held up {thelight}. It was only {cause}!|They looked carefully, and what did they see? It was {cause}!|{a} opened {a.his} eyes wide. It was not {guess} at all. It was {cause}.]", thelight="the " + s.slots["light"][2:])
    s.fact("What was it really?", "It was {cause}.")
    s.say("[{a} began to laugh.|\"And I thought it was {guess}!\" said {a}.|They both laughed until their sides hurt.|\"How silly I was,\" said {a}.]")
    s.say("[They {did}.|Together they {did}.|Before they went back to bed, they {did}.]")
    s.say("[Then they went back to sleep.|Soon they were both asleep again.|{a} lay down again, and this time {a.he} slept well.]")
    s.say("{a} [was|felt] " + felt_end(s, g.c(["glad", "happy", "brave"])) + " [that {a.he} had looked|the next morning|in the morning].")
    ending(s)
    moral(s, "things are often less scary than they seem", "it is better to look than to be afraid", "the dark makes small things seem big")
    the_end(s)
    return s


def plot_new_friend(g):
    a = make_person(g)
    b = make_like(g, a)
    game = g.c([("hide and seek", "played hide and seek"), ("catch", "played catch"), ("a ball game", "played with a ball"), ("jumping over puddles", "jumped over puddles"),
                ("telling riddles", "told each other riddles"), ("building a tower of stones", "built a tower of stones"), ("flying a kite", "flew a kite"), ("making music", "made music")])
    s = new_story(g, a, b, game=game[0], played=game[1], where="the forest" if a.animal else g.c(["the village", "the school", "the town", "the street"]),
                  frm=g.c(["from far away", "from across the sea", "from the mountains", "from another land", "from the north"]))
    opening(s)
    s.say("[{a} was new in {where}.|{a} had just come to {where} {frm}.|{a.he} had come {frm}, and everything was new.]")
    s.fact("Where did {a} come from?" if frm_in(s) else "Who was new?", "{a} came {frm}." if frm_in(s) else "{a} was new.")
    s.say("[{a.he} did not know anybody.|{a.he} had no friends yet.|Nobody knew {a.him}, and {a.he} knew nobody.]")
    s.para()
    s.say(one_day(s) + "[the others were playing {game}|all the others {played}].".replace("were playing {game}", "{played}"))
    setting(s, fair=True)
    s.say("[{a} stood alone and watched.|{a} watched from behind a tree.|{a} sat on a stone and looked on.|{a} wanted to play too, but {a.he} was too shy to ask.]")
    s.fact("What did the others do?", "The others {played}.")
    s.say("[{a.he} felt very lonely.|\"Nobody wants to play with me,\" {a.he} thought.|{a.he} missed {a.his} old home.]")
    s.say("[Then {b} saw {a.him}.|After a while, {b} noticed {a.him}.|Then {b} came over to {a.him}.]")
    s.say("[\"Hello,\" said {b}. \"What is your name?\"|\"Hello! I am {b}. Who are you?\"|\"Are you new here?\" asked {b}.]")
    s.say("[\"My name is {a},\" {a.he} said [shyly|quietly|softly].|\"I am {a},\" said {a}.]")
    s.say("[\"Why do you sit here all alone?\" asked {b}. \"Come and play with us!\"|\"Do you want to play with us?\" asked {b}.|\"Come with me,\" said {b}. \"We need one more.\"]")
    s.fact("Who asked {a} to play?", "{b} asked {a} to play.")
    s.say("[{a}'s face lit up.|\"May I really?\" asked {a}. \"Of course,\" said {b}.|\"I would love to!\" said {a}.|\"I do not know how,\" said {a}. \"I will show you,\" said {b}.]")
    s.para()
    s.say("[Soon they all {played} together.|They {played} until the sun went down.|All afternoon, they {played}.]")
    s.say("[{a} was very good at it.|{a} laughed more than {a.he} had laughed in weeks.|{a} fell down once, but {b} helped {a.him} up.|{a} taught them a new game from {a.his} old home.]")
    s.say("[In the evening, {b} said, \"Will you come again tomorrow?\" \"Yes!\" said {a}.|\"See you tomorrow!\" called {b}.|\"You must come back tomorrow,\" said {b}, and {a} nodded.]")
    s.say("[{a} ran home. \"I have a friend!\" {a.he} told {parent}.|At home, {a} told {parent} all about {b}.|{a} walked home with a light heart.]")
    s.say("{a} was " + felt_end(s) + ".")
    s.maybe(0.5, "[A few weeks later, somebody else was new. {a} went over and said, \"Come and play with us!\"|The next time somebody new came, {a} was the first to say hello.]")
    ending(s)
    moral(s, "one kind word can make a friend", "a friend may be waiting just around the corner", "nobody should have to sit alone")
    the_end(s)
    return s


def frm_in(s):
    return s.slots["frm"] in s.paragraphs[-1][-1]


WISHES = [("gold", "everything {a.he} touched turned cold and hard", "food"), ("a house as big as a castle", "the house was empty and cold, and every word came back as an echo", "friends"),
          ("a mountain of cake", "{a.he} ate so much that {a.his} stomach hurt", "rest"), ("summer all year", "the streams ran dry, and the flowers hung their heads", "rain"),
          ("no more school", "{a.he} sat alone and did not know what to do", "friends"), ("wings", "{a.he} flew so high that {a.he} could not find the way home", "home"),
          ("to be a giant", "{a.he} was too big for {a.his} bed, and everyone ran away", "friends")]


def plot_wish(g):
    a = make_person(g)
    wish, result, _ = g.c(WISHES if not a.animal else [w for w in WISHES if "school" not in w[0]])
    giver, the_giver, gf = g.c([("a golden fish", "the fish", 0), ("a tiny fairy", "the fairy", 1), ("an old woman in a grey coat", "the old woman", 1), ("a talking bird", "the bird", 0), ("a small man with a long beard", "the small man", 0)])
    trouble = g.c(["was caught in a net", "had fallen into a well", "was stuck under a heavy stone", "had lost the way"])
    s = new_story(g, a, wish=wish, result=result.format(a=a), giver=giver, thegiver=Who(the_giver, "x", gf), trouble=trouble, place=g.c(W.OUT_PLACES), n=W.ONES[3])
    opening(s)
    s.para()
    s.say(one_day(s) + "{a} met {giver} {place}.")
    setting(s, fair=True)
    s.fact("Who did {a} meet?", "{a} met {giver}.")
    s.say("[{thegiver} {trouble}.|{thegiver} {trouble} and called for help.]")
    s.say("[\"Please help me!\" said {thegiver}. \"I will give you two wishes.\"|\"Help me, and I will thank you,\" said {thegiver}.|\"I need your help,\" said {thegiver}.]")
    s.say("[{a} helped at once.|{a} had a good heart, and {a.he} helped.|It was hard work, but {a} helped.]")
    s.say("[\"You may make two wishes,\" said {thegiver}. \"But be careful what you wish for.\"|\"Thank you,\" said {thegiver}. \"Now you have two wishes. Think well!\"|\"For that, you get two wishes,\" said {thegiver}.]")
    s.para()
    s.say("[{a} did not think for long. \"I wish for {wish}!\" {a.he} said.|\"I wish for {wish},\" said {a} at once.|{a} thought of {wish}. \"That is my wish,\" {a.he} said.]".replace("for {wish}", "{wish}" if wish.startswith("to ") else "for {wish}").replace("thought of {wish}. \"That is my wish,\" {a.he} said", "closed {a.his} eyes and wished for {wish}" if not wish.startswith("to ") else "closed {a.his} eyes and wished {wish}"))
    s.fact("What was the first wish?", "The first wish was {wish}.")
    s.say("[There was a flash of light, and the wish came true.|The air began to shine, and the wish came true.|In the blink of an eye, the wish came true.]")
    s.say("[At first, {a} was full of joy.|For one hour, {a} was very happy.|\"How wonderful!\" cried {a}.]")
    s.say("[But soon, {result}.|But then {result}.|But the next day, {result}.]")
    s.fact("What happened after the first wish?", "After the first wish, {result}.")
    s.say("[\"This is not what I wanted,\" said {a}.|\"What have I done?\" cried {a}.|{a} sat down and wept.|\"I was so foolish,\" said {a}.]")
    s.para()
    s.say("[{a} ran back to {thegiver}.|{a} went to look for {thegiver}.|{a.he} called for {thegiver}.]")
    s.say("[\"I have one wish left,\" {a.he} said. \"I wish that everything was as it was before.\"|\"Please make it all as it was,\" {a.he} said. \"That is my second wish.\"]")
    s.fact("What was the second wish?", "The second wish was that everything was as it was before.")
    s.say("[{thegiver} nodded. \"Now you are wise,\" {thegiver.he} said.|{thegiver} smiled. \"That is a good wish,\" {thegiver.he} said.|\"A wise wish,\" said {thegiver}, and was gone.]")
    s.say("[When {a} came home, everything was as before.|{a} opened {a.his} eyes, and everything was as it had been.]")
    s.say("[{a} hugged {a.mother} and sat down at the table.|There was warm soup on the table, and {a.his} family was waiting.|The fire was warm, and the soup smelled good.]")
    s.say("{a} had never felt so " + felt_end(s, g.c(["happy", "glad", "thankful"])) + ".")
    ending(s)
    moral(s, "we should be careful what we wish for", "the best things are often the things we have", "home is better than gold")
    the_end(s)
    return s


def plot_birthday(g):
    a = make_person(g)
    b = make_like(g, a)
    age = g.number(4, 10)
    gift = Thing(g.c(["ball", "kite", "book", "drum", "hat", "scarf", "boat", "bell", "basket", "blanket"]), g.c(W.COLOURS))
    s = new_story(g, a, b, age=W.ONES[age], o=gift, place=g.c(["behind the house", "in the garden", "in the barn", "under the big tree", "in the kitchen", "by the pond"]),
                  day=g.c(W.DAYS))
    opening(s)
    s.para()
    s.say("[It was {a}'s birthday. {a.he} was {age} years old.|On {day}, {a} turned {age}.|{a} woke up early, because it was {a.his} birthday. {a.he} was now {age} years old.]")
    s.fact("How old was {a}?", "{a} was {age} years old.")
    setting(s)
    s.say("[But nobody said a word about it.|But everybody seemed to be busy.|{a} waited, but nobody came.|But it seemed that everyone had forgotten.]")
    s.say("[{a} asked {b}, \"Do you know what day it is?\" \"It is {day}, of course,\" said {b}.|{a} met {b} on the path, but {b} only said, \"I am in a hurry,\" and ran on."
          "|\"Will you play with me?\" {a} asked {b}. \"I have no time today,\" said {b}.]")
    s.say("[{a} felt sad and lonely.|{a} walked home slowly.|\"They have all forgotten me,\" thought {a}.|{a} sat down and looked at the clouds.]")
    s.para()
    s.say("[In the evening, {a} heard whispers {place}.|Then {a} saw a light {place}.|At last, {parent} said, \"Come with me.\" They went to look {place}.]".replace("They went to look {place}.", "There was a strange light {place}."))
    s.say("[{a.he} went to look.|Slowly, {a.he} came nearer.|{a} wondered what it was.]")
    s.say("[\"Surprise!\" everyone shouted.|Suddenly, everybody jumped out. \"Happy birthday, {a}!\" they cried.|\"Happy birthday!\" called {b} and all the others.]")
    s.fact("Where was the surprise?", "The surprise was {place}.")
    s.say("[There were [lanterns|flowers|candles] everywhere, and there was a big cake.|A big cake with {age} candles stood on the table.|They had made a cake with {age} candles.]")
    s.say("[\"We did not forget you,\" said {b}. \"We wanted to surprise you.\"|\"That is why I was in such a hurry,\" said {b}.|\"It was hard to keep the secret,\" said {b}.]")
    s.say("[{b} gave {a} {o.a}.|There was a gift too. It was {o.a}.|From {b}, {a} got {o.a}.]")
    s.fact("What did {a} get?", "{a} got {o.a}.")
    s.say("[\"It is just what I wanted!\" said {a}.|\"It is beautiful,\" said {a}. \"Thank you!\"|{a} did not know what to say.]")
    s.say("[They sang and danced until the stars came out.|They ate cake and played games.|Everybody sang for {a}.]")
    s.say("{a} was " + felt_end(s) + ".")
    ending(s)
    moral(s, "true friends do not forget", "friends are the best gift", "a surprise is worth the wait")
    the_end(s)
    return s


SKILLS = [("swim", "went under and swallowed water", "swam across the pond"), ("ride a bicycle", "fell into the grass", "rode all the way to the mill"), ("whistle", "made no sound at all", "whistled a whole song"),
          ("skate", "fell on the ice", "danced over the ice"), ("play the flute", "made a terrible noise", "played a sweet song"), ("bake bread", "burned the bread", "baked a fine brown loaf"),
          ("climb the big tree", "slipped and slid back down", "sat at the very top"), ("catch fish", "caught only an old boot", "caught three fine fish"), ("read", "mixed up all the letters", "read a whole page without a mistake"),
          ("paint", "spilled the paint", "painted a picture of the sea")]
ANIMAL_SKILLS = [("swim", "went under and swallowed water", "swam across the pond"), ("whistle", "made no sound at all", "whistled a whole song"), ("climb the big tree", "slipped and slid back down", "sat at the very top"),
                 ("sing", "made a terrible noise", "sang a sweet song"), ("jump over the stream", "fell into the water", "landed on the other side"), ("catch fish", "caught only an old boot", "caught three fine fish"),
                 ("dig a tunnel", "got earth in both eyes", "dug a tunnel under the hill")]


def plot_practice(g):
    a = make_person(g)
    b = make_like(g, a)
    skill, fail, success = g.c(ANIMAL_SKILLS if a.animal else SKILLS)
    d = g.number(0, 6)
    days = [W.DAYS[(d + i) % 7] for i in range(4)]
    s = new_story(g, a, b, skill=skill, fail=fail, success=success, d1=days[0], d2=days[1], d3=days[2], d4=days[3])
    opening(s)
    s.say("[{a} wanted to learn to {skill}.|More than anything, {a} wanted to {skill}.|All the others could {skill}, but {a} could not.]")
    s.fact("What did {a} want to learn?", "{a} wanted to learn to {skill}.")
    s.para()
    s.say("[On {d1}, {a} tried for the first time.|{a} began on {d1}.|On {d1}, {a} said, \"Today I will learn to {skill}.\"]")
    setting(s, fair=True)
    s.say("[But {a.he} {fail}.|{a.he} tried hard, but {a.he} {fail}.|It did not go well. {a.he} {fail}.]")
    s.fact("What happened when {a} tried the first time?", "{a} {fail}.")
    s.say("[\"I will never learn it,\" said {a}.|Some of the others laughed.|{a} was angry and stamped on the ground.|\"It is too hard,\" {a} said.]")
    s.say("[\"Try again tomorrow,\" said {a.his} friend {b}.|\"I needed many days to learn it,\" said {a.his} friend {b}. \"Do not stop now.\"|{b} did not laugh. \"I can show you how,\" {b.he} said.]")
    s.fact("Who told {a} to go on?", "{b} told {a} to go on.")
    s.para()
    s.say("[On {d2}, it was a little better.|On {d2}, {a} tried again, and it went a little better.|{d2} came, and {a} tried again.]")
    s.say("[On {d3}, it was better still.|On {d3}, {a} made only one mistake.|On {d3}, {b} watched and gave {a.him} good advice.]")
    s.maybe(0.5, "[\"Slowly, slowly,\" said {b}. \"You are almost there.\"|\"Take a deep breath first,\" said {b}.|{a} was tired, but {a.he} went on.|Every evening, {a} was tired, but every morning {a.he} began again.]")
    s.say("[Then, on {d4}, it happened.|On {d4}, everything was different.|And on {d4}, {a} closed {a.his} eyes, opened them again and began.]")
    s.say("[{a} {success}!|{a.he} {success}, and everyone clapped.|To {a.his} own surprise, {a} {success}.]")
    s.fact("On which day did {a} succeed?", "{a} succeeded on {d4}.")
    s.para()
    s.say("[\"I can do it!\" {a} shouted. \"I can {skill}!\"|\"You did it!\" cried {b}.|\"I knew that you could do it,\" said {b}.|\"Did you see that?\" {a} asked. \"I saw it,\" said {b}.]")
    s.say("{a} was " + felt_end(s, g.c(["proud", "happy", "glad"])) + ".")
    s.maybe(0.5, "[The next week, {a} taught somebody else to {skill}.|Now {a} helps the little ones who want to {skill}.]")
    ending(s)
    moral(s, "practice makes perfect", "nobody learns everything in one day", "if you try again and again, you will learn it", "you should never give up too soon")
    the_end(s)
    return s


def plot_way_home(g):
    while True:
        a = make_person(g)
        if a.animal:
            break
    wise, the_wise, wf = g.c(W.WISE)
    while a.kind in the_wise:
        wise, the_wise, wf = g.c(W.WISE)
    lure = g.c([("a blue butterfly", "followed it"), ("a trail of berries", "ate one after another"), ("a shining beetle", "ran after it"), ("a feather in the wind", "ran after it"), ("a sweet smell", "followed it")])
    clue, route = g.c([("the stream", "Follow the stream. Water always finds the valley."), ("the evening star", "Walk toward the evening star. It stands over your home."),
                       ("the sound of the bell", "Listen for the bell. Walk toward the sound."), ("the white stones", "Follow the white stones. They lead out of the woods."),
                       ("the smell of smoke", "Follow the smell of smoke. Where there is smoke, there is a fire and a home.")])
    s = new_story(g, a, lure=lure[0], lured=lure[1], wise=wise, thewise=Who(the_wise, "x", wf), clue=clue, route=route)
    opening(s)
    s.say("[\"Do not go too far,\" said {a.mother} every morning.|{a.mother} always said, \"Stay close to home.\"|{a} was not allowed to go far from home.]")
    s.para()
    s.say(one_day(s) + "{a} noticed {lure}.")
    setting(s, fair=True)
    s.say("[{a} {lured} and forgot everything else.|{a.he} {lured}, deeper and deeper into the woods.|{a} {lured}, over the hill and into the trees.]")
    s.fact("What did {a} notice?", "{a} noticed {lure}.")
    s.say("[When {a.he} looked up, nothing looked the same.|When {a.he} stopped at last, {a.he} was far from home.|Then {a.he} stopped. All the trees looked the same.]")
    s.say("[\"Where am I?\" asked {a}.|\"I am lost,\" said {a}, and {a.he} began to cry.|{a} turned around, but there was no path.]")
    s.say("[It was getting dark.|The sun was going down, and the shadows grew long.|The wind was cold, and {a} was afraid.]")
    s.para()
    s.say("[Then {a.he} met {wise}.|{wise} heard {a.him} crying.|On a branch sat {wise}.]".replace("On a branch sat {wise}", "Not far away, there was {wise}"))
    s.say("[\"Why are you crying, little one?\" asked {thewise}.|\"What are you doing here so late?\" asked {thewise}.|\"Are you lost?\" asked {thewise}.]")
    s.say("[\"I cannot find my way home,\" said {a}.|\"I want to go home to my mother,\" said {a}, \"but I do not know the way.\"|\"Yes, I am lost,\" said {a}.]")
    s.say("[\"That is easy,\" said {thewise}. \"{route}\"|{thewise} thought for a moment. \"{route}\"|\"Listen to me,\" said {thewise}. \"{route}\"]")
    s.fact("Who helped {a}?", "[{wise} helped {a}.]".replace("[", "").replace("]", ""))
    s.say("[\"Thank you!\" said {a}.|{a} dried {a.his} tears. \"I will try,\" {a.he} said.|{a} thanked {thewise} and set off.]")
    s.say("[{a} walked and walked and did not lose sight of it.|{a} did what {thewise} had said.|{a.he} was very tired, but {a.he} did not stop.]".replace("did not lose sight of it", "thought of {clue}"))
    s.say("[Because of {clue}, {a.he} found the way.|And {clue} led {a.him} all the way home.|With the help of {clue}, {a} came out of the woods.]")
    s.fact("How did {a} find the way home?", "{a} found the way home with the help of {clue}.")
    s.para()
    s.say("[There stood {a.mother}.|{a.mother} was waiting.|Far away, {a} saw a light. It was home.]")
    s.say("[\"There you are!\" {a.mother} cried. \"I was so worried.\"|\"I am sorry,\" said {a}. \"I will not go so far again.\"|{a.mother} held {a} in her arms for a long time.]")
    s.say("{a} was " + felt_end(s, g.c(["glad", "happy", "thankful"])) + " to be home.")
    ending(s)
    moral(s, "it is wise to remember the way back", "it is good to ask when you are lost", "home is the best place of all", "we should listen to our mothers")
    the_end(s)
    return s


def plot_rain(g):
    a = make_person(g)
    b = make_like(g, a)
    plan = g.c(["have a picnic", "fly a kite", "go to the sea", "swim in the lake", "pick berries", "play in the field", "climb the hill"])
    ideas = g.c([("a tent out of blankets", "sat inside and told stories", "tent"), ("a ship out of chairs", "sailed to far lands", "ship"), ("a castle out of boxes", "played king and queen", "castle"),
                 ("a theatre out of a box", "played a funny story", "theatre"), ("a big drum out of pots", "played loud music", "drum")])
    s = new_story(g, a, b, plan=plan, idea=ideas[0], did=ideas[1], thing=ideas[2], day=g.c(W.DAYS))
    opening(s)
    s.para()
    s.say("[{a} and {b} wanted to {plan} on {day}.|On {day}, {a} and {b} wanted to {plan}.|\"On {day}, we will {plan},\" {a} said to {b}.]")
    s.fact("What did they want to do?", "They wanted to {plan}.")
    s.say("[But when {day} came, it was raining.|But in the morning, grey clouds came, and it began to rain.|But it rained and rained.]")
    s.fact("Why could they not {plan}?", "They could not {plan} because it was raining.")
    s.say("[{a} looked out of the window and sighed.|\"Now the whole day is lost,\" said {a}.|\"What bad luck!\" said {a}.|{a} was so sad that {a.he} did not want to talk.]")
    s.say("[{b} came running through the rain, wet from head to toe.|{b} knocked at the door with wet shoes.|Then there was a knock. It was {b}, and {b.he} was dripping wet.]".replace("with wet shoes", "and shook off the rain"))
    s.say("[\"We cannot {plan},\" said {a}. \"So we will do something else,\" said {b}.|\"It is only water,\" said {b}. \"We can have fun inside.\"|\"I have an idea,\" said {b}.]")
    s.para()
    s.say("[They built {idea}.|Together they made {idea}.|{b} began to build, and soon they had {idea}.]")
    s.say("[Then they {did}.|All day long, they {did}.|They {did}, and they forgot the rain.]")
    s.fact("What did they make?", "They made {idea}.")
    s.maybe(0.6, "[{parent} brought them hot milk and bread.|Even {parent} joined in.|\"What a fine {thing}!\" said {parent}.]")
    s.maybe(0.6, "[\"I hope that the rain never stops,\" said {a}, and {b} laughed.|The rain drummed on the roof, but they did not care.|The time went by like the wind.]")
    s.para()
    s.say("[In the evening, the rain stopped.|Then the sun came out.|At last, the clouds went away.]")
    s.say("[There was a rainbow over the hills.|A big rainbow stood in the sky.|\"Look, a rainbow!\" cried {a}.]")
    s.say("[{a} and {b} ran out and jumped into every puddle.|They stood at the window and counted the colours.|They went outside, and everything smelled fresh.]")
    s.say("[\"This was the best {day} of all,\" said {a}.|\"I am glad that it rained,\" said {a}.|\"We can {plan} another day,\" said {a}.]")
    s.say("{a} was " + felt_end(s) + ".")
    ending(s)
    moral(s, "even a rainy day can be a good day", "fun does not depend on the weather", "a good friend is better than good weather")
    the_end(s)
    return s


def plot_borrow(g):
    a = make_person(g)
    b = make_like(g, a)
    o = Thing(g.c(["kite", "boat", "drum", "basket", "hat", "lantern", "book", "toy train", "toy horse"]), g.c(["new", "old", "fine", "red", "blue", "green", "yellow"]))
    how = {"kite": "the wind pulled it into a tree, and it tore", "boat": "it hit a stone, and the sail broke", "drum": "{a.he} hit it too hard, and it broke", "basket": "{a.he} put too many stones in it, and it broke",
           "hat": "it fell into the mud", "lantern": "it slipped out of {a.his} hands, and the glass broke", "book": "it fell into a puddle, and the pages got wet", "toy train": "a wheel came off", "toy horse": "a leg came off"}[o.noun].format(a=a)
    fix = {"kite": "glued new paper on it", "boat": "sewed a new sail", "drum": "put a new skin on it", "basket": "made a new handle", "hat": "washed it and dried it in the sun", "lantern": "put in new glass",
           "book": "dried every page by the fire", "toy train": "put the wheel back on", "toy horse": "made a new leg out of wood"}[o.noun]
    s = new_story(g, a, b, o=o, how=how, fix=fix)
    opening(s)
    s.say("[{a.his} friend {b} had {o.a}.|{b}, {a.his} friend, owned {o.a}.|{a} had a friend named {b}, and {b} had {o.a}.]")
    s.para()
    s.say(one_day(s) + "[{a} asked, \"{b}, may I borrow your {o.noun}?\"|{a} said to {b}, \"Please lend me your {o.noun}.\"|{a} wanted to borrow the {o.noun}.]")
    setting(s, fair=True)
    s.fact("What did {a} borrow?", "{a} borrowed {o.the}.")
    s.say("[\"Yes,\" said {b}, \"but please be careful with it.\"|\"Of course,\" said {b}. \"Bring it back tomorrow.\"|\"You may,\" said {b}. \"But take good care of it.\"]")
    s.say("[\"I promise,\" said {a}.|{a} promised to be careful.|{a} thanked {b.him} and ran off with the {o.noun}.]")
    s.say("[But {a.he} forgot the promise, and {how}.|{a} played with it all day. Then {how}.|At first everything went well, but then {how}.]".replace("played with it all day", "had it for only an hour"))
    s.fact("What happened to the {o.noun}?", s.g.t("{how}.", **s.slots))
    s.say("[{a} was shocked.|{a} did not know what to do.|\"What will {b} say?\" {a} thought.|{a} wanted to hide.]")
    s.para()
    s.say("[{a} went to {b} with tears in {a.his} eyes.|{a} took a deep breath and went to {b}.|It was hard, but {a} went to {b} at once.]")
    s.say("[\"I am so sorry,\" {a.he} said. \"I was not careful enough.\"|\"Something bad has happened to your {o.noun},\" {a.he} said. \"It is my fault.\"|\"Please do not be angry,\" said {a}, and {a.he} told {b.him} everything.]")
    s.say("[{b} was sad for a moment.|{b} looked at the {o.noun} and sighed.|{b} was quiet for a while.]")
    s.say("[\"Thank you for telling me,\" said {b}. \"Let us mend it together.\"|\"Everyone makes mistakes,\" said {b}. \"Perhaps we can mend it.\"|\"I am not angry,\" said {b}. \"Come, let us see what we can do.\"]")
    s.say("[They sat down and {fix}.|{a} worked all evening. {a.he} {fix}.|Together they {fix}.]")
    s.fact("How did they mend the {o.noun}?", "They {fix}.")
    s.say("[In the end, it looked almost like new.|When they were done, it was even better than before.|Soon nobody could see that it had been broken.]")
    s.say("{a} was " + felt_end(s, g.c(["glad", "happy", "thankful"])) + ".")
    ending(s)
    moral(s, "we should keep our promises", "borrowed things need good care", "a true friend forgives", "it is best to tell the truth")
    the_end(s)
    return s


def plot_teamwork(g):
    animals = g.chance(0.6)
    while True:
        a = make_person(g)
        if a.animal == animals:
            break
    b = make_like(g, a)
    while True:
        c = make_like(g, a)
        if c.name != b.name and c.kind != (b.kind if b.animal else 0):
            break
    big = g.c([("a huge turnip", "pull it out of the ground", "pulled", "they cooked soup for everyone"), ("a fallen tree that lay across the path", "move it", "pushed", "the path was free again"),
               ("a cart that was stuck in the mud", "get it out", "pushed", "the farmer gave them a ride"), ("a big stone in the field", "roll it away", "pushed", "there was room for a garden"),
               ("a boat that lay on the sand", "get it into the water", "pushed", "they sailed around the lake")])
    s = new_story(g, a, b, c=c, big=big[0], task=big[1], pulled=big[2], then=big[3])
    opening(s)
    s.para()
    s.say(one_day(s) + "{a} found {big}.")
    setting(s)
    s.fact("What did {a} find?", "{a} found {big}.")
    s.say("[{a} wanted to {task}.|\"I will {task},\" said {a}.|\"Somebody has to {task},\" said {a}.]")
    s.say("[{a.he} {pulled} and {pulled}, but nothing moved.|{a.he} {pulled} with all {a.his} strength, but it did not help.]")
    s.say("[Then {b} came along. \"Let me help you,\" {b.he} said.|\"{b}, come and help me!\" {a} called.|{b} saw it and came to help.]")
    s.say("[{a} and {b} {pulled} together, but still nothing moved.|The two of them {pulled} and {pulled}. It moved a little, but not enough.]")
    s.say("[\"We are not strong enough,\" said {b}.|\"It is too heavy,\" said {a}.|\"We need one more,\" said {a}.]")
    s.para()
    s.say("[Then little {c} came. \"May I help too?\" {c.he} asked.|\"I can help,\" said a small voice. It was {c}.|{c} had watched them. \"Let me try too,\" {c.he} said.]")
    s.say("[\"You are too small,\" said {b}. \"Let {c.him} try,\" said {a}.|\"You are so small,\" said {a}. \"But come, we can use everybody.\"|They smiled, because {c} was so small. But they said yes.]")
    s.say("[\"One, two, three!\" they called, and all three {pulled}.|All three of them {pulled} at the same time.|{a}, {b} and {c} {pulled} together.]")
    s.say("[And it moved!|It moved, first slowly, and then all at once!|With a loud noise, it came free!]".replace("came free", "moved"))
    s.fact("How many helped in the end?", "In the end, all three helped.")
    s.fact("Who was the last to help?", "{c} was the last to help.")
    s.say("[\"We did it!\" they all shouted.|They fell over and laughed.|They jumped for joy.]")
    s.say("[After that, {then}.|And then {then}.]")
    s.say("[\"Without {c}, we could not have done it,\" said {a}.|\"Thank you, {c},\" said {a}. \"You are small, but you made the difference.\"|{c} was very proud.]")
    s.say("{a} was " + felt_end(s) + ".")
    ending(s)
    moral(s, "together we are strong", "even the smallest can help", "many hands make light work")
    the_end(s)
    return s


PLOTS = [plot_lost, plot_hurt_animal, plot_share, plot_make, plot_journey, plot_fear, plot_seed, plot_race, plot_truth, plot_market, plot_noise,
         plot_new_friend, plot_wish, plot_birthday, plot_practice, plot_way_home, plot_rain, plot_borrow, plot_teamwork]


def make_story(g):
    s = g.c(PLOTS)(g)
    joiner = "\n" if g.chance(0.6) else " "
    return s, s.text(joiner)


if __name__ == "__main__":
    import sys
    g = Grammar(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for plot in PLOTS:
        s = plot(g)
        print(plot.__name__, "\n" + s.text("\n"))
        for f in s.facts:
            print("  Q", f[0], "| A", f[1])
        print()
