"""Tables of a program: parameters in their memory layout, inputs, outputs, kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.names import CppNames, cpp_double, cpp_string
from tesserac.codegen.stage_values import padded_row
from tesserac.ir.program import Entry, Function, Input
from tesserac.ir.types import TensorType
from tesserac.passes.batched import batched_outputs
from tesserac.passes.bucket_layout import in_order_of_buckets, parameter_bytes
from tesserac.passes.placement import batch_size
from tesserac.passes.plan import Place
from tesserac.passes.planar import plane_items, plane_of

if TYPE_CHECKING:
    from tesserac.passes.mesh.entry import Cut, Meshed

MEMBER_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Parameter:
    """One member of the struct Parameters, and with it one row of the parameter table.

    A complex parameter has two members, its real and its imaginary plane, the second right behind the first; its row
    goes with the first. ``declared`` is the parameter as the source knows it, ``item`` what the member holds. Other
    ranks may have the parameters ``others`` in its place.
    """

    item: Input
    declared: Input
    member: str
    elements: int
    others: tuple[str, ...] = ()

    @property
    def type(self) -> TensorType:
        """Its type."""
        return self.item.var.type

    @property
    def declaration(self) -> str:
        """``alignas(64) float transformer_Wq[32 * 48];  // transformer.Wq (32, 48)``"""
        return f"alignas({MEMBER_ALIGNMENT}) {CPP_TYPE[self.type.dtype]} {self.member}[{self.elements}];"

    @property
    def shape_text(self) -> str:
        """Shape and row stride for the comment."""
        row = padded_row(self.type.sizes)
        padded = f", rows {row} apart" if self.type.rank > 1 and row != self.type.sizes[-1] else ""
        plane = plane_of(self.item.path)
        part = "" if plane is None else {"re": ", real parts", "im": ", imaginary parts"}[plane[1]]
        others = f"; on other ranks {', '.join(self.others)}" if self.others else ""
        return f"{self.declared.path} ({', '.join(map(str, self.type.sizes))}{padded}){part}{others}"


def declared_parameters(entry: Entry) -> list[Input]:
    """Parameters of an entry in declaration order (the training function's, then the forward function's)."""
    items: dict[str, Input] = {}
    for _, function in entry.roles():
        for item in function.parameters:
            items.setdefault(item.path, item)
    return list(items.values())


def parameters_of(entry: Entry, meshed: Meshed | None = None) -> list[Parameter]:
    """Members of the struct Parameters: as declared, but for buckets of gradients; ``meshed`` for their comments."""
    names = CppNames()
    rows = []
    others: dict[str, tuple[str, ...]] = {}
    if meshed is not None:
        for path in (item.path for item in declared_parameters(meshed.whole)):
            slot = meshed.slot(path)
            if slot != path:
                others[slot] = (*others.get(slot, ()), path)
    functions = [function for _, function in entry.roles()]
    for declared in in_order_of_buckets(declared_parameters(entry), functions):
        for item in plane_items(declared):
            numbers = parameter_bytes(item.var.type) // item.var.type.dtype.itemsize
            rows.append(Parameter(item, declared, names.of(item.path), numbers, others.get(declared.path, ())))
    return rows


def in_bucket(place: Place, parameters: Sequence[Parameter]) -> str:
    """``g->first + 1024``: where a term of gradients lies that are exchanged in place."""
    item = parameters[place.index]
    ahead = place.offset // item.type.dtype.itemsize
    return f"g->{item.member}" + (f" + {ahead}" if ahead else "")


@dataclass
class Cuts:
    """Constants of type tsr::Cut, one for all tensors that are cut alike."""

    meshed: Meshed | None
    names: dict[Cut, str] = field(default_factory=dict)

    def of(self, path: str, role: str | None = None) -> str:
        """What stands behind a tensor's other fields: nothing where it is whole."""
        cut = self.meshed.cut(path, role) if self.meshed is not None else None
        number = str(len(self.names)) if self.names else ""
        return "" if cut is None else f", &{self.names.setdefault(cut, 'kCut' + number)}"

    def rows(self) -> list[str]:
        """``static const Cut kCut = {{32, 48}, {0, 1}};``"""
        return [f"static const Cut {name} = {{{{{_listed(cut.sizes)}}}, {{{_listed(cut.axes)}}}"
                f"{', ' + _listed(cut.owner) if cut.owner is not None else ''}}};" for cut, name in self.names.items()]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def tensor_row(
    path: str, kind: TensorType, item: Input | None, *, row_stride: int, offset: str = "0", batched: bool = False,
    cut: str = "",
) -> str:
    """One initialiser of tsr::Tensor."""
    shape = ", ".join(map(str, kind.sizes)) or "0"
    init, a, b, decay, bound, ignore = "zeros", 0.0, 0.0, False, 0, None
    if item is not None:
        if item.init is not None:
            init, a, b = item.init.kind, item.init.a, item.init.b
        decay = item.decay and kind.rank >= 2 and item.is_parameter
        bound, ignore = item.index_bound, item.ignore_index
    names = {
        "f32": "f32",
        "f64": "f64",
        "i64": "i64",
        "i32": "i32",
        "i16": "i16",
        "i8": "i8",
        "u8": "u8",
        "bool": "boolean",
        "bf16": "bf16",
        "f16": "f16",
        "c64": "c64",
        "c128": "c128",
    }
    return (
        f"{{{cpp_string(path)}, DType::{names[kind.dtype.value]}, {kind.rank}, {{{shape}}}, {row_stride}, {offset}, "
        f"Init::{init}, {cpp_double(a)}, {cpp_double(b)}, {str(decay).lower()}, {bound}, "
        f"{'INT64_MIN' if ignore is None else ignore}, {str(batched).lower()}{cut}}}"
    )


def table_rows(parameters: Sequence[Parameter], cuts: Cuts) -> dict[str, Parameter]:
    """Path of every row of the parameter table, in its order -> the (first) member that holds it."""
    held = {p.declared.path: p for p in parameters if plane_of(p.item.path) in (None, (p.declared.path, "re"))}
    if cuts.meshed is not None:
        held = {i.path: held[cuts.meshed.slot(i.path)] for i in declared_parameters(cuts.meshed.whole)}
    return held


def parameter_rows(parameters: Sequence[Parameter], cuts: Cuts | None = None) -> list[str]:
    """The parameter table: that of the whole program, whose reference reads parameters in this order."""
    cuts = cuts or Cuts(None)
    return [
        tensor_row(
            path,
            p.declared.var.type,
            p.declared,
            row_stride=padded_row(p.type.sizes),
            offset=f"offsetof(Parameters, {p.member})",
            cut=cuts.of(path),
        )
        for path, p in table_rows(parameters, cuts).items()
    ]


def data_rows(function: Function, batch: int | None, cuts: Cuts | None = None, role: str = "") -> list[str]:
    """The input table of a function."""
    cuts = cuts or Cuts(None)
    rows = []
    whole = {i.path: i.var.type for i in function.data}
    if cuts.meshed is not None:  # what a batch is, the ranks know together
        declared = dict(cuts.meshed.whole.roles())[role]
        whole, batch = {i.path: i.var.type for i in declared.data}, batch_size(declared)
    for item in function.data:
        kind = item.var.type
        last = kind.sizes[-1] if kind.rank else 1
        batched = batch is not None and kind.rank > 0 and whole[item.path].sizes[0] == batch
        rows.append(tensor_row(item.path, kind, item, row_stride=last, batched=batched, cut=cuts.of(item.path, role)))
    return rows


def output_rows(function: Function, batch: int | None, cuts: Cuts | None = None, role: str = "") -> list[str]:
    """The output table of a function (gradients are not in it)."""
    rows = []
    cuts = cuts or Cuts(None)
    declared = dict(cuts.meshed.whole.roles())[role] if cuts.meshed is not None else None
    batched = batched_outputs(function, batch) if declared is None else batched_outputs(declared, batch_size(declared))
    for output in function.outputs:
        if not output.name.startswith("grad:"):
            kind = output.var.type
            last = kind.sizes[-1] if kind.rank else 1
            row = tensor_row(output.name, kind, None, row_stride=last, batched=output.name in batched,
                             cut=cuts.of(output.name, role))
            rows.append(row)
    return rows
