"""`momu client` against a stand-in of the service (`stub`, in ../conftest.py): files, exit codes, sentences, going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from momu_dist import client as client_package
from momu_dist.cli import _parser, main
from momu_dist.client import Job, jobs
from momu_dist.client.calls import URL
from momu_dist.client.jobs import RECORD

Run = Callable[..., int]


@pytest.fixture
def run(stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`momu client ...` in a folder with song.wav, asking the stub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "FIRST_POLL_S", 0.01)
    Path("song.wav").write_bytes(b"RIFF a song")
    return lambda *words: main(["client", *words, "--url", stub.url])


def manifest(*items: dict[str, Any], name: str = "set/items.jsonl") -> str:
    """A manifest beside a copy of the song."""
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    (path.parent / "song.wav").write_bytes(b"RIFF a song of the set")
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return name


def a2m(**more: Any) -> dict[str, Any]:
    return {"task": "a2m", "input": "song.wav", **more}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_default_address_is_the_clients() -> None:
    assert _parser().parse_args(["client", "models"]).url == URL


def test_generate_writes_the_file_with_all_settings(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "seconds": "4.5",
        "seed": "7",
        "steps": "20",
        "sampler": "dpm++",
        "guidance": "2.5",
        "fps": "30.0",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    assert run("generate", "--task", "m2a", "--input", "song.wav", "--out", "new/a.wav", *words) == 0
    (asked,) = stub.asked
    assert asked.query == {**settings, "format": "wav"} and asked.body == b"RIFF a song"
    assert Path("new/a.wav").read_bytes() == stub.made(asked)
    assert capsys.readouterr().out == f"new/a.wav: {len(stub.made(asked))} bytes\n"


def test_generate_takes_several_samples_and_an_uploaded_file(run: Run, stub: Any) -> None:
    words = ["--task", "a2m", "--file", "f" * 32, "-n", "3", "--format", "png"]
    assert run("generate", *words, "--out", "a.zip") == 0
    assert stub.asked[0].query == {"file": "f" * 32, "n": "3", "format": "png"}


def test_a_refusal_is_the_services_sentence_and_code_2(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.plan["/v1/generate/music-to-motion"] = [stub.error(422, "the file holds no sound.")]
    assert run("generate", "--task", "a2m", "--input", "song.wav", "--out", "a.mp4") == 2
    assert said(capsys) == "error: the file holds no sound."
    assert not Path("a.mp4").exists()


def test_where_no_service_answers_it_says_how_to_start_one(
    run: Run, stub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.stop()
    monkeypatch.setattr("momu_dist.client.connection.FIRST_PATIENCE_S", 0.0)
    assert run("models") == 2
    assert f"no service answers at {stub.url} (Connection refused); start one (momu serve)" in said(capsys)


def test_a_batch_ends_as_files_beside_its_record(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(a2m(seed=1, id="one"), a2m(seed=2), {"task": "joint", "seconds": 2, "format": "wav"})
    assert run("batch", path, "--out", "out") == 0
    assert list(stub.files.values()) == [b"RIFF a song of the set"], "relative to the manifest, and once"
    assert sorted(file.name for file in Path("out").iterdir()) == [RECORD, "1.mp4", "2.wav", "one.mp4"]
    shown = capsys.readouterr()
    (job,) = stub.jobs
    assert shown.out == "3 of 3 items are in out\n" and f"job {job}: 3 items" in shown.err
    record = json.loads(Path("out", RECORD).read_text())
    assert record["job"] == job and record["url"] == stub.url


def test_the_bar_counts_sampler_steps(
    run: Run, stub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("momu_dist.data.progress.LOG_INTERVAL_S", 0.0)
    stub.pace = 1
    assert run("batch", manifest(a2m(steps=20), a2m(n=2), a2m(id="bad", steps=30)), "--out", "out") == 2
    shown = capsys.readouterr().err
    assert "sampling: 50 of 150 step" in shown and "sampling: 150 of 150 step" in shown
    assert "done=2, failed=1" in shown and "results: 2 of 2 file" in shown


def test_the_same_command_goes_on_with_the_same_job(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(a2m(), a2m(seed=1))
    assert run("batch", path, "--out", "out") == 0
    Path("out/0.mp4").unlink()
    stub.asked.clear()
    assert run("batch", path, "--out", "out") == 0
    (job,) = stub.jobs
    assert not [asked for asked in stub.asked if asked.method == "POST"]
    assert [asked.path for asked in stub.calls("/v1/jobs/.*/items/.*")] == [f"/v1/jobs/{job}/items/0"]
    assert f"goes on with job {job}" in capsys.readouterr().err


def test_items_that_failed_are_named_and_the_others_are_there(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(a2m(id="good"), a2m(id="bad\x1b[2J"))
    for _ in range(2):
        assert run("batch", path, "--out", "out") == 2
        shown = capsys.readouterr()
        assert "item 2 (bad [2J): it has no beat" in shown.err
        assert "error: 1 of 2 items of job" in shown.err and shown.out == "1 of 2 items are in out\n"
        assert Path("out/good.mp4").exists()


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(
    run: Run, stub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(a2m())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Job, "wait", interrupt)
        assert run("batch", path, "--out", "out") == 130
    (job,) = stub.jobs
    shown = capsys.readouterr().err
    assert f"job {job} goes on. The same command" in shown
    assert f"momu client cancel {job} --url {stub.url}" in shown
    assert not stub.jobs[job].cancelled
    assert run("batch", path, "--out", "out") == 0
    assert list(stub.jobs) == [job]


def test_ctrl_c_before_the_job_says_that_too(
    run: Run, stub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client_package.Client, "upload", interrupt)
    assert run("batch", manifest(a2m()), "--out", "out") == 130
    assert "the same command begins again" in capsys.readouterr().err and not stub.jobs


def test_a_folder_is_of_one_manifest(run: Run, stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("batch", manifest(a2m()), "--out", "out") == 0
    capsys.readouterr()
    assert run("batch", manifest(a2m(seed=1)), "--out", "out") == 2
    assert "out is for the results of another manifest than set/items.jsonl" in said(capsys)
    assert len(stub.jobs) == 1


def test_a_job_that_has_expired_can_be_submitted_again(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(a2m(), a2m(seed=1))
    assert run("batch", path, "--out", "out") == 0
    (job,) = stub.jobs
    stub.jobs["e" * 32] = stub.jobs.pop(job)
    capsys.readouterr()
    assert run("batch", path, "--out", "out") == 2
    sentence = said(capsys)
    assert f"job {job} of out" in sentence and f"delete out/{RECORD} to submit it again" in sentence
    Path("out", RECORD).unlink()
    stub.asked.clear()
    assert run("batch", path, "--out", "out") == 0
    assert not stub.calls("/v1/jobs/.*/items/.*"), "the results that are there are kept"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "items.jsonl holds no item"),
        ('{"task": "joint", "seconds": 2}\n\n{"task"\n', "items.jsonl line 3 is no JSON"),
        ("[1]\n", "items.jsonl line 1 is no item"),
        ('{"task": "a2m", "input": "gone.wav"}\n', "item 1 of the batch: gone.wav does not exist"),
        ('{"task": "joint", "second": 2}\n', "item 1 of the batch: there is no setting 'second'"),
        ("[" * 100_000, "items.jsonl line 1 is no JSON (it is nested too deeply)"),
        ("9" * 10_000, "items.jsonl line 1 is no JSON (it holds a number of too many digits)"),
        ('{"task": "joint", "second": 2, "id": "a"}\n', "item 1 (a) of the batch: there is no setting"),
        ("\xff", "items.jsonl is no UTF-8"),
        (None, "items.jsonl cannot be read: No such file"),
    ],
)
def test_mistakes_of_a_manifest_are_a_sentence_and_nothing_is_sent(
    text: str | None, sentence: str, run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("items.jsonl").write_bytes(text.encode("latin-1"))
    assert run("batch", "items.jsonl", "--out", "out") == 2
    assert sentence in said(capsys)
    assert not stub.asked and not Path("out").exists()


def test_a_batch_that_the_service_refuses_leaves_nothing(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.plan["/v1/batch"] = [
        stub.error(422, "line 1: seconds is 500, expected at most 120 here; ask for less.")
    ] * 2
    path = manifest({"task": "joint", "seconds": 500})
    assert run("batch", path, "--out", "out") == 2
    assert said(capsys).count("\n") <= 1 and not Path("out").exists()  # no bar of inputs that there are not
    Path("out").mkdir()
    assert run("batch", path, "--out", "out") == 2
    assert Path("out").is_dir()


def test_status_and_cancel_show_how_a_job_fares(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.pace = 2
    job = client_package.Client(stub.url).batch(
        [{"task": "joint", "seconds": 2, "id": id} for id in ("bad", "b", "c", "d")]
    )
    assert run("status", job.id) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{job.id}: running, 50% of the steps; 2 queued, 1 done, 1 failed; expires 2029-01-08T00:00:00+00:00",
        "item 1 (bad): it has no beat",
    ]
    assert run("cancel", job.id) == 0
    assert f"{job.id}: cancelled" in capsys.readouterr().out
    assert stub.jobs[job.id].cancelled
    assert run("status", "../models") == 2
    assert "is no id of a job" in said(capsys)


def test_a_cancelled_batch_is_not_all_made(run: Run, stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    original = stub.of_job

    def cancelled(asked: Any, id: str, job: Any, rest: list[str]) -> Any:
        job.cancelled, job.states = True, ["cancelled"]
        return original(asked, id, job, rest)

    stub.of_job = cancelled
    assert run("batch", manifest(a2m(id="a")), "--out", "out") == 2
    assert "item 1 (a): cancelled" in capsys.readouterr().err


def test_models_are_shown_as_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    assert json.loads(capsys.readouterr().out) == {"models": [{"name": "dit_a2m"}]}


def test_the_token_comes_from_a_file_and_is_not_shown(
    run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("token").write_text("s3cret\n")
    stub.plan["/v1/models"] = [None, stub.error(401, "the token is not the service's")]
    assert [run("models", "--token-file", "token") for _ in range(2)] == [0, 2]
    assert [asked.headers["Authorization"] for asked in stub.asked] == ["Bearer s3cret"] * 2
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "--token-file token cannot be read: No such file"),
        (b" \n", "--token-file token is empty"),
        (b"s3cret\xff", "--token-file token cannot be read: it is not ASCII"),
        (b"s3cret and more", "the token holds a space"),
    ],
)
def test_a_token_file_that_holds_none_is_a_sentence(
    content: bytes | None, sentence: str, run: Run, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("token").write_bytes(content)
    assert run("models", "--token-file", "token") == 2
    shown = said(capsys)
    assert sentence in shown and "s3cret" not in shown and not stub.asked
