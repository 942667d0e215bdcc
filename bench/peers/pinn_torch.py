"""The residual of a differential equation in PyTorch, by every way its users take derivatives by coordinates; Adam.

`--way` is one of WAYS. With `--compile` the loss goes through torch.compile; the ways named `traced` first record loss
and gradient together as one graph (make_fx), which torch.compile then gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.func import grad, hessian, jacfwd, jvp, vmap

from bench import cases
from bench.peers import harness

Tensor = torch.Tensor
Field = Callable[[Tensor], Tensor]  # [N, d] -> [N]
WAYS = ("nested", "reverse", "forward", "mixed", "points", "hessian", "taylor", "traced nested", "traced reverse")


def network(parameters: dict[str, Tensor], hidden: int) -> Field:
    """The field: hidden layers of tanh and a linear one."""

    def field(points: Tensor) -> Tensor:
        for layer in range(1, hidden + 1):
            points = torch.tanh(points @ parameters[f"w{layer}"] + parameters[f"b{layer}"])
        return (points @ parameters[f"w{hidden + 1}"] + parameters[f"b{hidden + 1}"]).squeeze(-1)

    return field


def summed_gradient(value: Tensor, *at: Tensor) -> Sequence[Tensor]:
    """Derivatives at every point, by one reverse pass over the sum."""
    return torch.autograd.grad(value.sum(), at, create_graph=True)


def directional(field: Field, axis: int) -> Field:
    """The derivative along one axis in forward mode."""

    def derivative(points: Tensor) -> Tensor:
        direction = torch.eye(points.shape[-1])[axis].expand_as(points)
        return jvp(field, (points,), (direction,))[1]

    return derivative


# ---------------------------------------------------------------------------------------------- listing 2


def momentum_loss(first: Sequence[Tensor], xx: Tensor, yy: Tensor, xt: Tensor, xy: Tensor) -> Tensor:
    """u, v, p are the field's derivatives by x, y and t, so that u_x = xx, u_y = xy, u_t = xt, v_y = yy, p_x = xt."""
    u, v = first[0], first[1]
    continuity, momentum = xx + yy, xt + u * xx + v * xy + xt
    return (continuity**2).mean() + (momentum**2).mean()


def momentum(way: str, parameters: dict[str, Tensor], hidden: int, points: Tensor) -> Tensor:
    """The loss of listing 2."""
    field = network(parameters, hidden)
    if way in ("nested", "reverse"):
        columns = [column.detach().clone().requires_grad_() for column in points.split(1, 1)]
        x, y, t = columns
        psi = field(torch.cat(columns, 1))
        if way == "nested":  # one reverse pass for every op.grad of the source
            u, v, p = (summed_gradient(psi, at)[0] for at in columns)
            continuity = summed_gradient(u, x)[0] + summed_gradient(v, y)[0]
            carried = u * summed_gradient(u, x)[0] + v * summed_gradient(u, y)[0]
            whole = summed_gradient(u, t)[0] + carried + summed_gradient(p, x)[0]
            return (continuity**2).mean() + (whole**2).mean()
        u, v, p = summed_gradient(psi, *columns)
        ux, uy, ut = summed_gradient(u, *columns)
        return momentum_loss((u, v), ux, summed_gradient(v, y)[0], ut, uy)
    if way == "forward":
        by = [directional(field, axis) for axis in range(3)]
        second = [directional(by[0], 0), directional(by[1], 1), directional(by[0], 2), directional(by[0], 1)]
        return momentum_loss([by[0](points), by[1](points)], *(d(points) for d in second))
    if way == "mixed":  # reverse for the first derivatives, forward over it for the second
        gradient = grad(lambda at: field(at).sum())
        eye = torch.eye(3)
        first, along_x = jvp(gradient, (points,), (eye[0].expand_as(points).contiguous(),))
        _, along_y = jvp(gradient, (points,), (eye[1].expand_as(points).contiguous(),))
        return momentum_loss(first.T, along_x[:, 0], along_y[:, 1], along_x[:, 2], along_x[:, 1])
    if way == "hessian":
        first, second = vmap(grad(field))(points), vmap(jacfwd(grad(field)))(points)
        return momentum_loss(first.T, second[:, 0, 0], second[:, 1, 1], second[:, 0, 2], second[:, 0, 1])
    if way == "points":  # as a tutorial writes it: gradients of gradients at one point, mapped
        parts = [lambda at, i=i: grad(field)(at)[i] for i in range(2)]
        second = [vmap(grad(part))(points) for part in parts]
        first = vmap(grad(field))(points)
        return momentum_loss(first.T, second[0][:, 0], second[1][:, 1], second[0][:, 2], second[0][:, 1])
    return momentum_loss(*by_hand(parameters, hidden, points))


def by_hand(parameters: dict[str, Tensor], hidden: int, points: Tensor) -> tuple[Sequence[Tensor], *tuple[Tensor, ...]]:
    """First derivatives and xx, yy, xt, xy, carried through the layers as rows of one product."""
    pairs = ((0, 0), (1, 1), (0, 2), (0, 1))
    count, weight = len(points), parameters["w1"]
    value = points @ weight + parameters["b1"]
    first = [row.expand(count, -1) for row in weight]
    second = [torch.zeros_like(value) for _ in pairs]
    for layer in range(2, hidden + 2):
        h = torch.tanh(value)
        slope = 1 - h * h
        bend = -2 * h * slope
        second = [slope * d2 + bend * first[a] * first[b] for d2, (a, b) in zip(second, pairs, strict=True)]
        rows = torch.cat([h, *(slope * d for d in first), *second]) @ parameters[f"w{layer}"]
        value, *rest = rows.split(count)
        value = value + parameters[f"b{layer}"]
        first, second = rest[:3], rest[3:]
    return [d.squeeze(-1) for d in first], *(d.squeeze(-1) for d in second)


# --------------------------------------------------------------------------------------------- biharmonic


def biharmonic(way: str, parameters: dict[str, Tensor], hidden: int, points: Tensor) -> Tensor:
    """How far the Laplacian of the Laplacian is from 1."""
    field = network(parameters, hidden)
    if way in ("nested", "reverse"):
        columns = [column.detach().clone().requires_grad_() for column in points.split(1, 1)]
        value = field(torch.cat(columns, 1))[:, None]
        for _ in range(2):
            if way == "nested":
                first: Sequence[Tensor] = [summed_gradient(value, at)[0] for at in columns]
            else:
                first = summed_gradient(value, *columns)
            value = sum(summed_gradient(d, at)[0] for d, at in zip(first, columns, strict=True))
        return ((value - 1) ** 2).mean()
    if way == "forward":

        def laplacian(f: Field) -> Field:
            return lambda at: sum(directional(directional(f, axis), axis)(at) for axis in range(2))

        return ((laplacian(laplacian(field))(points) - 1) ** 2).mean()
    if way == "hessian":

        def trace(f: Field) -> Field:
            return lambda at: hessian(f)(at).trace()

        return ((vmap(trace(trace(field)))(points) - 1) ** 2).mean()
    raise ValueError(f"the biharmonic is not raced by way of {way!r}")


def main() -> None:
    options = harness.options("pinn", __doc__ or "")
    size = cases.CASES["pinn"][options.size]
    assert isinstance(size, cases.Pinn)
    weights, data = cases.initial("pinn", options.size)
    parameters = {name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in weights.items()}
    points = torch.cat([torch.from_numpy(data[name]) for name in size.coordinates], 1)
    settings = {"lr": size.learning_rate, "betas": (size.beta1, size.beta2), "eps": size.eps}
    optimizer = torch.optim.Adam(parameters.values(), fused=True, **settings)
    traced, way = options.way.startswith("traced"), options.way.removeprefix("traced ")
    loss_of = momentum if size.equation == "momentum" else biharmonic
    if options.compile:
        loss_of = torch.compile(loss_of)

    def loss_and_gradients(points: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        own = dict(zip(parameters, (value.detach().requires_grad_() for value in values), strict=True))
        loss = loss_of(way, own, size.hidden, points)
        return loss.detach(), *torch.autograd.grad(loss, list(own.values()), materialize_grads=True)

    evaluate = loss_and_gradients
    if traced:
        from torch.fx.experimental.proxy_tensor import make_fx

        evaluate = torch.compile(make_fx(loss_and_gradients)(points, *parameters.values()))

    def step() -> float:
        loss, *gradients = evaluate(points, *(value.detach() for value in parameters.values()))
        for value, gradient in zip(parameters.values(), gradients, strict=True):
            value.grad = gradient.detach()
        optimizer.step()
        return loss.item()

    harness.race(step, options, cases.UPDATES["pinn"])


if __name__ == "__main__":
    main()
