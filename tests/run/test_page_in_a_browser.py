"""What a person sees of a report: the page in a real browser, on a desk's screen and on a telephone's."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.helpers.browser import BROWSER, Browser
from tests.helpers.staged_runs import STAGES, plan_file, run_here
from tests.helpers.training_runs import tiny_data

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    first = {**STAGES[0], "steps": 12}
    del first["grow"]
    plan = plan_file(directory, stages=[first, {"operator": "width", "steps": 12}])
    run_here(plan, tiny_data(directory), directory / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: None)
        from ckptgrow.cli import run

        assert run(["report", str(directory / "out")]) == 0
    return directory / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_every_picture_is_seen_and_the_console_is_silent(page: Path, browser: Browser, width: int) -> None:
    seen = browser.see(page, width)
    assert seen.said == []
    assert seen.addresses[0] == page.as_uri() and all(one.startswith("data:") for one in seen.addresses[1:])
    pictures = seen.layout["images"]
    assert [one["name"] for one in pictures] == ["Validation loss against compute", "Learning rate against compute"]
    for one in pictures:
        assert one["pixels"] > 600 and one["shown"] == "visible"
        assert one["height"] > 200 and 0 <= one["left"] < one["right"] <= width
    assert seen.layout["width"] == width  # nothing sticks out of the page
    for words in ("The run is done", "Stages", "passed", "By hand", "ckptgrow verify"):
        assert words in seen.layout["text"]


def test_the_check_sees_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    """A picture that is none, a script that fails, an address outside and a line that sticks out."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!doctype html><img alt='x' src='data:image/png;base64,AAAA'><script>nothing()</script>"
        "<link rel='stylesheet' href='missing.css'><div style='width: 2000px'>wide</div>"
    )
    seen = browser.see(broken, 400)
    assert any("nothing is not defined" in one for one in seen.said)
    assert any(one.endswith("missing.css") for one in seen.addresses)
    assert seen.layout["images"][0]["pixels"] == 0 and seen.layout["width"] > 400
