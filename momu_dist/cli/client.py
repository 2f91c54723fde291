"""`momu client`: a running service, from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momu_dist.cli.command import Command, Commands, add
from momu_dist.errors import ConfigError, DataError, MomuError

if TYPE_CHECKING:
    from momu_dist.client import Client, Job, JobState


def add_client(commands: Commands) -> None:
    client = commands.add_parser(
        "client",
        help="Ask a running service (momu serve).",
        description="Ask a running service (momu serve).",
    )
    below = client.add_subparsers(required=True, metavar="what")
    _add_generate(below)
    batch = _add(
        below,
        "batch",
        "Many items as one job that the service keeps; the same command goes on with it.",
        _batch,
    )
    batch.add_argument(
        "manifest",
        type=Path,
        help="JSONL, an item a line: task (a2m, m2a, joint), input (a path from the manifest's folder; joint has none), "
        "settings as those of momu client generate, and id, which names the result",
    )
    batch.add_argument(
        "--out", type=Path, required=True, help="folder for the results, of this manifest only"
    )
    status = _add(below, "status", "How a job fares.", _status)
    cancel = _add(below, "cancel", "End a job; what is done stays until it expires.", _cancel)
    for parser in (status, cancel):
        parser.add_argument("job", help="its id, as momu client batch said it")
    _add(below, "models", "The models that the service uses.", _models)


def _add_generate(below: Commands) -> None:
    parser = _add(below, "generate", "One item, waited for.", _generate)
    parser.add_argument(
        "--task",
        required=True,
        help="a2m: motion from music; m2a: music from motion; joint: both from nothing",
    )
    parser.add_argument(
        "--input", help="a2m: an audio or video file; m2a: a motion file (npz, json, npy); joint takes none"
    )
    parser.add_argument("--file", help="the id of an uploaded file in place of --input")
    parser.add_argument(
        "--out",
        required=True,
        help="the file to write; its ending is the format: wav, npz, json, bvh, csv, mp4, png, or zip for several samples",
    )
    parser.add_argument("--format", help="in a zip: the format of each sample (mp4)")
    parser.add_argument(
        "--seconds", type=float, help="length; cuts a longer input, and joint must be given it"
    )
    parser.add_argument("--seed", type=int, help="of the noise; the same seed makes the same sample (0)")
    parser.add_argument("-n", type=int, help="number of samples, seeds counted up from --seed (1)")
    parser.add_argument("--steps", type=int, help="sampling steps; more are slower and finer (50)")
    parser.add_argument("--sampler", help="ddim, dpm++ or ddpm; joint takes no ddpm (ddim)")
    parser.add_argument("--guidance", type=float, help="guidance scale; higher keeps closer to the input (3)")
    parser.add_argument("--gamma", type=float, help="joint only: share of steps under cross guidance (0.5)")
    parser.add_argument("--fps", type=float, help="m2a: rate of a motion file that does not hold it")


def _add(below: Commands, name: str, help: str, run: Command) -> argparse.ArgumentParser:
    parser = add(below, name, help, run)
    parser.add_argument(
        "--url", default="http://127.0.0.1:8000", help="of the service (http://127.0.0.1:8000)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help="a file that holds the service's token (the variable MOMU_SERVE_TOKEN)",
    )
    return parser


def _client(options: argparse.Namespace) -> Client:
    from momu_dist.client import Client

    if options.token_file is None:
        return Client(options.url)
    try:
        token = options.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII"
        raise ConfigError(f"--token-file {options.token_file} cannot be read: {reason}.") from error
    if not token:
        raise ConfigError(f"--token-file {options.token_file} is empty, expected the service's token.")
    return Client(options.url, token)


def _generate(options: argparse.Namespace) -> None:
    from momu_dist.client.asking import SETTINGS

    settings = {name: getattr(options, name) for name in SETTINGS}
    path = _client(options).generate_to(options.out, options.task, options.input, **settings)
    print(f"{path}: {path.stat().st_size} bytes")


def _models(options: argparse.Namespace) -> None:
    print(json.dumps(_client(options).models(), indent=2))


def _status(options: argparse.Namespace) -> None:
    _print_state(_client(options).job(options.job).state())


def _cancel(options: argparse.Namespace) -> None:
    _print_state(_client(options).job(options.job).cancel())


def _print_state(state: JobState) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in state.items.items() if number)
    print(f"{state.id}: {state.state}, {state.progress:.0%} of the steps; {counts}; expires {state.expires}")
    for failed in state.errors:
        print(_failure(failed.get("index"), failed.get("id"), failed.get("error")))


def _failure(index: Any, id: Any, error: Any) -> str:
    from momu_dist.client.asking import item_name
    from momu_dist.client.connection import printable

    return printable(f"{item_name(index + 1, id) if isinstance(index, int) else 'an item'}: {error}")


def _batch(options: argparse.Namespace) -> None:
    from momu_dist.client.manifest import read_manifest

    manifest, folder = options.manifest, options.out
    items, sha256 = read_manifest(manifest)
    client = _client(options)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        job = _known_job(client, manifest, folder, options.url, sha256) or _submit(
            client, items, folder, options.url, sha256
        )
    except MomuError:
        if new:
            with suppress(OSError):
                folder.rmdir()  # empty, as nothing was submitted
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped while the job was being submitted; the same command begins again"
        ) from None
    try:
        _follow(job, items, folder, options.url)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; job {job.id} goes on. The same command follows it and fetches its results; "
            f"momu client cancel {job.id} --url {options.url} ends it."
        ) from None


def _known_job(client: Client, manifest: Path, folder: Path, url: str, sha256: str) -> Job | None:
    """The job of the manifest that `folder` has the results of, or is to have."""
    from momu_dist.client import ServiceError
    from momu_dist.client.jobs import RECORD, read_record

    record = read_record(folder)
    if record is None:
        return None
    if record.get("manifest_sha256") != sha256:
        raise DataError(
            f"{folder} is for the results of another manifest than {manifest} as it is now; give another folder."
        )
    job = client.job(record["job"])
    try:
        job.state()
    except ServiceError as error:
        if error.status != 404:
            raise
        raise DataError(
            f"job {job.id} of {folder}, submitted to {record.get('url')}, is unknown at {url} or has expired; delete "
            f"{folder / RECORD} to submit it again, which keeps the results that are there."
        ) from error
    print(f"goes on with job {job.id}", file=sys.stderr)
    return job


def _submit(client: Client, items: list[dict[str, Any]], folder: Path, url: str, sha256: str) -> Job:
    from momu_dist.client.jobs import write_record
    from momu_dist.data.progress import progress

    with ExitStack() as shown:
        bars: list[Any] = []

        def on_upload(done: int, total: int) -> None:
            if not bars:  # not before there is something to show
                bars.append(shown.enter_context(progress(total, "inputs sent", "file")))
            bars[0].update(done - bars[0].n)

        job = client.batch(items, on_upload)
    write_record(folder, {"job": job.id, "url": url, "manifest_sha256": sha256})
    print(f"job {job.id}: {len(items)} items", file=sys.stderr)
    return job


def _follow(job: Job, items: list[dict[str, Any]], folder: Path, url: str) -> None:
    """Wait for the job with a bar of its sampler steps, fetch what is done, and raise for what is not."""
    from momu_dist.client.asking import steps_of
    from momu_dist.data.progress import progress

    with progress(sum(map(steps_of, items)), "sampling", "step") as bar:

        def on_progress(state: JobState) -> None:
            bar.set_postfix(
                done=state.items.get("done", 0), failed=state.items.get("failed", 0), refresh=False
            )
            bar.update(round(state.progress * bar.total) - bar.n)

        state = job.wait(on_progress)
    with progress(state.items.get("done", 0), "results", "file") as bar:
        made = job.results(folder, lambda _: bar.update(1))
    print(f"{len(made)} of {len(items)} items are in {folder}")
    if len(made) == len(items):
        return
    missing = [item for item in job.items() if item.index not in made]
    for item in missing:
        print(_failure(item.index, item.id, item.error or item.state), file=sys.stderr)
    raise MomuError(
        f"{len(missing)} of {len(items)} items of job {job.id} {'were' if len(missing) > 1 else 'was'} not made, for what is "
        "said above; mend it and submit what is missing as a manifest of its own."
    )
