from pathlib import Path

import pytest

from script.run_benchmarks import BENCHMARKS, REPORT, with_tables

ROOT = Path(__file__).resolve().parents[2]


def test_tables_replace_those_between_their_markers_and_nothing_else() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y --><!-- end y -->"
    changed = with_tables(text, "x", "\n| \\1 |\n")
    assert changed == "a\n<!-- begin x -->\n\n| \\1 |\n\n<!-- end x -->\nb\n<!-- begin y --><!-- end y -->"
    assert with_tables(changed, "x", "\n| \\1 |\n") == changed


def test_the_report_has_a_place_for_every_benchmark() -> None:
    text = (ROOT / REPORT).read_text()
    for name in BENCHMARKS:
        assert with_tables(text, name, "new") != text
        assert (ROOT / "bench" / f"{name}.py").exists()


def test_a_report_without_the_markers_is_refused() -> None:
    with pytest.raises(LookupError, match="begin x"):
        with_tables("nothing", "x", "new")
