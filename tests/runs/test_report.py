"""What a run writes about itself, and the pages made of it, in a real browser where there is one."""

import itertools
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch

from sjc_fast import UserError
from sjc_fast.runs.charts import line_chart
from sjc_fast.runs.folder import RunFolder
from sjc_fast.runs.journal import Journal, read_metrics, read_record
from sjc_fast.runs.report import write_gallery, write_report
from tests.support.command import SMALL, done_inside, sjc


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small finished run, made by the command."""
    parent = tmp_path_factory.mktemp("runs")
    options = ["--steps", "24", "--log.metrics-every", "2", "--log.preview-every", "4", *SMALL]
    done_inside("train", "--prompt", "a red <mushroom>", "--output", parent / "run", *options)
    return parent / "run"


class Page(HTMLParser):
    """Text and addresses of a page; complains about tags that do not match."""

    VOID = ("meta", "img", "br", "line", "polyline")

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.sources, self.links = [], "", [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values["src"]] if "src" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_a_run_says_what_it_did(finished):
    rows = read_metrics(RunFolder(finished))
    assert [row["step"] for row in rows] == list(range(2, 25, 2))
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(rows))
    assert {"opacity", "emptiness", "update_rms", "sigma"} <= rows[0].keys()
    record = read_record(RunFolder(finished))
    assert (record["status"], record["steps"]) == ("finished", 24)
    assert list(record["seconds"]) == ["loading", "training", "previews and checkpoints", "mesh and video"]
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert record["mesh"]["faces"] > 100
    assert [p.stem for p in sorted((finished / "timeline").iterdir())] == [f"{n:07}" for n in range(4, 25, 4)]


@pytest.mark.slow
def test_the_report_is_one_page_that_needs_nothing_else(finished):
    page = Page((finished / "report.html").read_text())
    assert all(source.startswith("data:") for source in page.sources)
    assert sum(s.startswith("data:video/mp4") for s in page.sources) == 1
    assert sum(s.startswith("data:image/jpeg") for s in page.sources) == 6
    assert all((finished / link).is_file() for link in page.links)
    assert "mesh.ply" in page.links
    for words in ("a red <mushroom>", "24 of 24 steps", "noise_samples", "step 24", "mesh, faces", "optimizer.lr"):
        assert words in page.text, words


@pytest.mark.slow
def test_a_stopped_run_has_a_report_too(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("turntable.mp4", "run.json", "mesh.ply"):
        (folder / name).unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], '{"step": 8, "opac']))
    page = Page(write_report(RunFolder(folder)).read_text())
    assert "The run is not finished." in page.text
    assert [row["step"] for row in read_metrics(RunFolder(folder))] == [2, 4, 6]


def test_a_resumed_journal_goes_on_from_its_checkpoint(tmp_path):
    first = Journal(RunFolder(tmp_path), 100, 0)
    first.phase("training")
    for step in (10, 20, 30):
        first.measured(step, {"opacity": 0.1})
    first.preview(20, torch.rand(3, 8, 16))
    first.preview(30, torch.rand(3, 8, 16))

    class At:
        position = 30

    with pytest.raises(KeyError), first.ending(At(), KeyError):
        raise KeyError
    assert read_record(RunFolder(tmp_path))["status"] == "stopped"
    again = Journal(RunFolder(tmp_path), 100, 20)
    again.phase("training")
    again.measured(30, {"opacity": 0.2})
    with again.ending(At(), KeyError):
        pass
    assert [(row["step"], row["opacity"]) for row in read_metrics(RunFolder(tmp_path))] == [
        (10, 0.1),
        (20, 0.1),
        (30, 0.2),
    ]
    assert [p.name for p in (tmp_path / "timeline").iterdir()] == ["0000020.jpg"]
    assert read_record(RunFolder(tmp_path))["status"] == "finished"


def test_a_long_run_keeps_few_previews(tmp_path):
    journal = Journal(RunFolder(tmp_path), 10_000, 0)
    for step in range(50, 10_001, 50):
        journal.preview(step, torch.zeros(3, 4, 8))
    kept = sorted(int(p.stem) for p in (tmp_path / "timeline").iterdir())
    assert 20 <= len(kept) <= 26
    assert kept[0] == 50
    assert kept[-1] == 10_000


def test_charts():
    chart = line_chart("a & b", [0, 10, 20], [1.0, float("nan"), 3.0])
    assert "a &amp; b" in chart
    points = re.search('points="([^"]*)"', chart)[1].split()
    assert len(points) == 2
    assert float(points[0].split(",")[1]) > float(points[1].split(",")[1])  # up is larger
    assert line_chart("flat", [0, 1], [2.0, 2.0]).count("polyline") == 1
    assert ">100<" in line_chart("log", [0, 1, 2], [0.0, 1.0, 1000.0], logarithmic=True)
    assert line_chart("one point", [1], [1.0]) == ""


@pytest.mark.slow
def test_gallery(finished, tmp_path):
    page = Page(write_gallery([finished, finished], tmp_path / "all.html", "Mine & yours").read_text())
    assert page.text.count("a red <mushroom>") == 2
    assert "Mine & yours" in page.text
    assert all(s.startswith("data:video/mp4") for s in page.sources)
    assert all((tmp_path / link).resolve() == (finished / "report.html").resolve() for link in page.links)
    done = sjc("gallery", finished, "--output", tmp_path / "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").exists()


def test_pages_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        write_gallery([tmp_path], tmp_path / "all.html", "x")
    for arguments, message in (
        (["gallery"], "at least one run folder"),
        (["gallery", str(tmp_path)], "is not a run folder"),
        (["gallery", str(tmp_path), "--output", "page.pdf"], "ends in .html"),
    ):
        done = sjc(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_the_report_in_a_browser(finished, browser, width, scheme):
    """On a phone and on a screen, dark and light: everything shows, nothing is fetched, nothing sticks out."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked, broken = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(error))
    page.goto((finished / "report.html").as_uri())
    page.wait_for_function("[...document.images].every(i => i.complete)")
    assert page.evaluate("[...document.images].map(i => i.naturalWidth)").count(0) == 0
    assert page.evaluate("document.images.length") >= 4
    page.wait_for_function("document.querySelector('video').readyState > 0")
    assert page.evaluate("document.querySelector('video').videoWidth") == 48
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = (
        sum(int(v) for v in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{name}"))[:3])
        for name in ("backgroundColor", "color")
    )
    assert (paper < 150 < 450 < ink) if scheme == "dark" else (ink < 150 < 450 < paper)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert broken == []
    assert page.get_by_text("a red <mushroom>").first.is_visible()
    page.close()
