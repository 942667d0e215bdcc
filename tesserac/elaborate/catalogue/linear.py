"""einsum, by pairwise contraction."""

from __future__ import annotations

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.operands import cast, floating, promoted
from tesserac.elaborate.values import Value, describe
from tesserac.ir.program import Var


@surface("einsum(spec, *xs)", "Sum of products by letters, as in op.einsum('bsd,dn->bsn', x, w)", family="math")
def einsum(site: Site, spec: Value, xs: tuple[Value, ...]) -> Value:
    """Einstein summation of one tensor or more, contracted from left to right."""
    if not isinstance(spec, str):
        raise site.fail("T0504", f"op.einsum takes a string of letters first, not {describe(spec)}")
    operands = [floating(site.session, x, "an operand of op.einsum") for x in xs]
    terms, result = _letters(site, spec, operands)
    dtype = promoted(site.session, [v.type.dtype for v in operands])
    assert dtype is not None
    operands = [cast(site.session, v, dtype) for v in operands]
    _check_sizes(site, terms, operands)
    value, letters = operands[0], terms[0]
    for index in range(1, len(operands)):
        later = set(result).union(*terms[index + 1 :])
        joined = "".join(dict.fromkeys(letters + terms[index]))
        kept = "".join(c for c in joined if c in later) if index + 1 < len(operands) else result
        value = site.session.emit("contract", value, operands[index], spec=f"{letters},{terms[index]}->{kept}")
        letters = kept
    return value if len(operands) > 1 else _single(site, value, letters, result)


def _letters(site: Site, spec: str, operands: list[Var]) -> tuple[list[str], str]:
    left, arrow, result = spec.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        # NumPy's implicit form: letters that occur once, in alphabetical order.
        result = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    problem = ""
    if not operands or len(terms) != len(operands):
        problem = f"it names {len(terms)} operands, and {len(operands)} are given"
    elif not all(c.isascii() and c.islower() for t in (*terms, result) for c in t):
        problem = "axes are named by the letters a to z"
    elif any(len(set(t)) != len(t) for t in (*terms, result)):
        problem = "a letter occurs twice in one term"
    elif not set(result) <= set("".join(terms)):
        problem = "the result has a letter that no operand has"
    else:
        for term, operand in zip(terms, operands, strict=True):
            if len(term) != operand.type.rank:
                problem = f"`{term}` names {len(term)} axes of {site.session.type_text(operand.type)}"
    if problem:
        raise site.fail("T0504", f"op.einsum({spec[:60]!r}): {problem}")
    return terms, result


def _check_sizes(site: Site, terms: list[str], operands: list[Var]) -> None:
    seen: dict[str, tuple[Var, int]] = {}
    for term, operand in zip(terms, operands, strict=True):
        for axis, letter in enumerate(term):
            if letter in seen:
                other, place = seen[letter]
                site.session.unify(
                    other.type.shape[place], operand.type.shape[axis], f"axis `{letter}` of op.einsum", (other, operand)
                )
            else:
                seen[letter] = operand, axis


def _single(site: Site, x: Var, letters: str, result: str) -> Var:
    """Sums and transposes one tensor."""
    gone = tuple(i for i, c in enumerate(letters) if c not in result)
    if gone:
        x = site.session.emit("reduce_sum", x, axes=gone)
    kept = "".join(c for c in letters if c in result)
    order = tuple(kept.index(c) for c in result)
    return x if order == tuple(range(len(order))) else site.session.emit("transpose", x, perm=order)
