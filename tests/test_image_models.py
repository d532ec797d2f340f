"""The reference models of images against their definitions: masks, mixes, splits and permutations, written out place by place."""

from __future__ import annotations

import pytest
import torch

from farthing.models.bae import Bae, BaeConfig
from farthing.models.eagle import Drafter, drafter_rope
from farthing.models.elm import Elm, ElmConfig, join_codes, split_codes
from farthing.models.llamagen import LlamaGen, LlamaGenConfig, rope_table
from farthing.models.nar import Nar, diagonals, proximity
from farthing.models.token_shuffle import TokenShuffle, TokenShuffleConfig, to_raster, to_windows

SIZES = {"classes": 5, "hidden_size": 48, "intermediate_size": 56, "layers": 2, "heads": 3, "grid": 4}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Gains and biases that are not 1 and 0, so that mixing them up shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return module.eval()


def test_an_explicit_causal_mask_is_the_default() -> None:
    torch.manual_seed(0)
    model = randomised(LlamaGen(LlamaGenConfig(codes=40, **SIZES)))
    ids = torch.tensor([[43, 1, 2, 39], [45, 0, 7, 7]])
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    with torch.no_grad():
        assert torch.allclose(model(ids), model(ids, causal), atol=1e-5)
        assert torch.allclose(model(ids), model(ids, causal.expand(2, 1, 4, 4)), atol=1e-5)
        assert torch.allclose(model(ids), model.output(model.features(ids)), atol=1e-6)
        assert not torch.allclose(model(ids), model(ids, torch.ones(4, 4, dtype=torch.bool)), atol=1e-3)


def test_nar_diagonals_cover_the_grid() -> None:
    assert diagonals(3) == [[(0, 0)], [(0, 1), (1, 0)], [(0, 2), (1, 1), (2, 0)], [(1, 2), (2, 1)], [(2, 2)]]
    places = [p for d in diagonals(7) for p in d]
    assert len(places) == len(set(places)) == 49 and len(diagonals(7)) == 13


def test_nar_sees_nearer_diagonals_and_all_of_its_own() -> None:
    grid = 3
    seen = proximity(grid)
    for i in range(1 + grid * grid):
        for j in range(1 + grid * grid):
            if i == 0 or j == 0:
                wanted = j == 0  # everybody sees the condition, which sees nobody else
            else:
                a, b = divmod(i - 1, grid), divmod(j - 1, grid)
                wanted = sum(b) <= sum(a)
            assert bool(seen[i, j]) == wanted, (i, j)
    assert torch.equal(proximity(grid, 9), seen[:9, :9])


def test_nar_mixes_the_neighbours_that_exist() -> None:
    torch.manual_seed(1)
    model = randomised(Nar(LlamaGenConfig(codes=40, **SIZES)))
    ids = torch.cat([torch.tensor([[41], [45]]), torch.randint(0, 40, (2, 16))], dim=1)
    with torch.no_grad():
        right, below = model.heads(ids)
        mixed = model(ids)
        for h in range(4):
            for w in range(4):
                if h == w == 0:
                    wanted = (right[:, 0] + below[:, 0]) / 2
                else:
                    from_left = [right[:, 1 + h * 4 + w - 1]] if w else []
                    from_above = [below[:, 1 + (h - 1) * 4 + w]] if h else []
                    wanted = torch.stack(from_left + from_above).mean(0)
                assert torch.allclose(mixed[:, h * 4 + w], wanted, atol=1e-6), (h, w)
        assert torch.allclose(mixed, model(ids[:, :-1]), atol=1e-5)


def test_nar_never_looks_ahead() -> None:
    torch.manual_seed(2)
    model = randomised(Nar(LlamaGenConfig(codes=40, **SIZES)))
    ids = torch.cat([torch.tensor([[41]]), torch.randint(0, 40, (1, 16))], dim=1)
    changed = ids.clone()
    changed[0, 1 + 1 * 4 + 1] = (ids[0, 1 + 1 * 4 + 1] + 1) % 40  # place (1,1), of diagonal 2
    with torch.no_grad():
        moved = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-5
    for i in range(16):
        assert bool(moved[i]) == (sum(divmod(i, 4)) > 2), i


@pytest.mark.parametrize(("parts", "bits"), [(1, 8), (2, 4), (4, 2)])
def test_elm_splits_big_endian(parts: int, bits: int) -> None:
    codes = torch.arange(256).view(16, 16)
    split = split_codes(codes, parts, bits)
    assert split.shape == (16, 16, parts) and int(split.max()) == 2**bits - 1
    assert torch.equal(join_codes(split, bits), codes)
    text = format(0b10110001, "08b")
    assert split_codes(torch.tensor(0b10110001), parts, bits).tolist() == [
        int(text[k * bits : (k + 1) * bits], 2) for k in range(parts)
    ]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_elm_tables_are_the_projection_of_the_pieces(parts: int) -> None:
    torch.manual_seed(3)
    model = randomised(Elm(ElmConfig(codes=16, parts=parts, **SIZES)))
    ids = torch.randint(0, 16, (2, 5, parts))
    with torch.no_grad():
        summed = sum(table[ids[..., k]] for k, table in enumerate(model.tables()))
        assert torch.allclose(model.embed(ids), summed, atol=1e-5)
        ids[:, 0] = 0
        ids[:, 0, 0] = torch.tensor([16, 21])
        assert torch.equal(model.embed(ids)[:, 0], model.cls_embedding.embedding_table.weight[[0, 5]])
        assert model(ids).shape == (2, 5, parts, 16)
    names = set(model.state_dict())
    assert ("tok_embedder.weight" in names) == ("output.weight" in names) == (parts == 1)
    assert ("proj.weight" in names) == (f"output.{parts - 1}.weight" in names) == (parts > 1)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_shuffling_is_a_permutation(window: int) -> None:
    codes = torch.arange(2 * 64).view(2, 64)
    windows = to_windows(codes, 8, window)
    assert torch.equal(to_raster(windows, 8, window), codes)
    for y in range(8):
        for x in range(8):
            place = (y // window * (8 // window) + x // window, y % window * window + x % window)
            assert windows[1][place] == codes[1, 8 * y + x]


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_token_shuffle_is_causal_over_windows(window: int, expand: bool) -> None:
    torch.manual_seed(4)
    model = randomised(TokenShuffle(TokenShuffleConfig(codes=40, window=window, expand=expand, **SIZES)))
    config = model.config
    assert model.rope[0].shape == (1 + (4 // window) ** 2, 8) and not model.rope[0][0].any()
    ids = torch.zeros(1, config.positions, config.per_step, dtype=torch.int64)
    ids[:, 0, 0] = 42
    ids[:, 1:] = to_windows(torch.randint(0, 40, (1, 16)), 4, window)
    with torch.no_grad():
        logits = model(ids)
        assert logits.shape == (1, config.positions, config.per_step, 40)
        ids[0, -1, -1] = (ids[0, -1, -1] + 1) % 40
        moved = (model(ids) - logits).abs().amax((2, 3))[0] > 1e-6
    assert moved.tolist() == [False] * config.steps + [True]


def test_token_shuffle_reads_its_table() -> None:
    torch.manual_seed(5)
    model = randomised(TokenShuffle(TokenShuffleConfig(codes=40, window=2, mlps=0, **SIZES)))
    ids = torch.randint(0, 40, (1, 3, 4))
    with torch.no_grad():
        assert torch.allclose(model.embed(ids), model.table()[ids].flatten(2), atol=1e-6)


def test_the_drafter_turns_by_the_place_of_its_id() -> None:
    config = LlamaGenConfig(codes=40, **SIZES)
    cos, sin = drafter_rope(config)
    wanted = rope_table(config)
    assert torch.equal(cos, wanted[0][1:]) and torch.equal(sin, wanted[1][1:])


def test_the_drafter_is_causal_and_reads_both_streams() -> None:
    torch.manual_seed(6)
    drafter = randomised(Drafter(LlamaGenConfig(codes=40, **SIZES)))
    features, ids = torch.randn(1, 6, 48), torch.randint(0, 40, (1, 6))
    other_features, other_ids = features.clone(), ids.clone()
    other_features[0, 4] += 1
    other_ids[0, 4] = (other_ids[0, 4] + 1) % 40
    with torch.no_grad():
        out = drafter(features, ids)
        for changed in (drafter(other_features, ids), drafter(features, other_ids)):
            assert ((changed - out).abs().amax(-1)[0] > 1e-6).tolist() == [False] * 4 + [True] * 2
    assert set(drafter.state_dict()) == {
        "embed_tokens.weight",
        "fc.weight",
        "fc.bias",
        *(f"layers.0.self_attn.{n}_proj.weight" for n in "qkvo"),
        *(f"layers.0.mlp.{n}_proj.weight" for n in ("gate", "up", "down")),
        "layers.0.post_attention_layernorm.weight",
    }


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_binary_autoencoder_thresholds(norm_first: bool) -> None:
    torch.manual_seed(7)
    config = BaeConfig(bits=6, channels=32, multipliers=(1, 2), latent=32, norm_first=norm_first)
    bae = randomised(Bae(config))
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        codes, logits = bae.encode(pixels), bae.logits(pixels)
        text = ["".join("1" if v > 0 else "0" for v in logits[1, :, y, x]) for y in range(4) for x in range(4)]
        assert codes[1].tolist() == [int(t, 2) for t in text] and len(set(text)) > 1
        assert torch.allclose(bae.decode(codes), bae.generate((logits > 0).float()), atol=1e-6)
        assert bae.decode(codes).shape == pixels.shape
    made = bae(pixels)
    assert set(made.bits.unique().tolist()) <= {0.0, 1.0}
    made.pixels.sum().backward()
    gradient = bae.quantize.proj[0].weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    with torch.no_grad():  # the value is that of the drawn bits, only the gradient is that of the chances
        assert torch.allclose(made.pixels, bae.generate(made.bits), atol=1e-5)
