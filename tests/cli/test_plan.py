"""`tesserac plan` from the command line: text, JSON, exit codes, limits, lock files, plan.toml."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tesserac.passes.mesh.hardware import usual
from tests.cli.conftest import Cli
from tests.conftest import ROOT

LISTING = (ROOT / "examples" / "chapter6" / "listing1.py", "--shape", "input=8x64x32", "--shape", "Wo=32x48")
GPT = (ROOT / "examples" / "gpt.py", "--set", "L=2")


def test_listing_1_says_what_it_does_and_why(cli: Cli) -> None:
    done = cli("plan", *LISTING)
    assert done.code == 0
    assert "TransformerLM (train): 8 ranks, mesh tp=2,dp=4, cpu-local" in done.out
    assert "groups {0,4} {1,5} {2,6} {3,7}" in done.out
    assert re.search(r"listing1.py:9  attn = op.flash_attention\(x @ Wq", done.out)
    assert "attention attn: f32[8,64,32]   tp by s: S(1), R*, R* -> S(1), S(2)   dp by b" in done.out
    assert re.search(r"2 x RS on tp, backward: 32.8 kB in all, .* us in all, exposed", done.out)
    assert "4 gradients in one all-reduce" in done.out
    assert re.search(r"AR on dp, 4 gradients: 18.4 kB, .* us, ", done.out)
    assert "W105: tp=2 does not divide heads=1, so attention is not cut by heads" in done.err
    assert "heads=2 (or a multiple)" in done.err
    assert "why: " in done.out


def test_json_holds_everything(cli: Cli) -> None:
    done = cli("plan", *LISTING, "--json")
    (entry,) = json.loads(done.out)["entries"]
    assert [axis["role"] for axis in entry["mesh"]["axes"]] == ["tensor", "data"]
    assert entry["warnings"][0]["code"] == "T0715"
    assert sum(t["count"] for t in entry["totals"]) == len(entry["collectives"])
    assert {t["name"] for t in entry["templates"]} == {"dp", "megatron", "megatron-sp", "fsdp"}


def test_experts_lie_at_their_ranks(cli: Cli) -> None:
    done = cli("plan", ROOT / "examples" / "moe_lm.py", "--mesh", "ep=4", "--set", "L=1")
    assert re.search(r"grouped_contract experts: .* ep by experts: E, E, 8 x O -> E", done.out)
    assert "w1 and 7 more [128x256]: whole on one rank of ep: 131 kB at that rank each" in done.out
    assert "why: roles leave every product one choice" in done.out


def test_a_thousand_devices_on_paper(cli: Cli) -> None:
    done = cli("plan", *GPT, "--mesh", "dp=128,tp=8", "--hw", "h100-ib400", "--shard", "auto", "--set", "B=1024",
               "--set", "D=1024", "--set", "H=16")
    assert done.code == 0, done.err
    assert "1024 ranks" in done.out
    assert "dp: 128 ranks, data, across nodes" in done.out
    crossing = cli("plan", *GPT, "--mesh", "tp=8,dp=128", "--hw", "h100-ib400", "--shard", "auto", "--set", "B=1024",
                   "--set", "D=1024", "--set", "H=16")
    assert "W104: axis tp spans nodes" in crossing.err


def test_expectations_decide_the_exit_code(cli: Cli, tmp_path: Path) -> None:
    heads = tmp_path / "heads.py"
    heads.write_text(LISTING[0].read_text().replace("x @ Wv)", "x @ Wv, heads=8)"))
    done = cli("plan", heads, *LISTING[1:], "--expect", "megatron", "--shard", "auto")
    assert done.code == 0
    assert "DIFFERS" not in done.out
    done = cli("plan", *LISTING, "--expect", "megatron", "--shard", "auto")
    assert done.code == 1
    assert "DIFFERS" in done.out
    assert "error[T0709]" in done.err
    assert cli("plan", *LISTING, "--mesh", "dp=4", "--expect", "megatron").code == 1
    assert cli("plan", *LISTING, "--expect", "magic").code == 1


def test_limits(cli: Cli) -> None:
    done = cli("plan", *LISTING, "--max-collective-bytes", "1kB")
    assert done.code == 1
    assert "more than --max-collective-bytes 1 kB" in done.err
    done = cli("plan", *GPT, "--mesh", "tp=3", "--deny-replicated", "200kB")
    assert done.code == 1
    assert "error[T0708]: gpt.blocks.0.mlp.w1 (262 kB) lies whole on every rank of tp" in done.err
    assert cli("plan", *GPT, "--mesh", "dp=2", "--shard", "strict").code == 0
    assert cli("plan", *LISTING, "--memory", "lots").code == 2
    assert cli("plan", *LISTING, "--memory", "0").code == 2
    done = cli("plan", *GPT, "--mesh", "tp=2", "--memory", "1MB", "--shard", "auto")
    assert done.code == 1
    assert re.search(r"error\[T0720\]: the plan does not fit: a rank needs .* MB, and it has 1 MB", done.err)
    assert "the largest tensors of a rank: mlp" in done.err


def test_lock_files_and_settings(cli: Cli, tmp_path: Path) -> None:
    lock, toml = tmp_path / "plan.lock.json", tmp_path / "settings.toml"
    first = cli("plan", *LISTING, "--write-lock", lock, "--json")
    again = cli("plan", *LISTING, "--lock", lock, "--json")
    one, two = (json.loads(d.out)["entries"][0]["collectives"] for d in (first, again))
    assert one == two
    stale = cli("plan", *LISTING[:-2], "--shape", "Wo=32x64", "--lock", lock)
    assert stale.code == 1
    assert "error[T0710]: " in stale.err
    assert "stale: input Wo (type f32[32,64]) was input Wo (type f32[32,48])" in stale.err
    toml.write_text('[mesh]\naxes = {dp = 2}\n[pin]\n"transformer.Wo" = ["-", "-"]\n')
    done = cli("plan", *LISTING, "--toml", toml, "--shard", "auto")
    assert "2 ranks, mesh dp=2" in done.out


def test_a_build_takes_settings_beside_the_source_and_locked_plans(cli: Cli, tmp_path: Path) -> None:
    source, toml = tmp_path / "listing.py", tmp_path / "plan.toml"
    source.write_text(LISTING[0].read_text().replace("x @ Wv)", "x @ Wv, heads=8)"))
    flags = (*LISTING[1:], "--mesh", "tp=2")
    toml.write_text('[pin]\n"transformer.Wo" = ["-", "-"]\n')
    assert cli("plan", source, *flags, "--write-lock", tmp_path / "l.json").code == 0

    def built(name: str, *more: str | Path) -> dict[str, str]:
        done = cli("build", source, *flags, "--emit", "cpp", "-o", tmp_path / name, *more)
        assert done.code == 0, done.err
        return {p.name: p.read_text() for p in (tmp_path / name).glob("TransformerLM.*") if p.suffix != ".d"}

    pinned = built("pinned")
    toml.unlink()
    assert built("locked", "--plan", tmp_path / "l.json") == pinned
    assert built("free") != pinned
    assert "plan.toml" in (tmp_path / "pinned" / "listing.d").read_text()
    described = json.loads((tmp_path / "locked" / "model.json").read_text())["entries"][0]
    assert (described["mesh"], described["planned"]) == ("tp=2", "by l.json")
    stale = cli("build", source, *flags[:-1], "tp=4", "--emit", "cpp", "-o", tmp_path / "s", "--plan",
                tmp_path / "l.json")
    assert stale.code == 1
    assert "error[T0710]" in stale.err


def test_a_build_plans_for_its_target_unless_a_machine_is_named(cli: Cli, tmp_path: Path) -> None:
    def planned(*flags: str) -> str:
        done = cli("build", *GPT, "--set", "L=1", "--mesh", "tp=2", "-o", tmp_path / "o", *flags)
        assert done.code == 0, done.err
        assert "mesh:   tp=2, planned for " in done.out
        return str(json.loads((tmp_path / "o" / "model.json").read_text())["entries"][0]["planned"])

    assert planned("--emit", "cpp") == "for cpu-local"
    assert planned("--emit", "cpp", "--hw", "h100-ib400") == "for h100-ib400"
    assert planned("--emit", "cuda", "--arch", "sm_80") == "for a100-ib200"
    assert usual("cuda").name == "h100-ib400"
    (tmp_path / "l.json").write_text("{}")
    done = cli("build", *GPT, "--mesh", "tp=2", "--hw", "cpu-local", "--plan", tmp_path / "l.json")
    assert done.code == 2
    assert "give one of them" in done.err


@pytest.mark.parametrize(("flags", "message"), [
    (("--mesh", "none"), "error[T0705]: no entry of this source has a mesh"),
    (("--hw", "abacus"), "error[T0707]: --hw abacus is neither"),
    (("--mesh", "tp=0"), "error[T0702]: --mesh tp=0 is not a mesh: axis tp has no devices"),
    (("--write-lock", "/nonexistent/l.json"), "error[T0705]: --write-lock /nonexistent/l.json cannot be written"),
    (("--lock", "{damaged}"), "is no lock file of tesserac: it lacks a version"),
    (("--lock", "{text}"), "is no lock file of tesserac: it is not JSON"),
    (("--lock", "{longer}"), "is no lock file of tesserac: it lacks a version"),
])
def test_what_cannot_be_planned(cli: Cli, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    for name, content in (("damaged", '{"version": 1, "mesh": "tp=2", "nodes": [{"plan": 3}]}'), ("text", "hello"),
                          ("longer", '{"version": 1, "mesh": "tp=2,dp=4", "nodes": [{"plan": {}}]}')):
        (tmp_path / name).write_text(content)
    files = {name: tmp_path / name for name in ("damaged", "text", "longer")}
    named = [flag.format(**files) for flag in flags]
    done = cli("plan", *LISTING, *named)
    assert done.code == 1
    assert message in done.err


SUMS = """from tessera import op, graph
@graph.module
def f(x: Tensor[8, 4], W: Tensor[4, 4]):
    return op.cumsum(x @ W, axis=0)
"""


@pytest.mark.parametrize(("flags", "warning"), [
    (("gpt", "--mesh", "tp=3", "--set", "V=131072"), "warning[T0711]: W101: gpt.table (67.1 MB) lies whole"),
    (("sums", "--mesh", "dp=2", "--deny-replicated", "16"), "warning[T0712]: W102: 128 B are gathered on dp"),
    (("heat", "--mesh", "sp=2"), "warning[T0713]: W103: nothing is cut along axis sp"),
    (("gpt", "--mesh", "tp=2,dp=8", "--hw", "h100-ib400"), "warning[T0714]: W104: axis tp spans nodes"),
    (("gpt", "--mesh", "tp=3"), "warning[T0715]: W105: tp=3 does not divide heads=4"),
    (("gpt", "--mesh", "dp=3"), "warning[T0715]: W105: dp=3 does not divide the 16 samples of input"),
    (("sums", "--mesh", "dp=2"), "warning[T0716]: W106: `cumsum` cannot be cut along dp here"),
])
def test_warnings(cli: Cli, tmp_path: Path, flags: tuple[str, ...], warning: str) -> None:
    sums = tmp_path / "sums.py"
    sums.write_text(SUMS)
    source = sums if flags[0] == "sums" else ROOT / "examples" / f"{flags[0]}.py"
    small = ("--set", "L=1") if flags[0] == "gpt" else ()
    done = cli("plan", source, *flags[1:], *small, "--shard", "auto")
    assert done.code == 0
    assert warning in done.err


def test_no_ranks_to_talk_to_no_collectives(cli: Cli) -> None:
    """Axes of size 1 are not there; what is left has one."""
    done = cli("plan", *LISTING, "--mesh", "dp=2,tp=1", "--json")
    (entry,) = json.loads(done.out)["entries"]
    assert {c["axis"] for c in entry["collectives"]} == {"dp"}
