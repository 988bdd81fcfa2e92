import math
import os
import platform
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock import metrics
from penstock.metrics import (
    Family,
    Registry,
    identity_metrics,
    merge,
    process_figures,
    process_metrics,
    render,
)


def parsed(families):
    """What an independent reader of the format understands."""
    return {family.name: family for family in text_string_to_metric_families(render(families).decode())}


def samples(families):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parsed(families).values()
        for sample in family.samples
    }


class TestCells:
    def test_a_counter_grows(self):
        cell = Registry().counter("calls_total", "Calls.", labels=("upstream",)).labels("openai")
        cell.add()
        cell.add(2.5)
        assert cell.value == 3.5

    def test_a_gauge_goes_both_ways(self):
        cell = Registry().gauge("open", "Open.").labels()
        cell.set(5)
        cell.add(-2)
        assert cell.value == 3

    def test_the_same_labels_give_the_same_cell(self):
        calls = Registry().counter("calls_total", "Calls.", labels=("upstream", "outcome"))
        assert calls.labels("a", "b") is calls.labels("a", "b")
        assert calls.labels("a", "b") is not calls.labels("b", "a")

    def test_a_bound_belongs_to_its_own_bucket(self):
        cell = Registry().histogram("wait_seconds", "Wait.", buckets=(1, 2)).labels()
        for value in (0, 1, 1.5, 2, 2.1, 1e9):
            cell.observe(value)
        assert cell.counts == [2, 2, 2]
        assert cell.sum == pytest.approx(1e9 + 6.6)

    def test_reprs_tell_the_state(self):
        registry = Registry()
        calls = registry.counter("calls_total", "Calls.", labels=("upstream",))
        calls.labels("a").add(2)
        assert repr(calls.labels("a")) == "<Counter 2>"
        assert "calls_total['upstream'], 1 children" in repr(calls)
        assert "2 metrics" in repr(registry)


class TestDeclaring:
    @pytest.mark.parametrize("name", ["calls", "1_total", "a-b_total", "a b_total", "_total\n", "é_total"])
    def test_a_bad_name_is_refused(self, name):
        with pytest.raises(ValueError):
            Registry().counter(name, "Help.")

    @pytest.mark.parametrize("label", ["", "1", "a-b", "__name__", "a b", "x\n"])
    def test_a_bad_label_is_refused(self, label):
        with pytest.raises(ValueError):
            Registry().gauge("open", "Help.", labels=(label,))

    @pytest.mark.parametrize("buckets", [(), (2, 1), (1, 1), (1, math.inf)])
    def test_bad_buckets_are_refused(self, buckets):
        with pytest.raises(ValueError):
            Registry().histogram("wait", "Help.", buckets=buckets)

    def test_le_is_the_histograms_own_label(self):
        with pytest.raises(ValueError):
            Registry().histogram("wait", "Help.", labels=("le",))

    def test_twice_is_refused(self):
        registry = Registry()
        registry.gauge("open", "Help.")
        with pytest.raises(ValueError, match="declared already"):
            registry.gauge("open", "Help.")

    @pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
    def test_labels_must_match_in_number(self, values):
        calls = Registry().counter("calls_total", "Calls.", labels=("upstream", "outcome"))
        with pytest.raises(ValueError, match="calls_total"):
            calls.labels(*values)


class TestBounds:
    def test_label_sets_beyond_the_bound_are_counted_under_other(self):
        registry = Registry(max_children=3)
        calls = registry.counter("calls_total", "Calls.", labels=("model", "outcome"))
        for number in range(1_000):
            calls.labels(f"model-{number}", "ok").add()
        counted = samples(registry.collect())
        mine = {labels: value for (name, labels), value in counted.items() if name == "calls_total"}
        assert len(mine) == 4
        assert mine[("model", "other"), ("outcome", "other")] == 997
        assert sum(mine.values()) == 1_000
        assert counted["penstock_metric_overflow_total", (("metric", "calls_total"),)] == 997

    def test_those_that_were_there_before_go_on(self):
        registry = Registry(max_children=1)
        calls = registry.counter("calls_total", "Calls.", labels=("model",))
        first = calls.labels("first")
        calls.labels("second").add()
        assert calls.labels("first") is first

    def test_a_metric_may_have_a_bound_of_its_own(self):
        calls = Registry(max_children=1).counter("calls_total", "Calls.", labels=("m",), max_children=2)
        assert calls.labels("a") is not calls.labels("b")
        assert calls.labels("c") is calls.labels("d")


class TestExposition:
    def test_an_independent_parser_reads_every_kind(self):
        registry = Registry()
        registry.counter("calls_total", "Calls.", labels=("upstream",)).labels("a").add(3)
        registry.gauge("open", "Open.").labels().set(-1.5)
        wait = registry.histogram("wait_seconds", "Wait.", labels=("tier",), buckets=(0.5, 1)).labels("gold")
        for value in (0.1, 0.7, 3):
            wait.observe(value)
        families = parsed(registry.collect())
        assert {name: family.type for name, family in families.items()} == {
            "penstock_metric_overflow": "counter",
            "calls": "counter",
            "open": "gauge",
            "wait_seconds": "histogram",
        }
        assert families["open"].documentation == "Open."
        counted = samples(registry.collect())
        assert counted["calls_total", (("upstream", "a"),)] == 3
        assert counted["open", ()] == -1.5
        tier = ("tier", "gold")
        assert counted["wait_seconds_bucket", (("le", "0.5"), tier)] == 1
        assert counted["wait_seconds_bucket", (("le", "1"), tier)] == 2
        assert counted["wait_seconds_bucket", (("le", "+Inf"), tier)] == 3
        assert counted["wait_seconds_count", (tier,)] == 3
        assert counted["wait_seconds_sum", (tier,)] == pytest.approx(3.8)

    def test_a_metric_without_labels_is_nought_from_the_start(self):
        registry = Registry()
        registry.counter("calls_total", "Calls.")
        assert samples(registry.collect())["calls_total", ()] == 0

    @given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
    def test_any_text_survives_as_a_label(self, text):
        registry = Registry()
        registry.counter("calls_total", "Calls.", labels=("model",)).labels(text).add()
        ((_, labels),) = [key for key in samples(registry.collect()) if key[0] == "calls_total"]
        assert labels == (("model", text),)

    def test_help_with_a_line_break_stays_one_line(self):
        registry = Registry()
        registry.gauge("open", "One\nline \\ and another")
        assert parsed(registry.collect())["open"].documentation == "One\nline \\ and another"

    @pytest.mark.parametrize("value", [0, 1, 10**14, 10**18, 0.1, 1e-9, 1e300, math.inf, -math.inf, math.nan])
    def test_numbers_survive(self, value):
        registry = Registry()
        registry.gauge("open", "Open.").labels().set(value)
        assert samples(registry.collect())["open", ()] == pytest.approx(value, nan_ok=True, rel=1e-15)

    def test_ends_in_a_line_break(self):
        assert render(Registry().collect()).endswith(b"\n")
        assert "version=0.0.4" in metrics.CONTENT_TYPE


class TestMerging:
    def worker(self, calls, lag, waits):
        registry = Registry()
        counter = registry.counter("calls_total", "Calls.", labels=("upstream",))
        for upstream, count in calls.items():
            counter.labels(upstream).add(count)
        registry.gauge("open", "Open.").labels().set(lag)
        registry.gauge("lag", "Lag.", merge="max").labels().set(lag)
        histogram = registry.histogram("wait", "Wait.", buckets=(1, 2)).labels()
        for wait in waits:
            histogram.observe(wait)
        return registry.collect()

    def test_counters_and_histograms_add_up_and_gauges_as_declared(self):
        merged = samples(merge([self.worker({"a": 1, "b": 2}, 5, [0.5, 3]), self.worker({"b": 3}, 7, [1.5])]))
        assert merged["calls_total", (("upstream", "a"),)] == 1
        assert merged["calls_total", (("upstream", "b"),)] == 5
        assert merged["open", ()] == 12
        assert merged["lag", ()] == 7
        assert merged["wait_bucket", (("le", "1"),)] == 1
        assert merged["wait_bucket", (("le", "2"),)] == 2
        assert merged["wait_count", ()] == 3
        assert merged["wait_sum", ()] == 5

    def test_a_metric_that_only_one_process_has_is_kept(self):
        other = Registry()
        other.gauge("extra", "Extra.").labels().set(4)
        assert samples(merge([self.worker({}, 0, []), other.collect()]))["extra", ()] == 4

    def test_of_one_is_the_same_and_of_none_is_nothing(self):
        one = self.worker({"a": 1}, 1, [1])
        assert render(merge([one])) == render(one)
        assert merge([]) == []

    def test_two_declarations_are_refused(self):
        one, other = Registry(), Registry()
        one.histogram("wait", "Wait.", buckets=(1, 2))
        other.histogram("wait", "Wait.", buckets=(1, 3))
        with pytest.raises(ValueError, match="wait is declared in two ways"):
            merge([one.collect(), other.collect()])

    @pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
    def test_families_travel_between_processes(self, codec):
        families = self.worker({"a": 1}, 2, [0.5])
        assert codec.decode(codec.encode(families), type=list[Family]) == families

    def test_what_was_collected_does_not_change_afterwards(self):
        registry = Registry()
        histogram = registry.histogram("wait", "Wait.").labels()
        families = registry.collect()
        before = render(families)
        histogram.observe(1)
        assert render(families) == before


def test_collectors_run_before_each_collecting():
    registry = Registry()
    gauge = registry.gauge("open", "Open.").labels()
    registry.before_collecting(lambda: gauge.add(1))
    registry.collect()
    assert samples(registry.collect())["open", ()] == 2


@pytest.mark.parametrize(
    "buckets",
    [metrics.TTFT_BUCKETS, metrics.INTER_TOKEN_BUCKETS, metrics.DURATION_BUCKETS],
)
def test_the_named_buckets_can_be_used(buckets):
    Registry().histogram("wait", "Wait.", buckets=buckets)
    assert len(buckets) <= 21


def test_the_token_clocks_cover_what_is_promised():
    assert (metrics.TTFT_BUCKETS[0], metrics.TTFT_BUCKETS[-1]) == (0.001, 120)
    assert (metrics.INTER_TOKEN_BUCKETS[0], metrics.INTER_TOKEN_BUCKETS[-1]) == (0.0005, 60)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
class TestProcess:
    def test_figures_are_of_this_process(self):
        before = process_figures()
        assert 5 * 2**20 < before.resident_bytes < 2**34
        assert before.cpu_seconds > 0
        read, write = os.pipe()
        try:
            assert process_figures().open_fds == before.open_fds + 2
        finally:
            os.close(read)
            os.close(write)

    def test_metrics_have_the_customary_names_and_add_up(self):
        registry = Registry()
        process_metrics(registry)
        counted = samples(merge([registry.collect(), registry.collect()]))
        assert counted["process_resident_memory_bytes", ()] > 10 * 2**20
        assert counted["process_cpu_seconds_total", ()] > 0
        assert counted["process_open_fds", ()] >= 6
        assert counted["penstock_processes", ()] == 2

    def test_version_and_start_are_there_once(self):
        registry = Registry()
        identity_metrics(registry, "1.2.3")
        said = samples(registry.collect())
        build = (("python", platform.python_version()), ("version", "1.2.3"))
        assert said["penstock_build_info", build] == 1
        assert 0 <= time.time() - said["process_start_time_seconds", ()] < 600
