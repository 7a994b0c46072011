"""Lists of prompts: every form, every option, names that stay, and one line for what is wrong."""

import json

import pytest

from sjc_fast import UserError
from sjc_fast.runs.jobs import change, changes_of, make_jobs, option_names, parse_seeds, parse_sweep, read_rows
from sjc_fast.training.config import TrainConfig, digest, merge

BASE = merge(TrainConfig(), {"prompt": "x", "steps": 7})


def jobs(rows, folder):
    return make_jobs(rows, lambda _: BASE, folder)


def test_a_prompt_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa red ball\n\n# not this\n  a blue cube  \n", encoding="utf-8")
    assert read_rows(tmp_path / "a.txt") == [{"prompt": "a red ball"}, {"prompt": "a blue cube"}]


def test_tables(tmp_path):
    (tmp_path / "a.csv").write_text('prompt, seed, lr, cameras.fov\n"a ball, red", 3, 0.1, "[40, 50]"\na cube,,,\n')
    found = jobs(read_rows(tmp_path / "a.csv"), tmp_path)
    first, second = (job.config for job in found)
    assert (first.prompt, first.seed, first.optimizer.lr, first.cameras.fov) == ("a ball, red", 3, 0.1, (40.0, 50.0))
    assert (second.prompt, second.seed, second.steps) == ("a cube", 0, 7)
    rows = [{"prompt": "1", "noise-samples": 4, "cameras.law": "directions"}]
    rows.append({"prompt": "b", "score.negative_prompt": "2"})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = (job.config for job in jobs(read_rows(tmp_path / "a.jsonl"), tmp_path))
    assert (first.prompt, first.noise_samples, first.cameras.sampling) == ("1", 4, "directions")
    assert second.score.negative_prompt == "2"


def test_words_stay_words_and_numbers_become_numbers():
    row = {"prompt": "7", "seed": "7", "graph": "no", "size": "null", "weighting": "one", "lora": "[a.safetensors]"}
    config = change(BASE, row)
    assert config.prompt == "7"
    assert (config.seed, config.graph, config.size, config.score.weighting) == (7, False, None, "one")
    assert config.lora == ("a.safetensors",)


def test_names_stay_the_same_whatever_else_is_in_the_list(tmp_path):
    row = {"prompt": "A red ball!", "lr": 0.1}
    (alone,) = jobs([row], tmp_path)
    among = jobs([{"prompt": "a cube"}, row, {"prompt": "A red ball!"}, row], tmp_path)
    assert [job.name for job in among][1] == alone.name
    assert [job.name for job in among][2] == "a-red-ball-s0"
    assert len(among) == 3  # what is there twice is made once
    assert alone.name.startswith("a-red-ball-s0-")
    assert alone.config.output == tmp_path / alone.name
    with pytest.raises(UserError, match="another one has the same name, a-ball-s0"):
        jobs([{"prompt": "a ball"}, {"prompt": "a, ball"}], tmp_path)


def test_seeds_and_sweeps():
    assert parse_seeds("0..3, 9,2") == [0, 1, 2, 3, 9]
    for wrong in ("", "a", "3..1", "-1", "1.5", "0..9999999999"):
        with pytest.raises(UserError, match="seeds"):
            parse_seeds(wrong)
    assert parse_sweep([]) == [{}]
    assert parse_sweep(["lr=1,2", "seed=3"]) == [{"lr": "1", "seed": "3"}, {"lr": "2", "seed": "3"}]
    for wrong in ("lr", "=1", "lr=", "lr=1,,2"):
        with pytest.raises(UserError, match="sweep"):
            parse_sweep([wrong])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# only this\n", "names no prompt"),
        ("a.csv", "prompt,seed\na,1,2\n", "line 2: more values"),
        ("a.jsonl", '{"prompt": "a"}\n[1]\n', "line 2: expected an object"),
        ("a.jsonl", '{"prompt": \n', "line 1: "),
    ],
)
def test_files_that_are_no_lists(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for path, message in ((tmp_path / "b.txt", "No such file"), (tmp_path, "directory"), (tmp_path / "a.txt", "UTF-8")):
        with pytest.raises(UserError, match=message):
            read_rows(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "speed": 1}, "object 2, 'a': speed: no such setting"),
        ({"prompt": "a", "output": "b"}, "output: all objects of a batch share it"),
        ({"prompt": "a", "steps": "many"}, "'many' is not"),
        ({"prompt": "a", "steps": -1}, "steps -1: it must be between"),
        ({"seed": 3, "prompt": " "}, "the prompt is empty"),
        ({"prompt": "a", "weighting": "none"}, "is not one of"),
    ],
)
def test_rows_that_cannot_be(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        jobs([{"prompt": "fine"}, row], tmp_path)


def test_every_option_of_the_command_line_is_known():
    names = option_names()
    assert names["lr"] == names["optimizer.lr"] == "optimizer.lr"
    assert names["cameras.law"] == "cameras.sampling"
    assert names["direction_words"] == "cameras.words"
    changed = merge(BASE, {"seed": 2, "optimizer": {"lr": 0.5}})
    assert changes_of(changed, BASE) == {"seed": 2, "optimizer": {"lr": 0.5}}
    assert digest(merge(BASE, changes_of(changed, BASE))) == digest(changed)
