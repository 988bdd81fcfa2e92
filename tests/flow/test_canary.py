"""Trials: their steps and ends, in a file that several share."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest

from penstock.config.model import CanaryConfig
from penstock.errors import StorageUnavailable
from penstock.flow.canary import Trial, Trials
from penstock.flow.verdict import Figures

CONFIG = CanaryConfig(version="new", steps=[0.1, 0.5], least_calls=20, most_calls=50)


def figures(answered=0, failed=0, first_token=0.1, cost=None):
    made = Figures()
    for _ in range(answered):
        made.answer(first_token, None, None, cost)
    for _ in range(failed):
        made.fail()
    return made


@contextlib.asynccontextmanager
async def opened(path):
    trials = Trials(path, now=lambda: 1_000.0)
    try:
        yield trials
    finally:
        await trials.close()


def run(path, *counted, config=CONFIG):
    """The trial after these pairs of figures were counted one after the other."""

    async def main():
        async with opened(path) as trials:
            trial = await trials.read("m", "i")
            for new, old in counted:
                trial, _ = await trials.count("m", "i", config, trial.stamp, new, old)
            return trial

    return asyncio.run(main())


def test_one_that_nobody_knows_begins_with_the_first_share():
    trial = run(None)
    assert trial.phase == "trial"
    assert trial.share(CONFIG) == 0.1


def test_a_version_that_fails_every_call_is_rolled_back_after_ten():
    assert run(None, (figures(failed=9), figures(90))).phase == "trial"
    trial = run(None, (figures(failed=10), figures(90)))
    assert trial.phase == "rolled_back"
    assert trial.share(CONFIG) == 0.0
    assert trial.reason == "failed calls: 100 % instead of 0 %"


def test_a_slow_one_is_rolled_back():
    trial = run(None, (figures(40, first_token=1.0), figures(180)))
    assert trial.phase == "rolled_back"
    assert "first token" in trial.reason


def test_one_that_is_no_worse_goes_through_its_steps_and_counts_anew_at_each():
    good = (figures(1_000), figures(1_000))
    trial = run(None, good)
    assert (trial.phase, trial.share(CONFIG), trial.new.calls) == ("trial", 0.5, 0)
    assert trial.reason == "it is no worse"
    trial = run(None, good, good)
    assert (trial.phase, trial.share(CONFIG)) == ("promoted", 1.0)


def test_what_cannot_be_told_goes_on_until_there_were_enough():
    """Twenty calls without a failure do not show that less than two in a hundred fail."""
    few = (figures(20), figures(200))
    assert run(None, few).share(CONFIG) == 0.1
    trial = run(None, few, (figures(30), figures(300)))
    assert trial.share(CONFIG) == 0.5
    assert trial.reason == "50 calls did not show it to be worse"


def test_enough_of_one_alone_decides_nothing():
    assert run(None, (figures(500), figures(19))).share(CONFIG) == 0.1


def test_what_only_one_version_was_asked_counts():
    trial = run(None, (figures(5), figures()), (figures(), figures(7)))
    assert (trial.new.answered, trial.old.answered) == (5, 7)


def test_only_what_is_worse_is_told_as_worse():
    trial = Trial()
    trial.count(figures(failed=9), figures(90))
    assert [finding.criterion for finding in trial.worse(CONFIG)] == ["errors"]
    assert len(trial.findings(CONFIG)) > 1


def test_where_both_fail_nothing_is_decided():
    trial = run(None, *[(figures(failed=500), figures(failed=500))] * 20)
    assert (trial.phase, trial.step) == ("trial", 0)


def test_without_prices_the_rest_decides():
    found = run(None, (figures(1_000), figures(1_000, cost=0.1)))
    assert found.share(CONFIG) == 0.5


def test_what_was_counted_in_another_epoch_does_not_count():
    async def main():
        async with opened(None) as trials:
            await trials.decide("m", "i", CONFIG, "restart", "again", wholly=False)
            return await trials.count("m", "i", CONFIG, Trial().stamp, figures(failed=10), figures(90))

    trial, action = asyncio.run(main())
    assert (trial.phase, trial.epoch, trial.new.calls, action) == ("trial", 1, 0, None)


def test_a_decision_outlives_the_process(tmp_path):
    path = tmp_path / "versions.sqlite"
    run(path, (figures(failed=10), figures(90)))
    trial = run(path)
    assert (trial.phase, trial.decided) == ("rolled_back", 1_000.0)


def test_two_workers_make_one_decision(tmp_path):
    """Neither has seen enough by itself; both add it at once."""

    async def main():
        path = tmp_path / "versions.sqlite"
        async with opened(path) as one, opened(path) as other:
            half = (figures(failed=6), figures(50))
            return await asyncio.gather(
                *(trials.count("m", "i", CONFIG, Trial().stamp, *half) for trials in (one, other))
            ), await one.read("m", "i")

    answers, trial = asyncio.run(main())
    assert sorted(str(action) for _, action in answers) == ["None", "rollback"]
    assert (trial.phase, trial.epoch, trial.new.calls) == ("rolled_back", 1, 12)


def test_versions_of_other_names_and_models_have_trials_of_their_own():
    async def main():
        async with opened(None) as trials:
            await trials.decide("m", "i", CONFIG, "rollback", "bad", wholly=False)
            return [(await trials.read(*who)).phase for who in (("m", "i"), ("m", "j"), ("n", "i"))]

    assert asyncio.run(main()) == ["rolled_back", "trial", "trial"]


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "versions.sqlite"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(StorageUnavailable):
        run(path)


def test_a_file_of_somebody_else_is_not_touched(tmp_path):
    path = tmp_path / "versions.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (a)")
    database.close()
    with pytest.raises(StorageUnavailable):
        run(path)


def decided(trial, *actions, wholly=False):
    for action in actions:
        trial.decide(action, CONFIG, "by hand", 0.0, wholly=wholly)
    return trial.phase, trial.share(CONFIG)


def test_it_can_be_promoted_step_by_step_or_wholly():
    assert decided(Trial(), "promote") == ("trial", 0.5)
    assert decided(Trial(), "promote", "promote") == ("promoted", 1.0)
    assert decided(Trial(), "promote", wholly=True) == ("promoted", 1.0)


def test_it_can_be_rolled_back_at_any_phase():
    assert decided(Trial(), "rollback") == ("rolled_back", 0.0)
    assert decided(Trial(), "promote", "promote", "rollback") == ("rolled_back", 0.0)


def test_one_that_was_rolled_back_is_promoted_back_to_where_it_was_or_begins_again():
    assert decided(Trial(), "promote", "rollback", "promote") == ("trial", 0.5)
    assert decided(Trial(), "promote", "rollback", "restart") == ("trial", 0.1)


def test_fewer_steps_in_a_new_configuration_are_the_last_ones():
    assert Trial(step=3).share(CONFIG) == 0.5
