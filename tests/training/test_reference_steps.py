"""Steps as the recipe says them, against a loop written out by hand: AdamW, clipping, schedule, average, precision."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from small_world import PROTOCOL, RESUMED, cached, scenes, tiny_head, tiny_host, tiny_mixer
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.sources.mixture import Share
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.head.tap_mixer import PreciseLinear
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.losses.relative import RelativeLoss
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.run.checkpoint import CheckpointFolder

IMAGES = 20
# Six steps: two of warm-up, then the cosine. Every gradient is longer than 0.05, and the average of a short run decays
# by 2/11 and 3/12 before it does by 0.3.
RECIPE = Recipe(
    epochs=2,
    batch_size=8,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup=0.34,
    weight_decay=0.3,
    gradient_norm=0.05,
    ema_decay=0.3,
    views=1,
)
RATES = [
    0.005,
    0.01,
    0.01,
    0.001 + 0.009 * (1 + math.cos(math.pi / 4)) / 2,
    0.001 + 0.009 / 2,
    0.001 + 0.009 * (1 + math.cos(3 * math.pi / 4)) / 2,
]


def optimizer_for(head: DepthHead, recipe: Recipe, folder: Path) -> tuple[HeadOptimizer, FeatureCache, DataOrder]:
    with attach_depth_head(tiny_host().eval(), head) as attachment:
        cache = cached(attachment, scenes(IMAGES), folder, versions=1, target_side=16)
    order = DataOrder(
        (Share(IMAGES, 1.0),), batch_size=recipe.batch_size, accumulation=1, versions=1, seed=recipe.seed
    )  # fmt: skip
    processes = Processes(torch.device("cpu"))
    return HeadOptimizer(head, recipe, cache, order=order, processes=processes), cache, order


def gradients_on(head: DepthHead, cache: FeatureCache, indices: list[int]) -> dict[str, Tensor]:
    """Of the plain loss of a batch, by a head that nobody else uses."""
    batch = cache.decode(cache.load(indices, [0] * len(indices)), torch.device("cpu"))
    head.zero_grad()
    output = head.train()(batch.features, cache.target_hw, auxiliary=True)
    valid = (batch.target_m > PROTOCOL.min_depth_m) & (batch.target_m < PROTOCOL.max_depth_m)
    RelativeLoss()(output, batch.target_m, valid=valid).backward()
    return {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_every_step_is_that_of_a_loop_written_out(tmp_path: Path) -> None:
    head = tiny_mixer(tiny_host(), dropout=0.0)
    optimizer, cache, order = optimizer_for(head, RECIPE, tmp_path)
    reference = copy.deepcopy(head)
    weights = {name: p.detach().clone() for name, p in head.named_parameters()}
    average = {name: value.clone() for name, value in weights.items()}
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    batches = [indices.tolist() for epoch in range(2) for indices, _ in order.epoch(epoch)]
    steps = (loss for epoch in range(2) for loss in optimizer.epoch(epoch))
    norms = []
    for t, (rate, batch) in enumerate(zip(RATES, batches, strict=True), start=1):
        # From the optimizer's own weights, so that rounding does not add up to more than a step's.
        reference.load_state_dict(head.state_dict())
        weights = {name: p.detach().clone() for name, p in head.named_parameters()}
        gradients = gradients_on(reference, cache, batch)
        assert gradients.keys() == weights.keys()
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        norms.append(norm)
        next(steps)
        decay = min(0.3, (1 + t) / (10 + t))
        for name, parameter in head.named_parameters():
            gradient = gradients[name] * min(1.0, 0.05 / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient.square()
            spread = (second[name] / (1 - 0.999**t)).sqrt() + 1e-8
            expected = weights[name] * (1 - rate * 0.3) - rate * first[name] / (1 - 0.9**t) / spread
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6, msg=f"step {t}: {name}")
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
        assert optimizer.learning_rate == pytest.approx(rate, rel=1e-9)
        for name, value in optimizer.average.named_parameters():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6, msg=f"average {t}: {name}")
    assert next(steps, None) is None
    # What the recipe asks for makes a difference here: gradients are clipped, each to another share.
    assert min(norms) > 0.05
    assert max(norms) > 1.2 * min(norms)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_arithmetic_is_of_the_recipes_precision_and_the_loss_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    products: dict[str, torch.dtype] = {}
    losses: set[torch.dtype] = set()

    class Watching(RelativeLoss):
        def __call__(self, output: HeadOutput, target_m: Tensor, *, valid: Tensor) -> Tensor:
            found = super().__call__(output, target_m, valid=valid)
            losses.update({output.depth_m.dtype, target_m.dtype, found.dtype})
            return found

    monkeypatch.setitem(LOSSES, "watching", Watching)
    head = tiny_mixer(tiny_host(), dropout=0.0)
    recipe = Recipe(epochs=1, batch_size=IMAGES, loss="watching", precision=precision)
    optimizer, _, _ = optimizer_for(head, recipe, tmp_path)
    for name, part in head.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda _, __, made, name=name: products.update({name: made.dtype}))
    assert len(list(optimizer.epoch(0))) == 1
    last = {name for name, part in head.named_modules() if isinstance(part, PreciseLinear)}
    assert {products.pop(name) for name in last} == {torch.float32}  # depth itself is never rounded to 8 bits
    assert len(products) > 8
    assert set(products.values()) == {dtype}
    assert losses == {torch.float32}
    assert {p.dtype for p in head.parameters()} == {torch.float32}


class TestAGradientThatIsNotFinite:
    """The loss was finite, so only the gradient tells."""

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_it_names_its_images_and_nothing_is_stepped(self, tmp_path: Path, value: float) -> None:
        head = tiny_head(tiny_host())
        optimizer, cache, order = optimizer_for(head, RECIPE, tmp_path)
        steps = optimizer.epoch(0)
        next(steps)
        before = {kind: {n: v.clone() for n, v in named.items()} for kind, named in optimizer.state().items()}
        next(head.parameters()).register_hook(lambda gradient: gradient * value)
        names = [cache.name(i) for i in order.epoch(0)[1][0][:4].tolist()]
        with pytest.raises(TrainingError) as caught:
            next(steps)
        assert re.search(r"the loss is finite but the norm of its gradient is (nan|inf) at step 1", str(caught.value))
        assert f"on {', '.join(names)}…; lower" in str(caught.value)
        assert optimizer.step == 1
        for kind in ("average", "optimizer"):
            for name, tensor in optimizer.state()[kind].items():
                assert torch.equal(tensor, before[kind][name]), f"{kind}: {name}"
        for name, parameter in head.named_parameters():  # running statistics have seen the batch
            assert torch.equal(parameter, before["head"][name]), name

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [4, 5])  # within an epoch of six steps, and at its end
    def test_the_run_goes_on_from_a_sound_checkpoint(self, tmp_path: Path, step: int) -> None:
        def fit(out: Path, *, resume: bool = False) -> None:
            host = tiny_host()
            trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL)
            trainer.fit(
                scenes(24),
                scenes(4, seed=1),
                out,
                trained_on="x",
                options=RunOptions(progress=False, save_every=1, resume=resume),
            )

        summed = Processes.sum_gradients
        calls = 0

        def spoilt(self: Processes, parameters: list[Tensor]) -> None:
            nonlocal calls
            summed(self, parameters)
            if calls == step:
                parameters[0].grad.view(-1)[0] = math.nan
            calls += 1

        out = tmp_path / "out"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Processes, "sum_gradients", spoilt)
            with pytest.raises(TrainingError, match=f"norm of its gradient is nan at step {step} on tabletop"):
                fit(out)
        newest = CheckpointFolder(out / "checkpoints").newest()
        assert newest is not None
        assert newest.step == step
        assert all(bool(value.isfinite().all()) for value in newest.tensors["head"].values())
        fit(out, resume=True)
        fit(tmp_path / "whole")
        one, other = ((run / "head" / "model.safetensors").read_bytes() for run in (out, tmp_path / "whole"))
        assert one == other
