"""How quantities and times look on pages."""

from django.utils import timezone

from executors.templatetags.display import with_times


def test_times_within_a_sentence_become_elements_that_the_browser_puts_in_its_own_zone() -> None:
    said = with_times("No heartbeat since 2026-11-26 11:20:07 UTC. Free at 14:05 UTC.")
    assert '<time datetime="2026-11-26T11:20:07.000Z" data-clock>' in said
    assert f'<time datetime="{timezone.now():%Y-%m-%d}T14:05:00.000Z" data-clock>' in said
    assert said.endswith("</time>.")


def test_all_else_in_a_sentence_stays_as_it_is_and_is_escaped() -> None:
    assert with_times("<b> at 99:05 UTC, 2026-02-31 10:00 UTC") == "&lt;b&gt; at 99:05 UTC, 2026-02-31 10:00 UTC"
