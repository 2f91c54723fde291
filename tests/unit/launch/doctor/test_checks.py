"""Each check of a machine: what is right, and what is not."""

from __future__ import annotations

import argparse
import json
import os
import socket
from pathlib import Path

import pytest

from momu_dist.launch import ports
from momu_dist.launch.doctor import checks, folders
from momu_dist.launch.doctor import gpu_checks as gpu
from momu_dist.launch.doctor import machine_checks as here
from momu_dist.launch.doctor.finding import Finding
from momu_dist.launch.doctor.folders import (
    UNSEEN_S,
    check_shared,
    filesystem_of,
    is_network,
    not_seen,
    read_anew,
    tokens_in,
)
from momu_dist.train.scratch import RAY_CHARACTERS

LOCK = "# versions\ntorch==2.13.0\nray==2.60.0\n"

MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
server:/export /srv nfs4 rw 0 0
tmpfs /srv/me/fast tmpfs rw 0 0
/dev/sdb1 /my\040disk xfs rw 0 0
mds@tcp:/scratch /lustre lustre rw 0 0
"""


def test_versions() -> None:
    right = here.check_versions({"torch": "2.13.0+cu130", "ray": "2.60.0"}, LOCK)
    assert right.level == "fine" and "torch 2.13.0+cu130" in right.what
    other = here.check_versions({"torch": "2.11.0", "ray": "2.60.0"}, LOCK)
    assert other.level == "warning" and "requirements.lock has torch 2.13.0" in other.what
    assert here.check_versions({"torch": None, "ray": "2.60.0"}, LOCK).level == "wrong"
    assert here.check_versions(here.installed(), here.LOCK.read_text()).level in ("fine", "warning")


def test_a_package_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_binary.py").write_text("raise ImportError('GLIBC_2.38 not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert here.check_loading(["json"]).level == "fine"
    broken = here.check_loading(["json", "broken_binary"])
    assert broken.level == "wrong" and "GLIBC_2.38" in broken.what


@pytest.mark.parametrize(
    ("seen", "given", "wanted", "level"),
    [
        (gpu.Gpus(None, 0), 0, 0, "fine"),
        (gpu.Gpus(None, 0), 0, 4, "wrong"),
        (gpu.Gpus(None, 0), 2, 0, "wrong"),
        (gpu.Gpus(None, 0, listed=2), 0, 0, "warning"),
        (gpu.Gpus("13.0", 0), 0, 0, "fine"),
        (gpu.Gpus("13.0", 0), 4, 4, "wrong"),
        (gpu.Gpus("13.0", 0, listed=4), 0, 0, "wrong"),
        (gpu.Gpus("13.0", 4, 4, "2.27"), 4, 4, "fine"),
        (gpu.Gpus("13.0", 4, 4, "2.27"), 0, 0, "fine"),
        (gpu.Gpus("13.0", 3, 4, "2.27"), 4, 4, "wrong"),
        (gpu.Gpus("13.0", 2, 2, "2.27"), 0, 4, "wrong"),
        (gpu.Gpus("13.0", 4, 4, "2.27", fault="CUDA error: uncorrectable ECC error"), 4, 4, "wrong"),
    ],
)
def test_gpus(seen: gpu.Gpus, given: int, wanted: int, level: str) -> None:
    assert gpu.check_gpus(seen, given, wanted).level == level


def test_gpus_that_a_run_does_not_use_need_no_other_torch() -> None:
    assert gpu.check_gpus(gpu.Gpus(None, 0), 2, 2, unused=True).level == "warning"


@pytest.mark.parametrize(
    ("config", "level"),
    [
        ([], "wrong"),
        (["train.device=auto"], "wrong"),
        (["train.device=cpu"], "warning"),
        (["train.device=auto", "train.strategy=local", "train.workers=1"], "warning"),
    ],
)
def test_what_a_job_with_gpus_would_be_refused_for_is_wrong(
    config: list[str], level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "site.yaml").write_text("sbatch: {gpus-per-node: 4}\n")
    monkeypatch.setenv("MOMU_CLUSTER", str(tmp_path / "site.yaml"))
    monkeypatch.setattr(gpu, "see_gpus", lambda: gpu.Gpus(None, 0))
    parser = argparse.ArgumentParser()
    checks.add_options(parser)
    yaml = Path(__file__).parents[4] / "configs" / "demo" / "music_vae.yaml"
    options = parser.parse_args([f"--config={yaml}", *config] if config else [])
    options.nodes, options.shared = 1, []
    assert dict(checks.all_checks(options))["gpus"]().level == level


def test_this_machine_can_be_asked_for_gpus() -> None:
    assert gpu.see_gpus().usable >= 0 and (gpu.gpu_memory() is None or gpu.see_gpus().usable)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 0),
        ({"gpus-per-node": "4"}, 4),
        ({"gpus-per-node": "a100:8"}, 8),
        ({"gres": "gpu"}, 1),
        ({"gres": "gpu:2"}, 2),
        ({"gres": "lscratch:100,gpu:h100:2(S:0-1)"}, 2),
        ({"gres": "lscratch:100"}, 0),
    ],
)
def test_gpus_that_a_site_asks_for(options: dict[str, str | bool], count: int) -> None:
    assert gpu.gpus_wanted(options) == count


@pytest.mark.parametrize(
    ("env", "level"),
    [
        ({}, "fine"),
        ({"NCCL_SOCKET_IFNAME": "ib"}, "fine"),  # a prefix
        ({"NCCL_SOCKET_IFNAME": "=ib"}, "wrong"),
        ({"NCCL_SOCKET_IFNAME": "=ib0"}, "fine"),
        ({"NCCL_SOCKET_IFNAME": "^ib,eth"}, "wrong"),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, "fine"),
        ({"NCCL_SOCKET_IFNAME": "hsn"}, "wrong"),
        ({"GLOO_SOCKET_IFNAME": "ib"}, "wrong"),  # gloo takes whole names only
        ({"GLOO_SOCKET_IFNAME": "ib0"}, "fine"),
    ],
)
def test_interfaces(env: dict[str, str], level: str) -> None:
    finding = here.check_interfaces(env, ["lo", "eth0", "ib0"])
    assert finding.level == level
    assert level == "fine" or "eth0" in finding.what


@pytest.mark.parametrize(
    ("address", "nodes", "env", "level"),
    [
        ("10.0.0.3", 2, {}, "fine"),
        ("127.0.1.1", 2, {}, "warning"),
        ("127.0.1.1", 2, {"GLOO_SOCKET_IFNAME": "ib0"}, "fine"),
        ("127.0.1.1", 1, {}, "fine"),
        (None, 2, {}, "warning"),
    ],
)
def test_a_name_that_means_only_itself(
    address: str | None, nodes: int, env: dict[str, str], level: str
) -> None:
    assert here.check_address(env, nodes, address).level == level


def test_compiler() -> None:
    assert here.check_compiler("/usr/bin/c++", "/usr/bin/ninja", True).level == "fine"
    lacking = here.check_compiler(None, None, False)
    assert lacking.level == "warning" and "local and ddp" in lacking.advice
    assert all(name in lacking.what for name in ("C++", "ninja", "Python.h"))


def test_ports(tmp_path: Path) -> None:
    assert here.check_ports(32768, []).level == "fine"
    assert here.check_ports(None, []).level == "fine"
    low = here.check_ports(1024, [])
    assert low.level == "warning" and "1024" in low.what
    taken = here.check_ports(32768, list(range(20_000, 20_007)))
    assert taken.level == "warning" and "20004 and more" in taken.what
    (tmp_path / "range").write_text("15000\t60999\n")
    assert here.ephemeral_start(tmp_path / "range") == 15000
    assert here.ephemeral_start(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("mode", "grace_s", "level"),
    [
        ("CANCEL", "0", "warning"),
        ("CANCEL", "120", "fine"),
        ("REQUEUE", "0", "fine"),
        ("OFF", "0", "fine"),
        ("", "", "fine"),
    ],
)
def test_preemption(mode: str, grace_s: str, level: str) -> None:
    assert here.check_preemption(mode, grace_s).level == level


def test_a_port_that_is_taken_is_found() -> None:
    with socket.socket() as one:
        one.bind(("", 0))
        one.listen()
        port = one.getsockname()[1]
        assert ports.busy([port]) == [port]


@pytest.mark.parametrize(
    ("path", "device", "kind"),
    [
        ("/opt", "/dev/sda1", "ext4"),
        ("/srv/me/runs", "server:/export", "nfs4"),
        ("/srv/me/fast/x", "tmpfs", "tmpfs"),
        ("/my disk/x", "/dev/sdb1", "xfs"),
        ("/lustre", "mds@tcp:/scratch", "lustre"),
        ("/srvs", "/dev/sda1", "ext4"),
    ],
)
def test_the_filesystem_of_a_folder(path: str, device: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == (device, kind)


def test_kinds_of_filesystems() -> None:
    network = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "fuse.sshfs", "ceph")
    assert all(is_network(kind) for kind in network)
    assert not any(is_network(kind) for kind in ("ext4", "xfs", "tmpfs", "overlay", "btrfs", "fuseblk"))


def test_scratch(tmp_path: Path) -> None:
    with_socket = Path("/tmp")
    assert here.check_scratch(with_socket, "ext4", least=0).level == "fine"
    assert here.check_scratch(with_socket, "ext4", least=1e18).level == "warning"
    assert here.check_scratch(with_socket, "lustre", least=0).level == "warning"
    assert list(with_socket.glob("momu-doctor-*")) == []
    missing = here.check_scratch(tmp_path / "none", "ext4")
    assert missing.level == "wrong" and "No such file" in missing.what
    long = tmp_path / ("x" * 60)
    long.mkdir()
    assert "sockets" in here.check_scratch(long, "ext4").what


def test_the_longest_scratch_just_fits() -> None:
    """What Ray makes in its folder, by its own form of names."""
    made = "/session_2026-10-28_14-37-28_123456_1234567/sockets/plasma_store"
    assert len(made) == RAY_CHARACTERS


def test_shared_memory_and_open_files() -> None:
    assert here.check_shm(64 << 20).level == "warning" and here.check_shm(8e9).level == "fine"
    assert here.check_open_files(1024).level == "warning" and here.check_open_files(65536).level == "fine"
    assert here.check_open_files(-1).level == "fine"


def test_a_shared_folder_is_seen_from_both_sides(tmp_path: Path) -> None:
    with tokens_in([tmp_path, tmp_path / "runs" / "not-yet"]) as (token,):
        said = check_shared(token, "node1")
        assert said.level == "fine"
        assert not_seen("node1", [said], [token], until=0) == []
        (lost,) = not_seen("node2", [said], [token], until=0)  # it answered into a folder of its own
        assert lost.level == "wrong" and str(tmp_path) in lost.what
        assert not_seen("node2", [], [token], until=0) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    finding = check_shared(tmp_path / ".momu-doctor-1234", "node1", wait_s=0)
    assert finding.level == "wrong" and str(tmp_path) in finding.what
    assert not (tmp_path / ".momu-doctor-1234").exists()
    assert UNSEEN_S > 3  # seconds for which NFS keeps what it knows of a folder


def test_a_network_filesystem_is_made_to_ask_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_anew(tmp_path / "sign") is None
    monkeypatch.setattr(folders.os, "listdir", lambda folder: (folder / "sign").touch())
    assert read_anew(tmp_path / "sign") == ""


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def breaks() -> Finding:
        raise RuntimeError("out of order")

    begun: list[str] = []
    found = list(
        checks.findings([("one", breaks), ("two", lambda: Finding("", "fine", "good"))], begun.append)
    )
    assert begun == ["one", "two"]
    assert [(f.check, f.level) for f in found] == [("one", "warning"), ("two", "fine")]
    assert "out of order" in found[0].what


def test_the_program_that_runs_on_a_node(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setattr(
        checks, "all_checks", lambda options: [("one", lambda: Finding("one", "fine", "good"))]
    )
    assert checks.main([]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {record["node"] for record in records} == {"node7"} and all(r["time"] > 0 for r in records)
    assert [record.get("check") for record in records] == ["program", "one", "one", None]
    assert records[2]["finding"]["what"] == "good" and records[3]["done"] is True


def test_a_wrong_config_is_a_finding_too(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert checks.main(["--config", str(tmp_path / "none.yaml")]) == 0
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (finding,) = [record["finding"] for record in said if "finding" in record]
    assert finding["level"] == "wrong" and "no config at" in finding["what"]


def test_a_program_that_does_not_load_is_a_finding(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(options: argparse.Namespace) -> None:
        raise ImportError("libtorch.so: cannot open")

    monkeypatch.setattr(checks, "all_checks", broken)
    assert checks.main([]) == 0
    assert '"wrong"' in (out := capfd.readouterr().out) and "libtorch.so" in out


def test_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "quota"
    program.write_text(
        "#!/bin/sh\ncat <<END\nDisk quotas for user me (uid 1000):\n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
        " server:/export 3000000* 2000000 5000000  6days      10       0       0\n"
        "   server:/free 3000000        0       0             10       0       0\nEND\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert folders.quota_left("server:/export") == 2_000_000 * 1024
    assert folders.quota_left("server:/free") is None and folders.quota_left("elsewhere") is None
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert folders.quota_left("server:/export") is None
