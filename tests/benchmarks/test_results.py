"""Ratios, verdicts and their forms; no speed is judged here."""

import json
from pathlib import Path

import pytest

from benchmarks.report import update_page
from benchmarks.results import Measurement, Results, Target, as_json, compare, count, ratio


def rate(who: str, *samples: float) -> Measurement:
    return Measurement("PUT", who, "files/s", samples)


def test_a_ratio_compares_within_each_round_so_that_a_slow_round_hurts_nobody() -> None:
    assert ratio(rate("tgdav", 10, 100, 30), rate("other", 5, 50, 10)) == 2


def test_a_ratio_of_times_says_how_many_times_as_fast_too() -> None:
    ours = Measurement("PROPFIND", "tgdav", "s", (0.1, 0.1), lower_is_better=True)
    other = Measurement("PROPFIND", "other", "s", (0.3, 0.5), lower_is_better=True)
    assert ratio(ours, other) == pytest.approx(4)


@pytest.mark.parametrize(("wanted", "met"), [(2.0, True), (2.1, False)])
def test_a_target_is_met_from_its_ratio_on(wanted: float, met: bool) -> None:
    found = compare([rate("tgdav", 20), rate("other", 10)], "tgdav", [Target("other", wanted)], judge=True)
    assert [(each.ratio, each.met) for each in found.comparisons] == [(2.0, met)]


def test_a_rival_that_was_not_measured_is_no_comparison() -> None:
    found = compare([rate("tgdav", 20)], "tgdav", [Target("other", 1)], judge=True)
    assert (len(found.measurements), found.comparisons) == (1, [])


def test_small_sizes_are_not_judged() -> None:
    found = compare([rate("tgdav", 1), rate("other", 10)], "tgdav", [Target("other", 1)], judge=False)
    assert found.comparisons[0].met is None
    assert count("blobs", 11, 10, "blobs", judge=False).met is None


def test_a_count_may_reach_its_limit_and_not_pass_it() -> None:
    assert [count("blobs", value, 10, "blobs", judge=True).met for value in (10, 11)] == [True, False]


def test_the_json_document_has_the_run_and_what_was_made_of_the_samples() -> None:
    results = Results([rate("tgdav", 10, 20, 30)], [], [count("blobs", 3, 10, "blobs", judge=True)])
    document = json.loads(as_json(results, {"rounds": 3}))
    assert document["rounds"] == 3
    assert (document["measurements"][0]["median"], document["measurements"][0]["spread"]) == (20, 1)
    assert document["counts"][0]["met"] is True


def test_a_page_keeps_all_but_its_results(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results begin -->\nold\n<!-- results end -->\nafter\n", encoding="utf-8")
    run = {"time": "now", "rounds": 1, "load": 0.5, "machine": {"memory": "1 GiB"}}
    for _ in range(2):
        update_page(page, Results([rate("tgdav", 10)]), run)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- results begin -->\nnow, 1 rounds")
    assert text.endswith("<!-- results end -->\nafter\n")
    assert text.count("| PUT | tgdav | 10 files/s | 0% | 10 |") == 1
    assert "old" not in text


def test_a_page_without_marks_is_refused_and_left(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a page", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the lines"):
        update_page(page, Results(), {})
    assert page.read_text(encoding="utf-8") == "a page"
