from penstock.admin.backoff import GOOD_LIFE, Backoff


def test_the_first_death_is_answered_at_once_and_deaths_in_a_row_ever_more_slowly():
    backoff = Backoff()
    assert [backoff.delay(0.1) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_long_life_is_forgiven():
    backoff = Backoff()
    for _ in range(50):
        backoff.delay(0.1)
    assert backoff.delay(GOOD_LIFE) == 0
    assert backoff.delay(GOOD_LIFE - 1) == 1
