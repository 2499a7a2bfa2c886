"""Plain English, famous texts in the public domain and plain ones of our own: what a damaged model predicts worse."""

_TEXTS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.",
    "However little known the feelings or views of such a man may be on his first entering a neighbourhood, this truth is "
    "so well fixed in the minds of the surrounding families, that he is considered as the rightful property of some one or "
    "other of their daughters.",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was "
    "the epoch of belief, it was the epoch of incredulity.",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and nothing "
    "particular to interest me on shore, I thought I would sail about a little and see the watery part of the world.",
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it.",
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
    "The library opens at nine in the morning and closes at six in the evening, except on Saturdays, when it closes at "
    "noon. Books may be kept for four weeks and renewed twice.",
    "In order to bake a simple loaf of bread you need flour, water, salt and yeast. Mix them, let the dough rest until it "
    "has doubled in size, and bake it in a hot oven for about forty minutes.",
    "When the train finally arrived, two hours late, the passengers on the platform were too tired to complain; they took "
    "their seats in silence and most of them were asleep before the next station.",
    "The heart pumps blood through the body. Blood carries oxygen from the lungs to every other organ, and takes carbon "
    "dioxide back to the lungs, where it leaves the body with the next breath.",
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was "
    "upon the face of the deep.",
    "To be, or not to be, that is the question: whether it is nobler in the mind to suffer the slings and arrows of "
    "outrageous fortune, or to take arms against a sea of troubles, and by opposing end them.",
    "I went to the woods because I wished to live deliberately, to front only the essential facts of life, and see if I "
    "could not learn what it had to teach.",
    "No one would have believed in the last years of the nineteenth century that this world was being watched keenly and "
    "closely by intelligences greater than man's.",
    "There was no possibility of taking a walk that day. We had been wandering, indeed, in the leafless shrubbery an hour "
    "in the morning.",
    "Marley was dead, to begin with. There is no doubt whatever about that.",
    "When in the course of human events, it becomes necessary for one people to dissolve the political bands which have "
    "connected them with another, a decent respect to the opinions of mankind requires that they should declare the causes.",
    "We the people of the United States, in order to form a more perfect union, establish justice, insure domestic "
    "tranquility, provide for the common defense, promote the general welfare, do ordain and establish this Constitution.",
    "All children, except one, grow up. They soon know that they will grow up, and the way Wendy knew was this.",
    "The sun shines on the sea, and the water slowly rises into the air as vapour. High above the ground the vapour cools, "
    "becomes clouds, and falls again as rain or snow.",
    "My brother called me yesterday to say that he had found a new job in another city. He will move there at the end of "
    "the month and hopes that we will visit him in the summer.",
    "A good map shows not only the roads and the rivers but also the height of the hills, so that a walker knows "
    "beforehand where the way will be steep.",
    "The doctor told her to rest for a week, to drink plenty of water, and to come back if the fever had not gone down by "
    "Friday.",
    "Every morning the baker opens his shop at six. By seven the first loaves are sold, and by noon there is rarely "
    "anything left but a few rolls.",
    "Bees visit flowers to collect nectar and pollen. While they do so they carry pollen from one flower to the next, and "
    "many plants could not bear fruit without them.",
    "If you want to learn to play the piano, it is better to practise for twenty minutes every day than for three hours "
    "once a week.",
    "The company reported higher sales than a year ago, but its profit fell because the prices of energy and transport had "
    "risen.",
    "Please read the instructions carefully before you use the machine for the first time, and keep them in a safe place.",
    "The committee will meet again on Tuesday at ten o'clock to discuss the budget for the coming year.",
    "Light travels faster than sound, which is why we see the lightning before we hear the thunder.",
    "The old bridge across the river was closed in spring because several of its beams were no longer safe, and since then "
    "the children have had to walk a long way round to school.",
    "She put the letter into the drawer, locked it, and went to the window to look at the garden, where it had begun to "
    "rain.",
    "Many people believe that the Great Wall of China can be seen from the moon with the naked eye, but this is not true.",
    "To grow tomatoes you need a sunny place, good soil and regular water. Tie the plants to a stick so that they do not "
    "fall over when the fruit becomes heavy.",
    "The museum has more than two thousand paintings, but only a tenth of them can be shown at the same time.",
    "During the war the village was destroyed almost completely; only the church and two houses near the mill were left "
    "standing.",
    "An adult human body has two hundred and six bones. A baby is born with more, some of which grow together in the first "
    "years of life.",
    "He had not expected anybody to be awake at that hour, and so he was surprised to see a light in the kitchen.",
    "The capital of a country is usually the city in which its government sits, and often, but not always, it is the "
    "largest city.",
    "After the game the players thanked the crowd, and the captain said that they had won because everybody had worked for "
    "the others.",
    "Iron rusts when it is exposed to water and air for a long time. Paint and oil protect it because they keep both away.",
    "You can pay in cash or by card. If you want to return something, bring it back within two weeks together with the "
    "receipt.",
    "The dog waited in front of the door until the boy came home from school, and then the two of them ran down to the "
    "beach.",
    "Most of the bread in this region is made of rye, since wheat does not grow well in the cold and sandy soil.",
    "The first steam engines were used to pump water out of mines. Only later did they drive ships, trains and the "
    "machines of the factories.",
    "There are a hundred centimetres in a metre and a thousand metres in a kilometre, so that lengths are easy to convert.",
    "Our flight was delayed by three hours because of fog, but the weather was fine when we finally landed.",
    "A translator must understand not only the words of a text but also what its author meant and who is going to read it.",
    "The teacher asked the class to write a short story about a journey, and nearly everybody wrote about the sea.",
    "Old trees are the home of many animals: beetles live under the bark, birds nest in the branches, and bats sleep in "
    "hollow trunks.",
    "When the lamp went out she lit a candle, found the matches that had fallen under the table, and climbed the stairs to "
    "see what had made the noise.",
    "The moon goes round the earth in a little more than twenty-seven days, and the same side of it always faces us.",
    "Before the meeting ends we should agree who will write the report and by what date everybody must have read it.",
    "Salt was once so valuable that wars were fought over it, and roads were built only to carry it from the coast to the "
    "towns.",
    "He speaks slowly and chooses his words with care, and that is why people listen to him even when they do not agree.",
    "In winter the lake freezes over, and the people of the town walk across it to the island on which the market is held.",
    "If a price rises and people's income stays the same, they buy less of the thing, or look for something else instead.",
    "The nurse wrote down the time, the temperature and the dose, and hung the sheet back on the end of the bed.",
)
_BEGINNING = 4
"""Words that are given; the rest is predicted."""


def _cut(text: str) -> tuple[str, str]:
    words = text.split(" ")
    return " ".join(words[:_BEGINNING]), " " + " ".join(words[_BEGINNING:])


PASSAGES: tuple[tuple[str, str], ...] = tuple(map(_cut, _TEXTS[:16]))
"""(beginning, continuation) of the first sixteen, which studies measure."""


def items(count: int, seed: int) -> list[tuple[str, str]]:
    """(text, "") of every text; there is no answer, and `seed` changes nothing."""
    return [(text, "") for text in _TEXTS][:count]
