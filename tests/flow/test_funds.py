"""Who may spend how much of a budget that members of a pool share."""

from penstock.flow.funds import AHEAD, Fund, Funds, current


def told(number, *, spent=0, held=0, needs=0, wants=0, known=None, book="", limit=800, period=7):
    return Funds(limit, period, number, spent, held, needs, wants, spent if known is None else known, book)


def lease(fund, member, report, *others, share=1.0, recovers=False):
    return fund.lease(member, report, share, others, recovers=recovers)


def test_a_member_gets_what_it_needs_and_wants_and_a_part_of_the_rest():
    assert lease(Fund(7), "a", told(0, needs=100, wants=60)) == (160 + int(640 * AHEAD), 560)


def test_what_is_leased_and_what_was_spent_is_nobody_elses():
    fund = Fund(7)
    lease(fund, "a", told(0, spent=100, needs=300))
    held, free = lease(fund, "b", told(0, wants=500), "a", share=0.5)
    assert (held, free) == (0, 350)  # not enough for a call is of no use
    assert lease(fund, "b", told(1, wants=300), "a", share=0.5) == (306, 44)


def test_who_cannot_get_what_it_wants_gives_back_what_it_does_not_need():
    fund = Fund(7)
    lease(fund, "a", told(0, needs=700))
    assert lease(fund, "b", told(0, held=50, needs=20, wants=200), "a") == (20, 38)


def test_a_report_that_was_overtaken_changes_nothing():
    fund = Fund(7)
    first = lease(fund, "a", told(5, needs=100))
    assert lease(fund, "a", told(4, needs=500))[0] == first[0]


def test_what_the_ledger_knew_before_is_spent_and_what_a_latecomer_spent_is_in_it():
    fund = Fund(7)
    assert lease(fund, "a", told(0, spent=100, known=300, book="l"))[1] == 800 - 300 - 62
    lease(fund, "b", told(0, spent=150, known=300, book="l"), "a")
    assert lease(fund, "a", told(1, spent=100, known=300, book="l"))[0] == 62
    assert (
        lease(fund, "c", told(0, spent=40, known=90, book="elsewhere"), "a", share=0.0)[1] == 800 - 390 - 62
    )


def test_what_a_dead_member_held_is_free_and_what_it_spent_is_not():
    fund = Fund(7)
    lease(fund, "a", told(0, spent=100, needs=500))
    assert lease(fund, "b", told(0, wants=700))[0] == 700
    assert lease(fund, "c", told(0, wants=1), "b") == (0, 0)


def test_nothing_is_leased_while_others_may_hold_it():
    assert lease(Fund(7), "a", told(0, held=30, needs=20, wants=500), recovers=True)[0] == 20
    assert lease(Fund(7), "a", told(0, held=30, needs=20), recovers=True)[0] == 30


def test_a_later_period_begins_anew_and_an_earlier_one_is_over():
    fund = Fund(7)
    assert current(fund, told(0), 7) is fund
    assert current(fund, told(0, period=8), 8).period == 8
    assert current(fund, told(0, period=6), 7) is None


def test_a_period_that_was_begun_too_early_is_the_present_one_after_all_with_what_was_spent_in_it():
    fund = Fund(400)
    lease(fund, "a", told(0, spent=300, known=500, book="l", period=400))
    assert current(fund, told(1, period=7), 400) is None, "it may have begun, and who tells is behind"
    assert current(fund, told(1, period=7), 7) is fund
    assert fund.period == 7
    assert lease(fund, "b", told(0, needs=100, known=0, period=7))[1] == 800 - 500 - 100 - int(200 * AHEAD)
