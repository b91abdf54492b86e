"""Words and rules of the reviews: data only, the engine that reads them is in ``grammar``.

A rule gives each of its alternatives a weight. ``<name>`` stands for another rule or word list. In
a rule whose name ends in ``=``, ``<name=>`` keeps the polarity (``+`` or ``-``) and ``<name~>``
turns it: such a rule is read twice, once for praise and once for blame.

Every word of praise or blame carries the same sign in VADER's lexicon and every other word none,
so that the gold reward measures what the grammar means. That is why obvious words are missing: to
VADER "comedy", "play" and "friend" are praise, "thief" is blame, and "moving", "tedious" and
"flat" are nothing.
"""

from __future__ import annotations

POLAR_LISTS: dict[str, str] = {
    "mild+": """good charming lovely fine impressive enjoyable strong pleasant fresh beautiful
        fascinating entertaining""",
    "mild-": """bad boring dull weak poor annoying disappointing confusing unpleasant lazy messy
        dreary""",
    "bold+": "great superb brilliant wonderful delightful excellent perfect splendid amazing",
    "bold-": "awful terrible horrible dreadful pathetic painful ridiculous lousy miserable",
    "felt+": "loved liked enjoyed admired adored appreciated",
    "felt-": "hated disliked resented despised",
    "feel+": "love like enjoy admire",
    "feel-": "hate dislike resent despise",
    "noun+": "joy delight pleasure triumph treat masterpiece",
    "noun-": "mess disaster failure disappointment mistake bore",
    "reacted+": "laughed smiled cheered",
    "reacted-": "suffered complained protested",
}
"""Words of praise (``+``) and blame (``-``)."""

SET_PHRASES: dict[str, int] = {"happily": 1, "recommend": 1, "regret": -1, "wasted": -1}
"""Words of praise (1) and blame (-1) that occur in the rules themselves."""

POLARITY: dict[str, int] = SET_PHRASES | {
    word: 1 if name.endswith("+") else -1
    for name, words in POLAR_LISTS.items()
    for word in words.split()
}
"""1 or -1 for every word of praise or blame that a response may hold, whatever stands around it."""

NEUTRAL_LISTS: dict[str, str] = {
    "work": "film drama musical western cartoon mystery documentary show",
    "lead": """sailor painter detective teacher king farmer doctor lawyer baker soldier singer
        gardener pilot nurse poet captain""",
    "other": """sailor painter detective teacher king farmer doctor lawyer baker soldier singer
        gardener pilot nurse poet captain""",
    "place": "harbour village city desert forest castle hotel school",
    "thing": """story plot ending acting dialogue music script pace cast lighting direction opening
        sound photography""",
    "things": "actors songs scenes effects characters costumes voices sets",
    "age": "new short long quiet small",
    "day": "friday saturday sunday monday",
    "kin": "brother sister mother father aunt uncle cousin neighbour",
    "very": "very really quite extremely remarkably",
    "utterly+": "absolutely simply",
    "utterly-": "utterly completely",
    "rather+": "fairly mostly",
    "rather-": "rather somewhat slightly",
    "some": "two three",
    "end": "front back",
}
"""Words without a polarity of their own."""

KEPT = frozenset({"work", "lead", "place"})
"""Lists of which a review and its prompt use one word throughout."""

OPENERS = frozenset({"we", "last", "my", "this", "a", "the", "review", "notes"})
"""Words that may open a prompt, and so stand without a space before them."""

PUNCTUATION = frozenset(".,!:")
"""Signs that stand without a space before them."""

RULES: dict[str, dict[str, float]] = {
    # Prompts set the scene; the last two kinds hint at the verdict without giving it away.
    "prompt": {
        "we saw a <age> <work> about a <lead> on <day>. <cue>": 3,
        "last <when> i watched a <work> about a <lead>. <cue>": 2,
        "my <kin> took me to a <work> about a <lead>. <cue>": 2,
        "a <work> about a <lead> in a <place>. <cue>": 2,
        "this <work> follows a <lead> and a <other>. <cue>": 2,
        "review of a <age> <work> about a <lead>:": 1,
        "notes on a <age> <work> about a <lead> and a <other>:": 2,
    },
    "prompt+": {
        "we saw a <work> about a <lead> and stayed until the end. <cue short>": 1,
        "the <work> about a <lead> was packed on <day>. <cue>": 1,
    },
    "prompt-": {
        "we saw a <work> about a <lead> and left before the end. <cue short>": 1,
        "the <work> about a <lead> was half empty on <day>. <cue>": 1,
    },
    "when": {"night": 1, "<day>": 1},
    "cue": {"<cue short>": 3, "what i thought:": 1, "here is my opinion:": 1},
    "cue short": {"my review:": 1, "in short:": 1, "my view:": 1},
    # Responses: sentences of one polarity, with neutral ones between them; some are undecided.
    "response=": {
        "<claim=>.": 2,
        "<claim=>. <claim=>.": 3,
        "<claim=>. <closer=>.": 3,
        "<filler>. <claim=>.": 2,
        "<filler>. <claim=>. <closer=>.": 1,
        "<claim=>. <filler>. <claim=>.": 1,
        "<claim=>. <filler>. <closer=>.": 1,
        "<claim=>. <claim=>. <closer=>.": 1,
        "what a <noun=>! <claim=>.": 1,
    },
    "response": {
        "<claim+>. <claim->.": 2,
        "<claim->. <claim+>.": 2,
        "<sentence> <sentence>": 1,
        "<sentence> <sentence> <sentence>": 1,
        "<sentence> <sentence> <sentence> <sentence>": 0.3,
    },
    "sentence": {
        "<claim+>.": 4,
        "<claim->.": 4,
        "<closer+>.": 1,
        "<closer->.": 1,
        "<filler>.": 2,
        "what a <noun+>!": 0.5,
        "what a <noun->!": 0.5,
    },
    "claim=": {
        "the <thing> was <quality=>": 3,
        "the <things> were <quality=>": 2,
        "that <lead> was <quality=>": 2,
        "this <work> was <quality=>": 2,
        "the <thing> was <mild=> and <bold=>": 3,
        "the <thing> was <quality=> and the <things> were <quality=>": 2,
        "the <thing> was <plain~>, but the <things> seemed <plain=>": 3,
        "<person> <felt~> that <lead>, but the <things> seemed <plain=>": 1,
        "<person> <felt=> the <thing>": 1,
        "<person> <felt=> the <thing> and the <things>": 1,
        "<person> did not <feel~> the <things>": 2,
        "<crowd> <reacted=>": 1,
    },
    "plain=": {"<mild=>": 1, "<bold=>": 1},
    "quality=": {
        "<mild=>": 4,
        "<bold=>": 4,
        "<very> <mild=>": 3,
        "<utterly=> <bold=>": 1,
        "<rather=> <mild=>": 2,
        "not <mild~>": 0.9,
        "not very <mild~>": 0.7,
        "never <mild~>": 0.9,
        "not exactly <bold~>": 0.7,
    },
    "closer+": {
        "i would happily watch it again with my <kin>": 2,
        "i recommend it": 1,
        "you will not regret it": 1,
        "it was a <noun+>": 2,
        "it was not a <noun->": 1,
    },
    "closer-": {
        "i cannot recommend it": 1,
        "i regret the ticket": 1,
        "it wasted my evening": 1,
        "it was a <noun->": 2,
        "it was not a <noun+>": 1,
    },
    "person": {"i": 2, "we": 1, "my <kin>": 1},
    "crowd": {"everyone": 1, "half the room": 1, "the people near us": 1},
    "filler": {
        "it runs for <some> hours": 1,
        "we sat near the <end>": 1,
        "we had seats in the <end> row": 1,
        "i saw it with my <kin>": 1,
        "this <work> is set in a <place>": 1,
        "the story follows that <lead> for <some> years": 1,
        "the second half takes place on a <vessel>": 1,
    },
    "vessel": {"train": 1, "ship": 1},
}
"""The rules of prompts and responses; there is no recursion."""
