"""English words that decide whether two questions mean the same.  Tables, in groups, one group a line."""

from __future__ import annotations

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _groups(text: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(line.split()) for line in text.strip().splitlines())


def _pairs(text: str) -> frozenset[frozenset[str]]:
    pairs = set()
    for line in text.strip().splitlines():
        left, right = (side.split() for side in line.split("|"))
        pairs |= {frozenset((one, other)) for one in left for other in right}
    return frozenset(pairs)


# Words that a question can lose or gain, and stay what it is.
FILLERS = _set("""
    a an the this that these those i me my mine you your yours we us our it its they them their
    is are was were be been being am do does did doing done have has had having will would shall should can could
    may might must to of in on at by for with as into about and or if so then there here
    what which how whats hows way ways please kindly hi hello hey thanks thank just quickly quick tell explain
    describe show give know want need like help let lets get got getting make go possible able anyone somebody
    someone whether question wondering wonder curious again really actually exactly also some any
    """)

# One of these on one side only, and it is another question.
DECIDING = _set("""
    not no never none nothing nobody neither nor without cannot hardly barely except unless only but instead
    who whom whose when where why
    before after until since during between within above below over under against versus from off out up down
    more less most least fewer few many much often long far old
    first last next previous every each all both either other another same different
    """)

NEGATIONS = _set("not no never none nothing nobody neither nor without cannot hardly barely except unless")

# Only what is the same whatever it is done to: to "stop" a machine at a provider is not to "terminate" it, and who
# "resets" a router does not "update" it.
SYNONYMS = _groups("""
change modify alter
delete erase
begin start
end finish
buy purchase
fix repair mend
resolve solve
choose select pick
picture image photo
error failure
problem issue
fast rapid
large big
price cost
find locate
create generate
happen occur
difference distinction
reason cause
car automobile
film movie
doctor physician
phone telephone
use utilize
approach technique
convert transform
reply respond
enable activate
disable deactivate
""")

# Words that mean the same beside others only.
PHRASES = (
    (
        re.compile(r"\b(do(?:es)?|can|could|should|would|must|may) one\b(?! (?:of|or|and)\b)", re.IGNORECASE),
        r"\1 somebody",
    ),
    (re.compile(r"\b[Cc]hange(?= (?:(?:my|your|our|the|a) )?(?:[a-z]+ )?password\b)"), "reset"),
)

ANTONYMS = _pairs("""
enable activate | disable deactivate
start begin open launch | stop end finish close
increase raise grow gain | decrease reduce lower shrink lose drop
ascending | descending
maximum max maximal highest most best largest biggest longest | minimum min minimal lowest least worst smallest shortest
allow permit accept grant approve | deny forbid reject refuse block ban revoke
add insert append include | remove delete exclude subtract
buy purchase | sell
import | export
upload | download
encode encrypt compress lock pack | decode decrypt decompress unlock unpack
install | uninstall
connect attach | disconnect detach
login signin | logout signout
push | pull
read | write
send | receive
hot warm | cold cool
high | low
long tall | short
big large | small little tiny
fast quick | slow
old | new young
good | bad
true right correct | false wrong incorrect
left | right
up upper top upstairs | down lower bottom downstairs
north | south
east | west
inside indoor internal inner | outside outdoor external outer
before earlier | after later
first | last
early | late
male man men boy husband father he son brother | female woman women girl wife mother she daughter sister
rich | poor
safe | dangerous unsafe
public | private
positive advantage advantages pros benefit benefits | negative disadvantage disadvantages cons drawback drawbacks
win | lose
love like | hate dislike
legal | illegal
buyer | seller
input | output
row rows | column columns
day | night
hard difficult | easy simple soft
heavy | light
strong | weak
full | empty
alive | dead
cheap | expensive dear
summer | winter
always | never
all every | none no
expand | collapse
encourage | discourage
success succeed pass | failure fail
arrive arrival | depart departure leave
borrow | lend
teach | learn
ask question | answer
married single | divorced
ancestor parent | descendant child
client | server
odd | even
vertical | horizontal
singular | plural
debit | credit
sunrise | sunset
morning | evening
employer | employee
prefix | suffix
encoder | decoder
""")

# What a negating prefix makes of a word is its opposite.
PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "de", "anti", "mis")

# What only number and person make of a word.
AGREEING = {"does": "do", "has": "have", "are": "is", "am": "is", "were": "was"}

# Words of one stem that are opposites.
OPPOSITE_BEGINNINGS = (
    ("hyper", "hypo"),
    ("over", "under"),
    ("pre", "post"),
    ("inter", "intra"),
    ("in", "out"),
)
OPPOSITE_ENDINGS = (("less", "ful"),)

# Words that are something else without their ending.
WHOLE = _set("""
    news goods glasses customs means arms works arts woods waters spirits terms scales savings earnings premises
    manners remains looks forces spectacles physics economics mathematics politics ethics statistics series species
    airs blues troops pains papers minutes contents damages grounds quarters colours colors times always
    """)

NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        [
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
            *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
            *("nineteen", "twenty"),
        ]
    )
} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
    "billion": "1000000000",
    "dozen": "12",
    "half": "0.5",
    "second": "2nd",
    "third": "3rd",
    "fourth": "4th",
    "fifth": "5th",
}

# Names that are words of their own: days and months, which many write small.
CALENDAR = _set("""
    monday tuesday wednesday thursday friday saturday sunday january february april june july august september
    october november december today tomorrow yesterday weekend weekday
    """)

# With what a sentence may begin in a capital without being a name; the fillers and deciding words may, too.
OPENERS = _set("""
    list write find compare translate summarize summarise calculate compute convert define sort name draw plan
    suggest recommend create make build fix debug review check is are was were can could why who when where
    difference best good steps ways given using suppose imagine consider regarding considering
    """)
