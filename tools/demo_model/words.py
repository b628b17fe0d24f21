"""Word lists of the demo corpus, written for this project."""

GIRLS = """Lily Anna Mia Emma Rose Clara Nora Ella Lucy Ruby Alice Molly Grace Ivy Hazel Maya Zoe Sara Jane Kate
Amy Daisy Eva Nina Tess Ada Holly Iris June Pearl""".split()
BOYS = """Tom Ben Sam Max Jack Leo Finn Oscar Hugo Adam Peter Paul Mark Noah Luke Will Henry Toby Fred George
Oliver Dan Theo Felix Simon Jim Owen Eli Charlie Ned""".split()
PET_F = "Fern Clover Poppy Willow Misty Honey Dot Maple Berry Coco Luna Pebble".split()
PET_M = "Pip Bramble Button Rusty Nibbles Barley Bruno Patch Hopper Smoky Acorn Chip".split()
FABLE_ANIMALS = """fox rabbit bear mouse squirrel hedgehog badger owl duck frog cat dog mole otter goat hen beaver
pony lamb kitten puppy sparrow turtle""".split()

CHILD_ADJ = ["little", "kind", "clever", "curious", "cheerful", "brave", "shy", "quiet", "young", "friendly",
             "gentle", "lively", "happy", "small", "careful", "playful"]
ANIMAL_ADJ = ["little", "kind", "clever", "curious", "cheerful", "brave", "shy", "small", "young", "friendly",
              "brown", "grey", "white", "hungry", "sleepy", "playful"]
COLOURS = ["red", "blue", "green", "yellow", "white", "brown", "black", "pink", "purple", "orange", "grey", "golden",
           "silver"]

# where children live; where animals live
HOMES = ["in a small village", "in a little house by the sea", "in a cottage near the forest", "on a farm",
         "in a quiet town", "at the top of a green hill", "in a house beside a river", "in a village by the lake",
         "in a tall house in the city", "at the end of a long lane", "in a valley between two mountains",
         "in a white house with a red door", "on a small island", "near an old mill", "in a town with a big clock"]
DENS = ["in a big forest", "in a hollow tree", "at the edge of the woods", "under an old oak tree",
        "beside a quiet pond", "in a green meadow", "on a warm farm", "near a little stream", "at the foot of a hill",
        "behind a stone wall", "in a hole under the roots of a tree", "by a wide river"]

TOYS = ["ball", "kite", "doll", "hat", "scarf", "key", "book", "drum", "bell", "whistle", "lantern", "boat",
        "basket", "blanket", "spoon", "button", "ribbon", "cup", "bag", "shell", "toy train", "toy horse"]
SMALL_TOYS = ["ball", "doll", "hat", "scarf", "key", "book", "bell", "whistle", "spoon", "button", "ribbon", "cup",
              "shell"]
OUT_PLACES = ["in the garden", "by the pond", "under the apple tree", "behind the barn", "near the gate",
              "beside the well", "on the old bridge", "in the long grass", "under a bush", "by the river",
              "next to the fence", "on the path", "in the field", "at the foot of the hill"]
IN_PLACES = ["under the bed", "behind the door", "in the kitchen", "on the shelf", "in a drawer", "under the table",
             "in the cupboard", "behind the chair", "on the stairs", "in the basket", "under the blanket",
             "beside the fire", "in the wooden box", "near the window"]
ADULTS = [("the baker", 0), ("the farmer", 0), ("the old miller", 0), ("the teacher", 1), ("the gardener", 0),
          ("the postman", 0), ("the old fisherman", 0), ("the shopkeeper", 1), ("the nurse", 1),
          ("the shepherd", 0), ("the tailor", 0), ("the blacksmith", 0), ("the old woman next door", 1),
          ("the doctor", 1), ("the queen", 1), ("the king", 0)]
WISE = [("a wise old owl", "the owl", 1), ("an old turtle", "the turtle", 0), ("a friendly robin", "the robin", 0),
        ("a tall heron", "the heron", 0), ("an old badger", "the badger", 0), ("a grey goose", "the goose", 1),
        ("a small green frog", "the frog", 0), ("a busy bee", "the bee", 1), ("a kind old horse", "the horse", 0)]
SHARED_FOOD = ["cake", "apple", "pear", "loaf of bread", "apple pie", "bun", "melon", "piece of cheese", "plum tart"]
FEEL_GOOD = ["happy", "glad", "proud", "cheerful", "delighted", "very happy", "so happy", "full of joy"]
FEEL_BAD = ["sad", "worried", "upset", "unhappy", "very sad", "so worried"]

# animal: (sound verb, young, home, number of legs, food, group)
ANIMALS = {
    "dog": ("barks", "puppy", "a kennel", 4, "meat", "mammal"),
    "cat": ("meows", "kitten", "a house", 4, "fish", "mammal"),
    "cow": ("moos", "calf", "a barn", 4, "grass", "mammal"),
    "horse": ("neighs", "foal", "a stable", 4, "hay", "mammal"),
    "sheep": ("bleats", "lamb", "a field", 4, "grass", "mammal"),
    "duck": ("quacks", "duckling", "a pond", 2, "water plants", "bird"),
    "hen": ("clucks", "chick", "a henhouse", 2, "seeds", "bird"),
    "pig": ("oinks", "piglet", "a sty", 4, "roots", "mammal"),
    "lion": ("roars", "cub", "the grassland", 4, "meat", "mammal"),
    "bear": ("growls", "cub", "a den", 4, "honey", "mammal"),
    "frog": ("croaks", "tadpole", "a pond", 4, "flies", "amphibian"),
    "owl": ("hoots", "owlet", "a hollow tree", 2, "mice", "bird"),
    "bee": ("buzzes", "grub", "a hive", 6, "nectar", "insect"),
    "mouse": ("squeaks", "pup", "a hole", 4, "cheese", "mammal"),
    "wolf": ("howls", "pup", "a den", 4, "meat", "mammal"),
    "goose": ("honks", "gosling", "a field", 2, "grass", "bird"),
    "snake": ("hisses", "hatchling", "a hole", 0, "mice", "reptile"),
    "goat": ("bleats", "kid", "the mountains", 4, "leaves", "mammal"),
    "fox": ("barks", "cub", "a den", 4, "mice", "mammal"),
    "rabbit": ("squeaks", "kitten", "a burrow", 4, "carrots", "mammal"),
    "squirrel": ("chatters", "kit", "a tree", 4, "nuts", "mammal"),
    "spider": (None, "spiderling", "a web", 8, "flies", None),
    "ant": (None, "grub", "an anthill", 6, "crumbs", "insect"),
    "fish": (None, "fry", "the water", 0, "worms", None),
    "elephant": ("trumpets", "calf", "the grassland", 4, "leaves", "mammal"),
    "monkey": ("chatters", "infant", "the jungle", 4, "fruit", "mammal"),
    "camel": ("grunts", "calf", "the desert", 4, "grass", "mammal"),
    "penguin": ("honks", "chick", "the cold south", 2, "fish", "bird"),
    "whale": ("sings", "calf", "the sea", 0, "tiny sea animals", "mammal"),
    "tiger": ("roars", "cub", "the jungle", 4, "meat", "mammal"),
    "butterfly": (None, "caterpillar", "a meadow", 6, "nectar", "insect"),
    "robin": ("sings", "chick", "a nest", 2, "worms", "bird"),
}
# smallest to biggest; comparisons are asked only across a clear gap
BY_SIZE = [["ant", "bee", "spider"], ["mouse", "frog", "robin"], ["squirrel", "rabbit", "hen", "duck"],
           ["dog", "fox", "goose", "goat"], ["sheep", "pig", "wolf"], ["cow", "horse", "lion", "bear", "camel"],
           ["elephant"], ["whale"]]

OPPOSITES = """hot cold;big small;happy sad;up down;day night;open closed;fast slow;hard soft;wet dry;bright dark;
full empty;old young;high low;left right;good bad;loud quiet;near far;clean dirty;rich poor;strong weak;
long short;thick thin;early late;easy difficult;inside outside;first last;push pull;black white;brave afraid;
sweet sour;heavy light;asleep awake;wide narrow;true false;give take;begin end;win lose;love hate;above below;
before after;rough smooth;deep shallow;always never;more less;same different;in out;yes no;hello goodbye;
summer winter;north south;east west;laugh cry;remember forget;buy sell;build destroy;arrive leave"""
OPPOSITES = [tuple(p.split()) for p in OPPOSITES.replace("\n", "").split(";")]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SEASONS = "spring summer autumn winter".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()

ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_word(n):
    if n <= 20:
        return ONES[n]
    if n == 100:
        return "one hundred"
    return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")


THING_COLOURS = [("the sky", "blue", 0), ("grass", "green", 0), ("snow", "white", 0), ("the sun", "yellow", 0),
                 ("blood", "red", 0), ("coal", "black", 0), ("milk", "white", 0), ("a banana", "yellow", 0),
                 ("a lemon", "yellow", 0), ("a carrot", "orange", 0), ("a frog", "green", 0), ("a leaf", "green", 0),
                 ("a tomato", "red", 0), ("a strawberry", "red", 0), ("an elephant", "grey", 0),
                 ("a pea", "green", 0), ("chocolate", "brown", 0), ("a plum", "purple", 0), ("a pumpkin", "orange", 0),
                 ("a swan", "white", 0), ("a crow", "black", 0), ("the night sky", "black", 0), ("cheese", "yellow", 0),
                 ("a cherry", "red", 0), ("rain cloud", "grey", 1), ("honey", "golden", 0)]
THING_COLOURS = [(a, b) for a, b, skip in THING_COLOURS if not skip]

# who does what: (a worker, what the worker does, where)
WORKERS = [("a baker", "bakes bread", "in a bakery"), ("a farmer", "grows food", "on a farm"),
           ("a teacher", "teaches children", "in a school"), ("a doctor", "helps sick people", "in a hospital"),
           ("a fisherman", "catches fish", "on the sea"), ("a gardener", "looks after plants", "in a garden"),
           ("a postman", "brings letters", "in the streets"), ("a tailor", "makes clothes", "in a shop"),
           ("a cook", "makes meals", "in a kitchen"), ("a miller", "grinds grain", "in a mill"),
           ("a shepherd", "looks after sheep", "in the fields"), ("a sailor", "sails ships", "on the sea"),
           ("a builder", "builds houses", "in many places"), ("a painter", "paints pictures", "in a studio"),
           ("a writer", "writes books", "at a desk"), ("a singer", "sings songs", "on a stage"),
           ("a dentist", "looks after teeth", "in a clinic"), ("a pilot", "flies planes", "in the sky"),
           ("a shopkeeper", "sells things", "in a shop"), ("a blacksmith", "makes things of iron", "in a forge"),
           ("a judge", "decides what is fair", "in a court"), ("a nurse", "cares for sick people", "in a hospital")]

# what a thing is used for
TOOLS = [("a knife", "cut bread"), ("a spoon", "eat soup"), ("a key", "open a lock"), ("an umbrella", "stay dry in the rain"),
         ("a lamp", "see in the dark"), ("a clock", "tell the time"), ("a broom", "sweep the floor"),
         ("a pen", "write words"), ("a bed", "sleep"), ("a chair", "sit down"), ("a hammer", "hit nails"),
         ("a needle", "sew clothes"), ("a boat", "cross the water"), ("an oven", "bake bread"),
         ("a ladder", "climb up high"), ("soap", "wash our hands"), ("a blanket", "keep warm"),
         ("a cup", "drink tea"), ("scissors", "cut paper"), ("a towel", "get dry"), ("a map", "find the way"),
         ("a brush", "paint a picture"), ("a bell", "make a ringing sound"), ("a bucket", "carry water"),
         ("a spade", "dig a hole"), ("a book", "read a story"), ("a coat", "keep warm in winter")]
SENSES = [("eyes", "see"), ("ears", "hear"), ("nose", "smell"), ("tongue", "taste"), ("hands", "hold things"),
          ("legs", "walk"), ("teeth", "chew food")]
SHAPES = [("triangle", 3), ("square", 4), ("rectangle", 4), ("pentagon", 5), ("hexagon", 6)]
PAST = """go went;see saw;eat ate;run ran;sing sang;swim swam;give gave;take took;find found;think thought;
bring brought;buy bought;catch caught;teach taught;make made;come came;write wrote;speak spoke;sleep slept;
know knew;grow grew;fly flew;draw drew;sit sat;stand stood;tell told;say said;hear heard;lose lost;win won;
walk walked;play played;jump jumped;help helped;look looked;laugh laughed;open opened;ask asked"""
PAST = [tuple(p.split()) for p in PAST.replace("\n", "").split(";")]
PLURALS = """mouse goose sheep fish child man woman foot tooth leaf loaf knife wolf deer cat dog house tree box bus
berry baby city lady cherry flower apple book star glass dish church fox ship bird king egg hand shoe""".split()
CATEGORIES = [("fruit", "apple pear plum cherry banana lemon grape peach".split()),
              ("vegetable", "carrot potato onion cabbage pea bean turnip".split()),
              ("animal", "dog cat horse rabbit lion tiger sheep fox".split()),
              ("colour", "red blue green yellow purple orange pink brown".split()),
              ("tool", "hammer saw spade axe ladder".split()),
              ("piece of furniture", "table chair bed cupboard shelf".split()),
              ("drink", "milk water tea juice".split()),
              ("bird", "robin owl duck hen goose sparrow".split()),
              ("flower", "rose daisy lily tulip poppy".split()),
              ("piece of clothing", "coat shirt hat sock scarf".split()),
              ("tree", "oak pine willow birch elm".split()),
              ("month", "January May August October December".split()),
              ("day of the week", "Monday Friday Sunday Tuesday".split())]
MASS = {"milk", "water", "tea", "juice"}
