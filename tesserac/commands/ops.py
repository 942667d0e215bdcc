"""`tesserac ops`."""

from __future__ import annotations

import click

from tesserac.console import Console


@click.command("ops")
@click.argument("name", required=False)
@click.pass_obj
def command(console: Console, /, name: str | None) -> None:
    """Lists the operators of the language, or describes one: `tesserac ops softmax`."""
    from tesserac.inspection.catalogue import describe_op, list_ops, unknown_op

    if name is None:
        console.show(list_ops())
        return
    text = describe_op(name)
    if text is None:
        raise unknown_op(name)
    console.show(text)
