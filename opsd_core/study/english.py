"""Plain English in the public domain, cut into (beginning, continuation): what a damaged model predicts worse."""

_TEXTS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.",
    "However little known the feelings or views of such a man may be on his first entering a neighbourhood, this truth is "
    "so well fixed in the minds of the surrounding families, that he is considered as the rightful property of some one "
    "or other of their daughters.",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was "
    "the epoch of belief, it was the epoch of incredulity.",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and nothing "
    "particular to interest me on shore, I thought I would sail about a little and see the watery part of the world.",
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice "
    "she had peeped into the book her sister was reading, but it had no pictures or conversations in it.",
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, and "
    "dedicated to the proposition that all men are created equal.",
    "We hold these truths to be self-evident, that all men are created equal, that they are endowed by their Creator with "
    "certain unalienable Rights, that among these are Life, Liberty and the pursuit of Happiness.",
    "Happy families are all alike; every unhappy family is unhappy in its own way.",
    "To Sherlock Holmes she is always the woman. I have seldom heard him mention her under any other name. In his eyes she "
    "eclipses and predominates the whole of her sex.",
    "You don't know about me without you have read a book by the name of The Adventures of Tom Sawyer; but that ain't no "
    "matter. That book was made by Mr. Mark Twain, and he told the truth, mainly.",
    "The farmer walked slowly along the river in the early morning, looking at the fields that had been under water for "
    "most of the spring, and wondered whether there would be any harvest at all this year.",
    "Water freezes at a lower temperature when salt is dissolved in it, which is why roads are salted in winter; below a "
    "certain point, however, even salt water turns to ice.",
    "The library opens at nine in the morning and closes at six in the evening, except on Saturdays, when it closes at noon. "
    "Books may be kept for four weeks and renewed twice.",
    "In order to bake a simple loaf of bread you need flour, water, salt and yeast. Mix them, let the dough rest until it "
    "has doubled in size, and bake it in a hot oven for about forty minutes.",
    "When the train finally arrived, two hours late, the passengers on the platform were too tired to complain; they took "
    "their seats in silence and most of them were asleep before the next station.",
    "The heart pumps blood through the body. Blood carries oxygen from the lungs to every other organ, and takes carbon "
    "dioxide back to the lungs, where it leaves the body with the next breath.",
)
_BEGINNING = 4
"""Words that are given; the rest is predicted."""


def _cut(text: str) -> tuple[str, str]:
    words = text.split(" ")
    return " ".join(words[:_BEGINNING]), " " + " ".join(words[_BEGINNING:])


PASSAGES: tuple[tuple[str, str], ...] = tuple(map(_cut, _TEXTS))
