"""The Triton kernels of relative-position attention: on a CUDA device, or interpreted on the CPU."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer_sam import get_rel_pos

from ivtuning.backbones.attention import triton_relpos
from ivtuning.backbones.attention.relpos import RelPosAttention
from ivtuning.errors import UserError

pytest.importorskip("triton", reason="torch comes without triton on this platform")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def explicit(qkv, table_h, table_w):
    """The definition, with all scores."""
    batch, height, width, _, heads, d = qkv.shape
    q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).flatten(3, 4).unbind(0)
    grid = q.unflatten(2, (height, width))
    a = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(height, height, table_h)).flatten(2, 3)
    b = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(width, width, table_w)).flatten(2, 3)
    scores = q @ k.mT * d**-0.5 + (a[..., :, None] + b[..., None, :]).flatten(-2)
    return (scores.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(batch, height, width, heads * d)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "bound"),
    [
        ((2, 14, 14, 2, 16), torch.float32, 1e-5),  # a window: several rows to a tile, the last not full
        ((1, 5, 9, 3, 20), torch.float32, 1e-5),
        ((1, 3, 70, 1, 16), torch.float32, 1e-5),  # one row to a tile
        ((1, 20, 5, 2, 16), torch.float16, 5e-3),  # which the interpreter knows, bf16 it does not
    ],
)
def test_result_and_all_gradients(shape, dtype, bound):
    batch, height, width, heads, d = shape
    torch.manual_seed(0)
    tensors = torch.randn(batch, height, width, 3, heads, d), *(torch.randn(2 * n - 1, d) for n in shape[1:3])
    ours = [t.to(DEVICE, dtype if i == 0 else None).requires_grad_() for i, t in enumerate(tensors)]
    plain = [t.detach().float().clone().requires_grad_() for t in ours]
    out, expected = triton_relpos.attention(*ours), explicit(*plain)
    grad = torch.randn(expected.shape).to(DEVICE)
    out.backward(grad.to(dtype))
    expected.backward(grad)
    assert out.dtype == dtype and out.shape == expected.shape
    for value, wanted in [(out, expected), *((a.grad, b.grad) for a, b in zip(ours, plain, strict=True))]:
        assert (value.float() - wanted).norm() < bound * wanted.norm()


def test_nothing_is_kept_without_gradients():
    qkv = torch.randn(1, 4, 5, 3, 2, 16, device=DEVICE)
    tables = torch.randn(7, 16, device=DEVICE), torch.randn(9, 16, device=DEVICE)
    with torch.no_grad():
        out = triton_relpos.attention(qkv, *tables)
    torch.testing.assert_close(out, explicit(qkv, *tables), rtol=1e-4, atol=1e-4)


def test_the_module_takes_the_kernels_and_resizes_tables(monkeypatch):
    """On a map larger than the one that its tables are for."""
    module = RelPosAttention(32, 2, use_rel_pos=True, input_size=(4, 4)).to(DEVICE)
    for table in (module.rel_pos_h, module.rel_pos_w):
        torch.nn.init.normal_(table)
    x = torch.randn(1, 6, 5, 32, device=DEVICE)
    module.backend = "plain"
    expected = module(x)
    shapes, kernels = [], triton_relpos.attention
    monkeypatch.setattr(
        triton_relpos, "attention", lambda qkv, *tables: shapes.append(qkv.shape) or kernels(qkv, *tables)
    )
    module.backend = "triton"
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
    assert shapes == [(1, 6, 5, 3, 2, 16)]


def test_what_the_kernels_do_not_serve():
    assert triton_relpos.serves(torch.empty(1, 4, 4, 3, 1, 16, device=DEVICE)) == (DEVICE == "cuda")
    assert not triton_relpos.serves(torch.empty(1, 2, 200, 3, 1, 16, device=DEVICE))
    assert not triton_relpos.serves(torch.empty(1, 4, 4, 3, 1, 16, device=DEVICE, dtype=torch.float64))


def test_the_backend_says_why_it_cannot_run():
    module = RelPosAttention(32, 2, use_rel_pos=True, input_size=(4, 4)).to(DEVICE)
    module.backend = "triton"
    with pytest.raises(
        UserError, match="attn_backend=triton does not work here: .*up to 128, not 2 x 200 tokens"
    ):
        module(torch.empty(1, 2, 200, 32, device=DEVICE))
    with pytest.raises(UserError, match="the maps are torch.float64; give attn_backend=auto"):
        module.double()(torch.empty(1, 4, 4, 32, device=DEVICE, dtype=torch.float64))
