"""Pictures side by side, and what classifiers say to them."""

import json
from pathlib import Path

from dashboards.site import make_site
from dashboards.sources import open_sources
from tests.dashboards_tests.conftest import make_study
from tests.dashboards_tests.test_site import checked, query

ANSWERING = """
from study.objective import Objective, Result


class Answering(Objective):
    metric = "accuracy"

    def suggest(self, trial):
        return {{"x": trial.suggest_float("x", 0, 1)}}

    def evaluate(self, spec, world, report):
        picture = b"\\x89PNG\\r\\n\\x1a\\n"
        return Result(spec["x"], files={{"examples.eps08.png": picture, "examples.eps08.json": {0!r}}})
"""
SAID = {
    "true": ["cat", "dog", "<b>"],
    "before": {"vgg": ["cat", "cat", "<b>"], "<i>": ["cat", "dog", "dog"]},
    "after": {"vgg": ["dog", "cat", "<b>"], "<i>": ["cat", "cat", "<b>"]},
}


BROKEN = [
    b"", b"\xff", b"[1]", b"{}", b'{"true": ["a"], "before": {"v": ["a"]}, "after": {"w": ["a"]}}',
    b'{"true": ["a"], "before": {"v": ["a", "b"]}, "after": {"v": ["a"]}}',
    b'{"true": [1], "before": {"v": [1]}, "after": {"v": [2]}}',
]  # fmt: skip


def test_what_classifiers_say_before_and_after(url: str, tmp_path: Path) -> None:
    file = tmp_path / "answering.py"
    file.write_text(ANSWERING.format(json.dumps(SAID).encode()))
    study = make_study(url, "s", f"{file}:Answering", 2)
    client = make_site(open_sources([url])).test_client()

    def pages() -> list[str]:
        return [client.get(f"/{page}?{query('0/s')}").text for page in ("gallery", "changes")]

    for page in pages():
        checked(page)
        assert page.count("<img") == page.count('<div class="answers">') == 2
        row = '<th scope="row">vgg</th><td><b>cat \u2192 dog</b></td><td><b>cat</b></td><td>&lt;b&gt;</td>'
        assert row in page
        assert '<th scope="row">&lt;i&gt;</th><td>cat</td><td><b>dog \u2192 cat</b></td>' in page
        assert "<td>dog \u2192 &lt;b&gt;</td>" in page
    # What cannot be read is left out.
    files = [f for f in Path(study.user_attrs["artifacts"]).iterdir() if f.read_bytes()[:1] == b"{"]
    assert len(files) == 2
    for content in BROKEN:
        for file in files:
            file.write_bytes(content)
        for page in pages():
            assert (page.count("<img"), page.count('<div class="answers">')) == (2, 0)
