"""`tesserac ckpt`."""

from __future__ import annotations

from pathlib import Path

import click

from tesserac.console import Console


@click.group("ckpt")
def command() -> None:
    """Looks into the checkpoints that several ranks wrote, or merges one into a single file.

    Programs need neither: whatever mesh wrote a checkpoint, a program of any other mesh resumes from it.
    """


@command.command("merge")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--optimizer", is_flag=True, help="Keep the optimizer's moments beside the weights.")
@click.pass_obj
def merge_command(console: Console, /, folder: Path, out: Path, optimizer: bool) -> None:
    """Writes the weights of FOLDER as one safetensors file that PyTorch, NumPy and programs without a mesh load.

    FOLDER is a checkpoint (step-000000100) or a folder of checkpoints, of which the newest counts.
    """
    from tesserac.checkpoints import merge, newest, read_index

    checkpoint = read_index(newest(folder))
    size = merge(checkpoint, out, optimizer)
    console.show(f"{checkpoint.folder} -> {out} ({size} bytes)")


@command.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def show_command(console: Console, /, folder: Path) -> None:
    """Lists the tensors of FOLDER: shape, type, and where every part lies."""
    from tesserac.checkpoints import newest, read_index

    checkpoint = read_index(newest(folder))
    for key, word in checkpoint.metadata.items():
        console.show(f"{key}: {word}")
    for tensor in checkpoint.tensors:
        console.show(f"{tensor.name}  {tensor.dtype} {'x'.join(map(str, tensor.shape)) or 'scalar'}")
        for part in tensor.parts:
            spans = ", ".join(f"{o}:{o + n}" for o, n in zip(part.offsets, part.lengths, strict=True))
            console.show(f"    {part.file}  [{spans}]")
