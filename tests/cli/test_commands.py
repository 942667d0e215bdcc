"""Every command that writes no program: output, messages, exit statuses."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tesserac.diagnostics import InternalError
from tests.cli.conftest import GPT, SIZES, Cli, tree
from tests.conftest import ROOT, Command


def test_check(cli: Cli, model: Path) -> None:
    done = cli("check", model, *SIZES)
    assert (done.code, done.err) == (0, "")
    assert re.match(r"model\.py: ok, 1 entry, 2 parameters \(42 numbers\), \d+ equations", done.out)
    assert cli("check", model, *SIZES, "-q").out == ""
    verbose = cli("check", model, *SIZES, "-v").out
    assert re.search(r"parameter net\.W +f32\[4,6\]  \(model\.py:7\)", verbose)
    assert list(Path().iterdir()) == [model], "it writes nothing"


def test_check_reports_several_errors_with_places(cli: Cli, model: Path) -> None:
    text = model.read_text().replace("op.tanh(", "op.tahn(").replace("op.mse(", "op.sme(")
    model.write_text(text)
    done = cli("check", model, *SIZES)
    assert done.code == 1
    assert done.out == ""
    assert "--> model.py:8:" in done.err
    assert "tanh" in done.err
    assert "\x1b" not in done.err, "no colours where there is no terminal"


def test_sidecar_beside_the_source_is_read(cli: Cli, model: Path) -> None:
    Path("model.toml").write_text('[shapes]\nx = [8, 4]\nW = "4x6"\nV = "6x3"\n')
    assert cli("check", model).code == 0
    Path("model.toml").write_text("[shapes\n")
    done = cli("check", model, *SIZES)
    assert done.code == 1
    assert "model.toml cannot be read" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "There is no command 'chek'. Did you mean `check`?"),
        (["check", "m.py", "--shap", "x=4"], "No such option '--shap'. "),
        (
            ["check", "m.py", "--shape", "x4"],
            "Invalid value for '--shape': 'x4' is not of the form NAME=VALUE, e.g. input=4x64x32",
        ),
        (["check", "m.py", "--set", "D"], "Invalid value for '--set': 'D' is not of the form NAME=VALUE, e.g. D=64"),
        (
            ["check", "m.py", "--dim", "B=eight"],
            "Invalid value for '--dim': 'eight' in 'B=eight' is not an integer, e.g. B=8",
        ),
        (
            ["check", "m.py", "--set-literal", "x=8"],
            "Invalid value for '--set-literal': 'x' in 'x=8' is not an integer, e.g. 4096=64",
        ),
        (["build", "m.py", "--emit=exa"], "'exa' is nothing to emit. Did you mean exe?"),
        (["build", "m.py", "--emit=,"], "',' is nothing to emit. Choose from ast, ir, cpp, cuda, ptx, sass, exe, lib."),
        (["build", "m.py", "-j", "0"], "Invalid value for '-j' / '--jobs': 0 is not in the range 1<=x<=1024."),
        (["inspect", "m.py", "--kernel", "k"], "--kernel goes with --stage source."),
        (["explain", "nonsense"], "'nonsense' is neither a code like T0412 nor a place like model.py:12."),
        (["explain", "T0899"], "There is no code T0899. Did you mean "),
        (["check"], "Missing argument 'FILE'."),
    ],
)
def test_usage_errors(cli: Cli, arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")
    assert "--help` lists all flags" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shape", "x=4yy"], "error[T0411]: --shape x=4yy is not a shape"),
        (["--entry", "nett"], "error[T0313]: there is no entry `nett`\n  = note: entries: net\n"),
        (["--set", "HIDEN=3"], "error[T0211]: --set HIDEN=3: the source has no top-level constant `HIDEN`"),
        (["--mesh", "tp=two"], "error[T0702]: --mesh tp=two is not a mesh"),
        (["--precision", "fp8"], "error[T0501]: --precision fp8 "),
    ],
)
def test_errors_in_flag_values(cli: Cli, model: Path, flags: list[str], message: str) -> None:
    done = cli("check", model, *SIZES, *flags)
    assert done.code == 1
    assert message.replace("\n  =", "\n =") in done.err.replace("\n  =", "\n =")


@pytest.mark.parametrize(
    ("name", "command", "code"),
    [
        ("hw.json", ("plan", "model.py", "--mesh", "dp=2", "--hw", "hw.json"), "T0707"),
        ("lock.json", ("plan", "model.py", "--mesh", "dp=2", "--lock", "lock.json"), "T0710"),
        ("tuning.json", ("build", "model.py", "--emit=cuda", "--tuning", "tuning.json"), "T0813"),
        ("index.json", ("ckpt", "show", "."), "T0950"),
        ("plan.toml", ("check", "model.py"), "T0705"),
        ("model.toml", ("check", "model.py"), "T0411"),
    ],
)
def test_files_that_nest_without_end(cli: Cli, model: Path, name: str, command: tuple[str, ...], code: str) -> None:
    Path(name).write_text(("a = " if name.endswith(".toml") else "") + "[" * 100_000)
    done = cli(*command, *(SIZES if command[0] != "ckpt" else ()))
    assert done.code == 1
    assert done.err.startswith(f"error[{code}]")
    assert "it is nested too deeply" in done.err


def test_a_folder_whose_manifest_nests_without_end_owns_nothing(cli: Cli, model: Path) -> None:
    Path("out").mkdir()
    Path("out/.tesserac.json").write_text("[" * 100_000)
    assert cli("build", model, *SIZES, "--emit=ir", "-o", "out").code == 0


@pytest.mark.parametrize("name", ["absent.py", ".", "bytes.py"])
def test_sources_that_cannot_be_read(cli: Cli, model: Path, name: str) -> None:
    Path("bytes.py").write_bytes(b"x = 1\0\xff\n")
    done = cli("check", name)
    assert done.code == 1
    assert done.err.startswith("error[T01")


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ("ast", ["Unit model.py\n", "FunctionDef net", "@7:"]),
        ("graph", ['program "model.py"', "entry net", "tanh %matmul", "# model.py:8"]),
        ("ad", ["func net.train", "grad:net.W", "contract"]),
        ("fuse", ["net train: ", "stage 1: ", "product_", "model.py:8", "read by product_"]),
        ("plan", ["net: 2 parameters", "net.W (4, 6)", "shared by all threads", "#"]),
        ("source", ["// ==== net.kernels.h ====", "// ==== net.program.cpp ====", "struct Parameters"]),
    ],
)
def test_inspect(cli: Cli, model: Path, stage: str, shown: list[str]) -> None:
    done = cli("inspect", model, "--stage", stage, *SIZES)
    assert (done.code, done.err) == (0, "")
    for text in shown:
        assert text in done.out, done.out


def test_inspect_one_kernel(cli: Cli, model: Path) -> None:
    names = re.findall(r"void ((?:product|rows)_\w+)\(", cli("inspect", model, "--stage", "source", *SIZES).out)
    done = cli("inspect", model, "--stage", "source", "--kernel", names[0], *SIZES)
    assert done.out.startswith("// net.kernels.h:")
    assert done.out.count(f"void {names[0]}(") == 1
    assert not any(f"void {name}(" in done.out for name in names[1:] if name != names[0])
    wrong = cli("inspect", model, "--stage", "source", "--kernel", names[0] + "x", *SIZES)
    assert wrong.code == 1
    assert f"did you mean `{names[0]}`" in wrong.err


def test_plan_gives_no_two_living_buffers_one_address(cli: Cli, in_checkout: None) -> None:
    """The table of `inspect --stage plan`, read back: buffers that share addresses live at different times."""
    row = re.compile(r"^ {4} *([\d,]+) +([\d,]+) +(\d+)-(\d+) +[.#]{40} ", re.MULTILINE)
    text = cli("inspect", *GPT, "--stage", "plan").out
    tables = [
        [tuple(int(n.replace(",", "")) for n in match) for match in row.findall(part)]
        for part in re.split(r"^  (?=shared|scratch)", text, flags=re.MULTILINE)[1:]
    ]
    assert sum(len(table) for table in tables) > 40
    for table in tables:
        for n, (offset, size, first, last) in enumerate(table):
            for other, extent, begin, end in table[n + 1 :]:
                apart = other >= offset + size or offset >= other + extent
                assert apart or begin >= last or first >= end, (offset, other)


def test_explain_line(cli: Cli, model: Path) -> None:
    done = cli("explain", f"{model}:8", *SIZES)
    assert done.code == 0
    assert done.out.startswith("model.py:8:  return op.tanh(x @ W) @ V\n")
    assert re.search(r"tanh: f32\[8,6\] = tanh %", done.out)
    assert re.search(r"product_\w+   net\.kernels\.h:\d+\n", done.out)
    assert "of its derivative" in done.out
    place = re.search(r"(product_\w+)   net\.kernels\.h:(\d+)", done.out)
    assert place
    source = cli("inspect", model, "--stage", "source", "--kernel", place[1], *SIZES).out
    assert source.startswith(f"// net.kernels.h:{place[2]}\n"), "both say where it is"
    nothing = cli("explain", f"{model}:5", *SIZES)
    assert nothing.code == 1
    assert "nothing is computed by line 5" in nothing.err
    assert "8, 13" in nothing.err


def test_every_kernel_is_reached_from_a_line(cli: Cli, in_checkout: None) -> None:
    source = cli("inspect", *GPT, "--stage", "source").out
    names = set(re.findall(r"^static void ((?:rows|product|transpose|attention)_\w+)\(", source, re.MULTILINE))
    found: set[str] = set()
    for line in (12, 13, 14, 19, 22, 27):
        found.update(
            re.findall(r"^  (\w+)   gpt\.kernels\.h:", cli("explain", f"{GPT[0]}:{line}", *GPT[1:]).out, re.MULTILINE)
        )
    assert found == names


def test_explain_code_and_ops(cli: Cli) -> None:
    assert cli("explain", "t0801").out.startswith("T0801: no C++ compiler\n")
    assert "op.softmax(x, axis=-1)" in cli("ops").out
    assert "derivative rules: vjp" in cli("ops", "softmax").out
    assert "not supported yet" in cli("ops", "conv2d").out
    wrong = cli("ops", "sofmax")
    assert (wrong.code, wrong.err.splitlines()[0]) == (1, "error[T0809]: there is no operator `sofmax`")
    assert "`softmax`" in wrong.err


def test_doctor(cli: Cli) -> None:
    done = cli("doctor")
    assert done.code == 0
    assert re.search(r"^ok +C\+\+ compiler ", done.out, re.MULTILINE)
    assert "Ready" in done.out


def test_emit_texts_alone(cli: Cli, model: Path) -> None:
    assert cli("build", model, *SIZES, "-o", "out", "--emit=ast,ir").code == 0
    assert sorted(p.name for p in Path("out").iterdir() if not p.name.startswith(".")) == [
        "model.ast.txt",
        "model.ir.txt",
    ]
    assert Path("out/model.ir.txt").read_text().startswith('program "model.py"')


def test_print_after_and_stop_after(cli: Cli, model: Path) -> None:
    done = cli("build", model, *SIZES, "--stop-after", "differentiate")
    assert done.code == 0
    assert done.out.count("# after differentiate\nfunc net.") == 2
    assert not Path("build").exists()
    done = cli("build", model, *SIZES, "--print-after", "all", "--emit=cpp", "-o", "out", "--time-passes")
    assert re.findall(r"^# after (\w+)", done.out, re.MULTILINE)[:3] == ["elaborate", "differentiate", "simplify"]
    assert re.search(r"^ +[\d.]+ ms  fuse$", done.out, re.MULTILINE)
    wrong = cli("build", model, *SIZES, "--print-after", "simplfy")
    assert (wrong.code, wrong.err.splitlines()[0]) == (1, "error[T0809]: there is no pass `simplfy`")


def test_targets_that_do_not_go_together(cli: Cli, model: Path) -> None:
    for flags in (["--target", "cuda", "--emit=lib"], ["--emit=cpp,cuda", "--target", "cpu"]):
        done = cli("build", model, *SIZES, *flags)
        assert done.code == 1
        assert done.err.startswith("error[T0806]: --emit=")


def test_portable_asks_for_no_native_instructions(cli: Cli, model: Path) -> None:
    commands = []
    for flags in ([], ["--portable"]):
        assert cli("build", model, *SIZES, "--emit=cpp", "-o", "out", *flags).code == 0
        commands.append(subprocess.run(["make", "-C", "out", "-n"], capture_output=True, text=True, timeout=60).stdout)
    assert "-march=native" in commands[0]
    assert "-march=native" not in commands[1]
    assert re.search("-march=(x86-64-v[234]|armv8-a)", commands[1])


def test_cuda_sources_need_no_cuda(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    done = cli("build", model, *SIZES, "--target", "cuda", "--emit=cuda", "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert "next: make -C out compile-only ARCH=sm_90a" in done.out
    texts = {p: p.read_text(encoding="utf-8") for p in Path("out").rglob("*") if p.suffix in (".h", ".cu", ".cuh")}
    assert {p.name for p in texts} >= {"net.kernels.cuh", "net.program.cu"}
    for path, text in texts.items():
        for name in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
            assert (path.parent / name).exists() or (Path("out") / name).exists(), f"{path}: {name}"


def test_run_needs_one_entry(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = model.read_text()
    step = text[text.index("@graph.training_step") :]
    model.write_text(text + "\n\n" + step.replace('"net"', '"second"').replace("def step", "def again"))
    done = cli("run", model, *SIZES, "--", "describe")
    assert done.code == 1
    assert done.err.startswith("error[T0808]: `model.py` has 2 entries, and `run` runs one\n")
    assert "--entry net" in done.err
    assert not [*Path("build").rglob("*.o")], "said before anything is compiled"


@pytest.mark.parametrize("label", ["main", "clean", "int", "größe", "README.md", "-o"])
def test_labels_become_safe_names(cli: Cli, model: Path, label: str) -> None:
    """A label is shown as it is, and never becomes a make target, a keyword, an option or a file of ours."""
    model.write_text(model.read_text().replace('"net"', f'"{label}"'), encoding="utf-8")
    assert cli("build", model, *SIZES, "-o", "out", "--emit=cpp").code == 0
    makefile = Path("out/Makefile").read_text(encoding="utf-8")
    name = re.search(r"^all: (\S+) libmodel\.so$", makefile, re.MULTILINE)
    assert name
    assert name[1].isascii()
    assert name[1] not in ("clean", "all", "-o", "README.md")
    assert (label == name[1]) == (label in ("main", "int"))
    assert f'"{label}"' in "".join(p.read_text(encoding="utf-8") for p in Path("out").glob("*.program.cpp"))


@pytest.mark.parametrize("label", ['\\"; rm -rf', "../x", "a b", "$(touch pwned)"])
def test_hostile_labels_are_refused(cli: Cli, model: Path, label: str) -> None:
    model.write_text(model.read_text().replace('"net"', f'"{label}"'), encoding="utf-8")
    done = cli("build", model, *SIZES)
    assert done.code == 1
    assert "error[T0303]" in done.err


@pytest.mark.parametrize("name", ["a b.py", "$(touch pwned).py", "größe #1.py", "-x.py", "'q'.py", "x\udcff.py"])
def test_hostile_file_names(cli: Cli, model: Path, name: str) -> None:
    folder = Path("in")
    folder.mkdir()
    (folder / name).write_text(model.read_text(), encoding="utf-8")
    assert cli("build", folder / name, *SIZES, "-o", "out", "--emit=cpp").code == 0
    done = subprocess.run(["make", "-C", "out", "-n", "all"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (depfile,) = Path("out").glob("*.d")
    Path("Makefile").write_text(f"include out/{depfile.name}\nask: out/net\nout/net: ; @echo seen\n")
    asked = subprocess.run(["make", "ask"], capture_output=True, text=True, errors="replace", timeout=60)
    assert (asked.returncode, asked.stdout) == (0, "seen\n"), asked.stderr
    assert not any(p.name.startswith("pwned") for p in Path().rglob("*"))


def test_interrupt(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tesserac.driver.front_end", interrupt)
    done = cli("check", model, *SIZES)
    assert (done.code, done.err) == (130, "\nerror: interrupted\n")


@pytest.mark.parametrize("error", [InternalError("%x has no place\n" * 30), RecursionError("too deep"), KeyError("x")])
def test_internal_errors(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "crashes").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "crashes"))
    monkeypatch.setattr("tesserac.driver.front_end", fail)
    done = cli("check", model, *SIZES)
    assert done.code == 3
    assert done.err.startswith("error: internal error in tesserac 0.")
    assert "during checking" in done.err
    assert len(done.err.splitlines()) < 20
    (crash,) = (tmp_path / "crashes").iterdir()
    assert str(crash) in done.err
    text = crash.read_text()
    assert "Traceback" in text
    assert f"command: tesserac check {model}" in text


def test_closed_pipe_is_no_error(tesserac: Command) -> None:
    code = "import sys; from tesserac.cli import run; sys.exit(run(['ops']))"
    script = f"{sys.executable} -c {code!r} | head -1"
    done = subprocess.run(
        ["bash", "-c", script.replace("'", '"', 0)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_output_does_not_depend_on_hash_seed_or_folder(tesserac: Command, tmp_path: Path) -> None:
    trees = []
    for seed, folder in (("1", "a"), ("2", "deeper/b")):
        out = tmp_path / folder
        done = tesserac("build", *GPT, "--emit=ast,ir,cpp", "-o", out, env={"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
        trees.append(tree(out))
    assert trees[0] == trees[1]
    assert len(trees[0]) > 20


def test_help_of_every_command(cli: Cli) -> None:
    listed = cli("--help").out
    for name in ("build", "check", "inspect", "explain", "run", "verify", "ops", "doctor"):
        assert f"  {name} " in listed
        done = cli(name, "--help")
        assert done.code == 0
        assert done.out.startswith(f"Usage: tesserac {name} ")
    assert cli("--version").out.startswith("tesserac 0.")
    assert cli().code == 0
