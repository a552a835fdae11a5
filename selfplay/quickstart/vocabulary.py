"""The words of the small world: what requests are about, and what the gold reward looks for in answers.

Read by `tasks.py` (requests and gold reward) and `demonstrations.py` (the answers that the first policy learns
from).
"""

from __future__ import annotations

NAMES = (
    "Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate", "Liam", "Mona",
    "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Vera", "Max", "Zoe", "Adam", "Clara",
)  # fmt: skip

THINGS = (
    "lamp", "river", "stone", "map", "cup", "dog", "cat", "bird", "tree", "boat", "book", "chair", "table",
    "garden", "window", "door", "letter", "song", "cake", "kite", "drum", "coat", "hat", "ring", "bell",
    "clock", "train", "road", "hill", "cloud", "star", "moon", "field", "forest", "bridge", "basket", "bottle",
    "blanket", "pencil", "mirror", "candle", "flower", "feather", "button", "carrot", "pillow", "hammer",
    "tower",
)  # fmt: skip
"""All take "a" before them and "s" behind them, so that requests stay plain English."""

KNOWN = {word.lower() for word in NAMES} | set(THINGS) | {thing + "s" for thing in THINGS}
"""The names and things that a request can mention, in lower case."""

LIST_OPENINGS = ("here is the list", "here they are")
VERBS = ("is", "was", "stood", "lay", "fell", "rested")
PLACES = ("near", "under", "behind", "beside", "above")
ADJECTIVES = ("big", "small", "red", "quiet", "green", "bright")
GREETINGS = ("dear", "hello", "good morning")
GIVING = ("here is", "will bring", "will send", "can have")
THANKS = ("thank you", "thanks")
CLOSINGS = ("kind regards", "best wishes", "yours truly")
MOODS = {
    "happy": ("glad", "smiled", "laughed", "joy", "cheered"),
    "sad": ("cried", "tears", "wept", "lonely", "sorry"),
}
OPENINGS = ("one day", "long ago", "once")
CONNECTORS = ("because", "so", "then")
ENDINGS = ("at last", "in the end", "ever after")
TOTALS = ("in all", "altogether", "in total")
