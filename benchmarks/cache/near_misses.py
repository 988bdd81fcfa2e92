"""Pairs of questions made by hand: near misses by what they are nasty at, and pairs that mean the same.

``python -m benchmarks.cache.near_misses`` says how many of each the comparison of words
(``cache.semantic.differences``) lets pass, and how many a fixed threshold of cosine similarity would.  A near miss that
passes is an answer that only experience can keep back; a pair of the same meaning that does not is a hit that is lost.
``--list`` prints those pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from penstock.cache.semantic.differences import differ, read
from penstock.cache.semantic.encoder import SentenceEncoder, packaged

THRESHOLDS = (0.9, 0.95)

Pair = tuple[str, str]

NEAR_MISSES: Mapping[str, Sequence[Pair]] = {
    "units": (
        ("How far is 5 km on foot?", "How far is 5 miles on foot?"),
        ("How long does it take to load 100 MB?", "How long does it take to load 100 Mb?"),
        ("Is 40 °C too hot for this?", "Is 40 °F too hot for this?"),
        ("Is a lamp of 5 mW safe?", "Is a lamp of 5 MW safe?"),
        ("What is 3 kg in pounds?", "What is 3 g in pounds?"),
        ("What is 1.5 kg in pounds?", "What is 15 kg in pounds?"),
        ("What is 1,5 kg in pounds?", "What is 15 kg in pounds?"),
        ("How much is 10 % of my pay?", "How much is 10 ‰ of my pay?"),
        ("How big is a 10mb file?", "How big is a 10Mb file?"),
        ("Can I take 200 mg of this?", "Can I take 200 µg of this?"),
    ),
    "currencies": (
        ("How much is $10 in rupees?", "How much is €10 in rupees?"),
        ("How much is ¥10 in rupees?", "How much is ₩10 in rupees?"),
        ("How much is ₹10 in yen?", "How much is 10 in yen?"),
        ("How much is 10 USD in yen?", "How much is 10 AUD in yen?"),
        ("What is a pound in dollars?", "What is a dollar in pounds?"),
        ("Convert from USD to EUR for me", "Convert to USD from EUR for me"),
        ("Is 10 ¢ enough for this?", "Is 10 $ enough for this?"),
    ),
    "numbers and signs": (
        ("What is 10 - 4?", "What is 10 + 4?"),
        ("What is 10 × 4?", "What is 10 ÷ 4?"),
        ("What is the square of -5?", "What is the square of 5?"),
        ("What is the root of −5?", "What is the root of 5?"),
        ("What is 5! in total?", "What is 5 in total?"),
        ("Is x ≤ 5 here?", "Is x ≥ 5 here?"),
        ("What does a & b do?", "What does a && b do?"),
        ("What is a two room flat?", "What is a double room flat?"),
        ("What does 😀 mean?", "What does 😢 mean?"),
        ("How much is ٣ in words?", "How much is ٤ in words?"),
        ("What is 2 (3 + 4)?", "What is (2 3) + 4?"),
        ("What is twenty percent of 5?", "What is twenty of 5 percent?"),
        ("What does C mean?", "What does C# mean?"),
    ),
    "dates and times": (
        ("What happened on 03/04/2024?", "What happened on 04/03/2024?"),
        ("What happened on 4 March 2024?", "What happened on 3 April 2024?"),
        ("Which holidays are there in May?", "Which holidays are there?"),
        ("Is it open at 5 am?", "Is it open at 5?"),
        ("Is it open at 5 am?", "Is it open at 5 pm?"),
        ("Is it open at 5 a.m.?", "Is it open at 5 p.m.?"),
        ("Is it open this evening?", "Is it even open?"),
        ("Is it open on Monday and Friday?", "Is it open on Monday or Friday?"),
        ("What was the weather like?", "What will the weather be like?"),
        ("Who is the president of France?", "Who was the president of France?"),
        ("Will it rain in Paris?", "Did it rain in Paris?"),
        ("What happens after the vote?", "What happened after the vote?"),
        ("Is the shop closed?", "Is the shop closing?"),
        ("Has the train left?", "Had the train left?"),
    ),
    "negation": (
        ("Is this expression valid?", "Is this expression invalid?"),
        ("Is this mushroom harmless to a child in a home?", "Is that mushroom harmful to a child in a home?"),
        ("Are all birds not able to fly?", "Are not all birds able to fly?"),
        ("Is it safe to not eat meat?", "Is it not safe to eat meat?"),
        ("Is it possible to undo this?", "Is it impossible to undo this?"),
        ("Can I fail to see it?", "Can I see it?"),
        ("Are there few people in it?", "Are there a few people in it?"),
        ("Do I lack a visa?", "Do I have a visa?"),
        ("Is my skin under-exposed to the sun?", "Is my skin over-exposed to the sun?"),
        ("What is hypertension?", "What is hypotension?"),
        ("Is the meat overcooked?", "Is the meat undercooked?"),
        ("Can I drink anything but water?", "Can I drink anything, water too?"),
    ),
    "who does what to whom": (
        ("Did Barcelona beat Madrid?", "Did Madrid beat Barcelona?"),
        ("Who killed Brutus?", "Who did Brutus kill?"),
        ("Did Brutus kill Caesar?", "Was Brutus killed by Caesar?"),
        ("Does a cat eat a mouse?", "Does a mouse eat a cat?"),
        ("What can I do for you?", "What can you do for me?"),
        ("Do you like me?", "Do I like you?"),
        ("Was the letter written to John?", "Was the letter written by John?"),
        ("Did she talk to Bob?", "Did she talk about Bob?"),
        ("Is he interviewed by them?", "Is he interviewing them?"),
        ("Do I pay them?", "Do they pay me?"),
        ("Is France bigger than Spain?", "Is Spain bigger than France?"),
        ("Does Bob owe Ann money?", "Does Ann owe Bob money?"),
        ("Is Ann's sister in it?", "Is Ann in it?"),
        ("Did I ask him to call her?", "Did he ask me to call her?"),
        ("Was it sold to him by her?", "Was it sold by him to her?"),
        ("Who can I ask to help Ann?", "Who can ask Ann to help me?"),
    ),
    "quantifiers": (
        ("Do all cats purr?", "Do some cats purr?"),
        ("Do any cats purr?", "Do all cats purr?"),
        ("Can I take at least 5?", "Can I take at most 5?"),
        ("Is one of them enough?", "Is none of them enough?"),
        ("Do most of them agree?", "Do many of them agree?"),
        ("Is it about 5 in here?", "Is it 5 in here?"),
        ("How many are there in each box?", "How many are there in the box?"),
        ("Is there some milk in both?", "Is there some milk in either?"),
    ),
    "comparatives": (
        ("Which is the bigger of them?", "Which is the biggest of them?"),
        ("Is it as good as gold?", "Is it better than gold?"),
        ("Is it more than I want?", "Is it less than I want?"),
        ("Who is older, Ann or Bob?", "Who is younger, Ann or Bob?"),
        ("How old is the oldest tree?", "How old is the tree?"),
        ("What is the best way to run?", "What is the way to run?"),
        ("Is a cat faster than a dog?", "Is a dog faster than a cat?"),
    ),
    "code": (
        ("What does `Foo` do in this?", "What does `foo` do in this?"),
        ("What is getItem in this?", "What is getitem in this?"),
        ("What does the flag -v do?", "What does the flag -V do?"),
        ("What does the option --no-verify do?", "What does the option --verify do?"),
        ("What does my_list[0] give me?", "What does my_list[1] give me?"),
        ('What does "Yes" mean in it?', 'What does "yes" mean in it?'),
        ("Write hello world in C", "Write world in C"),
        ("hello world in C", "world in C"),
        ("What is a function in Ruby?", "What is a method in Ruby?"),
        ("How do I remove a file in git?", "How do I delete a file in git?"),
        ("How do I stop an instance on AWS?", "How do I terminate an instance on AWS?"),
        ("How do I reset my router?", "How do I update my router?"),
        ("How do I build the project?", "How do I create the project?"),
        ("What is the difference between a and b?", "What is the difference between a and B?"),
        ("How do I open a.txt in this?", "How do I open a.TXT in this?"),
    ),
    "languages and tools": (
        ("How do I sort a list in Python?", "How do I sort a list in Java?"),
        ("How do I sort a list in Go?", "How do I sort a list?"),
        ("how do i sort a list in go", "how do i sort a list"),
        ("How do I sort a list in C?", "How do I sort a list in R?"),
        ("Can I work in IT?", "Can I work in it?"),
        ("What is vitamin A for?", "What is vitamin for?"),
        ("Do they like US?", "Do they like us?"),
        ("How do I polish it?", "How do I Polish it?"),
        ("Is WHO able to help?", "Who is able to help?"),
        ("Translate it into German for me", "Translate it from German for me"),
    ),
    "in other tongues": (
        ("Was ist in der Box?", "Was ist an der Box?"),
        ("Is de winkel open in de ochtend?", "Is de winkel open in de avond?"),
        ("Was will die Frau in so a Bar?", "Wie will die Frau in so a Bar?"),
        ("a que hora me voy a casa", "a que hora no me voy a casa"),
        ("Hat Rom am Montag an?", "Hat Rom am Montag to?"),
    ),
    "what pronouns stand for": (
        ("Ann told Bob that he won. Is it so?", "Ann told Bob that she won. Is it so?"),
        ("What is my name?", "What is your name?"),
        ("Is this my fault?", "Is this their fault?"),
        ("Should I wash it before they come?", "Should I wash them before it comes?"),
        ("Did I call him?", "Did he call me?"),
        ("What should we do with it?", "What should it do with us?"),
        ("Show me my orders", "Show me your orders"),
        ("What are they made of?", "What is it made of?"),
    ),
    "modality and intent": (
        ("Can I take aspirin?", "Should I take aspirin?"),
        ("Must I pay tax?", "May I pay tax?"),
        ("Do I need a visa for Peru?", "Do I have a visa for Peru?"),
        ("Do I need a visa for Peru?", "Can I get a visa for Peru?"),
        ("Do I have to go?", "Do I want to go?"),
        ("What do I use it for?", "How do I use it?"),
        ("How is glass made?", "What is glass made of?"),
        ("What do cats eat?", "Do cats eat?"),
        ("How do I write a poem?", "Write a poem"),
        ("What can I eat with diabetes?", "Can I eat with diabetes?"),
        ("Why would I use it?", "How would I use it?"),
        ("Which is it?", "What is it?"),
        ("How should I vote?", "How do I vote?"),
        ("Explain the joke", "What is the joke?"),
        ("Can you show me the door?", "What is the door?"),
        ("Do you know Ann?", "Can you ask Ann?"),
        ("How do I say thanks", "How do I say"),
        ("Is it a just war?", "Is it a war?"),
        ("I want to know Bob", "I want Bob"),
        ("Will I die?", "Would I die?"),
        ("Did he stop to smoke?", "Did he stop smoking?"),
        ("How long is it going to take?", "How long has it taken?"),
    ),
    "words of one stem": (
        ("Where can I buy glass?", "Where can I buy glasses?"),
        ("Am I interested?", "Am I interesting?"),
        ("Is it in the customs?", "Is it in the custom?"),
        ("How do I clean a painting?", "How do I clean a paint?"),
        ("Is it good here?", "Is it goods here?"),
        ("Is it new for you?", "Is it news for you?"),
        ("What is the mean of them?", "What is the means of them?"),
    ),
    "other words in one mould": (
        (
            "How many calories does a medium raw apple have in it?",
            "How many calories does a large baked potato have in it?",
        ),
        (
            "What is the best way to cook fresh pasta for a big family?",
            "What is the best way to store dried beans for a small kitchen?",
        ),
        ("Write a short poem about a lonely sailor", "Write a long letter about a happy farmer"),
        ("Is there a quick train from the airport?", "Is there a cheap bus from the harbour?"),
        ("Can my doctor see my blood results?", "Can my landlord see my bank statements?"),
    ),
    "written after the comparison was done": (
        ("How do I get to the station from the airport?", "How do I get from the station to the airport?"),
        ("Is the shop open before nine?", "Is the shop open until nine?"),
        ("Which of them has more sugar than salt?", "Which of them has more salt than sugar?"),
        ("Can a dog be allowed in?", "Can dogs not be allowed in?"),
        ("What is the length of 5 feet in cm?", "What is the length of 5 cm in feet?"),
        ("Who taught Plato?", "Who did Plato teach?"),
        ("Is it cheaper to fly or drive?", "Is it cheaper to fly and drive?"),
        ("What is the mass of the sun?", "What is the mass on the sun?"),
        ("How long should I boil an egg?", "How long can I boil an egg?"),
        ("Is my rent due on the 1st?", "Is my rent due on the 31st?"),
        ("Does he want me to leave?", "Does he want to leave me?"),
        ("What did she say to him?", "What did he say to her?"),
        ("What comes after B?", "What comes after b?"),
        ("Is 0.1 + 0.2 equal to 0.3 in it?", "Is 0.1 - 0.2 equal to 0.3 in it?"),
        ("Why is the sky blue?", "Is the sky blue?"),
        ("Would it be legal to do this?", "Was it legal to do this?"),
        ("Is she my aunt?", "Is she your aunt?"),
        ("How do I uninstall it?", "How do I install it?"),
        ("How many cups are in a litre?", "How many litres are in a cup?"),
        ("What is the best of all?", "What is best for all?"),
        ("Can I use this at night?", "Can I use that at night?"),
        ("Did Anna's brother call?", "Did Anna call her brother?"),
        ("How old was he when he died?", "How old was he when she died?"),
        ("Give me a list of cities in France", "Give me a list of cities not in France"),
        ("Is it ok to mix bleach with water?", "Is it ok to mix bleach without water?"),
        ("What is an array in C++?", "What is an array in C?"),
        ("When does winter begin in Chile?", "When did winter begin in Chile?"),
        ("Do we have any?", "Do we have many?"),
        ("Can they see us?", "Can we see them?"),
        ("What is the highest lake?", "What is the deepest lake?"),
        ("How is he feeling?", "How is she feeling?"),
        ("Is 1/2 more than 1/3?", "Is 1/3 more than 1/2?"),
        ("What does the second one mean?", "What does the first one mean?"),
        ("Should I sell now?", "Should I have sold now?"),
        ("Could he have won?", "Could he win?"),
        ("How do I make it stop?", "How do I stop making it?"),
        ("Is it in the car?", "Is it on the car?"),
        ("What is it used for?", "What is it used by?"),
        ("How much do I owe?", "How much am I owed?"),
        ("What was he thinking?", "What is he thinking?"),
        ("Is the food that is left for us?", "Is the food for us that left?"),
        ("Please tell me what my limit is", "Please tell me what the limit is"),
        ("Tell me how I can do it", "Tell me if I can do it"),
        ("Who is it for?", "Who is it from?"),
        ("Explain how to do it", "Explain why to do it"),
        ("How would I open a door?", "How did I open a door?"),
        ("Can you tell me the time in Rome?", "Can you tell me the time to Rome?"),
        ("Is there a way to fly?", "Is there any way to not fly?"),
        ("I want to marry Ann. How do I do that?", "I want to not marry Ann. How do I do that?"),
        ("How do I change the admin password?", "How do I change the user password?"),
    ),
}

SAME: Sequence[Pair] = (
    ("How do I reset my password?", "What is the way to reset my password?"),
    ("How do I reset my password?", "Hi, how can I change my password? Thanks!"),
    ("How do I reset my password?", "how to reset my password"),
    ("How do I reset my password?", "Could you tell me how to reset my password?"),
    ("How do I reset my password?", "Please tell me how I can reset my password."),
    ("How do I reset my password?", "I would like to know how to reset the password"),
    ("What is the capital of France?", "Tell me the capital of France"),
    ("What is the capital of France?", "What's the capital of France?"),
    ("What is the capital of France?", "Can you tell me what the capital of France is?"),
    ("What is the capital of France?", "Which city is the capital of France?"),
    ("What is the capital of France?", "Hello! Do you know what the capital of France is?"),
    ("What is the capital of France?", "please give me the capital of France"),
    ("Is it safe to eat raw eggs?", "Hi, is it safe to eat raw eggs?"),
    ("Is it safe to eat raw eggs?", "Can you tell me if it is safe to eat raw eggs?"),
    ("Is it safe to eat raw eggs?", "I was wondering whether it is safe to eat raw eggs."),
    ("Is it safe to eat raw eggs?", "Tell me, is it safe to eat raw eggs?"),
    ("How do I sort a list in Python?", "How can I sort a list in Python?"),
    ("How do I sort a list in Python?", "How does one sort a list in Python?"),
    ("How do I sort a list in Python?", "How would you sort a list in Python?"),
    ("How do I sort a list in Python?", "What are the ways to sort a list in Python?"),
    ("How do I sort a list in Python?", "Explain how to sort lists in Python"),
    ("How do I sort a list in Python?", "Is there a way to sort a list in Python?"),
    ("How do I sort a list in Python?", "I need help: how do I sort a list in Python?"),
    ("What are 10 dollars in yen?", "What are ten dollars in yen?"),
    ("How much is $1,000 in yen?", "How much is $1000 in yen?"),
    ("When was Ada Lovelace born?", "Can you tell me when Ada Lovelace was born?"),
    ("When was Ada Lovelace born?", "when was Ada Lovelace born"),
    ("When was Ada Lovelace born?", "Do you know when Ada Lovelace was born?"),
    ("How long is the flight from Rome to Oslo?", "Hey, how long is a flight from Rome to Oslo?"),
    ("How long is the flight from Rome to Oslo?", "How long is the flight from Rome to Oslo? Thank you."),
    ("What is the weather like in Oslo in May?", "Tell me what the weather is like in Oslo in May"),
    ("Where can I buy a big car?", "Where can I buy a large car?"),
    ("Where can I buy a big car?", "Where can I buy a big automobile?"),
    ("What is the price of a movie ticket?", "What's the cost of a film ticket?"),
    ("How do I cancel my subscription?", "What do I have to do to cancel my subscription?"),
    ("How do I cancel my subscription?", "What is the best way to cancel my subscription?"),
    ("How do I cancel my subscription?", "I want to cancel my subscription. How do I do that?"),
    ("How do I enable dark mode?", "How can I activate dark mode?"),
    (
        "Which setting switches the screen to dark colours?",
        "How can I turn on the theme for the night?",
    ),
    ("My order has still not come. Where is it?", "Where is my parcel, which has not come yet?"),
    ("How can I see where my delivery is right now?", "What do I do to track the parcel that I wait for?"),
    ("Should I expect snow in Oslo in May?", "Please, should I expect snow in Oslo in May?"),
    ("Describe the water cycle", "Can you describe the water cycle?"),
    ("Explain the water cycle to me", "Please explain the water cycle"),
    ("Who wrote the book Dune?", "Tell me who wrote the book Dune."),
    ("Who wrote the book Dune?", "Who has written the book Dune?"),
    ("What does a tax adviser do?", "What do tax advisers do?"),
    ("What should I pack for Peru in June?", "What should I pack for Peru in June, please?"),
)
"""Pairs that mean the same."""


def passes(pair: Pair) -> bool:
    one, other = map(read, pair)
    return one is not None and other is not None and differ(one, other) is None


def row(name: str, pairs: Sequence[Pair], encoder: SentenceEncoder) -> str:
    passed = sum(map(passes, pairs))
    alike = [float(np.dot(*encoder.encode(list(pair)))) for pair in pairs]
    above = " | ".join(str(sum(one >= threshold for one in alike)) for threshold in THRESHOLDS)
    return f"| {name} | {len(pairs)} | {passed} | {above} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="the pairs that are judged wrongly")
    given = parser.parse_args()
    if given.list:
        for name, pairs in NEAR_MISSES.items():
            for pair in filter(passes, pairs):
                print(f"{name}: {pair}")
        for pair in SAME:
            if not passes(pair):
                print(f"the same: {pair} {read(pair[0])} {read(pair[1])}")
        return
    encoder = SentenceEncoder(packaged())
    print("| | pairs | pass | " + " | ".join(f"of cosine {each} or more" for each in THRESHOLDS) + " |")
    print("|---|" + "--:|" * (2 + len(THRESHOLDS)))
    for name, pairs in NEAR_MISSES.items():
        print(row(name, pairs, encoder))
    print(row("near misses, together", [pair for pairs in NEAR_MISSES.values() for pair in pairs], encoder))
    print(row("the same", SAME, encoder))


if __name__ == "__main__":
    main()
