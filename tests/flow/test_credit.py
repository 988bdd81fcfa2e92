"""What is granted of a small limit, in the pool."""

from penstock.flow.credit import NOT_YET, NOTHING, Credit, granted
from penstock.flow.places import RECOVERY
from penstock.flow.sharing import LIFE, Pool, Report, Use


def use(number, wants, *, least=1.0, held=0.0, total=0.0, limit=5.0):
    return Use(limit, total, 0.0, None, number, held, wants, least)


def ask(pool, member, used, now=0.0, **more):
    report = Report("key:k", False, 1.0, 0.0, 0, used, None)
    (lease,) = pool.exchange(member, [report], now, **more).leases
    return lease.requests_held


def test_who_asks_first_gets_what_it_wants_and_the_next_one_the_rest():
    pool = Pool()
    assert ask(pool, "a", use(1, 3.0)) == 3
    assert ask(pool, "b", use(1, 3.0)) == 2
    assert ask(pool, "c", use(1, 3.0)) == 0


def test_less_than_is_of_use_to_a_call_is_not_granted():
    assert granted(4.0, use(1, 9.0, least=5.0), NOTHING) == Credit(0.0, 1)
    assert granted(4.0, use(1, 9.0, least=4.0), NOTHING) == Credit(4.0, 1)
    assert granted(4.0, use(1, 9.0, least=4.0, held=3.0), NOTHING) == Credit(4.0, 1)


def test_what_is_owed_is_not_granted():
    assert granted(-2.0, use(1, 1.0), NOTHING).held == 0


def test_what_was_taken_is_counted_once_and_what_is_given_back_is_had_by_others():
    pool = Pool()
    assert ask(pool, "a", use(1, 3.0)) == 3
    assert ask(pool, "a", use(2, 0.0, held=1.0, total=1.0)) == 1  # one of three was given back
    assert ask(pool, "b", use(1, 9.0)) == 3


def test_a_report_that_was_overtaken_is_granted_nothing():
    pool = Pool()
    assert ask(pool, "a", use(2, 2.0)) == 2
    assert ask(pool, "a", use(1, 5.0)) == 2
    assert ask(pool, "b", use(1, 5.0)) == 3


def test_what_a_member_held_that_died_is_free():
    pool = Pool()
    assert ask(pool, "a", use(1, 5.0)) == 5
    assert ask(pool, "b", use(1, 5.0), 1.0) == 0
    assert ask(pool, "b", use(2, 5.0), LIFE + 1.0) == 5


def test_a_pool_that_has_lost_its_memory_grants_nothing_until_all_could_say_what_they_took():
    pool = Pool()
    assert ask(pool, "a", use(1, 1.0), rejoins=True) == NOT_YET
    assert ask(pool, "b", use(1, 1.0), RECOVERY - 0.1) == NOT_YET
    assert ask(pool, "b", use(2, 1.0), RECOVERY + 0.1) == 1


def test_a_bucket_whose_limit_changes_stays_as_full_as_it_was():
    pool = Pool()
    ask(pool, "a", use(1, 0.0))
    ask(pool, "a", use(2, 0.0, total=2.0))
    assert ask(pool, "a", use(3, 100.0, total=2.0, limit=50.0)) == 30
    pool = Pool()
    ask(pool, "a", use(1, 0.0, limit=0.0))
    assert ask(pool, "a", use(2, 100.0, limit=50.0)) == 50
